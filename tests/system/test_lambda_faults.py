"""Every way in which Lambda fails becomes another attempt or an error with a name: F1 to F21, on a local AWS.

Each test reads at the service, the S3 proxy or a server of its own how often the fault was injected, and waits for the
answer no longer than PATIENCE. Seconds of the client and of the worker are scaled down.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from scene import Gate, launch, lines, note, script, until
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws
from support.scripted import Peer, listening

from pywren_ng import Executor, StoreError, TaskOutOfMemory, TaskTimeout, WorkerLost
from pywren_ng.backends.lambda_flights import Limits
from pywren_runtime.errors import (
    AccessDenied,
    CredentialsError,
    FunctionMissing,
    LambdaError,
    SignatureError,
    Throttled,
)

PATIENCE = 20  # seconds until a result must be there; only a failing test ever waits so long
CALM = 0.3  # what the client's seconds are multiplied by where nothing need be noticed by its silence
QUICK = 0.06  # and where it is: 1.5 s until a Call without a sign of life is lost
WORKERS = 0.02  # and workers' seconds: a beat every 0.2 s, and outcomes stored of what took 0.6 s
SIZE, OTHER = 512, 640  # MB of the function that works, and of the one that each test makes as it needs it
ASLEEP = 12.0  # seconds that stand for five minutes: 1.2 s without a beat, and a task is lost
LONG = 1.0  # seconds of a task whose outcome is stored before it is answered

both = pytest.mark.parametrize("mode", ["sync", "async"])
Start = Callable[..., Executor]


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, SIZE, variables=variables()) as made:
        yield made


def variables(scale: float = WORKERS, **more: str) -> dict[str, str]:
    return PACKAGES | {"PYWREN_NG_INTERNAL_SCALE": str(scale)} | more


@pytest.fixture
def aws(there: Deployed, local_aws: LocalAws) -> LocalAws:
    return local_aws


@pytest.fixture
def start(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Makes an executor whose client has that scale and these variables, which stay until the test ends."""

    def make(mode: str = "sync", *, scale: float = CALM, workers: int = 8, **more: str) -> Executor:
        monkeypatch.setenv("PYWREN_NG_INVOKE", mode)
        monkeypatch.setenv("PYWREN_NG_INTERNAL_SCALE", str(scale))
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        return Executor("lambda", max_workers=workers)

    return make


def warm(ex: Executor, count: int = 4) -> None:
    """Have so many environments, so that a cold start is not taken for silence."""

    def task(_: int) -> None:
        import time

        time.sleep(0.05)

    list(ex.map(task, range(count), timeout=PATIENCE))


RIGHT = [0, 1, 4, 9]


def squares(ex: Executor, count: int = 4) -> list[int]:
    return list(ex.map(lambda x: x * x, range(count), timeout=PATIENCE))


def squares_of_both(start: Start, scale: float, **more: str) -> list[list[int]]:
    """By a client of each mode at the same time: what takes long takes so long once."""
    with start("sync", scale=scale, **more) as first, start("async", scale=scale, **more) as second:
        jobs = [ex.options(retries=5).map(lambda x: x * x, range(4), timeout=PATIENCE) for ex in (first, second)]
        return [list(job) for job in jobs]


def failure(ex: Executor, fn: Callable[..., object] = abs, *arguments: object) -> BaseException:
    error = ex.submit(fn, *(arguments or (-1,))).exception(timeout=PATIENCE)
    assert error is not None, "it brought a result"
    return error


def executions(aws: LocalAws) -> int:
    return aws.counters().get("executions", 0)


def stored(aws: LocalAws, key: str) -> Counter[tuple[str, int]]:
    """How often the S3 proxy was asked for what, and its answers' statuses, of the keys that look so."""
    return Counter((seen["kind"], seen["status"]) for seen in aws.ask("GET", f"/_proxy/log?key={key}"))


def lists(aws: LocalAws) -> int:
    """How often anybody has looked in the store."""
    return aws.ask("GET", "/_proxy/counts")["kinds"].get("ListObjectsV2", 0)


def s3_fault(aws: LocalAws, fault: str, **rule: Any) -> Callable[[], int]:
    """Have S3 fail; how often it did."""
    aws.ask("POST", "/_proxy/faults", {"fault": fault, **rule})
    return lambda: sum(rule["injected"] for rule in aws.ask("GET", "/_proxy/faults"))


# -- The way to Lambda: F1 to F5


@both
def test_f1_refused_for_want_of_room(aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode).options(retries=0) as ex:  # it costs a task nothing
        aws.knobs(throttle={"times": 5})
        assert squares(ex) == RIGHT
    assert (aws.injected()["throttle"], executions(aws)) == (5, 4)


@both
def test_f2_server_errors(aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode) as ex:
        aws.knobs(error={"times": 5})
        assert squares(ex) == RIGHT
    assert (aws.injected()["error"], executions(aws)) == (5, 4)


@both
def test_f2_server_errors_without_end(aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode, scale=0.01).options(retries=0) as ex:
        aws.knobs(error=1)
        error = failure(ex)
    assert isinstance(error, LambdaError)
    found = re.search(r"given up after \d+ s and (\d+) times: Lambda answered 500 \(ServiceException", str(error))
    assert found and int(found[1]) == aws.injected()["error"] == Limits().tries


@contextmanager
def nobody() -> Iterator[tuple[socket.socket, str]]:
    """A place where connections are refused until its socket listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound, f"http://127.0.0.1:{bound.getsockname()[1]}"
        with contextlib.suppress(OSError):  # it never listened
            bound.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def knocks() -> Counter[int]:
    """How often this process has tried to connect to which port. Who listens to audits does so for good."""
    seen: Counter[int] = Counter()

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            seen[arguments[1][1]] += 1

    sys.addaudithook(hear)
    return seen


@both
def test_f3_connections_refused(aws: LocalAws, start: Start, knocks: Counter[int], mode: str) -> None:
    with nobody() as (bound, endpoint), start(mode, scale=0.01, AWS_ENDPOINT_URL_LAMBDA=endpoint) as ex:
        error = failure(ex)
        port = bound.getsockname()[1]
    assert isinstance(error, LambdaError) and not isinstance(error, Throttled)
    found = re.search(rf"given up after \d s and (\d+) times: refused at {endpoint}", str(error))
    assert found and 2 <= int(found[1]) <= knocks[port]
    assert executions(aws) == 0


class Spoiler:
    """Stands before Lambda: what Invokes come first is spoiled, as the test likes, and counted; the rest goes on."""

    def __init__(self, aws: LocalAws, times: int, spoil: Callable[[Peer], object]) -> None:
        self.spoiled = 0
        self._place = urlsplit(aws.endpoint).hostname, urlsplit(aws.endpoint).port
        self._times = times
        self._spoil = spoil

    def __call__(self, peer: Peer) -> None:
        asked = peer.request()
        if asked is None:
            return
        head, body = asked
        if "/invocations" in head and self.spoiled < self._times:
            self.spoiled += 1
            self._spoil(peer)
            return
        with socket.create_connection(self._place) as out:
            out.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
            while data := out.recv(1 << 16):
                peer.say(data)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Its endpoint."""
        with listening(self) as server:
            yield f"http://127.0.0.1:{server.port}"


@both
def test_f3_connections_refused_for_a_while(aws: LocalAws, start: Start, knocks: Counter[int], mode: str) -> None:
    with nobody() as (bound, endpoint), start(mode, AWS_ENDPOINT_URL_LAMBDA=endpoint) as ex:
        port = bound.getsockname()[1]
        before = knocks[port]  # another test may have had it
        future = ex.submit(pow, 2, 5)
        assert until(lambda: knocks[port] >= before + 4), "it did not go on trying after three refusals"
        bound.listen()
        threading.Thread(target=serve, args=(bound, Spoiler(aws, 0, Peer.reset)), daemon=True).start()
        assert future.result(timeout=PATIENCE) == 32
    assert executions(aws) == 1


def serve(listener: socket.socket, script: Callable[[Peer], object]) -> None:
    """Run a script for each connection, one after the other, until the listener is shut down."""
    with contextlib.suppress(OSError):
        while True:
            link, _ = listener.accept()
            with link:
                script(Peer(link, 0))


@both
def test_f4_reset_before_it_was_taken(aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode) as ex:
        aws.knobs(reset_before={"times": 4})
        assert squares(ex) == RIGHT
    assert (aws.injected()["reset_before"], executions(aws)) == (4, 4)


@both
def test_f4_reset_after_it_was_run(aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode) as ex:
        aws.knobs(reset_after={"times": 2})
        assert squares(ex) == RIGHT
        assert until(lambda: executions(aws) == 6), "nobody knows whether it ran, so it is sent again"
    assert aws.injected()["reset_after"] == 2


def test_f4_reset_after_it_was_run_for_long(aws: LocalAws, start: Start) -> None:
    def task(x: int) -> int:
        import time

        time.sleep(LONG)
        return x * x

    with start(scale=WORKERS * 1.5) as ex:
        warm(ex)
        before = executions(aws)
        aws.knobs(reset_after=1)
        assert list(ex.map(task, range(4), timeout=PATIENCE)) == RIGHT
    assert (aws.injected()["reset_after"], executions(aws) - before) == (4, 4), "what was stored is not run again"


def test_f5_silence(aws: LocalAws, start: Start) -> None:
    """Of all that is sent first, until the client goes."""
    spoiler = Spoiler(aws, 8, lambda peer: peer.request())
    with spoiler.serving() as endpoint:
        assert squares_of_both(start, QUICK, AWS_ENDPOINT_URL_LAMBDA=endpoint) == [RIGHT, RIGHT]
    assert (spoiler.spoiled, executions(aws)) == (8, 8)


# -- Sizes: F6 to F8


def first_slowly(text: str) -> str:
    """A task: while the first runs, which goes alone, all the others come together behind it."""
    if int(text) == 0:
        time.sleep(0.5)
    return text.rjust(50_000)


@pytest.mark.parametrize(("mode", "count"), [("sync", 120), ("async", 20)])
def test_f6_f8_requests_that_are_too_large(aws: LocalAws, start: Start, mode: str, count: int) -> None:
    """6 MB synchronous, 1 MB asynchronous."""
    texts = [f"{number}".rjust(50_000) for number in range(count)]
    with start(mode, workers=1) as ex:
        assert list(ex.map(first_slowly, texts, timeout=PATIENCE, chunksize=count)) == texts
    assert aws.counters()["invokes"] == executions(aws) == 2, "it was tried, and refused"
    assert stored(aws, "/calls/") == {("PutObject", 200): 1, ("GetObject", 200): 1}


@both
def test_f7_responses_that_are_too_large(aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode, workers=1) as ex:
        texts = list(ex.map(first_slowly, map(str, range(120)), timeout=PATIENCE, chunksize=120))
    assert [int(text) for text in texts] == list(range(120))
    assert executions(aws) == 2
    # The one that was slow went alone; its answer was small, and stored only if a cold start made it a long Call.
    assert stored(aws, "/outcomes/")["ConditionalPut", 200] in ((119, 120) if mode == "sync" else (120,))


# -- What happens in the function: F9 to F14


def test_f9_errors_of_the_function(aws: LocalAws, start: Start) -> None:
    """Outcomes that are too large for an answer cannot be stored; then each goes alone, and fits."""
    with start(workers=1) as ex:
        injected = s3_fault(aws, "403", kind="ConditionalPut", key="/outcomes/")
        job = ex.map(first_slowly, map(str, range(120)), timeout=PATIENCE, chunksize=120)
        assert [int(text) for text in job] == list(range(120))
        assert (first := injected()) >= 1
        assert executions(aws) == 1 + 1 + 119
        job = ex.options(retries=0).map(first_slowly, map(str, range(120)), timeout=PATIENCE, chunksize=120)
        with pytest.raises(
            WorkerLost, match=r"worker failed in the function \S+-512 \(StoreError: .*s3:PutObject on arn:"
        ):
            list(job)
    assert injected() > first


def test_f9_errors_of_the_function_that_nobody_hears(aws: LocalAws, start: Start) -> None:
    with start("async", scale=QUICK) as ex:
        warm(ex)
        before, injected = executions(aws), s3_fault(aws, "403", kind="ConditionalPut", key="/outcomes/")
        assert squares(ex) == RIGHT
    assert executions(aws) - before == 8
    assert 4 <= injected() <= 8, "on a slow machine the second runs are long ones, and try to store their outcomes too"


def long_task(seconds: float) -> Callable[[int], int]:
    def task(x: int) -> int:
        import time

        time.sleep(seconds)
        return x * x

    return task


@both
def test_f10_the_runtime_exits(aws: LocalAws, start: Start, tmp_path: Path, mode: str) -> None:
    """AWS itself does not try an event again: what our policy allows is all."""
    ran = str(tmp_path / "ran")

    def task(_: int) -> None:
        note(ran, "here")
        os.kill(os.getppid(), signal.SIGTERM)
        signal.pause()

    tries = 1 if mode == "sync" else 2  # only a synchronous answer says why, so one is asked for, uncharged
    with start(mode, scale=QUICK) as ex:
        warm(ex, 1)
        error = failure(ex.options(retries=0), task, 1)
        assert ex.submit(abs, -1).result(timeout=PATIENCE) == 1
    assert isinstance(error, WorkerLost)
    assert re.search(r"its environment ended in the function \S+-512 \(Runtime\.ExitError: .*terminated\)", str(error))
    assert until(lambda: aws.counters().get("environments_ended", 0) == tries)
    assert lines(ran) == ["here"] * tries
    assert aws.counters().get("events_given_up", 0) == tries - 1
    assert aws.counters().get("asynchronous_retries", 0) == 0


@both
def test_f11_environments_are_killed(aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode, scale=QUICK) as ex:
        warm(ex)
        aws.knobs(kill={"times": 2})
        assert squares(ex) == RIGHT
    assert aws.injected()["kill"] == 2


def test_f11_environments_are_killed_without_end(aws: LocalAws, start: Start) -> None:
    with start() as ex:
        aws.knobs(kill=1)
        error = failure(ex.options(retries=1), long_task(60), 1)
    assert isinstance(error, WorkerLost)
    assert re.search(r"its environment ended .*\(Runtime\.ExitError: .*signal: killed\)", str(error))
    assert aws.injected()["kill"] == 2, "attempts are one and the retries"


def test_f12_out_of_memory_in_the_worker(aws: LocalAws, start: Start) -> None:
    with start() as ex:
        error = failure(ex.options(retries=0), lambda size: len(b"x" * (size << 20)), SIZE)
    assert isinstance(error, TaskOutOfMemory)
    assert re.search(r"more than its memory of 512 MB \(\d+ MB were resident at the peak", str(error))
    assert f"options(memory={2 * SIZE})" in str(error)
    assert executions(aws) == 1


def test_f12_out_of_memory_of_the_environment(aws: LocalAws, start: Start) -> None:
    """Each process keeps within the limit, and all together do not."""

    def task(_: int) -> None:
        import subprocess
        import sys
        import time

        code = "import time; held = b'x' * (200 << 20); time.sleep(60)"
        held = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
        time.sleep(60)
        del held

    with start() as ex:
        error = failure(ex.options(retries=0), task, 1)
    assert isinstance(error, TaskOutOfMemory)
    assert re.search(
        r"memory of 512 MB \((4[89]\d|5[01]\d) MB were in use at the peak\) .*options\(memory=1024\)", str(error)
    )
    assert aws.counters()["out_of_memory"] == 1


@both
def test_f13_time_limit_of_the_task(aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode) as ex:
        error = failure(ex.options(time_limit=0.3), long_task(60), 1)
    assert isinstance(error, TaskTimeout)
    assert re.search(r"it ran for \d+\.\d+ s, over its time limit of 0\.3 s", str(error))
    assert executions(aws) == 1, "it would take as long again"


@both
def test_f13_time_out_of_the_function(there: Deployed, aws: LocalAws, start: Start, mode: str) -> None:
    """The supervisor sees it coming, and brings home what can be."""
    there.function(OTHER, timeout=2, variables=variables(1))  # the second that it takes for that is a whole one
    with start(mode) as ex:
        error = failure(ex.options(memory=OTHER), long_task(60), 1)
    assert isinstance(error, TaskTimeout)
    assert re.search(r"it had run for [01]\.\d+ s .* time-out of (2|1\.\d+) s", str(error))
    assert (executions(aws), aws.counters().get("timed_out", 0)) == (1, 0)


def test_f13_time_out_of_the_function_that_nobody_sees_coming(there: Deployed, aws: LocalAws, start: Start) -> None:
    def task(_: int) -> None:
        os.kill(os.getppid(), signal.SIGSTOP)
        signal.pause()

    there.function(OTHER, timeout=2, variables=variables())
    with start() as ex:
        error = failure(ex.options(memory=OTHER), task, 1)
    assert isinstance(error, TaskTimeout)
    assert re.search(r"within the function's time-out \(.*2\.00 seconds\) in the function \S+-640;", str(error))
    assert aws.counters()["timed_out"] == 1


@pytest.mark.parametrize(
    ("mode", "options", "says"),
    [
        (
            "sync",
            {"handler": "pywren_runtime.nothing.handle"},
            r"could not start \(Runtime\.ImportModuleError: .*pywren-ng check",
        ),
        (
            "async",
            {"key": "not in hexadecimal"},
            r"\(ConfigError: this Lambda function's environment .*pywren-ng setup",
        ),
    ],
)
def test_f14_initialisation_fails(
    there: Deployed, aws: LocalAws, start: Start, mode: str, options: dict[str, str], says: str
) -> None:
    name = there.where.function(OTHER)
    store = {"PYWREN_NG_INTERNAL_STORE": there.where.store, "PYWREN_NG_INTERNAL_KEY": options.get("key", "00" * 32)}
    handler = options.get("handler", "pywren_runtime.handler.handle")
    aws.deploy(there.code, name, handler=handler, memory=OTHER, variables=variables(**store), retries=0)
    with start(mode, scale=QUICK) as ex:
        error = failure(ex.options(memory=OTHER, retries=1))
    assert isinstance(error, WorkerLost)
    assert re.search(says, str(error)), error
    assert aws.counters()["failed_initialisations"] == (2 if mode == "sync" else 3)


def test_f14_another_key(there: Deployed, aws: LocalAws, start: Start) -> None:
    """Nothing is run that is not signed by the function's own key, and trying again is of no use."""
    there.function(OTHER, variables=variables(PYWREN_NG_INTERNAL_KEY="00" * 32))
    with start() as ex:
        error = failure(ex.options(memory=OTHER))
    assert isinstance(error, SignatureError)
    assert re.search(r"the key of your deployment is not the function's; run `pywren-ng setup`", str(error))
    assert executions(aws) == 1


# -- What is refused: F15 to F17


@both
def test_f15_no_such_function(there: Deployed, aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode) as ex:
        error = failure(ex.options(memory=704))
    assert isinstance(error, FunctionMissing)
    assert f"there is no function {there.where.function(704)} in {aws.region}" in str(error)
    assert f"pywren-ng setup --region {aws.region} --memory 704" in str(error)
    assert (aws.counters()["invokes"], executions(aws)) == (1, 0)


def as_variables(key: dict[str, str]) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": key["access_key"],
        "AWS_SECRET_ACCESS_KEY": key["secret"],
        "AWS_SESSION_TOKEN": key["token"],
    }


@both
def test_f16_invoking_is_denied(there: Deployed, aws: LocalAws, start: Start, mode: str) -> None:
    key = aws.credentials(deny=["lambda:InvokeFunction"])
    with start(mode, **as_variables(key)) as ex:
        error = failure(ex)
    assert isinstance(error, AccessDenied) and isinstance(error, PermissionError)
    assert f"lambda:InvokeFunction on {there.where.function(SIZE)} in {aws.region} is not allowed" in str(error)
    assert "pywren-ng policy user" in str(error)
    assert executions(aws) == 0


@pytest.mark.parametrize(("action", "resource"), [("s3:ListBucket", ""), ("s3:GetObject", "/pywren/jobs/")])
def test_f16_finding_outcomes_is_denied(
    there: Deployed, aws: LocalAws, start: Start, action: str, resource: str
) -> None:
    with start() as ex:
        warm(ex, 1)
    before, key = executions(aws), aws.credentials(deny=[action])
    with start("async", scale=0.03, **as_variables(key)) as ex:
        error = failure(ex.options(retries=0))
    assert isinstance(error, StoreError)
    assert f"{action} on arn:aws:s3:::{there.where.store.split('/')[2]}{resource}" in str(error)
    assert executions(aws) - before == 1


def test_f17_expired_credentials(aws: LocalAws, start: Start) -> None:
    with pytest.raises(CredentialsError, match=r"expired.*aws sso login"):
        start(**as_variables(aws.credentials(seconds=0)))
    assert aws.counters()["refused_expired"] >= 1


@both
def test_f17_credentials_that_expire(aws: LocalAws, start: Start, mode: str) -> None:
    with start(mode, scale=0.03, **as_variables(aws.credentials(seconds=1))) as ex:
        assert ex.submit(abs, -1).result(timeout=PATIENCE) == 1
        errors: list[BaseException | None] = [None]

        def fails() -> bool:
            errors.append(ex.submit(abs, -1).exception(timeout=PATIENCE))
            return errors[-1] is not None

        assert until(fails)
    assert isinstance(errors[-1], CredentialsError), errors
    assert re.search(r"expired.*aws sso login", str(errors[-1]))
    assert aws.counters()["refused_expired"] >= 1


def test_f17_no_credentials(aws: LocalAws, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(CredentialsError, match=r"there are no AWS credentials.*aws configure"):
        start()
    assert aws.counters().get("invokes", 0) == 0


# -- Twice, never, and late: F18 to F21


@both
def test_f18_delivered_twice(aws: LocalAws, start: Start, mode: str) -> None:
    def task(x: int) -> tuple[int, str]:
        return x, os.urandom(8).hex()

    with start(mode) as ex:
        aws.knobs(duplicate=1, real_environments=8)
        found = list(ex.map(task, range(10), timeout=PATIENCE))
        assert until(lambda: (executions(aws), aws.counters().get("queued", 0)) == (20, 0))
    assert [x for x, _ in found] == list(range(10)) and len(set(found)) == 10
    assert aws.injected()["duplicate"] == 10
    puts = aws.ask("GET", "/_proxy/log?key=/outcomes/&kind=ConditionalPut")
    committed = [put["key"] for put in puts if put["status"] == 200]
    assert len(committed) == len(set(committed))
    if mode == "async":
        assert (len(committed), len(puts)) == (10, 20)


def test_f19_dropped(aws: LocalAws, start: Start) -> None:
    with start() as ex:
        warm(ex, 8)
    before = executions(aws)
    aws.knobs(drop={"times": 8})
    assert squares_of_both(start, QUICK) == [RIGHT, RIGHT]
    assert (aws.injected()["drop"], executions(aws) - before) == (8, 8)


def test_f19_dropped_is_noticed_within_30_s() -> None:
    """The last look for beats begins when the limit is over, or at the next one after a look that came just before;
    whether it has ended is seen a quarter of that later."""
    limits = Limits()
    assert limits.listens < limits.begins
    assert limits.begins + limits.pulse + limits.pulse / 4 < 30


def test_f20_throttled_for_five_minutes(aws: LocalAws, start: Start) -> None:
    with start() as ex:
        warm(ex, 8)
    aws.knobs(throttle={"fraction": 1, "seconds": 300 * 0.01})
    assert squares_of_both(start, 0.01) == [RIGHT, RIGHT]
    assert aws.injected()["throttle"] > 50, "it was not borne, or not asked again"


def test_f20_throttled_without_end(aws: LocalAws, start: Start) -> None:
    with start(scale=0.0015).options(retries=9) as ex:
        aws.knobs(throttle=1)
        error = failure(ex)
    assert isinstance(error, Throttled)
    assert re.search(r"given up after [2-9] s and \d+ times: Lambda has no room \(TooManyRequests", str(error))
    assert aws.injected()["throttle"] > 20


@dataclass(frozen=True)
class Sleeper:
    """A client in a process of its own, and what holds its tasks up."""

    process: subprocess.Popen[str]
    gate: Gate


SLEEPER = """
from scene import pass_gate
from pywren_ng import Executor

with Executor("lambda", max_workers=8) as ex:
    print(list(ex.map(lambda x: pass_gate({gate!r}, x * x), range(4))))
"""


@pytest.fixture
def sleepers(start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Sleeper]]:
    """A client of each mode, in a process of its own, with four tasks under way."""
    made = {}
    with start() as ex:
        warm(ex, 8)
    monkeypatch.setenv("PYWREN_NG_INTERNAL_SCALE", str(ASLEEP / 300))
    for mode in ("sync", "async"):
        monkeypatch.setenv("PYWREN_NG_INVOKE", mode)
        gate = Gate(tmp_path)
        made[mode] = Sleeper(launch(script(tmp_path, SLEEPER.format(gate=gate.paths)), tmp_path), gate)
    yield made
    for one in made.values():
        one.process.kill()
        one.process.communicate()


def test_f21_the_client_sleeps_for_five_minutes(aws: LocalAws, sleepers: dict[str, Sleeper]) -> None:
    """Half of its tasks end meanwhile, and the connections on which their outcomes would come are gone."""
    for one in sleepers.values():
        for _ in range(4):
            one.gate.wait_for_task()
    for one in sleepers.values():
        one.process.send_signal(signal.SIGSTOP)
    before = executions(aws)
    aws.knobs(reset_after={"times": 2})
    time.sleep(ASLEEP / 6)  # nothing to wait for: that it takes so long is the fault
    for one in sleepers.values():
        one.gate.let_go(2)
    time.sleep(ASLEEP * 5 / 6)
    for one in sleepers.values():
        one.process.send_signal(signal.SIGCONT)
    looks = lists(aws)
    assert until(lambda: lists(aws) > looks + 12), "nobody asks for the other half"
    for one in sleepers.values():
        one.gate.let_go(2)
    for mode, one in sleepers.items():
        out, err = one.process.communicate(timeout=PATIENCE)
        assert (out, one.process.returncode) == (f"{RIGHT}\n", 0), (mode, err)
    assert (aws.injected()["reset_after"], executions(aws)) == (2, before), "what a sleeper missed was run again"
