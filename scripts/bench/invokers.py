"""Who takes part in invoke.py, each with the settings that serve it best, behind one verb.

    ENTRANTS[name].open(service) ──► Contestant: run(numbers) ─► twice each number, one Invoke for each

"Best" was tried out; each class says what it was. A new rival is one class and one Entrant.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

from rows import OURS

__all__ = ["ENTRANTS", "Contestant", "Entrant", "Ours", "Service", "double"]

REGION = "us-east-1"
FUNCTION = "pywren-ng-canned"
MOST = 5_000  # Calls at once, which the canned account allows


@dataclass(frozen=True, slots=True)
class Service:
    """The canned Lambda as a client finds it: its port, the authority that signed its certificate, a function."""

    port: int
    authority: str  # a PEM file
    later: bool = False  # asynchronous Invokes
    copies: int = 1  # identical functions that share the load

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.host}"


class Contestant(Protocol):
    """A client with its connections."""

    def run(self, numbers: Sequence[int]) -> list[int]:
        """One Invoke for each, and twice each as the answer; nothing from who does not look for outcomes."""

    def close(self) -> None:
        """Ends connections and threads."""


def double(number: int) -> int:
    return 2 * number


class Boto3:
    """boto3 in threads, with as many connections; no validation of parameters, which costs a tenth.

    It sends a number as JSON and reads one: less than our frames, which are signed and carry a function.
    """

    def __init__(self, service: Service, threads: int) -> None:
        import boto3
        from botocore.config import Config

        config = Config(max_pool_connections=threads, parameter_validation=False, retries={"mode": "standard"})
        self._client = boto3.client(
            "lambda", region_name=REGION, endpoint_url=service.url, verify=service.authority, config=config
        )
        self._later = service.later
        self._copies = service.copies
        self._pool = ThreadPoolExecutor(threads)

    def run(self, numbers: Sequence[int]) -> list[int]:
        if self._later:
            list(self._pool.map(self._start, numbers))
            return []
        return list(self._pool.map(self._ask, numbers))

    def close(self) -> None:
        self._pool.shutdown()
        self._client.close()

    def _ask(self, number: int) -> int:
        said = json.loads(self._invoke("RequestResponse", number)["Payload"].read())
        return int(said["number"])

    def _start(self, number: int) -> None:
        accepted = self._invoke("Event", number)["StatusCode"]
        if accepted != 202:
            raise RuntimeError(f"Invoke of {number} was answered with {accepted}")

    def _invoke(self, kind: str, number: int) -> Any:
        function = f"{FUNCTION}-{number % self._copies}"
        return self._client.invoke(FunctionName=function, InvocationType=kind, Payload=json.dumps({"number": number}))


class Lithops:
    """Its FaaSInvoker over its AWS Lambda backend as they lie in the wheel, on 64 threads, its default.

    Its session has ten connections unless one changes it, and here gets one for each thread. It knows asynchronous
    Invokes only and looks for results in its storage; that part is not timed, which favours it. `invoke` tries again
    for ever on any exception, so a certificate that it does not trust would hang: it is handed the authority.
    """

    THREADS = 64

    def __init__(self, service: Service) -> None:
        from botocore.httpsession import URLLib3Session
        from lithops.invokers import FaaSInvoker
        from lithops.serverless import ServerlessHandler
        from lithops.serverless.backends.aws_lambda.config import load_config

        keys = {"access_key_id": os.environ["AWS_ACCESS_KEY_ID"], "secret_access_key": "secret"}
        config: dict[str, Any] = {
            "lithops": {"mode": "serverless", "backend": "aws_lambda", "storage": "localhost"},
            "aws": {"region": REGION, **keys},
            "aws_lambda": {"execution_role": "arn:aws:iam::123456789012:role/lithops", "user_agent": "lithops"},
            "localhost": {"storage_bucket": "storage"},
        }
        config["aws_lambda"] |= {"account_id": "123456789012", "user_id": "AIDAEXAMPLE"}
        load_config(config)
        compute = ServerlessHandler({"backend": "aws_lambda", "aws_lambda": config["aws_lambda"]}, None)
        compute.backend.host = service.host
        compute.backend.session = URLLib3Session(verify=service.authority, max_pool_connections=self.THREADS)
        self._failed: list[BaseException] = []
        self._invoker = FaaSInvoker(config, "executor", None, compute, SimpleNamespace())
        self._invoker.sync = True  # waits until all are invoked, and raises what went wrong

    def run(self, numbers: Sequence[int]) -> list[int]:
        job = SimpleNamespace(
            **dict.fromkeys(("extra_env", "data_key", "data_byte_ranges", "worker_processes")),
            chunksize=1,
            function_name="double",
            func_key="lithops.jobs/executor/double.func.pickle",
            total_calls=len(numbers),
            execution_timeout=180,
            executor_id="executor",
            job_id="M000",
            job_key="executor-M000",
            runtime_name=self._invoker.runtime_name,
            runtime_memory=256,
            data_byte_strs=[json.dumps({"number": number}) for number in numbers],
        )
        self._invoker._invoke_direct(job, range(len(numbers)))
        return []

    def close(self) -> None:
        self._invoker.executor.shutdown()


class Ours:
    """The executor as a user makes it; one task in each Call, as the others have it."""

    def __init__(self, service: Service) -> None:
        from pywren_ng import Executor

        self._executor = Executor("lambda", max_workers=MOST, progress=False)

    def run(self, numbers: Sequence[int]) -> list[int]:
        return list(self._executor.map(double, numbers, chunksize=1))

    def close(self) -> None:
        self._executor.shutdown()


class Direct(Ours):
    """The same with the tree switched off: it is never worth its while."""

    def __init__(self, service: Service) -> None:
        from pywren_ng.backends import lambda_trees

        lambda_trees.LEAST = 1 << 30
        super().__init__(service)


class Bare:
    """Our Invoker without an executor: what the transport alone costs. JSON, as boto3 has it."""

    def __init__(self, service: Service) -> None:
        from pywren_runtime import aws
        from pywren_runtime.invoker import Invoker

        self._invoker = Invoker(service.url, REGION, aws.from_environment)

    def run(self, numbers: Sequence[int]) -> list[int]:
        values = [0] * len(numbers)
        for tag, number in enumerate(numbers):
            body = b'{"number":%d}' % number
            self._invoker.send(tag, FUNCTION, body, event=False, silence=60.0)
        left = len(numbers)
        while left:
            for answer in self._invoker.collect(self._invoker.wait(10.0)):
                if answer.status != 200:
                    raise RuntimeError(f"Invoke of {answer.tag} brought {answer}")
                assert isinstance(answer.tag, int)
                values[answer.tag] = json.loads(answer.body)["number"]
                left -= 1
        return values

    def close(self) -> None:
        self._invoker.close()


@dataclass(frozen=True, slots=True)
class Entrant:
    """How one takes part: its distribution, and how it is opened."""

    distribution: str
    open: Callable[[Service], Contestant]
    only_starts: bool = False  # and finds its results elsewhere


ENTRANTS = {
    OURS: Entrant("pywren-ng", Ours),
    "invoker": Entrant("pywren-ng", Bare),
    **{f"boto3-{threads}": Entrant("boto3", partial(Boto3, threads=threads)) for threads in (8, 16, 32)},
    "lithops": Entrant("lithops", Lithops, only_starts=True),
    "direct": Entrant("pywren-ng", Direct),
}
