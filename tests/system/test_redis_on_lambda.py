"""Sorts, groups and MapReduce on Lambda whose intermediate data lies in Redis, behind a password that setup gave.

The client has no password and never speaks with Redis: it asks through a worker. Whatever goes to S3 and to Lambda, and
what comes back from there, is searched for the password.
"""

import io
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.local_aws import LocalAws
from support.redis_servers import SECRET, Redis, standalone
from support.sorting import Bucket, parts_of, sortgen

from pywren_ng import Executor, deployment
from pywren_ng.cli import main
from pywren_runtime.errors import ConfigError
from pywren_shuffle.records.rows_records import load

pytestmark = pytest.mark.timeout(60)
ROWS = 4000
Run = Callable[..., str]


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with standalone("--requirepass", SECRET, password=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def file(one_local_aws: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A deployment's file; setup and teardown as typed, the password in the environment of setup only."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in one_local_aws.environment().items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        file = tmp_path_factory.mktemp("home") / "redis.toml"
        patch.setenv("PYWREN_NG_DEPLOYMENT", str(file))
        patch.setenv("REDISCLI_AUTH", SECRET)
        assert main(shlex.split(f"setup --yes --name redis --memory 512 --file {file} --redis-password")) == 0
        patch.delenv("REDISCLI_AUTH")
        yield file
        assert main(shlex.split(f"teardown --yes --name redis --region {one_local_aws.region} --file {file}")) == 0


@pytest.fixture
def bucket(file: Path, local_aws: LocalAws) -> Bucket:
    """A place below the deployment's own folder: its role may write nowhere else."""
    name, _, folder = deployment.load(str(file)).store.removeprefix("s3://").partition("/")
    place = Bucket(local_aws, name)
    place.prefix = f"{folder}/{place.prefix}"
    return place


@pytest.fixture
def run(file: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command of this deployment's; what it printed, in which the password never stands."""

    def run(line: str, *, code: int = 0) -> str:
        capsys.readouterr()
        assert main(shlex.split(f"{line} --file {file}")) == code
        printed = "".join(capsys.readouterr())
        assert SECRET not in printed
        return printed

    return run


def calls(server: Redis) -> Counter[str]:
    """How often each command was carried out."""
    said = server.ask("INFO", "commandstats")
    return Counter({name: int(count) for name, count in re.findall(r"cmdstat_(\w+):calls=(\d+)", said)})


def test_all_of_it(file: Path, server: Redis, bucket: Bucket, local_aws: LocalAws) -> None:
    def words(text: str) -> Iterator[tuple[str, int]]:  # of no module: workers have not what this one imports
        for word in text.split():
            yield word, 1

    local_aws.knobs(needle=SECRET)
    between, before, had = server.url(), server.size(), calls(server)
    lines = sortgen.records("ascii", 0, ROWS)
    bucket.put("in/0.txt", lines)
    texts = [f"w{number % 3} w{number % 5} the" for number in range(60)]
    expected = Counter(word for text in texts for word in text.split())
    with Executor("lambda", max_workers=3) as ex:
        result = ex.sort(
            *(bucket.url("in/*.txt"), bucket.url("sorted")),
            records="text",
            partitions=3,
            memory=0.4,
            intermediate=between,
        )
        counts = ex.group(
            *(bucket.url("in/*.txt"), bucket.url("counts"), lambda key, values: sum(1 for _ in values)),
            records="text",
            key=lambda line: line[:1],
            partitions=2,
            intermediate=between,
        )
        plan = ex.plan_sort(bucket.url("in/*.txt"), bucket.url("out"), records="text", intermediate=between)
        found = ex.map_reduce_by_key(
            words, texts, lambda word, ones: sum(ones), partitions=2, intermediate=between
        ).result()
    data = b"".join(bucket.get(part) for part in parts_of(bucket, result))
    assert data.splitlines() == sorted(lines.splitlines())
    rows = [row for part in parts_of(bucket, counts) for row in load(io.BytesIO(bucket.get(part)))]
    assert dict(rows) == Counter(line[:1] for line in lines.decode().splitlines())
    assert found == expected
    assert (result.notices, counts.notices) == ((), ()) and result.plan.tier == counts.plan.tier == "redis"

    assert plan.memory > 200 << 20, "of the function's 512 MB, for which nobody has asked"

    used = calls(server) - had
    assert result.splits > 3
    assert used["set"] >= result.splits + counts.splits + 1 and used["getrange"] >= result.reads
    assert server.size() == before
    assert not [name for name in bucket.names() if "shuffles/" in name]
    counters = local_aws.counters()
    assert not {name: count for name, count in counters.items() if name.startswith("seen ")}


def test_what_is_looked_for_would_be_found(file: Path, bucket: Bucket, local_aws: LocalAws) -> None:
    local_aws.knobs(needle=SECRET)
    bucket.put("x", SECRET.encode())
    with Executor("lambda", max_workers=1) as ex:
        assert ex.submit(str.upper, SECRET).result() == SECRET.upper()
    counters = local_aws.counters()
    assert counters["seen in s3"] == 1 and counters["seen in lambda"] == 1
    bucket.remove("x")


# -- What is wrong, in words


def test_the_sort_says_at_once_why_redis_is_not_used(
    file: Path, server: Redis, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("in/0.txt", b"b\na\n")
    said = []
    with Executor("lambda", max_workers=1) as ex:
        for number, url in enumerate(
            (
                "redis://127.0.0.1:9?patience=0.1",
                server.url("?patience=0.1").replace("redis:", "rediss:"),
                server.url().replace("//", "//nobody@"),
            )
        ):
            target = bucket.url(f"out{number}")
            result = ex.sort(bucket.url("in/0.txt"), target, records="text", partitions=1, intermediate=url)
            assert result.records == 2 and result.plan.tier == "s3"
            (notice,) = result.notices
            said.append(notice)
        for url, words in (
            (server.url("?wrong=1"), "wrong is no option"),
            (f"redis://:{SECRET}@127.0.0.1:{server.port}", "would not come to workers: .* setup --redis-password"),
        ):
            with pytest.raises(ConfigError, match=words) as refused:
                ex.plan_sort(bucket.url("in/0.txt"), bucket.url("out"), records="text", intermediate=url)
            assert SECRET not in str(refused.value)
    closed, plain, refused_user = said
    assert "could not be reached" in closed and "setup --subnets --security-groups" in closed
    assert "write redis://" in plain or "could not agree on TLS" in plain
    assert "does not accept that user and password" in refused_user and "setup --redis-password" in refused_user


# -- The password in the functions


def test_where_a_password_may_come_from(run: Run, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "setup --yes --name redis --redis-password"
    assert "nobody is here to be asked for the password" in run(asked, code=1)
    assert "in everybody's list of processes" in run(f"{asked}={SECRET}", code=1)
    monkeypatch.setenv("REDISCLI_AUTH", f"{SECRET}\n")
    assert "this cannot be the password of a Redis" in run(asked, code=1)
    assert local_aws.counters().get("asked cloudformation:UpdateStack", 0) == 0


def test_setup_keeps_it_mends_it_changes_it_and_shows_it_nowhere(
    file: Path, run: Run, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    def variables(function: str) -> dict[str, str]:
        found: dict[str, str] = client.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
        return found

    client = local_aws.client("lambda")
    small, large = (deployment.load(str(file)).function(size) for size in (512, 640))
    before = variables(small)
    assert before["REDISCLI_AUTH"] == SECRET and SECRET not in file.read_text()
    (stack,) = local_aws.client("cloudformation").describe_stacks(StackName="redis")["Stacks"]
    assert SECRET not in str(stack)
    assert "= the password of a Redis" in run("setup --yes --name redis --memory 640")
    assert variables(small) == variables(large) == before
    lacking = {name: value for name, value in before.items() if name != "REDISCLI_AUTH"}
    client.update_function_configuration(FunctionName=large, Environment={"Variables": lacking})
    assert f"{large} was changed by hand, and is set back: Environment." in run("setup --yes --name redis")
    assert variables(large) == before

    monkeypatch.setenv("REDISCLI_AUTH", "another")
    run("setup --yes --name redis --redis-password")
    assert variables(small) == variables(large) == {**before, "REDISCLI_AUTH": "another"}
    assert "the password" not in run("setup --yes --name redis --only --memory 512")
    assert variables(small) == lacking
