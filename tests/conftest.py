"""What every test runs under: nothing may be skipped where it counts."""

import faulthandler
import os
from collections.abc import Iterator
from typing import Any

import pytest
from support import redis_servers as redis
from support import s3_server as s3
from support.local_aws import LocalAws

STRICT = os.environ.get("TESTS_STRICT", os.environ.get("CI", "0")).lower() in ("1", "true")


TEARDOWN = 90  # seconds
STDERR = pytest.StashKey[int]()
# The files that take longest. Where several processes share the files, one of these must not be begun at the end.
LONG = ("test_lambda_jobs.py", "test_lambda_faults.py", "test_setup.py", "test_executors_on_lambda.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="sizes as they are claimed; the suite's own are smaller")


@pytest.fixture(scope="session")
def is_full(pytestconfig: pytest.Config) -> bool:
    """Whether a test is to show what is claimed, at the claimed size, and not only that it still holds."""
    return bool(pytestconfig.getoption("--full"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; `scripts/test` hands files out in this order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)  # while a test runs this is captured


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """The time-out of a test ends when the test fails; what it leaves must not hang without end either."""
    faulthandler.dump_traceback_later(TEARDOWN, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """A skip is a convenience on a laptop; in strict runs it is a failure, and so is any expected failure."""
    report = yield
    if STRICT and (report.skipped or hasattr(report, "wasxfail")):
        refuse(report, getattr(report, "wasxfail", None))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[Any]:
    """The same for a file that skips itself while it is imported."""
    report = yield
    if STRICT and report.skipped:
        refuse(report, None)
    return report


def refuse(report: Any, expected: str | None) -> None:
    """Turn a skipped or expectedly failing report into a failed one that says so."""
    why = f"expected failure ({expected})" if expected is not None else f"skip ({report.longrepr})"
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: {why} is a failure in a strict run (CI=true or TESTS_STRICT=1)"
    if expected is not None:
        del report.wasxfail


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say the counts that must be zero, also when they are."""
    stats = terminalreporter.stats
    expected = len(stats.get("xfailed", [])) + len(stats.get("xpassed", []))
    skipped = len(stats.get("skipped", []))
    terminalreporter.line(f"skipped: {skipped}, expected failures: {expected}, strict: {STRICT}")


@pytest.fixture(scope="session")
def s3_keys() -> Iterator[None]:
    """Credentials in the environment, for this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.KEYS.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "http_proxy"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def s3_server(s3_keys: None) -> Iterator[s3.S3Server]:
    """An S3 server on the loopback, with one bucket."""
    with s3.ministack() as server:
        yield server


@pytest.fixture(scope="session")
def s3_double(s3_keys: None) -> Iterator[s3.S3Server]:
    """The S3 server of the benchmarks."""
    with s3.double() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis.Redis]:
    """A Redis server."""
    with redis.standalone() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[redis.RedisCluster]:
    """Three Redis servers that are one store."""
    with redis.cluster() as server:
        yield server


@pytest.fixture(scope="session")
def redis_tls() -> Iterator[redis.Redis]:
    """A Redis server that wants TLS and a password, which is in the environment."""
    with redis.encrypted() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDISCLI_AUTH", redis.SECRET)
        yield server


@pytest.fixture(scope="session")
def one_local_aws() -> Iterator[LocalAws]:
    """The session's local AWS, started when a test first asks for it."""
    with LocalAws() as aws:
        yield aws


@pytest.fixture
def local_aws(one_local_aws: LocalAws) -> Iterator[LocalAws]:
    """The local AWS with its knobs as at the start, and counters at zero; functions and warm environments stay."""
    one_local_aws.reset()
    yield one_local_aws
    one_local_aws.reset()
