"""A local AWS for the tests: started once, reached by `AWS_ENDPOINT_URL`, turned by knobs, read by counters."""

import io
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PATIENCE = 60
ONCE = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 64}
OWN_RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"


class LocalAws:
    """One running local AWS; use it in a `with` or call `close()`."""

    def __init__(self, *options: str) -> None:
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [SCRIPTS / "local-aws", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "LOCAL_AWS_PYTHON": sys.executable},
            start_new_session=True,  # Ctrl-C is the tests'; it ends with its standard input
        )
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"scripts/local-aws did not start:\n{self.written}")
        said = json.loads(line)
        self.endpoint: str = said["endpoint"]
        self.access_key: str = said["access_key"]
        self.secret: str = said["secret"]
        self.region: str = said["region"]
        self.ca: str | None = said["ca"]
        self._tls = ssl.create_default_context(cafile=self.ca) if self.ca else None
        self._role: str | None = None
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def written(self) -> str:
        """What it wrote to its standard error."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        """End it by the end of its standard input, and wait."""
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.stdout.close()

    def __enter__(self) -> "LocalAws":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- Reaching it

    def environment(self) -> dict[str, str]:
        """The variables that lead any client of AWS here, and nowhere else."""
        variables = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        return variables | ({"AWS_CA_BUNDLE": self.ca} if self.ca else {})

    def client(self, service: str, *, key: dict[str, str] | None = None, **config: Any) -> Any:
        """A boto3 client that tries once; `key` as `credentials()` gives it, `config` for botocore's Config."""
        from botocore.config import Config

        key = key or {"access_key": self.access_key, "secret": self.secret}
        which = json.dumps([service, key, config], sort_keys=True)
        with self._lock:  # a client takes 40 ms to make, and must not be made by two threads at once
            if which not in self._clients:
                self._clients[which] = self._made(service, key, Config(**{**ONCE, **config}))
            return self._clients[which]

    def _made(self, service: str, key: dict[str, str], config: Any) -> Any:
        import boto3

        return boto3.Session().client(
            service,
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=key["access_key"],
            aws_secret_access_key=key["secret"],
            aws_session_token=key.get("token"),
            verify=self.ca,
            config=config,
        )

    # -- Turning and reading it

    def ask(self, method: str, path: str, wish: object = None) -> Any:
        """One question to a control API: `/_local/…` or the S3 proxy's `/_proxy/…`."""
        body = None if wish is None else json.dumps(wish).encode()
        request = urllib.request.Request(self.endpoint + path, body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE, context=self._tls) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ValueError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def knobs(self, **wishes: Any) -> dict[str, Any]:
        """Turn knobs: `throttle=0.3`, `kill={"fraction": 1, "times": 1}`, `cold_start=0.2`, `seed=1`."""
        return self.ask("POST", "/_local/knobs", wishes)

    def counters(self) -> dict[str, int]:
        """What was done so far; what never happened is missing, so use `.get(name, 0)`."""
        return self.ask("GET", "/_local/state")["counters"]

    def injected(self) -> dict[str, int]:
        """How many of each fault were injected."""
        return self.ask("GET", "/_local/state")["injected"]

    def reset(self, *, environments: bool = False) -> None:
        """Knobs and counters as at the start, S3 faults and counts too; warm environments stay unless asked."""
        self.ask("POST", "/_local/reset", {"environments": environments})
        self.ask("DELETE", "/_proxy/faults")
        self.ask("DELETE", "/_proxy/counts")

    def credentials(self, **wishes: Any) -> dict[str, Any]:
        """A temporary key: `seconds=…`, `arn=…`, `deny=["lambda:InvokeFunction"]`."""
        return self.ask("POST", "/_local/credentials", wishes)

    def logs(self) -> str:
        """What the live environments wrote last; look here when a test does not understand its worker."""
        return "\n".join(self.ask("GET", "/_local/logs").values())

    # -- Deploying

    def role(self) -> str:
        """The ARN of a role that Lambda may assume, and that may do anything; made once."""
        if self._role is None:
            who = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
            policy = json.dumps({"Version": "2012-10-17", "Statement": [who]})
            name = f"role-{time.time_ns()}"
            made = self.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=policy)
            anything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [anything]})
            self.client("iam").put_role_policy(RoleName=name, PolicyName="anything", PolicyDocument=document)
            self._role = made["Role"]["Arn"]
        return self._role

    def deploy(
        self,
        code: bytes,
        name: str,
        *,
        handler: str = "main.handle",
        memory: int = 128,
        timeout: int = 10,
        variables: dict[str, str] | None = None,
        concurrency: int | None = None,
        retries: int | None = None,
        event_age: int | None = None,
        disk: int = 512,
        runtime: str = OWN_RUNTIME,
    ) -> str:
        """Create a function from a zip, or replace it; its ARN once it can be invoked."""
        client = self.client("lambda")
        try:
            client.delete_function(FunctionName=name)
        except client.exceptions.ResourceNotFoundException:
            pass
        made = client.create_function(
            FunctionName=name,
            Runtime=runtime,
            Role=self.role(),
            Handler=handler,
            Code={"ZipFile": code},
            Timeout=timeout,
            MemorySize=memory,
            EphemeralStorage={"Size": disk},
            Environment={"Variables": variables or {}},
        )
        if concurrency is not None:
            client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=concurrency)
        events = {"MaximumRetryAttempts": retries, "MaximumEventAgeInSeconds": event_age}
        if events := {key: value for key, value in events.items() if value is not None}:
            client.put_function_event_invoke_config(FunctionName=name, **events)
        client.get_waiter("function_active_v2").wait(
            FunctionName=name, WaiterConfig={"Delay": 0.02, "MaxAttempts": 500}
        )
        return made["FunctionArn"]


def zipped(**modules: str) -> bytes:
    """A zip of Python modules by name, from their sources."""
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        for name, source in modules.items():
            archive.writestr(f"{name}.py", source)
    return into.getvalue()
