"""4,096 tasks through the local AWS, where nothing is canned: for correctness, not for speed.

bundle ─► a function of the local AWS ─► Executor("lambda") ─► Invokes, over TLS ─► at most 64 environments,
                                                                                    each the deployed zip
"""

import json
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invokers import double

__all__ = ["MOST", "play"]

LAUNCHER = Path(__file__).parents[1] / "local-aws"
MOST = 64
MEMORY = 512
BUCKET = "pywren-ng-bench"


def play(folder: Path, tasks: int) -> dict[str, list[float]]:
    """How many values were right, and how many environments there were at once."""
    with local_aws("--tls") as said:
        os.environ.update(variables(said))
        deploy(folder, said)
        from pywren_ng import Executor

        with Executor("lambda", progress=False) as executor:
            values = list(executor.map(double, range(tasks), chunksize=1))
        counters = ask(said, "GET", "/_local/state")["counters"]
    right = sum(value == double(number) for number, value in enumerate(values))
    ran = counters["executions"]
    if ran < tasks:
        raise RuntimeError(f"{tasks} tasks were mapped, one in each Call, and {ran} executions counted")
    return {"right": [right if len(values) == tasks else 0], "most": [counters["most_environments"]]}


@contextmanager
def local_aws(*options: str) -> Iterator[dict[str, Any]]:
    """A local AWS with these options, as long as the block lasts, and what it says of itself."""
    env = os.environ | {"LOCAL_AWS_PYTHON": sys.executable}
    with subprocess.Popen(
        [LAUNCHER, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            said: dict[str, Any] = json.loads(process.stdout.readline())
            ask(said, "POST", "/_local/knobs", {"real_environments": MOST})
            yield said
        finally:
            process.stdin.close()
            process.wait(60)


def ask(said: dict[str, Any], method: str, path: str, wish: object = None) -> Any:
    """One question to its control API."""
    body = None if wish is None else json.dumps(wish).encode()
    request = urllib.request.Request(said["endpoint"] + path, body, method=method)
    context = ssl.create_default_context(cafile=said["ca"])
    with urllib.request.urlopen(request, timeout=60, context=context) as answer:
        return json.loads(answer.read())


def variables(said: dict[str, Any]) -> dict[str, str]:
    """What leads any client of AWS there."""
    found = {
        "AWS_ENDPOINT_URL": said["endpoint"],
        "AWS_ENDPOINT_URL_LAMBDA": said["endpoint"],
        "AWS_ACCESS_KEY_ID": said["access_key"],
        "AWS_SECRET_ACCESS_KEY": said["secret"],
        "AWS_DEFAULT_REGION": said["region"],
    }
    return found | ({"AWS_CA_BUNDLE": said["ca"]} if said["ca"] else {})


def deploy(folder: Path, said: dict[str, Any]) -> None:
    """Bucket, role and function, and the file by which the executor finds them."""
    import boto3

    from pywren_ng.deploy.bundle import build
    from pywren_ng.deployment import Deployment, dumps

    key = os.urandom(32)
    where = Deployment(said["region"], f"s3://{BUCKET}/jobs", key, memory=MEMORY)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    allowed = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    role = boto3.client("iam").create_role(RoleName="bench", AssumeRolePolicyDocument=policy)["Role"]["Arn"]
    anything = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
    boto3.client("iam").put_role_policy(RoleName="bench", PolicyName="anything", PolicyDocument=anything)
    client = boto3.client("lambda")
    name = where.function(None)
    client.create_function(
        FunctionName=name,
        Runtime=f"python{sys.version_info[0]}.{sys.version_info[1]}",
        Role=role,
        Handler="pywren_runtime.handler.handle",
        Code={"ZipFile": build(folder / "runtime.zip").path.read_bytes()},
        Timeout=60,
        MemorySize=MEMORY,
        Environment={
            "Variables": {"PYWREN_NG_INTERNAL_STORE": where.store, "PYWREN_NG_INTERNAL_KEY": key.hex()},
        },
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    path = folder / "real.toml"
    path.write_text(dumps(where))
    path.chmod(0o600)
    os.environ["PYWREN_NG_DEPLOYMENT"] = str(path)
