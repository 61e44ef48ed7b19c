"""`pywren-ng setup`, `join`, `check`, `policy`, `teardown`, as typed, on a local AWS that enforces policies."""

import json
import os
import re
import shlex
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from scene import Gate, act, pass_gate
from support.local_aws import LocalAws

from pywren_ng import Executor, deployment
from pywren_ng.cli import main
from pywren_ng.credentials import open_store
from pywren_ng.deploy import bundle, layers
from pywren_ng.deploy.plan import Runtime
from pywren_ng.deployment import Deployment
from pywren_ng.requirements import interpreter
from pywren_runtime.errors import FunctionMissing

pytestmark = pytest.mark.timeout(60)
SIZE, OTHER = 512, 640
FEW = 4  # environments, for a task of no length would start one of its own
Run = Callable[..., str]


@pytest.fixture(scope="module")
def home(one_local_aws: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's home, and an environment that leads to the local AWS."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in one_local_aws.environment().items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "PYWREN_NG_DEPLOYMENT"):
            patch.delenv(name, raising=False)
        home = tmp_path_factory.mktemp("home")
        patch.setenv("XDG_CONFIG_HOME", str(home))
        # Each command that is typed reads boto3's descriptions of AWS and compresses the layer. Here the first are read
        # once for all commands, and the second is done fast.
        patch.setattr(botocore.session, "create_loader", cache(botocore.session.create_loader))
        patch.setattr(zlib, "Z_DEFAULT_COMPRESSION", zlib.Z_BEST_SPEED)
        yield home


@pytest.fixture
def run(home: Path, local_aws: LocalAws, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command; what it printed."""

    def run(line: str, *, code: int = 0) -> str:
        capsys.readouterr()
        ended = main(shlex.split(line))
        printed = capsys.readouterr()
        assert ended == code, f"pywren-ng {line}: {ended}\n{printed.out}{printed.err}"
        return printed.out + printed.err

    return run


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws, home: Path) -> Iterator[Deployment]:
    """One deployment, for the tests that change nothing of it; `--name there`."""
    file = home / "there.toml"
    assert main(shlex.split(f"setup --yes --name there --memory {SIZE} --file {file}")) == 0
    yield deployment.load(str(file))
    assert main(shlex.split(f"teardown --yes --name there --region {one_local_aws.region} --file {file}")) == 0


@pytest.fixture
def on(there: Deployment, home: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """`Executor("lambda")` goes to that deployment."""
    monkeypatch.setenv("PYWREN_NG_DEPLOYMENT", str(home / "there.toml"))
    return there


def inventory(aws: LocalAws) -> dict[str, list[str]]:
    """All that an account can be left with."""
    stacks = aws.client("cloudformation").list_stacks()["StackSummaries"]
    return {
        "stacks": [each["StackName"] for each in stacks if each["StackStatus"] != "DELETE_COMPLETE"],
        "functions": names(aws, "lambda", "list_functions", "Functions", "FunctionName"),
        "layers": names(aws, "lambda", "list_layers", "Layers", "LayerName"),
        "roles": names(aws, "iam", "list_roles", "Roles", "RoleName"),
        "policies": names(aws, "iam", "list_policies", "Policies", "PolicyName", Scope="Local"),
        "buckets": [each["Name"] for each in aws.client("s3").list_buckets()["Buckets"]],
        "log groups": names(aws, "logs", "describe_log_groups", "logGroups", "logGroupName"),
    }


def names(aws: LocalAws, service: str, operation: str, listed: str, name: str, **wish: Any) -> list[str]:
    pages = aws.client(service).get_paginator(operation).paginate(**wish)
    return sorted(each[name] for page in pages for each in page[listed])


def bucket_of(where: Deployment) -> str:
    return where.store.removeprefix("s3://").partition("/")[0]


# -- From nothing to nothing


def test_setup_check_map_setup_teardown_leaves_nothing(run: Run, local_aws: LocalAws, home: Path) -> None:
    before = inventory(local_aws)
    said = run(f"setup --yes --name whole --memory {SIZE} --tags team=research")
    assert "+ function whole-w" in said and "costs nothing" in said
    file = home / "pywren-ng" / "deployment.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [line[:4] for line in run("check").splitlines()] == ["ok  "] * 8
    assert [line[:4] for line in run(f"check --region {local_aws.region}").splitlines()] == ["ok  "] * 8
    assert "no deployment in mars-1 is known here" in run("check --region mars-1", code=1)
    local_aws.knobs(real_environments=FEW)
    with Executor("lambda") as ex:
        assert list(ex.map(pow, range(20), [2] * 20)) == [x * x for x in range(20)]
    first = deployment.load(str(file))
    assert "= function whole-w" in run("setup --yes --name whole")
    assert deployment.load(str(file)) == first
    clutter(local_aws, first)
    said = run("teardown --yes")
    assert int(re.search(r"Deleted ([\d,]+) objects", said)[1].replace(",", "")) >= 2001
    assert inventory(local_aws) == before
    assert not file.exists()


def clutter(aws: LocalAws, where: Deployment) -> None:
    """2,001 objects, one with older versions, one deleted, an upload that never ended, logs beside the stack's."""
    store, s3, bucket = open_store(where.store), aws.client("s3"), bucket_of(where)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda number: store.put(f"blobs/{number:04}", b"x"), range(2001)))
    store.close()
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for _ in range(3):
        s3.put_object(Bucket=bucket, Key="whole/blobs/0000", Body=b"again")
    s3.delete_object(Bucket=bucket, Key="whole/blobs/0001")
    s3.create_multipart_upload(Bucket=bucket, Key="whole/blobs/begun")
    aws.client("logs").create_log_group(logGroupName=f"/aws/lambda/{where.function(None)}")


def test_teardown_of_nothing_says_so(run: Run) -> None:
    said = run("teardown --yes --name nothing --region us-east-1")
    assert "There is no stack nothing in us-east-1" in said


def test_nothing_is_made_unless_somebody_agrees(run: Run, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    before = inventory(local_aws)
    assert "say --yes" in run("setup --name unasked", code=1)
    assert inventory(local_aws) == before


def test_what_was_begun_is_removed_when_it_fails(run: Run, local_aws: LocalAws) -> None:
    before = inventory(local_aws)
    said = run(f"setup --yes --name failing --memory {SIZE} --tags team=a TEAM=b", code=1)
    assert "the stack failing could not be made, and what was begun is removed: Role (AWS::IAM::Role)" in said
    assert inventory(local_aws) == before


def empty_zip() -> bytes:
    from support.local_aws import zipped

    return zipped(main="def handle(event, about): return 1")


def test_a_function_that_somebody_changed_is_set_back(
    there: Deployment, run: Run, local_aws: LocalAws, home: Path
) -> None:
    name, client = there.function(None), local_aws.client("lambda")
    before = configuration(client, name)
    other = client.publish_layer_version(LayerName="other", Content={"ZipFile": empty_zip()})
    variables = {"PYWREN_NG_INTERNAL_KEY": there.key.hex(), "PYWREN_NG_INTERNAL_STORE": "s3://elsewhere", "OWN": "1"}
    client.update_function_configuration(
        FunctionName=name,
        Layers=[other["LayerVersionArn"]],
        MemorySize=before["MemorySize"] * 2,
        Timeout=3,
        Environment={"Variables": variables},
    )
    said = run(f"setup --yes --name there --file {home / 'there.toml'}")
    assert f"{name} was changed by hand, and is set back: Environment, Layers, MemorySize, Timeout." in said
    after = configuration(client, name)
    assert after["Environment"]["Variables"].pop("OWN") == "1", "what is not ours stays"
    assert after == before
    assert "by hand" not in run(f"setup --yes --name there --file {home / 'there.toml'}")
    client.update_function_configuration(FunctionName=name, Environment=before["Environment"])
    client.delete_layer_version(LayerName="other", VersionNumber=other["Version"])


def configuration(client: Any, name: str) -> dict[str, Any]:
    """What of a function can be changed by hand."""
    found = client.get_function_configuration(FunctionName=name)
    layers = [layer["Arn"] for layer in found["Layers"]]
    return {"Layers": layers, **{key: found[key] for key in ("MemorySize", "Timeout", "Handler", "Environment")}}


def test_a_layer_for_another_python_and_processor(tmp_path: Path) -> None:
    said: list[str] = []
    made = layers.build(Runtime("3.13", "arm64"), tmp_path, said.append)
    with zipfile.ZipFile(made.path) as archive:
        names = archive.namelist()
        libraries = [archive.read(name) for name in names if name.endswith(".so")]
    assert libraries and {library[:4] + library[18:20] for library in libraries} == {b"\x7fELF\xb7\0"}  # aarch64
    assert all(name.startswith("python/") for name in names)
    compiled = {name.rpartition(".cpython-")[2] for name in names if name.endswith(".pyc")}
    assert compiled == ({"313.pyc"} if interpreter("3.13") else set())
    assert ("begin more slowly" in "".join(said)) == (not compiled)


def test_where_nobody_can_be_asked_it_says_what_is_missing(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert "setup --region us-east-1" in run("join --name nowhere", code=1)  # AWS_REGION, which boto3 does not read
    monkeypatch.delenv("AWS_REGION")
    assert "name one with --region" in run("setup --yes", code=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "AWS cannot be reached" in run("setup --yes --region us-east-1", code=1)


# -- For everybody in the account


def test_a_size_that_is_not_there_is_an_error_with_the_command(on: Deployment, run: Run, local_aws: LocalAws) -> None:
    with Executor("lambda") as ex:
        error = ex.options(memory=704).submit(int).exception()
    assert isinstance(error, FunctionMissing)
    command = f"pywren-ng setup --region {on.region} --memory 704 --name there"
    assert command in str(error)


def test_two_users_of_different_sizes_change_no_function(
    there: Deployment, run: Run, local_aws: LocalAws, home: Path
) -> None:
    one, two = home / "there.toml", home / "two.toml"
    run(f"setup --yes --name there --memory {OTHER} --file {two}")
    local_aws.reset()
    local_aws.knobs(real_environments=FEW)
    with ThreadPoolExecutor(2) as threads:
        sizes = list(threads.map(size_seen, [one, two]))
    assert sizes == [{SIZE}, {OTHER}]
    asked = {name for name in local_aws.counters() if name.startswith("asked ")}
    assert asked <= {"asked lambda:GetAccountSettings"}
    assert local_aws.counters()["invokes"] >= 20


def size_seen(file: Path) -> set[int]:
    """The memory of the functions that ran a user's tasks; each user is a process of its own."""
    import subprocess
    import sys

    code = """if True:
        import os
        from pywren_ng import Executor
        with Executor("lambda") as ex:
            print(*set(ex.map(lambda _: os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], range(10))))
    """
    environment = {**os.environ, "PYWREN_NG_DEPLOYMENT": str(file)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50)
    assert ran.returncode == 0, ran.stderr
    return set(map(int, ran.stdout.split()))


def test_an_upgrade_hurts_no_job_that_runs(
    on: Deployment, run: Run, local_aws: LocalAws, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, gate = versions(local_aws, "there"), Gate(tmp_path)
    with Executor("lambda") as ex:
        running = ex.map(pass_gate, [gate.paths], ["done"])
        gate.wait_for_task()
        monkeypatch.setattr(bundle, "_DATE", (1999, 1, 1, 0, 0, 0))  # as another release would, it has other bytes
        run(f"setup --yes --name there --file {home / 'there.toml'}")
        after = versions(local_aws, "there")
        assert len(before) == len(after) == 1 and before != after
        assert ex.submit(pow, 2, 5).result() == 32  # on the new ones
        gate.let_go()
        assert running.results() == ["done"]
        assert len(running.stats) == 1


def versions(aws: LocalAws, name: str) -> list[str]:
    client = aws.client("lambda")
    layers = [each for each in client.list_layers()["Layers"] if each["LayerName"].startswith(f"{name}-")]
    return [
        version["LayerVersionArn"]
        for layer in layers
        for version in client.list_layer_versions(LayerName=layer["LayerName"])["LayerVersions"]
    ]


# -- Permissions


def test_the_roles_own_prefix_and_nothing_else(on: Deployment, local_aws: LocalAws) -> None:
    s3, mine = local_aws.client("s3"), bucket_of(on)
    s3.create_bucket(Bucket="elsewhere")
    s3.put_object(Bucket="elsewhere", Key="in/x", Body=b"secret")
    s3.put_object(Bucket=mine, Key="beside/x", Body=b"secret")
    with Executor("lambda") as ex:
        assert ex.submit(act, "put", mine, "there/jobs/own").result()
        assert ex.submit(act, "get", mine, "there/jobs/own").result() == b"put"
        assert ex.submit(act, "list", mine, "there/jobs").result() == ["there/jobs/own"]
        ex.submit(act, "delete", mine, "there/jobs/own").result()
        for wish, action, cure in (
            (("get", "elsewhere", "in/x"), "s3:GetObject on arn:aws:s3:::elsewhere/in/x", "--read s3://elsewhere/in"),
            (("put", "elsewhere", "x"), "s3:PutObject on arn:aws:s3:::elsewhere/x", "--write s3://elsewhere"),
            (("list", "elsewhere", "in"), "s3:ListBucket on arn:aws:s3:::elsewhere", "--read s3://elsewhere"),
            (("get", mine, "beside/x"), f"s3:GetObject on arn:aws:s3:::{mine}/beside/x", "--read"),
            (("list", mine, "beside"), f"s3:ListBucket on arn:aws:s3:::{mine}", "--read"),
        ):
            error = ex.submit(act, *wish).exception()
            (note,) = [note for note in error.__notes__ if "not allowed" in note]
            assert f"the role of the workers is not allowed {action}." in note
            assert f"pywren-ng setup --name there {cure}" in note
    denied = {name: count for name, count in local_aws.counters().items() if name.startswith("denied ")}
    assert denied == {"denied s3:GetObject": 2, "denied s3:PutObject": 1, "denied s3:ListBucket": 2}
    s3.delete_object(Bucket=mine, Key="beside/x")


def test_read_and_write_add_up(run: Run, local_aws: LocalAws, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3, file = local_aws.client("s3"), home / "granted.toml"
    s3.create_bucket(Bucket="data")
    s3.put_object(Bucket="data", Key="in/x", Body=b"1")
    s3.put_object(Bucket="data", Key="inner", Body=b"2")
    run(f"setup --yes --name granted --memory {SIZE} --read s3://data/in --file {file}")
    said = run(f"setup --yes --name granted --write s3://data/out --file {file}")
    assert "may read s3://data/in" in said and "may write s3://data/out" in said
    monkeypatch.setenv("PYWREN_NG_DEPLOYMENT", str(file))
    with Executor("lambda") as ex:
        assert ex.submit(act, "get", "data", "in/x").result() == b"1"
        assert ex.submit(act, "list", "data", "in/").result() == ["in/x"]
        assert ex.submit(act, "put", "data", "out/y").result()
        missing = ex.submit(act, "get", "data", "in/none").exception()
        assert isinstance(missing, FileNotFoundError)  # and not that access is denied
        for wish in (("get", "data", "inner"), ("get", "data", "out/y"), ("put", "data", "in/x")):
            assert "is not allowed" in "".join(ex.submit(act, *wish).exception().__notes__)
    said = run(f"setup --yes --name granted --only --memory {OTHER} --file {file}")
    assert f"- function {deployment.function_name('granted', *here(), SIZE)}" in said and "may read" not in said
    with Executor("lambda") as ex:
        assert "is not allowed" in "".join(ex.submit(act, "get", "data", "in/x").exception().__notes__)
    run(f"teardown --yes --file {file}")


def here() -> tuple[str, str]:
    from pywren_ng.requirements import HERE

    return HERE, "x86_64"


def test_a_user_needs_what_policy_user_prints_and_all_of_it(
    on: Deployment, run: Run, local_aws: LocalAws, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = json.loads(run("policy user --name there"))
    become(local_aws, "user", policy, monkeypatch)
    local_aws.reset()
    file = home / "joined.toml"
    run(f"join --name there --file {file}")
    assert deployment.load(str(file)) == on
    missing = run("join --name there --memory 704", code=1)
    assert re.search(r"has functions for 512\b.* and not for 704; to make them: pywren-ng setup", missing)
    assert "FAIL" not in run(f"check --file {file}")
    for mode in ("sync", "async"):
        monkeypatch.setenv("PYWREN_NG_INVOKE", mode)
        with Executor("lambda") as ex:
            assert ex.submit(len, os.urandom(100_000)).result() == 100_000
    counters = local_aws.counters()
    assert [name for name in counters if name.startswith("denied ")] == []
    used = {name.removeprefix("allowed ") for name, count in counters.items() if name.startswith("allowed ") and count}
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert allowed - used == {"s3:AbortMultipartUpload"}  # of an upload that fails


def test_an_admin_needs_what_policy_admin_prints(
    run: Run, local_aws: LocalAws, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    become(local_aws, "admin", json.loads(run("policy admin --name theirs")), monkeypatch)
    local_aws.reset()
    file = home / "theirs.toml"
    run(f"setup --yes --name theirs --memory {SIZE} --file {file}")
    run(f"setup --yes --name theirs --memory {OTHER} --file {file}")
    assert "FAIL" not in run(f"check --file {file}")
    run(f"teardown --yes --file {file}")
    assert [name for name in local_aws.counters() if name.startswith("denied ")] == []
    said = run("setup --yes --name others", code=1)
    assert "cloudformation:DescribeStacks on arn:aws:cloudformation:us-east-1:123456789012:stack/others" in said
    assert "policy admin" in said


def become(aws: LocalAws, name: str, policy: dict[str, Any], patch: pytest.MonkeyPatch) -> None:
    """A user with this policy, whose keys are in the environment from now on."""
    iam = aws.client("iam")
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    patch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    patch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])


def test_who_has_only_the_bucket_gets_neither_key_nor_code(
    on: Deployment, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = bucket_of(on)
    with Executor("lambda") as ex:
        assert list(ex.map(len, [os.urandom(70_000) for _ in range(3)])) == [70_000] * 3
    s3 = local_aws.client("s3")
    lying = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    assert {each["Key"].split("/")[1] for each in lying} <= {"jobs", "blobs", "modules"}
    assert all(on.key not in s3.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in lying)
    everything = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": everything}]}
    become(local_aws, "thief", policy, monkeypatch)
    import boto3

    for service, operation, wish in (
        ("lambda", "get_function_configuration", {"FunctionName": on.function(None)}),
        ("lambda", "list_functions", {}),
        ("lambda", "update_function_code", {"FunctionName": on.function(None), "ZipFile": empty_zip()}),
        ("cloudformation", "describe_stacks", {"StackName": "there"}),
    ):
        client = boto3.Session(region_name=on.region).client(service)
        with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
            getattr(client, operation)(**wish)
    stacks = local_aws.client("cloudformation").describe_stacks(StackName="there")["Stacks"]
    given = {each["ParameterKey"]: each.get("ParameterValue") for each in stacks[0]["Parameters"]}
    assert given["Key"] == "****"


def test_the_bucket_is_private_encrypted_and_tls_only(on: Deployment, local_aws: LocalAws) -> None:
    s3, bucket = local_aws.client("s3"), bucket_of(on)
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}
    s3.list_objects_v2(Bucket=bucket)
    local_aws.knobs(secure=False)
    with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
        s3.list_objects_v2(Bucket=bucket)
    assert local_aws.counters()["denied s3:ListBucket"] == 1


# -- In a company's account


def test_a_role_and_a_bucket_that_are_there_stay(
    run: Run, local_aws: LocalAws, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, file = local_aws.client("s3"), home / "company.toml"
    s3.create_bucket(Bucket="company")
    s3.put_object(Bucket="company", Key="theirs", Body=b"1")
    policy = json.loads(run("policy worker --name company --bucket company/team --read s3://company/theirs"))
    role = role_with(local_aws, policy)
    before = inventory(local_aws)
    options = f"--name company --file {file}"
    run(f"setup --yes {options} --memory {SIZE} --bucket company/team --role-arn {role} --tags team=research")
    assert inventory(local_aws)["roles"] == before["roles"] and inventory(local_aws)["buckets"] == before["buckets"]
    monkeypatch.setenv("PYWREN_NG_DEPLOYMENT", str(file))
    monkeypatch.setenv("PYWREN_NG_INVOKE", "async")
    with Executor("lambda") as ex:
        assert ex.submit(act, "get", "company", "theirs").result() == b"1"
        kept = ex.options(name="kept").submit(os.urandom, 100_000)
        assert len(kept.result()) == 100_000
    assert "to have it store elsewhere" in run(f"setup --yes {options} --bucket another", code=1)
    assert "--role-arn names another" in run(f"setup --yes {options} --read s3://data", code=1)
    run(f"teardown --yes {options}")
    assert inventory(local_aws) == before
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="company")["Contents"]] == ["theirs"]


def test_a_role_that_cannot_write_is_found_by_check(
    run: Run, local_aws: LocalAws, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "unable.toml"
    policy = json.loads(run("policy worker --name unable"))
    policy["Statement"] = [each for each in policy["Statement"] if each["Sid"] != "Objects"]
    run(f"setup --yes --name unable --memory {SIZE} --file {file} --role-arn {role_with(local_aws, policy)}")
    monkeypatch.setenv("PYWREN_NG_INTERNAL_SCALE", "0.05")
    said = run(f"check --file {file}", code=1).splitlines()
    assert [line.split()[1] for line in said if line.startswith("FAIL")] == ["stored"]
    assert "may not write to the bucket" in said[-1] and local_aws.counters()["denied s3:PutObject"]
    run(f"teardown --yes --file {file}")


def role_with(aws: LocalAws, policy: dict[str, Any]) -> str:
    """A role of the company's, with this policy and no other."""
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    name = f"company-{os.urandom(4).hex()}"
    made = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)
    iam.put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=json.dumps(policy))
    return str(made["Role"]["Arn"])


# -- What check finds


@pytest.mark.parametrize(
    ("spoil", "name", "cure"),
    [
        ("file", "file", "pywren-ng setup"),
        ("mode", "file", "chmod 600"),
        ("key", "functions", "pywren-ng join --region us-east-1 --name there"),
        ("size", "functions", "pywren-ng setup --region us-east-1 --name there --memory 704"),
        ("bucket", "bucket", "there is no bucket"),
    ],
)
def test_check_prints_what_mends_it(spoil: str, name: str, cure: str, on: Deployment, run: Run, tmp_path: Path) -> None:
    from dataclasses import replace

    spoiled = {
        "key": {"key": bytes(32)},
        "size": {"memory": 704},
        "bucket": {"store": "s3://no-such-bucket/x"},
    }.get(spoil, {})
    file = deployment.write(replace(on, **spoiled), str(tmp_path / "spoiled.toml"), over=True)
    if spoil == "file":
        file.unlink()
    if spoil == "mode":
        file.chmod(0o644)
    said = run(f"check --file {file}", code=1).splitlines()
    (number,) = [number for number, line in enumerate(said) if re.match(rf"FAIL +{name} ", line)]
    assert cure in said[number + 1]
    assert Counter(line[:4] for line in said[:number]) == Counter({"ok  ": number} if number else {})
