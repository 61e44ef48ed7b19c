"""The local AWS itself, with unmodified boto3 and functions of a few lines: what it refuses, how environments live."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.exceptions
import psutil
import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from support.local_aws import SCRIPTS, LocalAws, zipped

sys.path.insert(0, str(SCRIPTS))
from local_aws import sigv4
from local_aws.credentials import Credential, Keyring
from local_aws.http1 import Request

PATIENCE = 20
CODE = """
import ctypes, os, pathlib, subprocess, sys, time
SEEN = []
def handle(event, context):
    what = event.get("do", "echo")
    SEEN.append(what)
    if "mark" in event:
        with open(event["mark"], "a") as file:
            file.write(context.aws_request_id + "\\n")
    return globals()[what](event)
def echo(event): return event
def environment(event): return dict(os.environ)
def count(event): return [os.getpid(), len(SEEN)]
def say(event): print("x" * event["size"] + event["word"])
def answer(event): return "y" * event["size"]
def wait(event):
    deadline = time.monotonic() + 30
    while not os.path.exists(event["until"]) and time.monotonic() < deadline: time.sleep(0.002)
    return os.getpid()
def fail(event): raise LookupError("not there")
def leave(event): os._exit(event["status"])
def die(event): os.kill(os.getpid(), 9)
def hold(event):
    held = bytearray(os.urandom(1 << 20) * event["megabytes"])
    time.sleep(20)
    return len(held)
def child_holds(event):
    script = "import time; x = b'x' * (200 << 20); time.sleep(20)"
    subprocess.run([sys.executable, "-c", script], start_new_session=True)
def fill(event):
    with open(os.environ["TMPDIR"] + "/big", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, event["megabytes"] << 20)
    time.sleep(20)
def write_code(event):
    found = []
    for name in ("main.py", "new.py", "__pycache__"):
        try: pathlib.Path(os.environ["LAMBDA_TASK_ROOT"], name).open("w").close()
        except OSError as error: found.append(type(error).__name__)
    return found
def installed(event):
    found = []
    for name in ("pywren_ng", "pywren_runtime", "boto3", "pytest", "awslambdaric"):
        try: __import__(name); found.append(name)
        except ImportError: pass
    return found
def child(event):
    script = "import time; time.sleep(60)"
    return subprocess.Popen([sys.executable, "-c", script], start_new_session=True).pid
"""


@pytest.fixture
def deployed(local_aws: LocalAws) -> Iterator[Callable[..., str]]:
    """Deploys a function for one test, and removes it."""
    names = []

    def deploy(code: bytes = zipped(main=CODE), **options: Any) -> str:
        names.append(f"f{time.time_ns()}")
        local_aws.deploy(code, names[-1], **options)
        return names[-1]

    yield deploy
    for name in names:
        local_aws.client("lambda").delete_function(FunctionName=name)


@pytest.fixture(scope="module")
def shared(one_local_aws: LocalAws) -> str:
    """A function that many tests use as it is."""
    one_local_aws.deploy(zipped(main=CODE), "shared", variables={"OURS": "1"})
    return "shared"


def invoke(aws: LocalAws, name: str, event: object = None, **options: Any) -> dict[str, Any]:
    """The answer of one Invoke, its payload decoded."""
    answer = aws.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event or {}), **options)
    answer["Payload"] = json.loads(answer["Payload"].read() or b"null")
    return answer


def refused(call: Callable[[], object]) -> tuple[int, str, dict[str, Any]]:
    """Status, code and the whole of the error that a call ends in."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call()
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"], response


def until(what: Callable[[], Any]) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return found


def lines(path: Path) -> list[str]:
    """The lines written so far."""
    return path.read_text().splitlines() if path.exists() else []


# -- Who may come in


def signed(keys: Credentials, *, service: str, auth: type = SigV4Auth, url: str, **request: Any) -> Request:
    """A request as botocore signs it, as the gateway sees it."""
    made = AWSRequest(url=url, **request)
    arguments = {"expires": 60} if auth is S3SigV4QueryAuth else {}
    auth(keys, service, "eu-west-1", **arguments).add_auth(made)
    sent = made.prepare()
    headers = {name.lower(): value for name, value in sent.headers.items()}
    target = sent.url.partition("127.0.0.1:1")[2]
    return Request(sent.method, target, {"host": "127.0.0.1:1", **headers}, sent.body or b"")


@pytest.mark.parametrize(
    ("service", "auth", "url"),
    [
        ("s3", S3SigV4Auth, "http://127.0.0.1:1/bucket/a%20b/%C3%BC%2Bc~?list-type=2&prefix=x%2Fy&empty="),
        ("s3", S3SigV4QueryAuth, "http://127.0.0.1:1/bucket/key%3D1?versionId=7"),
        (
            "lambda",
            SigV4Auth,
            "http://127.0.0.1:1/2015-03-31/functions/arn%3Aaws%3Alambda/invocations?Qualifier=%24LATEST",
        ),
        ("sts", SigV4Auth, "http://127.0.0.1:1/"),
    ],
)
@pytest.mark.parametrize("token", [None, "a/token+with=signs"])
def test_a_signature_of_botocore_is_right_and_any_change_makes_it_wrong(
    service: str, auth: type, url: str, token: str | None
) -> None:
    keyring = Keyring()
    credential = keyring.add(Credential("AKID", "secret/with+signs", token))
    body = None if auth is S3SigV4QueryAuth else b"body"
    keys = Credentials(credential.access_key, credential.secret, token)
    headers = {"X-Amz-Meta-A": "  two   spaces "}
    request = signed(keys, service=service, auth=auth, url=url, method="POST", data=body, headers=headers)
    claim = sigv4.claim_of(request)
    assert sigv4.verify(request, claim, keyring, time.time()) is credential
    for wrong in (
        Request("GET", request.target, request.headers, request.body),
        Request("POST", request.target.replace("/", "/x", 1), request.headers, request.body),
        Request("POST", request.target, {**request.headers, "x-amz-meta-a": "changed"}, request.body),
        Request("POST", request.target, {**request.headers, "host": "elsewhere"}, request.body),
    ):
        with pytest.raises(sigv4.Refused) as caught:
            sigv4.verify(wrong, sigv4.claim_of(wrong), keyring, time.time())
        assert caught.value.kind == "bad_signature"
    with pytest.raises(sigv4.Refused, match=r"expired|too far"):
        sigv4.verify(request, claim, keyring, time.time() + 1000)


CALLS = {
    "s3": lambda client: client.list_buckets(),
    "lambda": lambda client: client.invoke(FunctionName="shared"),
    "sts": lambda client: client.get_caller_identity(),
    "cloudformation": lambda client: client.list_stacks(),
}


@pytest.mark.parametrize(
    ("service", "wrong_secret", "unknown", "expired"),
    [
        ("s3", "403 SignatureDoesNotMatch", "403 InvalidAccessKeyId", "400 ExpiredToken"),
        (
            "lambda",
            "403 InvalidSignatureException",
            "403 UnrecognizedClientException",
            "403 ExpiredTokenException",
        ),
        ("sts", "403 SignatureDoesNotMatch", "403 InvalidClientTokenId", "403 ExpiredToken"),
        ("cloudformation", "403 SignatureDoesNotMatch", "403 InvalidClientTokenId", "403 ExpiredToken"),
    ],
)
def test_wrong_keys_are_refused_in_the_words_of_each_service(
    local_aws: LocalAws, service: str, wrong_secret: str, unknown: str, expired: str
) -> None:
    right = {"access_key": local_aws.access_key, "secret": local_aws.secret}
    keys = (right | {"secret": "wrong"}, right | {"access_key": "AKIAUNKNOWN"}, local_aws.credentials(seconds=-1))
    answers = []
    for key in keys:
        client = local_aws.client(service, key=key)
        status, code, _ = refused(lambda client=client: CALLS[service](client))
        answers.append(f"{status} {code}")
    assert answers == [wrong_secret, unknown, expired]
    counters = local_aws.counters()
    assert [counters[f"refused_{kind}"] for kind in ("bad_signature", "unknown_key", "expired")] == [1, 1, 1]


def test_a_request_without_a_signature_is_refused(local_aws: LocalAws) -> None:
    connection = http.client.HTTPConnection(local_aws.endpoint.removeprefix("http://"))
    answers = []
    for path in ("/2015-03-31/functions/shared/invocations", "/bucket/key"):
        connection.request("POST", path, b"{}")
        answer = connection.getresponse()
        answers.append((answer.status, answer.headers.get("x-amzn-ErrorType"), b"AccessDenied" in answer.read()))
    connection.close()
    assert answers == [(403, "MissingAuthenticationTokenException", False), (403, None, True)]


def test_temporary_keys_come_from_sts_and_need_their_token(local_aws: LocalAws) -> None:
    made = local_aws.client("sts").assume_role(RoleArn=local_aws.role(), RoleSessionName="session")["Credentials"]
    key = {"access_key": made["AccessKeyId"], "secret": made["SecretAccessKey"], "token": made["SessionToken"]}
    assert ":assumed-role/" in local_aws.client("sts", key=key).get_caller_identity()["Arn"]
    assert refused(lambda: local_aws.client("s3", key=key | {"token": None}).list_buckets())[:2] == (
        400,
        "InvalidToken",
    )


def test_a_key_may_be_denied_an_action(local_aws: LocalAws, shared: str) -> None:
    key = local_aws.credentials(deny=["lambda:InvokeFunction", "s3:PutObject"])
    status, code, response = refused(lambda: local_aws.client("lambda", key=key).invoke(FunctionName=shared))
    assert (status, code) == (403, "AccessDeniedException")
    assert "lambda:InvokeFunction on resource: arn:aws:lambda:us-east-1:" in response["Error"]["Message"]
    put = local_aws.client("s3", key=key).put_object
    assert refused(lambda: put(Bucket="b", Key="k", Body=b""))[:2] == (403, "AccessDenied")


def test_nothing_listens_but_on_loopback(local_aws: LocalAws, shared: str) -> None:
    invoke(local_aws, shared)
    family = [psutil.Process(local_aws.process.pid), *psutil.Process(local_aws.process.pid).children(recursive=True)]
    sockets = [each for one in family for each in one.net_connections() if each.status == psutil.CONN_LISTEN]
    assert len(sockets) >= 3  # the gateway, ministack, a Runtime API
    assert {each.laddr.ip for each in sockets} == {"127.0.0.1"}


# -- S3 and the control plane


def test_objects_go_in_and_come_out(local_aws: LocalAws) -> None:
    client = local_aws.client("s3")
    client.create_bucket(Bucket="objects")
    body = os.urandom(300_000)
    client.put_object(Bucket="objects", Key="a b/ü+c~", Body=body)
    assert client.get_object(Bucket="objects", Key="a b/ü+c~")["Body"].read() == body
    assert client.get_object(Bucket="objects", Key="a b/ü+c~", Range="bytes=5-9")["Body"].read() == body[5:10]
    assert client.head_object(Bucket="objects", Key="a b/ü+c~")["ContentLength"] == 300_000
    again = refused(lambda: client.put_object(Bucket="objects", Key="a b/ü+c~", Body=b"", IfNoneMatch="*"))
    assert again[:2] == (412, "PreconditionFailed")
    counts = local_aws.ask("GET", "/_proxy/counts?bucket=objects")
    assert (counts["kinds"]["PutObject"], counts["kinds"]["ConditionalPut"], counts["kinds"]["GetRange"]) == (1, 1, 1)


TEMPLATE = {
    "Resources": {
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "RoleName": "stacked",
                "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []},
            },
        },
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "FunctionName": "stacked",
                "Runtime": f"python3.{sys.version_info.minor}",
                "Handler": "main.handle",
                "Role": {"Fn::GetAtt": ["Role", "Arn"]},
                "Code": {"S3Bucket": "stacks", "S3Key": "code.zip"},
                "MemorySize": 192,
                "Environment": {"Variables": {"OURS": "from the template"}},
            },
        },
    }
}


def test_a_stack_deploys_a_function_that_runs(local_aws: LocalAws) -> None:
    store, stacks = local_aws.client("s3"), local_aws.client("cloudformation")
    store.create_bucket(Bucket="stacks")
    store.put_object(Bucket="stacks", Key="code.zip", Body=zipped(main=CODE))
    stacks.create_stack(StackName="stack", TemplateBody=json.dumps(TEMPLATE), Capabilities=["CAPABILITY_NAMED_IAM"])
    patience = {"Delay": 0.05, "MaxAttempts": 200}
    stacks.get_waiter("stack_create_complete").wait(StackName="stack", WaiterConfig=patience)
    local_aws.client("lambda").get_waiter("function_active_v2").wait(FunctionName="stacked", WaiterConfig=patience)
    seen = invoke(local_aws, "stacked", {"do": "environment"})["Payload"]
    assert (seen["OURS"], seen["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]) == ("from the template", "192")
    stacks.delete_stack(StackName="stack")
    stacks.get_waiter("stack_delete_complete").wait(StackName="stack", WaiterConfig=patience)
    assert refused(lambda: invoke(local_aws, "stacked"))[:2] == (404, "ResourceNotFoundException")


def test_new_code_runs_at_once(local_aws: LocalAws, deployed: Callable[..., str]) -> None:
    name = deployed()
    old = invoke(local_aws, name, {"do": "count"})["Payload"][0]
    client = local_aws.client("lambda")
    client.update_function_code(FunctionName=name, ZipFile=zipped(main="def handle(event, context): return 'new'"))
    client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.02, "MaxAttempts": 500})
    assert invoke(local_aws, name)["Payload"] == "new"
    assert old not in [each["pid"] for each in local_aws.ask("GET", "/_local/state")["environments"] if each["busy"]]


def test_account_settings_say_the_limit_that_holds(local_aws: LocalAws) -> None:
    local_aws.knobs(account_concurrency=77)
    assert local_aws.client("lambda").get_account_settings()["AccountLimit"]["ConcurrentExecutions"] == 77


@pytest.mark.parametrize("fault", ["503", "truncate", "reset_before", "reset_after"])
def test_a_fault_of_the_proxy_reaches_the_client(local_aws: LocalAws, fault: str) -> None:
    client = local_aws.client("s3")
    client.create_bucket(Bucket="faulty")
    client.put_object(Bucket="faulty", Key="key", Body=b"x" * 100_000)
    local_aws.ask("POST", "/_proxy/faults", {"kind": "GetObject", "fault": fault, "fraction": 1, "seed": 1})
    failures = (botocore.exceptions.ClientError, botocore.exceptions.HTTPClientError, ConnectionError)
    with pytest.raises((*failures, botocore.exceptions.IncompleteReadError)):
        client.get_object(Bucket="faulty", Key="key")["Body"].read()
    (rule,) = local_aws.ask("GET", "/_proxy/faults")
    assert rule["injected"] >= 1


# -- What runs


def test_a_function_sees_its_template_and_lambda_and_nothing_of_ours(local_aws: LocalAws, shared: str) -> None:
    seen = invoke(local_aws, shared, {"do": "environment"})["Payload"]
    assert seen["OURS"] == "1"
    foreign = {name for name in seen if name not in ("OURS", "PATH", "TZ", "LANG", "LC_CTYPE", "TMPDIR", "_HANDLER")}
    assert {
        name for name in foreign if not name.startswith(("AWS_", "LAMBDA_", "_X_AMZN_", "LD_LIBRARY_PATH"))
    } == set()
    key = {name: seen[f"AWS_{name.upper()}"] for name in ("access_key_id", "secret_access_key", "session_token")}
    key = {"access_key": key["access_key_id"], "secret": key["secret_access_key"], "token": key["session_token"]}
    assert "assumed-role/role-" in local_aws.client("sts", key=key).get_caller_identity()["Arn"]
    assert seen["AWS_ENDPOINT_URL"] == local_aws.endpoint


def test_the_zip_runs_not_the_checkout_and_nothing_may_write_to_it(local_aws: LocalAws, shared: str) -> None:
    assert invoke(local_aws, shared, {"do": "installed"})["Payload"] == ["awslambdaric"]
    found = invoke(local_aws, shared, {"do": "write_code"})["Payload"]
    assert found == ["PermissionError"] * 3
    assert local_aws.ask("GET", "/_local/touched") == []


def test_names_arns_and_qualifiers_lead_to_the_function(local_aws: LocalAws, shared: str) -> None:
    arn = f"arn:aws:lambda:us-east-1:123456789012:function:{shared}"
    for name in (shared, arn, f"{arn}:$LATEST", f"123456789012:function:{shared}"):
        answer = invoke(local_aws, name, {"a": 1})
        assert (answer["Payload"], answer["ExecutedVersion"]) == ({"a": 1}, "$LATEST")
    assert len(answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]) == 36


def test_there_is_no_such_function(local_aws: LocalAws) -> None:
    status, code, response = refused(lambda: invoke(local_aws, "nowhere"))
    assert (status, code) == (404, "ResourceNotFoundException")
    assert response["Error"]["Message"] == "Function not found: arn:aws:lambda:us-east-1:123456789012:function:nowhere"


def test_a_dry_run_runs_nothing(local_aws: LocalAws, shared: str) -> None:
    assert invoke(local_aws, shared, InvocationType="DryRun")["StatusCode"] == 204
    assert local_aws.counters().get("executions", 0) == 0


def test_the_log_has_start_end_and_report(local_aws: LocalAws, shared: str) -> None:
    answer = invoke(local_aws, shared, {"do": "say", "size": 0, "word": "hello"}, LogType="Tail")
    start, word, end, report = base64.b64decode(answer["LogResult"]).decode().splitlines()
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert (start, word, end) == (
        f"START RequestId: {request_id} Version: $LATEST",
        "hello",
        f"END RequestId: {request_id}",
    )
    assert report.startswith(f"REPORT RequestId: {request_id}\tDuration: ")
    assert "Memory Size: 128 MB\tMax Memory Used: " in report
    long = invoke(local_aws, shared, {"do": "say", "size": 9000, "word": "end"}, LogType="Tail")
    assert len(base64.b64decode(long["LogResult"])) == 4096


def test_the_python_of_a_function_must_be_here(local_aws: LocalAws, deployed: Callable[..., str]) -> None:
    status, code, _ = refused(lambda: invoke(local_aws, deployed(runtime="python3.9")))
    assert (status, code) == (502, "InvalidRuntimeException")


# -- What Lambda refuses


def test_a_request_over_six_megabytes(local_aws: LocalAws, shared: str) -> None:
    client = local_aws.client("lambda")
    most = 6_291_456
    answer = client.invoke(FunctionName=shared, Payload=json.dumps({"do": "count", "": ""}).encode().ljust(most))
    assert answer["StatusCode"] == 200
    status, code, _ = refused(lambda: client.invoke(FunctionName=shared, Payload=b"{}".ljust(most + 1)))
    assert (status, code) == (413, "RequestEntityTooLargeException")


def test_an_answer_over_six_megabytes(local_aws: LocalAws, shared: str) -> None:
    assert len(invoke(local_aws, shared, {"do": "answer", "size": 6_291_554})["Payload"]) == 6_291_554
    answer = invoke(local_aws, shared, {"do": "answer", "size": 6_291_555})
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"]["errorType"] == "Function.ResponseSizeTooLarge"
    assert invoke(local_aws, shared, {"a": 1})["Payload"] == {"a": 1}


def test_an_event_over_a_megabyte(local_aws: LocalAws, shared: str) -> None:
    client = local_aws.client("lambda")
    send = {"FunctionName": shared, "InvocationType": "Event"}
    assert client.invoke(**send, Payload=b"{}".ljust(1 << 20))["StatusCode"] == 202
    status, code, _ = refused(lambda: client.invoke(**send, Payload=b"{}".ljust((1 << 20) + 1)))
    assert (status, code) == (413, "RequestEntityTooLargeException")


def test_a_payload_that_is_not_json(local_aws: LocalAws, shared: str) -> None:
    call = local_aws.client("lambda").invoke
    assert refused(lambda: call(FunctionName=shared, Payload=b"{"))[:2] == (400, "InvalidRequestContentException")


def test_the_time_limit(local_aws: LocalAws, deployed: Callable[..., str]) -> None:
    name = deployed(timeout=1)
    pid = invoke(local_aws, name, {"do": "count"})["Payload"][0]
    answer = invoke(local_aws, name, {"do": "wait", "until": "/nowhere"}, LogType="Tail")
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"]["errorMessage"].endswith("Task timed out after 1.00 seconds")
    assert b"Task timed out after 1.00 seconds" in base64.b64decode(answer["LogResult"])
    assert local_aws.counters()["timed_out"] == 1
    until(lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize("what", [{"do": "hold", "megabytes": 200}, {"do": "child_holds"}])
def test_the_memory_limit(local_aws: LocalAws, shared: str, what: dict[str, Any]) -> None:
    answer = invoke(local_aws, shared, what, LogType="Tail")
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"]["errorType"] == "Runtime.ExitError"
    assert answer["Payload"]["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    assert b"Max Memory Used: 128 MB" in base64.b64decode(answer["LogResult"])
    assert local_aws.counters()["out_of_memory"] == 1


def test_the_ephemeral_disk(local_aws: LocalAws, shared: str) -> None:
    answer = invoke(local_aws, shared, {"do": "fill", "megabytes": 520})
    assert "No space left on device" in answer["Payload"]["errorMessage"]
    assert local_aws.counters()["out_of_disk"] == 1


def test_the_concurrency_of_function_and_account(
    local_aws: LocalAws, deployed: Callable[..., str], shared: str, tmp_path: Path
) -> None:
    reserved = deployed(concurrency=1)
    for name, limit, reason in (
        (reserved, 1000, "ReservedFunctionConcurrentInvocationLimitExceeded"),
        (shared, 1, "ConcurrentInvocationLimitExceeded"),
    ):
        local_aws.knobs(account_concurrency=limit)
        gate, mark = tmp_path / f"{name}-go", tmp_path / f"{name}-came"
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(invoke, local_aws, name, {"do": "wait", "until": str(gate), "mark": str(mark)})
            until(lambda mark=mark: lines(mark))
            status, code, response = refused(lambda name=name: invoke(local_aws, name))
            gate.touch()
            first.result()
        assert (status, code, response["Reason"]) == (429, "TooManyRequestsException", reason)
        assert int(response["ResponseMetadata"]["HTTPHeaders"]["retry-after"]) >= 1
        assert invoke(local_aws, name)["StatusCode"] == 200


def test_the_ramp(local_aws: LocalAws, deployed: Callable[..., str], tmp_path: Path) -> None:
    name, gate, mark = deployed(), tmp_path / "go", tmp_path / "came"
    local_aws.knobs(ramp=1, ramp_seconds=3600)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(invoke, local_aws, name, {"do": "wait", "until": str(gate), "mark": str(mark)})
        until(lambda: lines(mark))
        status, _, response = refused(lambda: invoke(local_aws, name))
        gate.touch()
        first.result()
    assert (status, response["Reason"]) == (429, "FunctionInvocationRateLimitExceeded")
    assert invoke(local_aws, name)["StatusCode"] == 200  # the one that there is
    assert local_aws.counters()["environments_started"] == 1


# -- Life


def test_environments_are_used_again_and_not_shared(
    local_aws: LocalAws, deployed: Callable[..., str], tmp_path: Path
) -> None:
    name, gate, mark = deployed(), tmp_path / "go", tmp_path / "came"
    assert [invoke(local_aws, name, {"do": "count"})["Payload"][1] for _ in range(3)] == [1, 2, 3]
    event = {"do": "wait", "until": str(gate), "mark": str(mark)}
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(invoke, local_aws, name, event) for _ in range(3)]
        until(lambda: len(lines(mark)) == 3)
        gate.touch()
        pids = {each.result()["Payload"] for each in running}
    assert len(pids) == 3
    counters = local_aws.counters()
    assert (counters["environments_started"], counters["executions"], counters["most_concurrent"]) == (3, 6, 3)


def test_at_most_so_many_processes_serve_more_invokes(local_aws: LocalAws, deployed: Callable[..., str]) -> None:
    name = deployed()
    local_aws.reset(environments=True)
    local_aws.knobs(real_environments=2)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: invoke(local_aws, name, {"n": n})["Payload"]["n"], range(40)))
    assert answers == list(range(40))
    counters = local_aws.counters()
    assert (counters["most_environments"], counters["executions"]) == (2, 40)


def test_an_exception_is_an_error_and_the_environment_lives(local_aws: LocalAws, shared: str) -> None:
    before = invoke(local_aws, shared, {"do": "count"})["Payload"]
    answer = invoke(local_aws, shared, {"do": "fail"})
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert (answer["Payload"]["errorType"], answer["Payload"]["errorMessage"]) == ("LookupError", "not there")
    assert invoke(local_aws, shared, {"do": "count"})["Payload"] == [before[0], before[1] + 2]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"do": "die"}, "Runtime exited with error: signal: killed"),
        ({"do": "leave", "status": 3}, "Runtime exited with error: exit status 3"),
        ({"do": "leave", "status": 0}, "Runtime exited without providing a reason"),
    ],
)
def test_a_process_that_ends(local_aws: LocalAws, shared: str, event: dict[str, Any], text: str) -> None:
    answer = invoke(local_aws, shared, event)
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"]["errorType"] == "Runtime.ExitError"
    assert answer["Payload"]["errorMessage"] == f"RequestId: {request_id} Error: {text}"
    assert invoke(local_aws, shared, {"a": 1})["Payload"] == {"a": 1}


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        ("import nothing_of_that_name", "Runtime.ImportModuleError", "Unable to import module 'main'"),
        ("handle = ", "Runtime.UserCodeSyntaxError", "Syntax error in module 'main'"),
        ("import os; os._exit(4)", "Runtime.ExitError", "exit status 4"),
        ("import time; time.sleep(60)", "Sandbox.Timedout", "timed out after 1.00 seconds"),
    ],
)
def test_initialisation_that_fails(
    local_aws: LocalAws, deployed: Callable[..., str], source: str, kind: str, text: str
) -> None:
    local_aws.knobs(init_seconds=0.1)
    answer = invoke(local_aws, deployed(zipped(main=source), timeout=1))
    assert (answer["FunctionError"], answer["Payload"]["errorType"]) == ("Unhandled", kind)
    assert text in answer["Payload"]["errorMessage"]
    assert local_aws.counters()["failed_initialisations"] == 1


def test_environments_that_rest_long_end_with_all_they_started(
    local_aws: LocalAws, deployed: Callable[..., str]
) -> None:
    name = deployed()
    pids = [invoke(local_aws, name, {"do": what})["Payload"] for what in ("count", "child")]
    assert psutil.pid_exists(pids[0][0])
    assert psutil.pid_exists(pids[1])
    local_aws.knobs(idle_seconds=0)
    until(lambda: local_aws.counters()["live_environments"] == 0)
    until(lambda: not any(runs(pid) for pid in (pids[0][0], pids[1])))


def runs(pid: int) -> bool:
    """Whether a process is there and not only its entry."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# -- Events


def test_an_event_is_taken_and_run(local_aws: LocalAws, shared: str, tmp_path: Path) -> None:
    answer = invoke(local_aws, shared, {"mark": str(tmp_path / "ran")}, InvocationType="Event")
    assert (answer["StatusCode"], answer["Payload"]) == (202, None)
    assert until(lambda: lines(tmp_path / "ran")) == [answer["ResponseMetadata"]["RequestId"]]


@pytest.mark.parametrize("retries", [None, 0, 1])
def test_an_event_is_tried_again(
    local_aws: LocalAws, deployed: Callable[..., str], tmp_path: Path, retries: int | None
) -> None:
    name = deployed(retries=retries)
    local_aws.knobs(retry_delay=0.01)
    invoke(local_aws, name, {"do": "fail", "mark": str(tmp_path / "ran")}, InvocationType="Event")
    until(lambda: local_aws.counters().get("events_given_up"))
    times = 3 if retries is None else 1 + retries
    assert len(lines(tmp_path / "ran")) == times
    assert len(set(lines(tmp_path / "ran"))) == 1  # one request id
    assert local_aws.counters().get("asynchronous_retries", 0) == times - 1


def test_an_event_waits_while_it_is_throttled(
    local_aws: LocalAws, deployed: Callable[..., str], tmp_path: Path
) -> None:
    name = deployed(concurrency=1)
    local_aws.knobs(throttle_delay=0.01)
    for number in range(3):
        event = {"do": "wait", "until": str(tmp_path / "go"), "mark": str(tmp_path / "ran")}
        assert invoke(local_aws, name, {**event, "n": number}, InvocationType="Event")["StatusCode"] == 202
    until(lambda: lines(tmp_path / "ran") and local_aws.counters().get("throttled_reserved", 0) >= 4)
    assert len(lines(tmp_path / "ran")) == 1
    (tmp_path / "go").touch()
    until(lambda: len(lines(tmp_path / "ran")) == 3)
    assert local_aws.counters()["most_concurrent"] == 1


# -- Knobs


def test_throttle_and_error_answer_instead(local_aws: LocalAws, shared: str) -> None:
    local_aws.knobs(throttle={"times": 2}, error={"times": 1})
    assert [refused(lambda: invoke(local_aws, shared))[:2] for _ in range(3)] == [
        (429, "TooManyRequestsException"),
        (429, "TooManyRequestsException"),
        (500, "ServiceException"),
    ]
    assert invoke(local_aws, shared)["StatusCode"] == 200
    injected = local_aws.injected()
    assert (injected["throttle"], injected["error"], local_aws.counters()["executions"]) == (2, 1, 1)


def test_a_fraction_is_drawn_from_the_seed(local_aws: LocalAws, shared: str) -> None:
    client = local_aws.client("lambda")

    def draw() -> list[int]:
        local_aws.reset()
        local_aws.knobs(throttle=0.3, seed=7)
        found = []
        for _ in range(60):
            try:
                found.append(client.invoke(FunctionName=shared)["StatusCode"])
            except client.exceptions.TooManyRequestsException:
                found.append(429)
        assert local_aws.injected()["throttle"] == found.count(429)
        return found

    first = draw()
    assert draw() == first
    assert 8 <= first.count(429) <= 30


def test_kill_strikes_in_mid_run(local_aws: LocalAws, shared: str, tmp_path: Path) -> None:
    local_aws.knobs(kill={"times": 1, "delay": 0.1})
    answer = invoke(local_aws, shared, {"do": "wait", "until": "/nowhere"})
    assert answer["Payload"]["errorMessage"].endswith("signal: killed")
    local_aws.knobs(kill={"times": 1})
    quick = invoke(local_aws, shared, {"mark": str(tmp_path / "ran")})  # quicker than its killer, or not
    assert quick["Payload"]["errorType"] == "Runtime.ExitError"
    assert local_aws.injected()["kill"] == 2
    assert invoke(local_aws, shared)["Payload"] == {}


@pytest.mark.parametrize("kind", ["RequestResponse", "Event"])
def test_duplicate_runs_twice(local_aws: LocalAws, shared: str, tmp_path: Path, kind: str) -> None:
    local_aws.knobs(duplicate={"times": 1})
    invoke(local_aws, shared, {"mark": str(tmp_path / "ran")}, InvocationType=kind)
    until(lambda: len(lines(tmp_path / "ran")) == 2)
    assert len(set(lines(tmp_path / "ran"))) == 1
    assert (local_aws.injected()["duplicate"], local_aws.counters()["executions"]) == (1, 2)


def test_drop_takes_and_never_runs(local_aws: LocalAws, shared: str) -> None:
    local_aws.knobs(drop=1)
    assert invoke(local_aws, shared, InvocationType="Event")["StatusCode"] == 202
    silent = local_aws.client("lambda", read_timeout=0.2)
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        silent.invoke(FunctionName=shared)
    assert (local_aws.injected()["drop"], local_aws.counters().get("executions", 0)) == (2, 0)


def test_stall_answers_late(local_aws: LocalAws, shared: str) -> None:
    local_aws.knobs(stall={"fraction": 1, "delay": 30})
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        local_aws.client("lambda", read_timeout=0.5).invoke(FunctionName=shared)
    assert (local_aws.injected()["stall"], local_aws.counters()["executions"]) == (1, 1)


@pytest.mark.parametrize(("fault", "executions"), [("reset_before", 0), ("reset_after", 1)])
def test_reset_cuts_the_connection(local_aws: LocalAws, shared: str, fault: str, executions: int) -> None:
    local_aws.knobs(**{fault: 1})
    with pytest.raises(botocore.exceptions.ConnectionClosedError):
        invoke(local_aws, shared)
    assert (local_aws.injected()[fault], local_aws.counters().get("executions", 0)) == (1, executions)


def test_a_cold_start_can_be_made_longer(local_aws: LocalAws, deployed: Callable[..., str]) -> None:
    local_aws.knobs(cold_start=30)
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        local_aws.client("lambda", read_timeout=0.5).invoke(FunctionName=deployed())
    assert local_aws.counters().get("executions", 0) == 0


def test_a_knob_that_is_not_there(local_aws: LocalAws) -> None:
    with pytest.raises(ValueError, match="no knob is called 'trottle'"):
        local_aws.knobs(trottle=1)


def test_a_reset_ends_what_runs(local_aws: LocalAws, shared: str, tmp_path: Path) -> None:
    events = [{"do": "wait", "until": str(tmp_path / "go"), "mark": str(tmp_path / "ran"), "n": n} for n in range(2)]
    for event in events:
        invoke(local_aws, shared, event, InvocationType="Event")
    until(lambda: len(lines(tmp_path / "ran")) == 2)
    local_aws.reset()
    until(lambda: not any(each["busy"] for each in local_aws.ask("GET", "/_local/state")["environments"]))
    assert invoke(local_aws, shared)["Payload"] == {}


# -- Beginning and end


def test_over_tls_and_nothing_is_left(tmp_path: Path) -> None:
    with LocalAws("--tls") as aws:
        family = psutil.Process(aws.process.pid).children(recursive=True)
        aws.deploy(zipped(main=CODE), "f")
        seen = invoke(aws, "f", {"do": "environment"})["Payload"]
        assert aws.endpoint.startswith("https://")
        assert Path(seen["AWS_CA_BUNDLE"]).read_bytes() == Path(aws.ca).read_bytes()
        pid = invoke(aws, "f", {"do": "child"})["Payload"]
        family += psutil.Process(aws.process.pid).children(recursive=True)
        folder = Path(aws.ca).parent
    assert aws.process.returncode == 0
    assert not any(each.is_running() for each in family)
    assert not runs(pid)
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_and_its_processes(number: signal.Signals, tmp_path: Path) -> None:
    command = [SCRIPTS / "local-aws"]
    env = {**os.environ, "LOCAL_AWS_PYTHON": sys.executable, "TMPDIR": str(tmp_path)}
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env)
    with started:
        endpoint = json.loads(started.stdout.readline())["endpoint"]
        family = psutil.Process(started.pid).children(recursive=True)
        assert family
        started.send_signal(number)
        started.wait(PATIENCE)
    until(lambda: not any(each.is_running() for each in family))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])))
