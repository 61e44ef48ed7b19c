"""The mistakes of a first hour, and what is said to each: the whole text, as a newcomer reads it.

Every text says what happened, to what, and what to do next; a job's name and a worker's number stand here as …
"""

import os
import re
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import pytest
from scene import PATIENCE

import pywren_ng.joblib  # noqa: F401  # it tells joblib the backend's name
from pywren_ng import ConfigError, Executor, PackingError, TaskOutOfMemory


@pytest.fixture(scope="module")
def ex() -> Iterator[Executor]:
    with Executor("local", max_workers=2) as made:
        yield made


def plain(text: str) -> str:
    """Without what is different each time."""
    return re.sub(r"worker \d+", "worker …", re.sub(r"job local-\w+-\d+", "job …", text))


def told(error: BaseException | None) -> tuple[str, str]:
    """The text of an error, and its notes."""
    return plain(str(error)), plain("\n".join(getattr(error, "__notes__", [])))


def said(ex: Executor, fn: Callable[..., object], *args: object) -> tuple[str, str]:
    """What is said to a task that cannot be, or fails."""
    return told(ex.submit(fn, *args).exception(timeout=PATIENCE))


# -- What cannot travel


def test_an_open_file_in_a_closure(ex: Executor, tmp_path: Path) -> None:
    log = open(tmp_path / "log.txt", "w")

    def train(x: int) -> int:
        log.write(f"{x}\n")
        return x

    with log, pytest.raises(PackingError) as caught:
        list(ex.map(train, range(3)))
    assert told(caught.value)[0] == (
        "the function test_an_open_file_in_a_closure.<locals>.train cannot be pickled: its closure variable 'log' is "
        f"an _io.TextIOWrapper (an open file, '{tmp_path}/log.txt'). Pass its path and open it inside the function."
    )


def test_a_lock_in_a_closure(ex: Executor) -> None:
    lock = threading.Lock()

    def count(x: int) -> int:
        with lock:
            return x

    assert said(ex, count, 1)[0] == (
        "the function test_a_lock_in_a_closure.<locals>.count cannot be pickled: its closure variable 'lock' is a "
        "_thread.lock. Create it inside the function."
    )


def test_the_executor_in_a_closure(ex: Executor) -> None:
    assert said(ex, lambda x: ex.submit(abs, x).result(), 1)[0] == (
        "the function test_the_executor_in_a_closure.<locals>.<lambda> cannot be pickled: its closure variable 'ex' is "
        "a pywren_ng.executor.Executor (an executor). Make another inside the function."
    )


def test_a_job_or_a_future_instead_of_its_results(ex: Executor) -> None:
    assert said(ex, sum, ex.map(abs, range(3)))[0] == (
        "argument 0 cannot be pickled: it is a pywren_ng.job.Job (it belongs to its executor). Send its "
        "results() instead."
    )
    assert said(ex, abs, ex.submit(abs, -1))[0] == (
        "argument 0 cannot be pickled: it is a pywren_ng.futures.TaskFuture. Send its result() instead."
    )


def test_a_generator_as_result(ex: Executor) -> None:
    def lines(x: int) -> Iterator[int]:
        yield x

    error = ex.submit(lines, 1).exception(timeout=PATIENCE)
    assert isinstance(error, PackingError)
    assert told(error)[0] == (
        "task 0 of job …: the result cannot be pickled: it is a generator. It can be run only once and only in this "
        "process. Return list(...) of it instead."
    )


def test_an_open_file_as_result(ex: Executor) -> None:
    assert said(ex, open, os.devnull)[0] == (
        "task 0 of job …: the result cannot be pickled: it is an _io.TextIOWrapper (an open file, '/dev/null'). Return "
        "what it was made from, or what was got from it, instead."
    )


# -- What the worker lacks


def test_a_module_that_the_worker_lacks(ex: Executor) -> None:
    def train(x: int) -> Any:
        import no_such_library.models

        return no_such_library.models.fit(x)

    text, notes = said(ex, train, 1)
    assert text == "No module named 'no_such_library'"
    assert notes.splitlines()[-1] == (
        "'no_such_library' is installed neither in the worker nor here: install it, or give it to the workers, by its "
        "name on PyPI: Executor(…, requirements=['no_such_library'])"
    )


def test_a_task_that_needs_more_memory_than_there_is(ex: Executor) -> None:
    def grow() -> list[bytearray]:
        return [bytearray(10_000_000) for _ in range(100)]

    error = ex.options(memory=300).submit(grow).exception(timeout=PATIENCE)
    assert isinstance(error, TaskOutOfMemory) and isinstance(error, MemoryError)
    assert re.fullmatch(
        r"task 0 of job …: it needed more than its memory of 300 MB \(\d+ MB were resident at the peak, and the next "
        r"allocation failed\); give it more with options\(memory=600\), or give it less to do at a time",
        told(error)[0],
    )


def test_a_function_that_returns_2_gb_to_a_worker_that_has_less(ex: Executor) -> None:
    error = ex.options(memory=400).submit(bytes, 2_000_000_000).exception(timeout=PATIENCE)
    assert isinstance(error, TaskOutOfMemory)
    assert re.fullmatch(
        r"task 0 of job …: it needed more than its memory of 400 MB \(\d+ MB were resident at the peak, and the next "
        r"allocation failed\); give it more with options\(memory=800\), or give it less to do at a time",
        told(error)[0],
    )


def test_a_result_for_which_the_store_has_no_room(ex: Executor) -> None:
    """As 2 GB on a small disk: here a file may be no larger than 1 MB."""

    def much() -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return bytes(20_000_000)

    with Executor("local", max_workers=1, retries=0) as own:
        text = said(own, much)[0]
    assert re.fullmatch(
        r"task 0 of job …: packing its result: the store file:///\S+ could not write 'jobs/\S+' \(20,000,000 bytes\): "
        r"File too large\. One file may not hold that much here: raise the limit \(ulimit -f\), or store smaller "
        r"pieces\.",
        text,
    )


# -- What is no mistake, but looks like one


def test_a_function_that_prints_a_lot(ex: Executor) -> None:
    def chatter(x: int) -> float:
        for number in range(20_000):
            print("line", number)
        return 1 / x

    job = ex.map(chatter, [1, 0])
    assert job.results(return_exceptions=True)[0] == 1.0
    kept = job.logs(0)
    assert re.match(r"\[\d+ bytes before this were dropped\]\n", kept)
    assert kept.endswith("line 19998\nline 19999\n") and len(kept) < 70_000
    notes = told(job.futures[1].exception())[1]
    first, *rest = notes.splitlines()
    assert re.fullmatch(r"task 1 of job …, attempt 1, \d+ MB at its peak, worker …; it printed last:", first)
    assert rest == [f"  | line {number}" for number in range(19_990, 20_000)]


def test_all_workers_are_minus_one_for_joblib_and_nothing_for_an_executor(ex: Executor) -> None:
    with joblib.parallel_config(backend="pywren_ng", executor=ex):
        assert joblib.effective_n_jobs(-1) == 2
        assert joblib.Parallel(n_jobs=-1)(joblib.delayed(abs)(-number) for number in range(5)) == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError) as caught:
        Executor(max_workers=-1)
    assert str(caught.value) == (
        "max_workers=-1 (argument) cannot be used: max_workers must be greater than 0: a whole number, 1 or more. "
        "Correct it, or take it out for the default."
    )
    with pytest.raises(ConfigError) as caught:
        Executor(4)  # type: ignore[arg-type]
    assert str(caught.value) == "the first argument is the backend's name; for 4 workers write max_workers=4"


def test_an_executor_used_after_its_with() -> None:
    with Executor("local", max_workers=1) as ex:
        job = ex.map(abs, range(-3, 0))
    assert job.results() == [3, 2, 1]  # what was submitted within is done
    for use in (lambda: ex.submit(abs, -1), lambda: ex.map(abs, [-1])):
        with pytest.raises(RuntimeError) as caught:
            use()
        assert str(caught.value) == (
            "cannot schedule new futures after shutdown: make a new Executor, or submit inside its `with`"
        )


def test_a_call_instead_of_a_function(ex: Executor) -> None:
    with pytest.raises(TypeError) as caught:
        ex.map(abs(-1), range(3))  # type: ignore[call-overload]
    assert str(caught.value) == "map takes a callable first, not int"
