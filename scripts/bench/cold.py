#!/usr/bin/env python3
"""What a cold start costs beyond that of a trivial handler, in the local AWS, where both run as deployed.

    cold.py ─► local AWS ─► two functions of one size: a trivial handler, and the zip that is deployed
       rounds × (trivial, ours), the first of each pair in turn, each in a fresh environment:
           initialisation ◄── the log's REPORT line, one Invoke
           first result   ◄── from Invoke to the value, on a connection that is open: the trivial handler's answer, or
                              that of a no-op whose closure the worker fetches from the store, which it opens for that

The deployed zip gets two modules more: a `boto3` and a `botocore` that say in the log that somebody imported them.
In the end a task does so, to see that this would be seen. Lines without a claim show the first results once more where
the local AWS speaks TLS: there ours shakes hands with the store too, and its client library gathers entropy before.
"""

import base64
import json
import os
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from contest import NotDone, Verdict, alternated, answered, asking, concluded, ends
from invoke_real import ask, deploy, local_aws, variables

ROUNDS = 11
LIMIT = 60  # seconds for one Invoke
RATIO = 1.5
MORE = 120.0  # ms
TRIVIAL = "trivial"
PAYLOAD = 100_000  # bytes in the closure: so much is stored and not sent along
SPY = "import os\nos.write(1, b'somebody imported %s\\n')\n"
SPIED = ("boto3", "botocore")


class Scene:
    """The local AWS with both functions, and a client of each whose connections are open."""

    def __init__(self, said: dict[str, Any], folder: Path) -> None:
        import boto3

        from pywren_ng import Executor, deployment
        from pywren_runtime import aws
        from pywren_runtime.invoker import Invoker

        self._said = said
        os.environ.update(variables(said))
        boto3.setup_default_session()  # it would remember another one's keys
        deploy(folder, said)
        self.ours = deployment.load(os.environ["PYWREN_NG_DEPLOYMENT"]).function(None)
        self._add(folder)
        self._invoker = Invoker(aws.endpoint_of("lambda", said["region"]), said["region"], aws.from_environment)
        self.executor = Executor("lambda", progress=False)
        payload = os.urandom(PAYLOAD)
        self._noop = lambda: len(payload)

    def close(self) -> None:
        self.executor.shutdown()
        self._invoker.close()

    def _add(self, folder: Path) -> None:
        """The trivial function, of the same size and Python; and what tells of boto3 to ours."""
        import boto3

        client = boto3.client("lambda")
        known = client.get_function_configuration(FunctionName=self.ours)
        with zipfile.ZipFile(folder / "trivial.zip", "w") as trivial:
            trivial.writestr("main.py", "def handle(event, invocation):\n    return None\n")
        client.create_function(
            FunctionName=TRIVIAL,
            Runtime=known["Runtime"],
            Role=known["Role"],
            Handler="main.handle",
            Code={"ZipFile": (folder / "trivial.zip").read_bytes()},
            Timeout=60,
            MemorySize=known["MemorySize"],
        )
        with zipfile.ZipFile(folder / "runtime.zip", "a") as bundle:
            for name in SPIED:
                bundle.writestr(f"{name}.py", SPY % name)
        client.update_function_code(FunctionName=self.ours, ZipFile=(folder / "runtime.zip").read_bytes())
        for name in (TRIVIAL, self.ours):
            client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1})

    def turns(self) -> dict[str, Callable[[], float]]:
        """What is timed, by name."""
        return {
            "init trivial": lambda: self.initialisation(TRIVIAL, {}),
            "init ours": lambda: self.initialisation(self.ours, {"start": []}),
            "first trivial": self.first_trivial,
            "first ours": self.first_ours,
        }

    def freeze(self) -> None:
        """End every environment: the next Invoke gets a fresh one."""
        ask(self._said, "POST", "/_local/reset", {"environments": True})

    def invoke(self, function: str, event: object) -> tuple[float, str]:
        """Milliseconds of one Invoke, and its log."""
        began = time.perf_counter()
        self._invoker.send(None, function, json.dumps(event).encode(), event=False, silence=LIMIT)
        while not (answers := self._invoker.collect(self._invoker.wait(LIMIT))):
            pass
        took = 1e3 * (time.perf_counter() - began)
        answer = answers[0]
        if answer.status != 200 or "x-amz-function-error" in answer.headers:
            raise NotDone(f"{function}: {answer.fault}{answer.status} {answer.body[:1000]!r}")
        return took, base64.b64decode(answer.headers["x-amz-log-result"]).decode()

    def initialisation(self, function: str, event: object) -> float:
        """Milliseconds, as the service reports them."""
        self.freeze()
        _, log = self.invoke(function, event)
        found = re.search(r"Init Duration: ([\d.]+) ms", log)
        if found is None:
            raise NotDone(f"no cold start in the log of {function}:\n{log}")
        return float(found[1])

    def first_trivial(self) -> float:
        """Milliseconds until a trivial handler has answered."""
        self.freeze()
        return self.invoke(TRIVIAL, {})[0]

    def first_ours(self) -> float:
        """Milliseconds until a no-op's result is here, and that its closure was fetched for it."""
        self.freeze()
        ask(self._said, "DELETE", "/_proxy/counts")
        began = time.perf_counter()
        value = self.executor.submit(self._noop).result(LIMIT)
        took = 1e3 * (time.perf_counter() - began)
        gets = [seen for seen in ask(self._said, "GET", "/_proxy/log") if seen["kind"] == "GetObject"]
        if value != PAYLOAD or len(gets) != 1 or gets[0]["bytes_out"] < PAYLOAD:
            raise NotDone(f"the no-op gave {value}, and its worker's requests were {gets}")
        return took

    def imported(self, *names: str) -> set[str]:
        """Which of the spied modules were imported by any process of an environment that ran a task."""
        self.freeze()

        def task() -> list[str]:
            import importlib

            for name in names:
                importlib.import_module(name)
            return sorted(sys.modules)

        modules = self.executor.submit(task).result(LIMIT)
        logs = "".join(ask(self._said, "GET", "/_local/logs").values())
        return {name for name in SPIED if name in modules or f"imported {name}" in logs}


@contextmanager
def staged(*options: str) -> Iterator[Scene]:
    """A scene on a local AWS with these options."""
    with tempfile.TemporaryDirectory() as folder, local_aws(*options) as said:
        scene = Scene(said, Path(folder))
        try:
            yield scene
        finally:
            scene.close()


def judge(samples: dict[str, list[float]], imported: set[str]) -> list[Verdict]:
    """The claims about cold starts."""
    at = {name: median(of) for name, of in samples.items()}
    ratio = at["init ours"] / at["init trivial"]
    more = at["first ours"] - at["first trivial"]
    init = f"init {at['init ours']:.1f} ms, trivial {at['init trivial']:.1f} ms: {ratio:.2f}×"
    first = f"first result {at['first ours']:.1f} ms, trivial {at['first trivial']:.1f} ms: {more:+.1f} ms"
    return [
        ("6a", init, ratio <= RATIO),
        ("6b", first, more <= MORE),
        ("6c", f"imported in a worker: {', '.join(sorted(imported)) or 'none'}", not imported),
    ]


def main() -> int:
    asked = answered(asking(__doc__, ROUNDS), "boto3", "obstore")
    os.environ.pop("PYWREN_NG_INVOKE", None)
    with staged() as scene:
        samples = alternated(scene.turns(), asked.rounds)
        imported = scene.imported()
        if scene.imported(*SPIED) != set(SPIED):
            raise NotDone("a task imported boto3, and that was not seen")
    with staged("--tls") as scene:
        firsts = {f"{name}, TLS": turn for name, turn in scene.turns().items() if name.startswith("first")}
        samples |= alternated(firsts, asked.rounds)
    lines = [
        f"{name:18} median {median(of):7.1f} ms  from {min(of):.1f} to {max(of):.1f}" for name, of in samples.items()
    ]
    return concluded(asked, judge(samples, imported), lines=lines, milliseconds=samples)


if __name__ == "__main__":
    ends(main)
