"""One suite for every backend: each `*_backend.py` in the folder is under test the moment it lies there."""

import concurrent.futures
import functools
import gc
import html
import inspect
import itertools
import os
import pickle
import re
import resource
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pywren_ng.backends
from pywren_ng import (
    ConfigError,
    Executor,
    InitializerError,
    Job,
    PackingError,
    RemoteError,
    TaskTimeout,
)

BACKENDS = sorted(
    path.name.removesuffix("_backend.py") for path in Path(pywren_ng.backends.__file__).parent.glob("*_backend.py")
)
PATIENCE = 60
"""Seconds after which a wait is given up; only a failing test ever waits so long."""


@dataclass(frozen=True)
class Way:
    """How an executor on a backend is made, and whether its tasks run in processes of their own."""

    make: Callable[..., Executor]
    apart: bool


# A backend that is missing here fails every test.
WAYS = {
    "inline": Way(functools.partial(Executor, "inline"), apart=False),
    "local": Way(functools.partial(Executor, "local", max_workers=2), apart=True),
}
# Those that need more than this machine take over the whole suite in a file of their own.
ELSEWHERE = {"lambda": "test_executors_on_lambda.py"}
HERE = [name for name in BACKENDS if name not in ELSEWHERE]
# What runs while the client does something else can be stopped, waited for in vain, and overheard.
APART = [name for name in HERE if name not in WAYS or WAYS[name].apart]


def make_executor(backend: str, **options: Any) -> Executor:
    if backend not in WAYS:
        pytest.fail(f"tests/contract/test_executors.py does not know how to make an executor on {backend!r}")
    return WAYS[backend].make(**options)


@pytest.fixture(scope="module")
def shared() -> Iterator[Callable[[str], Executor]]:
    """One executor on each backend for all tests that ask for no options."""
    made: dict[str, Executor] = {}
    with ExitStack() as stack:

        def give(backend: str) -> Executor:
            if backend not in made:
                made[backend] = stack.enter_context(make_executor(backend))
            return made[backend]

        yield give


@pytest.fixture(params=HERE)
def ex(request: pytest.FixtureRequest, shared: Callable[[str], Executor]) -> Executor:
    return shared(request.param)


@pytest.fixture(params=APART)
def apart(request: pytest.FixtureRequest, shared: Callable[[str], Executor]) -> Executor:
    return shared(request.param)


def _maker(backend: str) -> Iterator[Callable[..., Executor]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(make_executor(backend, **options))


@pytest.fixture(params=HERE)
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Executor]]:
    yield from _maker(request.param)


@pytest.fixture(params=APART)
def make_apart(request: pytest.FixtureRequest) -> Iterator[Callable[..., Executor]]:
    yield from _maker(request.param)


class Gate:
    """A file for which tasks wait, and lines that say which have come."""

    def __init__(self, folder: Path) -> None:
        self.path, self.log = str(folder / "open"), str(folder / "came")

    def open(self) -> None:
        Path(self.path).touch()

    def came(self) -> list[str]:
        return Path(self.log).read_text().split() if os.path.exists(self.log) else []

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.came()) >= count)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.open()  # or what a failed test leaves behind would run on


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


def pass_gate(gate: Gate, value: Any = None) -> Any:
    with open(gate.log, "a") as log:
        log.write(f"{value}\n")
    until(lambda: os.path.exists(gate.path))
    return value


def left_of(ex: Executor, prefix: str) -> list[str]:
    """What lies in the store of a job; outcomes that were committed there stay for whoever attaches to it later."""
    return [key for key, _ in ex.store.keys(prefix) if "/outcomes/" not in key]


def come(log: str, value: Any) -> int:
    """Say that an attempt has begun; how many of this task have by now."""
    with open(log, "a") as file:
        file.write(f"{value}\n")
    return Path(log).read_text().split().count(str(value))


def fail_first(times: int, log: str, value: Any, error: type[Exception] = OSError) -> Any:
    if come(log, value) <= times:
        raise error(f"task {value} is not ready")
    return value


def run_script(folder: Path, text: str, *args: str) -> str:
    """What a script prints that a user would run: no guard, no package, functions in `__main__`."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, str(script), *args], cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- The table


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_is_under_test(backend: str) -> None:
    elsewhere = Path(__file__).with_name(ELSEWHERE.get(backend, "none"))
    assert backend in WAYS or elsewhere.exists(), "add it to WAYS: how to make an executor on it"


def test_there_are_backends() -> None:
    assert {"inline", "local"} <= set(BACKENDS)


# -- submit


def test_submit_gives_a_standard_future(ex: Executor) -> None:
    future = ex.submit(divmod, 17, 5)
    assert isinstance(ex, concurrent.futures.Executor)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(PATIENCE) == (3, 2)
    assert future.done() and not future.running() and not future.cancelled()
    assert future.exception() is None


OUR_NAMES = sorted(
    {
        name
        for function in (Executor.__init__, Executor.submit, Executor.map, Executor.options, Executor.shutdown)
        for name in inspect.signature(function).parameters
    }
    | {"fn", "self", "args", "kwargs", "task", "timeout", "function", "job", "call"}
)


def test_every_keyword_reaches_the_function(ex: Executor) -> None:
    given = {name: number for number, name in enumerate(OUR_NAMES)}
    assert {"memory", "self", "fn", "timeout", "retries", "backend"} <= set(given)
    assert ex.submit(lambda *args, **kwargs: (args, kwargs), 1, **given).result(PATIENCE) == ((1,), given)


def test_arguments_are_those_of_the_moment_of_submit(apart: Executor, gate: Gate) -> None:
    held = [apart.submit(pass_gate, gate, n) for n in range(apart._max_workers)]
    numbers = [1, 2, 3]
    future = apart.submit(sum, numbers)
    numbers.append(1000)
    gate.open()
    assert future.result(PATIENCE) == 6
    assert [each.result(PATIENCE) for each in held] == list(range(len(held)))


def test_what_is_no_function_fails_as_calling_it_would(ex: Executor) -> None:
    assert isinstance(ex.submit(42).exception(PATIENCE), TypeError)  # type: ignore[arg-type]


class Stubborn:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


UNPACKABLE: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "generator": lambda: (n for n in range(3)),
    "file": lambda: open(os.devnull, "w"),
    "socket": socket.socket,
    "thread": lambda: threading.Thread(target=print),
    "reduce raises ValueError": lambda: Stubborn(ValueError("no")),
    "reduce raises KeyError": lambda: Stubborn(KeyError("no")),
    "reduce raises RecursionError": lambda: Stubborn(RecursionError("no")),
    "reduce raises MemoryError": lambda: Stubborn(MemoryError("no")),
    "too deep": lambda: nested(100_000),
}


@pytest.mark.parametrize("kind", UNPACKABLE)
def test_submit_never_raises_for_what_the_user_gives(ex: Executor, kind: str) -> None:
    value = UNPACKABLE[kind]()
    futures = [
        ex.submit(print, value),
        ex.submit(print, file=value),
        ex.submit(lambda: value),
        ex.submit(functools.partial(print, value)),
    ]
    for future in futures:
        error = future.exception(PATIENCE)
        assert isinstance(error, PackingError) and isinstance(error, pickle.PicklingError)
        assert "cannot be pickled" in str(error)
    assert ex.submit(abs, -1).result(PATIENCE) == 1
    getattr(value, "close", lambda: None)()


def test_a_result_that_cannot_travel_is_named(ex: Executor) -> None:
    def make() -> object:
        return {"fine": 1, "rows": [threading.Lock()]}

    error = ex.submit(make).exception(PATIENCE)
    assert isinstance(error, PackingError)
    assert "the result" in str(error) and "'rows'" in str(error) and "lock" in str(error)


def test_results_that_only_cloudpickle_can_pickle_come_back(ex: Executor) -> None:
    def make(n: int) -> object:
        class Local:
            number = n

        return (lambda x: x + n), Local()

    function, local = ex.submit(make, 3).result(PATIENCE)
    assert function(4) == 7
    assert local.number == 3


def test_callbacks_get_the_done_future(ex: Executor) -> None:
    heard: list[Any] = []
    future = ex.submit(abs, -3)
    future.add_done_callback(heard.append)
    until(lambda: bool(heard))
    assert heard == [future] and heard[0].result() == 3


def test_many_threads_may_submit_at_once(ex: Executor) -> None:
    found: dict[int, list[int]] = {}

    def work(thread: int) -> None:
        futures = [ex.submit(pow, thread, n) for n in range(20)]
        found[thread] = [future.result(PATIENCE) for future in futures] + list(ex.map(abs, range(-thread, 0)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == {t: [t**n for n in range(20)] + list(range(t, 0, -1)) for t in range(8)}


def test_an_executor_inside_a_task(ex: Executor) -> None:
    def outer(n: int) -> int:
        with Executor() as inner:
            return sum(inner.map(lambda i: i * n, range(4)))

    assert list(ex.map(outer, range(4))) == [0, 6, 12, 18]


# -- map


def test_map_is_the_built_in_map(ex: Executor) -> None:
    job = ex.map(pow, range(30), itertools.repeat(2))
    assert isinstance(job, Job) and isinstance(job, Iterator)
    assert list(job) == [n * n for n in range(30)]
    assert list(job) == [], "an iterator is used up"


def test_map_stops_at_the_shortest_input(ex: Executor) -> None:
    assert list(ex.map(lambda *args: args, [1, 2, 3], "ab", itertools.count())) == [(1, "a", 0), (2, "b", 1)]


@pytest.mark.parametrize(
    "inputs", [(), ([],), ([], [1, 2]), (iter(()),)], ids=["none", "a list", "a list of two", "an iterator"]
)
@pytest.mark.parametrize("buffersize", [None, 3])
def test_map_of_nothing(ex: Executor, inputs: tuple[Any, ...], buffersize: int | None) -> None:
    job = ex.map(abs, *inputs, buffersize=buffersize)
    assert list(job) == []
    assert job.results() == [] and job.futures == [] and list(job.as_completed()) == []
    assert len(job.stats) == 0 and job.errors() == []
    job.cancel()
    assert job.retry_failed().results() == []


@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000, None])
def test_chunksize_changes_nothing_but_the_speed(ex: Executor, chunksize: int | None) -> None:
    for _ in range(2):  # the second time the durations are known
        assert list(ex.map(lambda n: n * 3, range(100), chunksize=chunksize)) == [n * 3 for n in range(100)]


def test_one_failing_task_does_not_take_its_chunk_along(ex: Executor) -> None:
    job = ex.map(lambda n: 1 // n, [1, 0, -1, 1], chunksize=4)
    found = job.results(return_exceptions=True)
    assert [found[0], found[2], found[3]] == [1, -1, 1]
    assert isinstance(found[1], ZeroDivisionError)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"chunksize": 0}, ValueError),
        ({"chunksize": -1}, ValueError),
        ({"buffersize": 0}, ValueError),
        ({"buffersize": -3}, ValueError),
        ({"buffersize": 1.5}, TypeError),
    ],
)
def test_map_refuses_what_the_standard_library_refuses(
    ex: Executor, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        ex.map(abs, [1], **options)


def counted(taken: list[int]) -> Iterator[int]:
    for n in itertools.count():
        taken.append(n)
        yield n


def test_buffersize_reads_only_so_far_ahead(ex: Executor) -> None:
    taken: list[int] = []
    job = ex.map(lambda n: -n, counted(taken), buffersize=10)
    assert len(taken) <= 10
    assert next(job) == 0
    assert len(taken) <= 11
    assert [next(job) for _ in range(20)] == [-n for n in range(1, 21)]
    assert len(taken) <= 31
    del job


def test_buffersize_in_one_line(ex: Executor) -> None:
    taken: list[int] = []
    assert next(ex.map(lambda n: n, counted(taken), buffersize=10)) == 0
    assert len(taken) <= 11


@pytest.mark.parametrize("buffersize", [1, 3, 50, 51, 1000])
def test_buffersize_loses_nothing_at_the_end(ex: Executor, buffersize: int) -> None:
    job = ex.map(lambda n: n, iter(range(50)), buffersize=buffersize)
    assert list(job) == list(range(50))


def test_without_buffersize_the_input_is_read_at_once(ex: Executor) -> None:
    taken: list[int] = []
    job = ex.map(abs, itertools.islice(counted(taken), 100))
    assert taken == list(range(100))
    assert len(job) == 100


def test_an_input_that_raises_is_the_callers(ex: Executor) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("the input")

    with pytest.raises(LookupError, match="the input"):
        ex.map(abs, broken())
    job = ex.map(abs, broken(), buffersize=1)
    with pytest.raises(LookupError, match="the input"):
        list(job)
    assert list(ex.map(abs, [-1])) == [1]


def test_map_of_items_that_cannot_travel_fails_only_those(ex: Executor) -> None:
    items: list[Any] = [1, threading.Lock(), 3, (n for n in "ab"), 5]
    job = ex.map(lambda item: item, items)
    found = job.results(return_exceptions=True)
    assert [found[0], found[2], found[4]] == [1, 3, 5]
    assert all(isinstance(found[n], PackingError) for n in (1, 3))
    assert sorted(task for failures in job.errors() for task in failures.tasks) == [1, 3]
    job = ex.map(lambda item: item, items)
    assert next(job) == 1
    with pytest.raises(PackingError):
        next(job)


def test_map_of_a_function_that_cannot_travel_fails_every_task(ex: Executor) -> None:
    lock = threading.Lock()
    job = ex.map(lambda n: (n, lock), range(3))
    assert [type(error) for error in job.results(return_exceptions=True)] == [PackingError] * 3
    (failures,) = job.errors()
    assert failures.tasks == (0, 1, 2) and "lock" in str(failures)


# -- The job as an iterator


def test_the_length_is_known_where_it_can_be(ex: Executor) -> None:
    assert len(ex.map(abs, [1, 2, 3])) == 3
    assert len(ex.map(abs, iter([1, 2]))) == 2
    assert len(ex.map(pow, [1, 2, 3], [1, 2], buffersize=1)) == 2
    with pytest.raises(TypeError, match="not known"):
        len(ex.map(abs, iter([1, 2]), buffersize=1))


def test_a_failure_is_raised_in_its_place_and_ends_the_iteration(ex: Executor) -> None:
    job = ex.map(lambda n: 6 // n, [3, 2, 0, 1])
    assert [next(job), next(job)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(job)
    assert list(job) == []


def test_iterating_forgets_each_result(ex: Executor) -> None:
    job = ex.map(lambda n: np.full(20_000, n), range(4))
    for n in range(4):
        array = next(job)
        assert array.sum() == 20_000 * n
        gone = weakref.ref(array)
        del array
        gc.collect()
        assert gone() is None, "the job still holds a result that it has handed out"
    with pytest.raises(LookupError, match="before iterating"):
        job.results()


def test_what_iterating_has_handed_out_is_not_in_the_store(ex: Executor) -> None:
    job = ex.map(lambda n: np.full(20_000, n), range(4))
    for _ in job:
        pass
    assert left_of(ex, f"jobs/{job.id}/") == []


def test_a_job_that_nobody_holds_leaves_nothing_in_the_store(ex: Executor) -> None:
    job = ex.map(lambda n: np.full(20_000, n), range(4))
    next(job)
    prefix = f"jobs/{job.id}/"
    del job
    gc.collect()
    until(lambda: ex.submit(abs, 1).result(PATIENCE) == 1 and left_of(ex, prefix) == [])


def test_futures_that_nobody_holds_leave_nothing_in_the_store(ex: Executor) -> None:
    prefix = f"jobs/{ex.map(abs, []).id.rpartition('-')[0]}"
    futures = [ex.submit(np.zeros, 20_000) for _ in range(5)] + ex.map(np.zeros, [20_000] * 5).futures
    concurrent.futures.wait(futures, PATIENCE)
    assert len(left_of(ex, prefix)) == 10
    del futures

    def is_empty() -> bool:
        gc.collect()  # more than once: what the first finds is let go of by the engine's next turn
        return ex.submit(abs, 1).result(PATIENCE) == 1 and left_of(ex, prefix) == []

    until(is_empty)


def test_what_is_dropped_after_the_end_touches_no_file_of_the_users(
    make: Callable[..., Executor], tmp_path: Path
) -> None:
    ex = make()
    job = ex.map(lambda n: np.zeros(20_000), range(2))
    future = ex.submit(np.zeros, 20_000)
    ex.shutdown()
    files = [open(tmp_path / str(n), "wb") for n in range(50)]  # they take over the descriptors that the end set free
    del job, future
    gc.collect()
    for file in files:
        file.close()
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_size] == []


@pytest.mark.parametrize("ask", [lambda job: job.futures, lambda job: job.results()], ids=["futures", "results"])
def test_what_was_asked_for_before_iterating_is_kept(ex: Executor, ask: Callable[[Any], Any]) -> None:
    job = ex.map(lambda n: [n], range(5))
    ask(job)
    iterated = list(job)
    assert iterated == [[n] for n in range(5)]
    assert job.results() == iterated
    assert [future.result(PATIENCE) for future in job.futures] == iterated
    assert all(one is other for one, other in zip(job.results(), iterated, strict=True)), "unpacked twice"


def test_results_reads_all_of_a_buffered_input(ex: Executor) -> None:
    assert ex.map(abs, iter(range(-20, 0)), buffersize=2).results() == list(range(20, 0, -1))
    assert len(ex.map(abs, iter(range(20)), buffersize=2).futures) == 20


def test_futures_are_the_same_each_time(ex: Executor) -> None:
    job = ex.map(abs, range(3))
    first = job.futures
    assert all(isinstance(future, concurrent.futures.Future) for future in first)
    assert all(one is other for one, other in zip(first, job.futures, strict=True))


def test_as_completed_gives_each_future_once(ex: Executor) -> None:
    job = ex.map(lambda n: n, range(10))
    seen = list(job.as_completed(PATIENCE))
    assert sorted(future.result() for future in seen) == list(range(10))
    assert set(seen) == set(job.futures)


def test_as_completed_does_not_wait_for_the_slow_one(make_apart: Callable[..., Executor], gate: Gate) -> None:
    job = make_apart().map(lambda n: pass_gate(gate) if n == 0 else n, range(3))
    arrivals = job.as_completed(PATIENCE)
    assert {next(arrivals).result(), next(arrivals).result()} == {1, 2}
    gate.open()
    assert next(arrivals) is job.futures[0]


# -- Waiting


def test_waiting_ends_with_a_timeout(make_apart: Callable[..., Executor], gate: Gate) -> None:
    ex = make_apart()
    future = ex.submit(pass_gate, gate, 1)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0)
    job = ex.map(pass_gate, [gate], [2], timeout=0.01)
    with pytest.raises(TimeoutError):
        next(job)
    job = ex.map(pass_gate, [gate], [3], timeout=0.01)
    with pytest.raises(TimeoutError):
        job.results()
    job = ex.map(pass_gate, [gate], [4])
    with pytest.raises(TimeoutError):
        list(job.as_completed(timeout=0.01))
    gate.open()
    assert future.result(PATIENCE) == 1
    assert job.results() == [4]


def test_what_is_done_is_handed_out_though_the_time_is_over(apart: Executor, gate: Gate) -> None:
    job = apart.map(lambda n: n if n < 3 else pass_gate(gate, n), range(4), timeout=0.01)
    concurrent.futures.wait(job.futures[:3], PATIENCE)
    gate.wait_for(1)
    assert [next(job) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(TimeoutError):
        next(job)


# -- Failures, together


def test_errors_are_grouped_by_cause(ex: Executor) -> None:
    def work(n: int) -> float:
        if n % 3 == 0:
            raise ValueError(f"row {n} of {n * 1000} is bad")
        return 1 / (n % 3 - 1)

    job = ex.map(work, range(12))
    found = job.results(return_exceptions=True)
    assert sum(isinstance(each, Exception) for each in found) == 8
    groups = {type(failures.error): failures.tasks for failures in job.errors()}
    assert groups == {ValueError: (0, 3, 6, 9), ZeroDivisionError: (1, 4, 7, 10)}
    assert "4 tasks (0, 3, 6, 9): ValueError: row" in str(
        next(failures for failures in job.errors() if isinstance(failures.error, ValueError))
    )


def test_the_most_frequent_cause_comes_first(ex: Executor) -> None:
    job = ex.map(lambda n: {}[n] if n == 0 else 1 // 0, range(5))
    job.results(return_exceptions=True)
    assert [len(failures.tasks) for failures in job.errors()] == [4, 1]


def test_the_first_failure_in_results_cancels_what_has_not_started(
    make_apart: Callable[..., Executor], gate: Gate
) -> None:
    ex = make_apart(max_workers=1)
    job = ex.map(lambda n: 1 // 0 if n == 0 else pass_gate(gate, n), range(50))
    with pytest.raises(ZeroDivisionError):
        job.results()
    gate.open()
    concurrent.futures.wait(job.futures, PATIENCE)
    assert sum(future.cancelled() for future in job.futures) >= 47
    assert len(gate.came()) <= 2
    assert [type(failures.error) for failures in job.errors()] == [ZeroDivisionError]


def test_results_with_exceptions_cancels_nothing(ex: Executor) -> None:
    found = ex.map(lambda n: 1 // (n % 2), range(6)).results(return_exceptions=True)
    assert [each for each in found if not isinstance(each, Exception)] == [1, 1, 1]


def test_retry_failed_runs_only_what_failed(ex: Executor, tmp_path: Path) -> None:
    log = str(tmp_path / "log")

    def work(n: int) -> Any:
        return fail_first(1, log, n) if n % 2 else (come(log, n), n)[1]

    job = ex.map(work, range(6))
    before = job.futures
    assert sum(isinstance(each, OSError) for each in job.results(return_exceptions=True)) == 3
    assert job.retry_failed() is job
    assert job.results() == list(range(6))
    assert job.errors() == []
    runs = Path(log).read_text().split()
    assert [runs.count(str(n)) for n in range(6)] == [1, 2, 1, 2, 1, 2]
    after = job.futures
    assert [one is other for one, other in zip(before, after, strict=True)] == [True, False] * 3
    assert isinstance(before[1].exception(), OSError), "an old future keeps its outcome"
    assert after[1].result(PATIENCE) == 1


def test_retry_failed_after_an_iteration_broke_off(ex: Executor, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    job = ex.map(lambda n: fail_first(1, log, n), range(3))
    job.futures  # noqa: B018  # from now on results are kept
    with pytest.raises(OSError):
        job.results()
    while job.results(return_exceptions=True) != [0, 1, 2]:
        assert job.errors() or any(future.cancelled() for future in job.futures)
        job.retry_failed()
    assert list(job) == [0, 1, 2]


def test_retry_failed_with_nothing_failed(ex: Executor) -> None:
    job = ex.map(abs, range(3))
    assert job.results() == [0, 1, 2]
    assert job.retry_failed().results() == [0, 1, 2]
    assert len(job.stats) == 3


# -- Cancelling


def test_cancel_stops_what_runs_and_what_waits(make_apart: Callable[..., Executor], gate: Gate) -> None:
    ex = make_apart(max_workers=2)
    job = ex.map(lambda n: n if n == 0 else pass_gate(gate, n), range(10))
    other = ex.submit(abs, -1)
    assert job.futures[0].result(PATIENCE) == 0
    gate.wait_for(2)
    job.cancel()
    found = job.results(return_exceptions=True)
    assert found[0] == 0, "what is finished stays"
    assert [type(each) for each in found[1:]] == [concurrent.futures.CancelledError] * 9
    assert other.result(PATIENCE) == 1
    assert job.errors() == []
    with pytest.raises(concurrent.futures.CancelledError):
        job.results()
    gate.open()
    assert job.retry_failed().results() == list(range(10))


def test_a_waiting_future_can_be_cancelled_and_a_running_one_cannot(
    make_apart: Callable[..., Executor], gate: Gate
) -> None:
    ex = make_apart(max_workers=1)
    running = ex.submit(pass_gate, gate, "a")
    gate.wait_for(1)
    waiting = [ex.submit(pass_gate, gate, n) for n in range(8)]
    assert running.running() and not running.cancel()
    assert waiting[-1].cancel() and waiting[-1].cancelled()
    gate.open()
    assert running.result(PATIENCE) == "a"
    assert [future.result(PATIENCE) for future in waiting[:-1]] == list(range(7))
    assert "7" not in gate.came()


def test_cancelling_what_is_done_changes_nothing(ex: Executor) -> None:
    job = ex.map(abs, range(3))
    assert job.results() == [0, 1, 2]
    job.cancel()
    assert not job.futures[0].cancel()
    assert job.results() == [0, 1, 2] and job.errors() == []


# -- What a job tells


def test_logs_are_what_each_task_printed(apart: Executor) -> None:
    def work(n: int) -> int:
        print(f"out {n}")
        print(f"err {n}", file=sys.stderr)
        os.write(1, b"from below\n")
        return n

    job = apart.map(work, range(4), chunksize=2)
    assert job.results() == [0, 1, 2, 3]
    for n in range(4):
        lines = job.logs(n).splitlines()
        assert set(lines) == {f"out {n}", f"err {n}", "from below"}
    with pytest.raises(IndexError):
        job.logs(4)


def test_a_task_that_prints_nothing_has_an_empty_log(ex: Executor) -> None:
    job = ex.map(abs, [1])
    job.results()
    assert job.logs(0) == "" and job.logs(-1) == ""


def test_output_is_cut_to_its_tail(apart: Executor) -> None:
    def work() -> None:
        for n in range(40_000):
            print(f"line {n}")

    job = apart.map(lambda _: work(), [0])
    job.results()
    log = job.logs(0)
    assert len(log) <= 66_000 and log.endswith("line 39999\n")
    assert "dropped" in log.splitlines()[0]


def test_stats_have_a_row_for_each_attempt(ex: Executor, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    before = time.time()
    job = ex.options(retry_on=OSError).map(lambda n: fail_first(n, log, n), range(3))
    assert job.results() == [0, 1, 2]
    rows = list(job.stats)
    assert sorted((row.task, row.attempt, row.ended) for row in rows) == [
        (0, 1, "ok"),
        (1, 1, "raised"),
        (1, 2, "ok"),
        (2, 1, "raised"),
        (2, 2, "raised"),
        (2, 3, "ok"),
    ]
    for row in rows:
        times = [row.queued, row.started, row.function_loaded, row.arguments_loaded, row.ran, row.stored]
        assert times == sorted(times)
        assert before <= times[0] and times[-1] <= time.time()
        assert row.cpu >= 0 and row.peak > 1_000_000 and row.worker > 0 and row.seconds >= 0
    assert len(job.stats) == 6 and job.stats[-1] == rows[-1] and job.stats[:2] == rows[:2]


def test_the_first_task_of_a_worker_is_cold(make: Callable[..., Executor]) -> None:
    job = make(max_workers=1).map(abs, range(4))
    job.results()
    assert [row.cold for row in job.stats] == [True, False, False, False]
    assert len({row.worker for row in job.stats}) == 1


def test_processor_time_is_that_of_the_task(ex: Executor) -> None:
    def burn(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    job = ex.map(burn, [0.05, 0.0])
    job.results()
    cpu = {row.task: row.cpu for row in job.stats}
    assert cpu[0] >= 0.05 > cpu[1]


@pytest.mark.parametrize("backend", APART)
def test_a_small_task_after_a_big_one_reports_small(backend: str) -> None:
    with make_executor(backend, max_workers=1) as ex:
        job = ex.map(lambda size: len(bytearray(size)), [1, 300_000_000, 1])
        assert job.results() == [1, 300_000_000, 1]
        peaks = {row.task: row.peak / 1e6 for row in job.stats}
    assert len({row.worker for row in job.stats}) == 1
    assert peaks[1] > 300
    # Where the kernel cannot be asked to begin anew, a process begins with the peak of the one that started it.
    begins = 0 if os.path.exists("/proc/self/clear_refs") else resource.getrusage(0).ru_maxrss / 1e3
    assert max(peaks[0], peaks[2]) < max(100, begins + 50)


@pytest.mark.parametrize("backend", APART)
def test_a_big_client_does_not_show_in_a_workers_peak(backend: str, tmp_path: Path) -> None:
    # Without /proc the kernel tells no figure that does not begin with the client's own.
    most = 100 if os.path.exists("/proc/self/clear_refs") else 1000
    made = run_script(
        tmp_path,
        """
        import sys
        ballast = bytearray(300_000_000)
        from pywren_ng import Executor
        with Executor(sys.argv[1], max_workers=1) as ex:
            job = ex.map(abs, [-1])
            job.results()
            print(job.stats[0].peak // 1_000_000)
        """,
        backend,
    )
    assert int(made) < most


def test_a_notebook_shows_counts_and_failures(ex: Executor) -> None:
    def work(n: int) -> int:
        if n == 1:
            raise ValueError("<b>bold & bad</b>")
        return n

    job = ex.options(name="shown").map(work, range(3))
    job.results(return_exceptions=True)
    text = job._repr_html_()
    assert "<b>" not in text and html.escape("<b>bold & bad</b>") in text
    cells = re.findall(r"<td [^>]*>([^<]*)</td>", text)
    assert cells[:2] == ["3 of 3", "1"]
    assert "shown" in text and job.id in text
    assert "3 of 3" in repr(job) and "1 failed" in repr(job)


# -- Exceptions


class Parted(Exception):
    """Pickles, but does not unpickle by itself: its `args` are not its arguments."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


class TwoArguments(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


class Held(Exception):
    """Carries what cannot travel."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Mute(Exception):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise RuntimeError("not even a text")


def test_an_exception_arrives_as_itself(ex: Executor) -> None:
    def work() -> None:
        error = OSError(28, "No space", "/some/file")
        error.add_note("the user's note")
        raise error

    error = ex.submit(work).exception(PATIENCE)
    assert type(error) is OSError and error.errno == 28 and error.filename == "/some/file"
    assert error.args == (28, "No space")
    assert error.__notes__[0] == "the user's note"
    assert re.search(r"task 0 of job \S+, attempt 1, \d+ MB at its peak", error.__notes__[-1])
    assert "in work" in str(error.__cause__) and "raise error" in str(error.__cause__)


def test_chained_causes_arrive(ex: Executor) -> None:
    def work() -> None:
        try:
            try:
                {}["missing"]
            except KeyError as error:
                raise ValueError("second") from error
        except ValueError:
            raise RuntimeError("third")  # noqa: B904  # its context is what is looked at

    error = ex.submit(work).exception(PATIENCE)
    assert isinstance(error, RuntimeError)
    text = str(error.__cause__)
    assert text.index("KeyError: 'missing'") < text.index("ValueError: second") < text.index("RuntimeError: third")
    assert isinstance(error.__context__, ValueError)
    assert isinstance(error.__context__.__cause__, KeyError)


def test_an_explicit_cause_stands_behind_the_remote_traceback(ex: Executor) -> None:
    def work() -> None:
        raise ValueError("second") from LookupError("first")

    error = ex.submit(work).exception(PATIENCE)
    assert error is not None and error.__cause__ is not None
    assert isinstance(error.__cause__.__cause__, LookupError)
    assert error.__cause__.__cause__.args == ("first",)


@pytest.mark.parametrize(
    ("make_error", "attributes"),
    [
        (lambda: TwoArguments(7, "seven"), {"code": 7, "args": ("seven (7)",)}),
        (lambda: Parted(7, detail="seven"), {"code": 7, "detail": "seven", "args": ("7: seven",)}),
        (lambda: subprocess.CalledProcessError(3, ["ls"], b"out"), {"returncode": 3, "cmd": ["ls"]}),
        (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), {"start": 0, "reason": "no"}),
    ],
    ids=["two arguments", "keyword", "CalledProcessError", "UnicodeDecodeError"],
)
def test_exceptions_whose_init_takes_more_arrive(
    ex: Executor, make_error: Callable[[], Exception], attributes: dict[str, Any]
) -> None:
    def work() -> None:
        raise make_error()

    error = ex.submit(work).exception(PATIENCE)
    assert type(error) is type(make_error())
    assert {name: getattr(error, name) for name in attributes} == attributes


def test_an_exception_that_cannot_travel_arrives_as_text(ex: Executor) -> None:
    def work() -> None:
        raise Held("the text of it")

    error = ex.submit(work).exception(PATIENCE)
    assert isinstance(error, RemoteError)
    assert "Held" in str(error) and "the text of it" in str(error) and "task 0" in str(error)
    assert "in work" in str(error.__cause__)


def test_an_exception_without_a_text_arrives_too(ex: Executor) -> None:
    def work() -> None:
        raise Mute

    error = ex.submit(work).exception(PATIENCE)
    assert isinstance(error, RemoteError) and "Mute" in str(error)
    assert ex.submit(abs, -1).result(PATIENCE) == 1


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit("enough")], ids=repr)
def test_leaving_the_interpreter_ends_the_task_and_not_the_worker(ex: Executor, error: BaseException) -> None:
    def work() -> None:
        raise error

    found = ex.submit(work).exception(PATIENCE)
    assert type(found) is SystemExit and found.code == error.code  # type: ignore[attr-defined]
    assert ex.submit(abs, -1).result(PATIENCE) == 1


def test_a_group_of_exceptions_arrives(ex: Executor) -> None:
    def work() -> None:
        raise ExceptionGroup("both", [ValueError(1), ExceptionGroup("inner", [KeyError("k")])])

    error = ex.submit(work).exception(PATIENCE)
    assert isinstance(error, ExceptionGroup)
    assert isinstance(error.exceptions[0], ValueError) and error.exceptions[0].args == (1,)
    assert isinstance(error.exceptions[1], ExceptionGroup)


def test_the_last_lines_printed_are_noted(apart: Executor) -> None:
    def work() -> None:
        for n in range(30):
            print(f"step {n}")
        raise ValueError("bad")

    error = apart.submit(work).exception(PATIENCE)
    assert error is not None
    assert "| step 29" in error.__notes__[-1] and "| step 5\n" not in error.__notes__[-1]


# -- Retries


def test_what_retry_on_names_is_tried_again(ex: Executor, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    view = ex.options(retry_on=(OSError, ZeroDivisionError))
    assert view.submit(fail_first, 2, log, "a", ConnectionError).result(PATIENCE) == "a"
    assert Path(log).read_text().split().count("a") == 3


def test_what_was_not_asked_for_is_not_tried_again(ex: Executor, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    assert isinstance(ex.submit(fail_first, 1, log, "a").exception(PATIENCE), OSError)
    view = ex.options(retry_on=OSError)
    assert isinstance(view.submit(fail_first, 1, log, "b", ValueError).exception(PATIENCE), ValueError)
    assert Path(log).read_text().split() == ["a", "b"]


@pytest.mark.parametrize("retries", [0, 1])
def test_retries_are_bounded(ex: Executor, tmp_path: Path, retries: int) -> None:
    log = str(tmp_path / "log")
    future = ex.options(retry_on=OSError, retries=retries).submit(fail_first, 99, log, "a")
    error = future.exception(PATIENCE)
    assert isinstance(error, OSError) and f"attempt {retries + 1}," in error.__notes__[-1]
    assert Path(log).read_text().split() == ["a"] * (retries + 1)


def test_an_exception_of_the_script_can_be_retried_even_if_it_cannot_travel(ex: Executor, tmp_path: Path) -> None:
    log = str(tmp_path / "log")

    class Odd(Held):
        pass

    def work() -> int:
        count = come(log, "a")
        if count < 3:
            raise Odd("not yet")
        return count

    assert ex.options(retry_on=Odd).submit(work).result(PATIENCE) == 3


@pytest.mark.parametrize("kinds", [OSError(), "OSError", (OSError, 3), int])
def test_retry_on_takes_exception_classes(ex: Executor, kinds: Any) -> None:
    with pytest.raises(ConfigError, match="retry_on"):
        ex.options(retry_on=kinds)


# -- Views


def test_a_view_is_the_same_executor_with_other_options(ex: Executor) -> None:
    view = ex.options(env={"CONTRACT_MODE": "viewed"}, name="named")
    assert isinstance(view, Executor) and view is not ex
    assert view.store is ex.store

    def mode() -> str | None:
        return os.environ.get("CONTRACT_MODE")

    assert view.submit(mode).result(PATIENCE) == "viewed"
    assert ex.submit(mode).result(PATIENCE) is None
    assert view.map(abs, [1]).id.startswith("named-")
    assert not ex.map(abs, [1]).id.startswith("named-")


def test_views_of_views_keep_what_is_not_given(ex: Executor) -> None:
    view = ex.options(env={"CONTRACT_A": "1"}, name="first").options(env={"CONTRACT_B": "2"})
    values = view.submit(lambda: [os.environ.get(f"CONTRACT_{letter}") for letter in "AB"]).result(PATIENCE)
    assert values == ["1", "2"]
    assert view.map(abs, []).id.startswith("first-")


def test_shutting_down_a_view_shuts_down_all(make: Callable[..., Executor]) -> None:
    ex = make()
    ex.options(name="view").shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        ex.submit(abs, 1)


@pytest.mark.parametrize(
    "options",
    [{"retries": -1}, {"memory": 0}, {"memory": "much"}, {"time_limit": -1}, {"env": {"A": 1}}, {"env": {"A=B": "1"}}],
    ids=repr,
)
def test_bad_options_are_refused_at_once(ex: Executor, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ex.options(**options)


def test_a_time_limit_of_a_view_is_its_own(apart: Executor, gate: Gate) -> None:
    view = apart.options(time_limit=0.05)
    stopped, running = view.submit(pass_gate, gate, 1), apart.submit(pass_gate, gate, 2)
    error = stopped.exception(PATIENCE)
    assert isinstance(error, TaskTimeout) and isinstance(error, TimeoutError)
    assert "0.05 s" in str(error) and "time_limit" in str(error)
    gate.open()
    assert running.result(PATIENCE) == 2


# -- Initializers


def test_the_initializer_runs_once_in_each_worker_before_any_task(
    make: Callable[..., Executor], tmp_path: Path
) -> None:
    log = str(tmp_path / "log")

    def begin(path: str, word: str) -> None:
        come(path, os.getpid())
        os.environ["CONTRACT_BEGUN"] = word

    def task(_: object) -> tuple[int, str | None]:
        return os.getpid(), os.environ.get("CONTRACT_BEGUN")

    ex = make(initializer=begin, initargs=(log, "yes"), max_workers=1)
    try:
        found = [*ex.map(task, range(6)), ex.submit(task, 6).result(PATIENCE)]
        assert {word for _, word in found} == {"yes"}
        # One after the other may still be two: an environment of Lambda's is free a moment after it has answered.
        assert sorted(map(int, Path(log).read_text().split())) == sorted({worker for worker, _ in found})
    finally:
        os.environ.pop("CONTRACT_BEGUN", None)


def test_a_failing_initializer_breaks_the_executor(make: Callable[..., Executor]) -> None:
    def begin() -> None:
        raise ValueError("no licence")

    ex = make(initializer=begin)
    futures = [ex.submit(abs, 1)]
    error = futures[0].exception(PATIENCE)
    assert isinstance(error, InitializerError) and isinstance(error, concurrent.futures.BrokenExecutor)
    assert "no licence" in str(error)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        ex.submit(abs, 1)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        ex.map(abs, [1])


def test_a_failing_initializer_ends_what_was_submitted(make_apart: Callable[..., Executor], gate: Gate) -> None:
    def begin() -> None:
        pass_gate(gate)
        raise ValueError("no licence")

    ex = make_apart(initializer=begin, max_workers=1)
    job = ex.map(abs, range(5))
    future = ex.submit(abs, 1)
    gate.open()
    assert isinstance(future.exception(PATIENCE), InitializerError)
    assert [type(each) for each in job.results(return_exceptions=True)] == [InitializerError] * 5


def test_an_initializer_must_be_callable_and_packable(make: Callable[..., Executor]) -> None:
    with pytest.raises(TypeError):
        make(initializer=3)
    with pytest.raises(PackingError, match="lock"):
        make(initializer=print, initargs=(threading.Lock(),))


# -- The end


def test_after_shutdown_nothing_more_is_taken_and_everything_is_still_there(make: Callable[..., Executor]) -> None:
    ex = make()
    job = ex.map(lambda n: np.full(20_000, n), range(3))
    futures = job.futures
    single = ex.submit(lambda: np.arange(100_000))
    ex.shutdown()
    ex.shutdown(wait=False)
    for call in (lambda: ex.submit(abs, 1), lambda: ex.map(abs, [1])):
        with pytest.raises(RuntimeError, match="after shutdown"):
            call()
    assert all(future.done() for future in futures), "shutdown(wait=True) waits"
    assert [int(future.result().sum()) for future in futures] == [0, 20_000, 40_000]
    assert int(single.result().sum()) == 4_999_950_000
    assert len(job.stats) == 3


def test_leaving_the_block_waits(make: Callable[..., Executor]) -> None:
    with make() as ex:
        futures = [ex.submit(pow, 2, n) for n in range(10)]
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [2**n for n in range(10)]


def test_shutdown_may_cancel_what_waits(make_apart: Callable[..., Executor], gate: Gate) -> None:
    ex = make_apart(max_workers=1)
    running = ex.submit(pass_gate, gate, "a")
    gate.wait_for(1)
    waiting = [ex.submit(abs, n) for n in range(20)]
    ex.shutdown(wait=False, cancel_futures=True)
    gate.open()
    assert running.result(PATIENCE) == "a"
    concurrent.futures.wait(waiting, PATIENCE)
    assert all(future.cancelled() for future in waiting[2:])


def test_a_job_may_be_asked_while_its_executor_ends(make_apart: Callable[..., Executor]) -> None:
    for _ in range(5):
        ex = make_apart(max_workers=1)
        job = ex.map(abs, range(3))
        assert job.results() == [0, 1, 2]
        ending = threading.Thread(target=ex.shutdown)
        ending.start()
        while ending.is_alive():
            job.cancel()
        ending.join()


def test_leaving_the_block_by_an_exception_stops_what_runs(gate: Gate, make_apart: Callable[..., Executor]) -> None:
    with pytest.raises(LookupError), make_apart(max_workers=1) as ex:
        futures = [ex.submit(pass_gate, gate, n) for n in range(4)]
        gate.wait_for(1)
        raise LookupError
    assert all(future.cancelled() or future.exception(PATIENCE) is not None for future in futures[1:])
    assert all(future.done() for future in futures)


def test_nothing_is_left_on_the_disk(make: Callable[..., Executor]) -> None:
    ex = make()
    assert list(ex.map(len, [bytes(100_000)] * 3)) == [100_000] * 3
    folder = Path(ex._assembly.scratch.path)
    assert folder.exists()
    ex.shutdown()
    assert not folder.exists()


# -- Scripts


@pytest.mark.parametrize("backend", HERE)
def test_classes_of_a_script_come_back_as_themselves(backend: str, tmp_path: Path) -> None:
    made = run_script(
        tmp_path,
        """
        import dataclasses, enum, sys, typing
        from pywren_ng import Executor

        class Point:
            made = 0
            def __init__(self, x):
                self.x = x
            def double(self):
                return Point(2 * self.x)

        @dataclasses.dataclass(frozen=True)
        class Row:
            name: str
            at: Point

        class Colour(enum.Enum):
            RED = 1

        class Pair(typing.NamedTuple):
            one: int
            two: Colour

        class Mine(Exception):
            def __init__(self, code, text):
                super().__init__(text)
                self.code = code

        def fail():
            raise Mine(3, "mine")

        with Executor(sys.argv[1]) as ex:
            point = ex.submit(Point(4).double).result()
            row = ex.submit(Row, "a", point).result()
            pair = next(ex.map(Pair, [1], [Colour.RED]))
            try:
                ex.submit(fail).result()
            except Mine as error:
                print(error.code, type(error) is Mine)
            print(type(point) is Point, point.x, isinstance(row, Row), type(row.at) is Point)
            print(type(pair) is Pair, pair.two is Colour.RED, row == Row("a", row.at))
        """,
        backend,
    )
    assert made.split("\n") == ["3 True", "True 8 True True", "True True True", ""]


def open_descriptors() -> int:
    """Counted one by one: there is not everywhere a folder of them."""

    def is_open(number: int) -> bool:
        try:
            os.fstat(number)
        except OSError:
            return False
        return True

    return sum(map(is_open, range(4096)))


def test_many_kept_results_do_not_use_up_the_descriptors() -> None:
    with Executor("local", max_workers=2) as ex:
        before = open_descriptors()
        kept = ex.map(lambda n: np.full(600_000, n % 256, dtype=np.uint8), range(400)).results()
        held = open_descriptors() - before
    assert [int(each[-1]) for each in kept] == [n % 256 for n in range(400)]
    assert held < 300
