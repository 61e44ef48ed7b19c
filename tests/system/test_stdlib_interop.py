"""Whatever takes the standard library's executor takes ours: `concurrent.futures`, asyncio, dask, tqdm."""

import asyncio
import concurrent.futures
import contextlib
import io
import itertools
import os
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scene import PATIENCE, Gate, pass_gate, run
from tqdm import tqdm

from pywren_ng import Executor


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor("local", max_workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def other() -> Iterator[Executor]:
    with Executor("local", max_workers=1) as made:
        yield made


# -- The classes


def test_it_is_an_executor_and_gives_futures(executor: Executor) -> None:
    future = executor.submit(pow, 2, 8)
    assert isinstance(executor, concurrent.futures.Executor)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=PATIENCE) == 256


def test_every_keyword_of_submit_is_the_functions(executor: Executor) -> None:
    given = {"fn": 1, "self": 2, "timeout": 3, "memory": 4, "retries": 5}
    assert executor.submit(dict, **given).result(timeout=PATIENCE) == given


# -- wait and as_completed over two executors


def test_wait_for_the_first_of_two_executors(executor: Executor, other: Executor, gate: Gate) -> None:
    slow = executor.submit(pass_gate, gate.paths, "slow")
    quick = other.submit(pow, 2, 3)
    done, pending = concurrent.futures.wait(
        [slow, quick], timeout=PATIENCE, return_when=concurrent.futures.FIRST_COMPLETED
    )
    assert (done, pending) == ({quick}, {slow})
    gate.let_go()
    done, pending = concurrent.futures.wait([slow, quick], timeout=PATIENCE)
    assert (done, pending) == ({slow, quick}, set())
    assert (slow.result(), quick.result()) == ("slow", 8)


def test_wait_for_the_first_exception(executor: Executor, other: Executor, gate: Gate) -> None:
    slow = executor.submit(pass_gate, gate.paths)
    bad = other.submit(divmod, 1, 0)
    done, pending = concurrent.futures.wait(
        [slow, bad], timeout=PATIENCE, return_when=concurrent.futures.FIRST_EXCEPTION
    )
    assert (done, pending) == ({bad}, {slow})
    assert isinstance(bad.exception(), ZeroDivisionError)


def test_as_completed_over_two_executors(executor: Executor, other: Executor, gate: Gate) -> None:
    slow = executor.submit(pass_gate, gate.paths)
    quick = other.submit(abs, -1)
    finished = concurrent.futures.as_completed([slow, quick], timeout=PATIENCE)
    assert next(finished) is quick
    gate.let_go()
    assert next(finished) is slow
    assert next(finished, None) is None


def test_as_completed_over_many(executor: Executor, other: Executor) -> None:
    futures = [each.submit(pow, number, 2) for number in range(50) for each in (executor, other)]
    results = [future.result() for future in concurrent.futures.as_completed(futures, timeout=PATIENCE)]
    assert sorted(results) == sorted(number**2 for number in range(50) for _ in range(2))


# -- asyncio


def test_asyncio_wraps_a_future(executor: Executor) -> None:
    async def main() -> list[object]:
        futures = [asyncio.wrap_future(executor.submit(divmod, 7, by)) for by in (2, 0)]
        return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), PATIENCE)

    result, error = asyncio.run(main())
    assert result == (3, 1)
    assert isinstance(error, ZeroDivisionError)


def test_cancelling_asyncios_future_cancels_the_task(other: Executor, gate: Gate) -> None:
    running = other.submit(pass_gate, gate.paths)
    gate.wait_for_task()
    queued = [other.submit(abs, -1) for _ in range(20)]

    async def main() -> None:
        wrapped = asyncio.wrap_future(queued[-1])
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    asyncio.run(main())
    assert queued[-1].cancelled()
    gate.let_go()
    assert running.result(timeout=PATIENCE) is None
    assert [future.result(timeout=PATIENCE) for future in queued[:-1]] == [1] * 19


def test_an_event_loop_runs_in_it(executor: Executor) -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        calls = (loop.run_in_executor(executor, pow, number, 2) for number in range(10))
        return await asyncio.wait_for(asyncio.gather(*calls), PATIENCE)

    assert asyncio.run(main()) == [number**2 for number in range(10)]


def test_async_for_over_a_job_is_in_input_order_and_forgets(executor: Executor) -> None:
    async def main() -> list[int]:
        return [number async for number in job]

    job = executor.map(pow, range(30), [2] * 30, chunksize=4)
    assert asyncio.run(main()) == [number**2 for number in range(30)]
    with pytest.raises(LookupError, match="handed out by the iteration"):
        job.futures[0].result(timeout=PATIENCE)


def test_async_for_reads_its_input_as_results_are_taken(executor: Executor) -> None:
    taken = itertools.count()

    async def main() -> list[int]:
        found = []
        async for number in job:
            found.append(number)
            if len(found) == 3:
                return found
        return found

    job = executor.map(abs, taken, buffersize=2)
    assert asyncio.run(main()) == [0, 1, 2]
    assert next(taken) <= 8
    job.cancel()


def test_async_for_raises_the_tasks_error_and_ends(executor: Executor) -> None:
    async def main() -> None:
        job = executor.map(divmod, [1, 1, 1], [1, 0, 1])
        assert await anext(job) == (1, 0)
        with pytest.raises(ZeroDivisionError):
            await anext(job)
        assert [number async for number in job] == []

    asyncio.run(main())


def test_async_for_holds_up_no_loop_and_who_stops_waiting_cancels_no_task(executor: Executor, gate: Gate) -> None:
    async def main() -> object:
        job = executor.map(pass_gate, [gate.paths], ["through"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):  # the loop goes on meanwhile
                await anext(job)
        gate.let_go()
        return await asyncio.wait_for(anext(job), PATIENCE)

    assert asyncio.run(main()) == "through"


def test_async_for_keeps_to_the_timeout_of_its_map(executor: Executor, gate: Gate) -> None:
    async def main() -> None:
        job = executor.map(pass_gate, [gate.paths] * 20, timeout=0.05)
        with pytest.raises(TimeoutError):
            await anext(job)
        gate.let_go(20)
        assert [number async for number in job] == []

    asyncio.run(main())


def test_async_for_over_what_is_completed(executor: Executor, gate: Gate) -> None:
    async def main() -> list[object]:
        job = executor.map(_wait_if_first, [gate.paths] * 3, range(3))
        found = []
        async for future in job.as_completed(PATIENCE):
            assert future.done()
            found.append(future.result())
            if len(found) == 2:
                gate.let_go()
        return found

    assert asyncio.run(main())[-1] == 0


def _wait_if_first(paths: tuple[str, str], number: int) -> int:
    return pass_gate(paths, number) if number == 0 else number  # type: ignore[return-value]


def test_completed_in_time_or_not_at_all(executor: Executor, gate: Gate) -> None:
    async def main() -> None:
        job = executor.map(pass_gate, [gate.paths])
        with pytest.raises(TimeoutError, match=r"1 \(of 1\) futures unfinished"):
            await anext(job.as_completed(0.05))

    asyncio.run(main())
    gate.let_go()


# -- dask and tqdm


class QuietBar(tqdm):  # type: ignore[type-arg]
    """Without its thread, which would outlive the test."""

    monitor_interval = 0


def test_dask_computes_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # dask counts processors with psutil, which needs /proc; here and in the workers it must do without.
    (tmp_path / "psutil.py").write_text("raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "psutil", raising=False)
    paths = filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    import dask

    process = dask.delayed(os.getpid)
    squares = [dask.delayed(pow)(number, 2) for number in range(20)]
    with Executor("local", max_workers=2) as executor:
        total, here = dask.compute(dask.delayed(sum)(squares), process(), scheduler=executor)
    assert total == sum(number**2 for number in range(20))
    assert here != os.getpid()


def test_tqdm_knows_the_total(executor: Executor) -> None:
    bar = QuietBar(executor.map(pow, range(10), [2] * 10), file=io.StringIO())
    assert bar.total == 10
    assert list(bar) == [number**2 for number in range(10)]
    assert bar.n == 10


def test_tqdm_takes_a_map_without_an_end(executor: Executor) -> None:
    job = executor.map(abs, itertools.count(), buffersize=4)
    bar = QuietBar(job, file=io.StringIO())
    assert bar.total is None
    assert list(itertools.islice(bar, 3)) == [0, 1, 2]
    bar.close()
    job.cancel()


# -- Callbacks


def test_a_callback_may_submit_and_wait(executor: Executor) -> None:
    answers: queue.Queue[object] = queue.Queue()

    def more(future: concurrent.futures.Future[int]) -> None:
        answers.put(executor.submit(pow, future.result(), 2).result(timeout=PATIENCE))

    for number in range(8):
        executor.submit(abs, -number).add_done_callback(more)
    got = {answers.get(timeout=PATIENCE) for _ in range(8)}
    assert got == {number**2 for number in range(8)}


def test_a_callback_within_a_callback_may_wait_too(executor: Executor) -> None:
    answers: queue.Queue[object] = queue.Queue()

    def first(future: concurrent.futures.Future[int]) -> None:
        inner = executor.submit(abs, future.result() - 10)
        inner.add_done_callback(second)
        answers.put(inner.result(timeout=PATIENCE))

    def second(future: concurrent.futures.Future[int]) -> None:
        answers.put(list(executor.map(pow, [future.result()] * 3, range(3))))

    executor.submit(abs, -1).add_done_callback(first)
    got = [answers.get(timeout=PATIENCE) for _ in range(2)]
    assert sorted(got, key=repr) == [9, [1, 9, 81]]


# -- Exceptions


def fail_with_a_cause() -> None:
    try:
        {}["inner"]
    except KeyError as error:
        outer = ValueError("outer", 2)
        outer.add_note("seen on the way")
        raise outer from error  # this line


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and whatever it came from, by either link."""
    waiting = [error]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += [link for link in (each.__cause__, each.__context__) if link is not None]


def test_an_exception_keeps_its_arguments_notes_and_cause(executor: Executor) -> None:
    error = executor.submit(fail_with_a_cause).exception(timeout=PATIENCE)
    assert type(error) is ValueError
    assert error.args == ("outer", 2)
    assert "seen on the way" in error.__notes__
    assert any(type(each) is KeyError and each.args == ("inner",) for each in chain(error))
    assert "raise outer from error  # this line" in "".join(traceback.format_exception(error))


# -- Cancelling


def test_what_runs_cannot_be_cancelled(other: Executor, gate: Gate) -> None:
    future = other.submit(pass_gate, gate.paths, "ended")
    gate.wait_for_task()
    assert not future.cancel()
    assert not future.cancelled()
    gate.let_go()
    assert future.result(timeout=PATIENCE) == "ended"
    assert not future.cancel()


def test_what_is_queued_can_be_cancelled_and_never_runs(gate: Gate, tmp_path: Path) -> None:
    def leave_mark(number: int) -> None:
        (tmp_path / f"ran{number}").touch()

    told: list[Any] = []
    with Executor("local", max_workers=1) as single:
        # Known to be quick, so that those that follow are sent ahead, into the worker's pipe.
        assert list(single.map(leave_mark, range(100, 150))) == [None] * 50
        running = single.submit(pass_gate, gate.paths)
        gate.wait_for_task()
        queued = [single.submit(leave_mark, number) for number in range(20)]
        queued += single.map(leave_mark, range(20, 40)).futures
        queued[-1].add_done_callback(told.append)
        cancelled = [future.cancel() for future in queued[1::2]]
        gate.let_go()
        assert concurrent.futures.wait([running, *queued], timeout=PATIENCE).not_done == set()
    assert all(cancelled)
    assert [future.cancelled() for future in queued] == [False, True] * 20
    assert told == [queued[-1]]
    with pytest.raises(concurrent.futures.CancelledError):
        queued[-1].result(timeout=PATIENCE)
    assert [(tmp_path / f"ran{number}").exists() for number in range(40)] == [True, False] * 20


# -- The interpreter's end


@pytest.mark.parametrize("last_line", ["", "executor.shutdown(wait=False)"])
def test_the_interpreter_waits_for_what_was_submitted(tmp_path: Path, last_line: str) -> None:
    script = f"""
from pathlib import Path
from pywren_ng import Executor
executor = Executor("local", max_workers=1)
executor.submit(Path("ran").write_text, "to the end")
{last_line}
"""
    ended = run([sys.executable, "-c", script], tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "ran").read_text() == "to the end"


def test_the_interpreter_waits_for_retries_and_callbacks(tmp_path: Path) -> None:
    # While it ends, some versions start no threads, and none imports all of concurrent.futures any more.
    script = """
import os
from pathlib import Path
from pywren_ng import Executor

def die_once():
    if not Path("died").exists():
        Path("died").touch()
        os.abort()
    return "lived"

executor = Executor("local", max_workers=1)
executor.submit(die_once).add_done_callback(lambda future: print(future.result()))
executor.submit(os.abort).add_done_callback(lambda future: print(type(future.exception()).__name__))
"""
    ended = run([sys.executable, "-W", "error", "-c", script], tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(ended.stdout.split()) == ["WorkerLost", "lived"]


def test_shutdown_waits_for_callbacks_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    ended, step = threading.Event(), threading.Event()

    def callback(future: concurrent.futures.Future[object]) -> None:
        with contextlib.suppress(RuntimeError):
            while True:  # until the shutdown has begun
                made.submit(abs, -1)
                step.wait(0.1)
        step.wait(0.1)
        ended.set()

    made = Executor("local", max_workers=1)
    made.submit(abs, -1).add_done_callback(callback)
    made.shutdown(wait=True)
    assert ended.is_set()
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match="cannot schedule new futures"):
        made.submit(abs, -1)
