"""LambdaBackend itself, against a server that says what a test wants and a store that fails as a test wants."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.scripted import ACCEPTED, Peer, answer, listening

from pywren_ng.backends import Event, Order
from pywren_ng.backends.lambda_backend import LambdaBackend
from pywren_ng.backends.lambda_flights import Limits
from pywren_ng.deployment import Deployment
from pywren_ng.endings import Endings
from pywren_ng.tracker import Heading, Lost, Pace, Policy, State, Task, Tasks, Tracker
from pywren_runtime import failures
from pywren_runtime.aws import Credentials
from pywren_runtime.errors import LambdaError, SignatureError, StoreError, WorkerLost
from pywren_runtime.invoker import Invoker
from pywren_runtime.pickling import dumps_plain
from pywren_runtime.stores.memory_store import MemoryStore
from pywren_runtime.wire import STATS, Call, Environment, Head, Outcome, Signer, Status, TaskCall, outcome_key, stop_key

KEY = b"k" * 32
PATIENCE = 20.0
FAST = Limits().scaled(0.02)  # 0.5 s until the first sign of life, a gap of 0.2 s
BUSY = answer(b'{"message": "Rate Exceeded."}', "429 Too Many Requests")
STORED = answer(b'{"stored": 1}')


class Store(MemoryStore):
    """A memory store that refuses what a test wants."""

    private = False

    def __init__(self) -> None:
        super().__init__("test")
        self.refuses: set[str] = set()
        self.refused = 0
        self.gate: threading.Event | None = None

    def _pass(self, what: str) -> None:
        if what in self.refuses:
            self.refused += 1
            raise StoreError(f"{what} is denied")

    def get(self, key: str) -> bytes:
        self._pass("get")
        return super().get(key)

    def put(self, key: str, data: Any) -> None:
        if self.gate is not None:
            self.gate.wait()
        super().put(key, data)

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        self._pass("list")
        return super().keys(prefix, after)


def order(job: str = "job", *, task: int = 0, attempt: int = 1, count: int = 1) -> Order:
    head = Head(job, b"", b"")
    calls = tuple(TaskCall(task + n, 0, attempt, b"") for n in range(count))
    return Order(Call(head.encode(), calls), Heading(head, Environment(), head.encode()))


def sealed(status: Status = Status.PLAIN, *, task: int = 0, attempt: int = 1, key: bytes = KEY) -> bytes:
    payload = b"" if status <= Status.VALUE else failures.pack_ours("LambdaError", "it failed", "")
    stats = STATS.pack(0, 0, 0, 0, 0, 0, 0, 0, False)
    return Signer(key).seal(b"outcome", Outcome("job", task, 0, attempt, status, payload, b"", stats).encode())


@contextmanager
def backend(
    script: Callable[[Peer], object], store: Store, *, invoke: str = "sync", limits: Limits = FAST
) -> Iterator[LambdaBackend]:
    with listening(script) as server:
        url = f"http://127.0.0.1:{server.port}"
        invoker = Invoker(url, "eu-west-3", lambda: Credentials("id", "secret"))
        where = Deployment("eu-west-3", "s3://bucket/prefix", KEY, timeout=60.0)
        made = LambdaBackend(invoker, store, where, workers=None, invoke=invoke, limits=limits)
        try:
            yield made
        finally:
            made.close()


def always(said: bytes) -> Callable[[Peer], object]:
    def script(peer: Peer) -> None:
        while peer.request() is not None:
            peer.say(said)

    return script


def silent(peer: Peer) -> None:
    while peer.request() is not None:
        pass


def events(made: LambdaBackend, count: int = 1, seconds: float = PATIENCE) -> list[Event]:
    found: list[Event] = []
    until = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        found += made.collect(made.wait(0.1))
    return found


def turn(made: LambdaBackend, until: Callable[[], bool]) -> None:
    """Let it turn until something is so."""
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, "it never came to be"
        made.collect(made.wait(0.01))


def test_what_an_earlier_attempt_committed_is_how_the_later_one_ended() -> None:
    """The first attempt was given up too soon and then failed; the second finds its round taken."""
    store = Store()
    store.put(outcome_key("job", 0, 0), sealed(Status.FAILED, attempt=1))
    tracker = Tracker()
    tasks = Tasks("job", policy=Policy(), chunksize=1, pace=Pace(), watcher=None)  # type: ignore[arg-type]
    out = order()
    tasks.all.append(Task(tasks, 0, out.heading, b"", (), 0.0))
    tracker.add(tasks, tasks.all)
    tracker.take(1)
    tracker.lost(Lost("job", 0, 1, False, LambdaError("too soon")), 0.0)
    tracker.take(1)
    with backend(always(STORED), store) as made:
        made.start([order(attempt=2)])
        (found,) = events(made)
    assert isinstance(found, Outcome) and found.status is Status.FAILED
    assert tracker.outcome(found, 0.0) is tasks.all[0] and tasks.all[0].state is State.SETTLED, "it is out for ever"


def test_a_forged_outcome_in_the_store_costs_its_task_and_nothing_else() -> None:
    store = Store()
    store.put(outcome_key("job", 0, 0), sealed(key=b"x" * 32))
    with backend(always(STORED), store) as made:
        made.start([order()])
        (lost,) = events(made)
        assert isinstance(lost, Lost) and lost.final and isinstance(lost.error, SignatureError)
        assert events(made, seconds=0.1) == []


def test_an_outcome_that_was_copied_over_another_is_refused_and_its_own_place_counts() -> None:
    store = Store()
    store.put(outcome_key("job", 0, 0), sealed(task=1))
    with backend(always(ACCEPTED), store, invoke="async", limits=Limits().scaled(0.2)) as made:
        made.start([order(count=2)])
        (lost,) = events(made)
        assert isinstance(lost, Lost) and lost.final and lost.task == 0
        assert isinstance(lost.error, SignatureError) and outcome_key("job", 1, 0) in str(lost.error)
        store.put(outcome_key("job", 1, 0), sealed(task=1))
        (found,) = events(made)
        assert isinstance(found, Outcome) and found.task == 1


def test_who_had_nothing_to_do_was_not_asleep() -> None:
    """A Call that is dropped after a long pause is noticed as soon as any other."""
    with backend(silent, Store(), limits=Limits().scaled(0.02)) as made:
        made.collect(made.wait(0.0))
        made._turned -= 3600  # the time that has passed since
        made.start([order()])
        began = time.monotonic()
        (lost,) = events(made)
        assert isinstance(lost, Lost) and isinstance(lost.error, WorkerLost)
        assert time.monotonic() - began < PATIENCE / 2, "it waited for what it takes to be asleep"


def test_a_long_wait_that_was_meant_is_no_sleep() -> None:
    limits = Limits().scaled(0.02)
    with backend(silent, Store(), limits=limits) as made:
        made.start([order()])
        (flight,) = made._flights.values()
        sent = flight.sent
        assert limits.listens > limits.gap
        while time.monotonic() < sent + limits.listens:
            made.collect(made.wait(PATIENCE))
        assert flight.sent == sent, "it takes itself to have slept"


def test_whoever_slept_excuses_silence() -> None:
    with backend(silent, Store(), limits=Limits()) as made:
        made.start([order()])
        made.collect(made.wait(0.0))
        (flight,) = made._flights.values()
        made._turned -= 300
        flight.sent -= 300
        flight.alive -= 300
        made.collect(made.wait(0.0))
        assert flight.alive > time.monotonic() - 1 and flight.sent > time.monotonic() - 1


def test_refusals_of_long_ago_do_not_count() -> None:
    """A job was cancelled while the account was busy; the next one has all the time there is."""
    with backend(always(BUSY), Store(), limits=Limits()) as made:
        made.start([order("first")])
        turn(made, lambda: made._busy_since < float("inf"))
        made.stop("first")
        made._busy_since -= Limits().busy  # the time that has passed since
        made.start([order("second")])
        turn(made, lambda: any(flight.tries for flight in made._flights.values()))
        assert made._flights and events(made, seconds=0.2) == []


@pytest.mark.parametrize("denied", ["list", "get"])
def test_outcomes_that_cannot_be_read_are_an_error_and_no_hang(denied: str) -> None:
    store = Store()
    store.put(outcome_key("job", 0, 0), sealed())
    store.refuses = {denied}
    with backend(always(ACCEPTED), store, invoke="async") as made:
        made.start([order()])
        (lost,) = events(made)
        assert isinstance(lost, Lost) and lost.final and isinstance(lost.error, StoreError)
        assert f"{denied} is denied" in str(lost.error) and "task 0 of job job" in str(lost.error)
    assert store.refused > 1


def test_a_strange_key_among_the_outcomes_is_no_hang() -> None:
    store = Store()
    store.put("jobs/job/outcomes/not-ours", b"")
    with backend(always(ACCEPTED), store, invoke="async") as made:
        made.start([order()])
        (lost,) = events(made)
        assert isinstance(lost, Lost)


def test_a_store_that_is_silent_does_not_spoil_the_end() -> None:
    """`close` waits for the marks of stopped jobs, for so long and no longer, and raises nothing."""
    store = Store()
    store.gate = threading.Event()
    release = threading.Timer(0.5, store.gate.set)
    with backend(silent, store) as made:
        made.start([order()])
        turn(made, lambda: not made._flights[1].unsent)
        made.stop("job")
        release.start()
    release.join()
    assert store.get(stop_key("job")) == b"stopped"
    assert not [thread for thread in threading.enumerate() if thread.name == "pywren-finder"]


def test_who_waits_is_woken_for_what_another_thread_starts() -> None:
    """Heartbeats of a new Call are listened for in time, though it was begun in the middle of a long wait."""

    def script(peer: Peer) -> None:
        peer.request()
        peer.say(answer(b'{"outcomes": []}'))  # the connection is kept, and the next request goes over it
        silent(peer)

    with backend(script, Store(), limits=Limits().scaled(0.02)) as made:
        made.start([order("first")])
        events(made)
        turn(made, lambda: not made._due)
        waited = threading.Event()

        def wait() -> None:
            made.collect(made.wait(PATIENCE))
            waited.set()

        thread = threading.Thread(target=wait)
        thread.start()
        turn_at = time.monotonic() + PATIENCE
        while made._wakes == -float("inf"):
            assert time.monotonic() < turn_at
        made.start([order("second")])
        assert waited.wait(PATIENCE / 4), "it slept on"
        thread.join()


def test_jobs_may_end_while_another_thread_is_about_to_wait() -> None:
    """Each `submit` is a job: thousands come and go while one thread works out how long to wait."""
    store = Store()
    with backend(always(ACCEPTED), store, invoke="async", limits=Limits()) as made:
        jobs = [f"job-{number}" for number in range(400)]
        made.start([order(job) for job in jobs])
        turn(made, lambda: all(flight.watched for flight in made._flights.values()))
        failures: list[BaseException] = []
        over = threading.Event()

        def wait() -> None:
            try:
                while not over.is_set():
                    made.wait(0.0)
            except BaseException as error:
                failures.append(error)

        switch = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        thread = threading.Thread(target=wait)
        thread.start()
        try:
            for job in jobs:
                made.stop(job)
        finally:
            over.set()
            thread.join()
            sys.setswitchinterval(switch)
    assert failures == []


def test_what_was_submitted_is_looked_for_though_the_interpreter_ends() -> None:
    """After a script's last line, pools of threads take nothing more, and some versions start no thread."""
    code = """
        import atexit, time
        from pywren_ng.backends.lambda_finder import Finder
        from pywren_runtime.stores.memory_store import MemoryStore
        finder = Finder(MemoryStore("test"), lambda: None)

        def finish():
            for task in range(100):
                finder.fetch("job", [(task, 0)])
            while len(finder.found) < 100:
                time.sleep(0.001)
            finder.close()
            print("found")

        atexit.register(finish)
    """
    paths = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ, "PYTHONPATH": paths})
    assert (done.stdout, done.stderr) == ("found\n", "")


@pytest.mark.parametrize(("name", "noted"), [("pytest", True), ("nowhere_at_all", False)])
def test_a_package_that_only_this_machine_has_is_named(name: str, noted: bool) -> None:
    error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    frame = Outcome("job", 0, 0, 1, Status.RAISED, dumps_plain((error, "")), b"", STATS.pack(*[0] * 8, False))
    for store in (Store(), MemoryStore("local")):
        rebuilt = Endings(store, lambda: False).rebuild(frame)
        notes = "\n".join(rebuilt.__notes__)
        assert ("is installed here and not in the worker" in notes) is (noted and not store.private)
