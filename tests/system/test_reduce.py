"""A map that is reduced where its results lie: what waits for what, who dies, what is left."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scene import PATIENCE, Gate, Lifeline, hang, hold, lines, note, pass_gate, until

from pywren_ng import Executor, PackingError, SignatureError, TaskTimeout, WorkerLost
from pywren_runtime.results import Landed
from pywren_runtime.wire import Signer, notice_key


def first_time(path: str) -> bool:
    """Whether nobody has asked before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def noting(path: str) -> Callable[[int], int]:
    """A function of a map that writes down what it is given."""

    def noted(number: int) -> int:
        note(path, number)
        return number

    return noted


def left(ex: Executor) -> list[str]:
    """What lies in the store but blobs."""
    return [key for key, _ in ex.store.keys("jobs/")]


@pytest.fixture(scope="module")
def four() -> Iterator[Executor]:
    with Executor("local", max_workers=4) as executor:
        yield executor
        executor._assembly.close(kill=True)  # what a failed test leaves behind would hold up the end


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


# -- What comes out


def test_large_results_are_right_and_neither_the_client_nor_the_store_keeps_them(
    four: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = Counter[str]()
    store = four.store
    for name in ("get", "get_range", "local_path"):
        own = getattr(store, name)
        monkeypatch.setattr(store, name, lambda key, *more, own=own: (fetched.update([key]), own(key, *more))[1])

    def make(number: int) -> dict[str, Any]:
        return {"name": [str(number)] * 10_000, "array": np.full(100_000, number, np.int64)}

    def total(results: Iterator[dict[str, Any]]) -> tuple[int, list[str]]:
        sums, names = 0, []
        for result in results:
            result["array"] += 1  # it is the reducer's own
            sums += int(result["array"].sum())
            names.append(result["name"][-1])
        return sums, names

    future = four.map_reduce(make, range(20), total)
    assert future.result(PATIENCE) == ((190 + 20) * 100_000, [str(number) for number in range(20)])
    assert not any("/results/" in key for key in fetched), fetched
    assert until(lambda: not left(four)), left(four)


def test_the_reducer_holds_a_few_results_and_never_all(four: Executor) -> None:
    def peak(results: Iterator[np.ndarray]) -> tuple[int, int]:
        import resource

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        total = sum(int(result[0]) for result in results)
        return total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024

    total, grown = four.map_reduce(lambda number: np.full(1_000_000, number), range(40), peak).result(PATIENCE)
    assert total == sum(range(40))
    assert grown < 100, f"{grown} MB more for 320 MB of results, of which 32 may be read ahead"


def test_a_tree_of_any_size_and_the_results_of_its_nodes_stay_in_the_store(four: Executor) -> None:
    for total in (0, 1, 2, 5, 9):
        assert four.map_reduce(abs, range(total), list).result(PATIENCE) == list(range(total))
        assert four.map_reduce(abs, range(total), sum, fan_in=2).result(PATIENCE) == sum(range(total))
    flat = four.map_reduce(str, range(9), "".join, fan_in=3)
    assert flat.result(PATIENCE) == "012345678"
    assert until(lambda: not left(four))


def test_options_hold_for_the_reducer_too(four: Executor) -> None:
    view = four.options(env={"MODE": "reduced"}, time_limit=0.3)
    assert view.map_reduce(abs, [1], lambda results: os.environ["MODE"]).result(PATIENCE) == "reduced"
    with pytest.raises(TaskTimeout, match=r"time limit of 0\.3 s"):
        view.map_reduce(abs, [1], lambda results: time.sleep(60)).result(PATIENCE)


def test_more_than_was_asked_for_is_not_waited_for(four: Executor, lifeline: Lifeline) -> None:
    path = lifeline.path

    def reduce(results: Iterator[int]) -> int:
        hold(path)
        return next(results)

    assert four.map_reduce(lambda number: hang(path) if number == 3 else number, range(4), reduce).result(PATIENCE) == 0
    lifeline.wait_for_holders(1)
    assert until(lambda: not left(four))


# -- Who waits for whom


def test_results_are_reduced_as_they_land_and_in_order(four: Executor, gate: Gate, log: str, tmp_path: Path) -> None:
    """The last but one lands last: the reducer has seen all before by then, and the last only after it."""
    other = Gate(tmp_path)
    paths = {3: gate.paths, 2: other.paths}

    def gated(number: int) -> int:
        return pass_gate(paths[number], number) if number in paths else number

    def seen(results: Iterator[int]) -> list[int]:
        return [int(note(log, result)) for result in results]

    future = four.map_reduce(gated, range(4), seen)
    assert until(lambda: lines(log) == ["0", "1"])
    gate.let_go()
    other.wait_for_task()
    assert lines(log) == ["0", "1"] and not future.done()
    other.let_go()
    assert future.result(PATIENCE) == [0, 1, 2, 3]
    assert until(lambda: not left(four)), left(four)


def test_one_worker_is_enough_also_when_it_dies(tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")

    def work(number: int) -> int:
        if number == 2 and first_time(flag):
            die()
        return number

    with Executor("local", max_workers=1) as ex:
        assert ex.map_reduce(work, range(4), list).result(PATIENCE) == [0, 1, 2, 3]
        assert os.path.exists(flag)


def test_a_reducer_gives_way_to_a_map_that_died_after_it_began(gate: Gate, log: str, tmp_path: Path) -> None:
    """Two workers: the reducer has one, a map the other. That one dies, and somebody else takes its place."""
    elsewhere, flag = Gate(tmp_path), str(tmp_path / "flag")
    paths = gate.paths

    def work(number: int) -> int:
        note(f"{log}.maps", number)
        if number == 1 and first_time(flag):
            pass_gate(paths)
            die()
        return number

    def reduce(results: Iterator[int]) -> list[int]:
        note(log, "began")
        return list(results)

    with Executor("local", max_workers=2) as ex:
        future = ex.map_reduce(work, range(2), reduce)
        assert until(lambda: lines(log) == ["began"])
        blocker = ex.submit(pass_gate, elsewhere.paths)
        gate.let_go()
        assert future.result(PATIENCE) == [0, 1]
        elsewhere.wait_for_task()
        assert not blocker.done()
        assert lines(log) == ["began", "began"], "the reducer was stopped once, and only once"
        assert sorted(lines(f"{log}.maps")) == ["0", "1", "1"]
        elsewhere.let_go()


def test_a_reducer_that_waits_for_half_its_time_limit_begins_anew_when_all_is_there(log: str) -> None:
    def reduce(results: Iterator[int]) -> list[int]:
        note(log, "began")
        return list(results)

    def work(number: int) -> int:
        if number:
            time.sleep(1.6)
        return number

    with Executor("local", max_workers=2, time_limit=2.0) as ex:
        assert ex.map_reduce(work, range(2), reduce).result(PATIENCE) == [0, 1]
        assert lines(log) == ["began", "began"]


def test_reducers_that_wait_for_their_maps_do_not_hold_them_up(tmp_path: Path) -> None:
    """Three at a time on two workers, and half of all maps die once."""

    def reduced(ex: Executor, which: int) -> Future[int]:
        folder = str(tmp_path)

        def work(number: int) -> int:
            time.sleep(0.005 * number)
            if number % 2 and first_time(f"{folder}/{which}-{number}"):
                die()
            return number

        return ex.map_reduce(work, range(6), sum)

    with Executor("local", max_workers=2) as ex:
        futures = [reduced(ex, which) for which in range(3)]
        assert [future.result(PATIENCE) for future in futures] == [15] * 3
    assert len(os.listdir(tmp_path)) == 9, "deaths"


# -- Who dies, and what fails


def test_a_reducer_that_is_lost_is_tried_again_and_no_map_runs_twice(four: Executor, log: str, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")

    def reduce(results: Iterator[int]) -> list[int]:
        found = [next(results), next(results)]
        if first_time(flag):
            die()
        return [*found, *results]

    assert four.map_reduce(noting(log), range(8), reduce).result(PATIENCE) == list(range(8))
    assert sorted(lines(log)) == sorted(map(str, range(8))) and os.path.exists(flag)


def test_a_node_of_a_tree_that_is_lost_is_tried_again(four: Executor, log: str, tmp_path: Path) -> None:
    flag = str(tmp_path / "flag")

    def reduce(results: Iterator[int]) -> int:
        found = sum(results)
        if found > 20 and first_time(flag):  # on the second level
            die()
        return found

    assert four.map_reduce(noting(log), range(8), reduce, fan_in=2).result(PATIENCE) == 28
    assert len(lines(log)) == 8 and os.path.exists(flag)


def test_one_that_is_lost_again_and_again_is_given_up(four: Executor) -> None:
    with pytest.raises(WorkerLost, match="SIGKILL"):
        four.options(retries=1).map_reduce(abs, [1], lambda results: die()).result(PATIENCE)
    assert until(lambda: not left(four))


def test_a_failing_map_fails_it_with_its_own_error_and_stops_the_rest(
    four: Executor, gate: Gate, lifeline: Lifeline
) -> None:
    path, paths = lifeline.path, gate.paths

    def work(number: int) -> float:
        if number == 1:
            hang(path)
        return 1 / pass_gate(paths, 0) if number == 2 else number

    def reduce(results: Iterator[float]) -> float:
        hold(path)
        return sum(results)

    future = four.map_reduce(work, range(4), reduce)
    lifeline.wait_for_holders(2)  # a task and the reducer, which has begun: half of the results are there
    gate.let_go()
    with pytest.raises(ZeroDivisionError) as caught:
        future.result(PATIENCE)
    assert "in work" in str(caught.value.__cause__) and "task 2 of job" in caught.value.__notes__[0]
    lifeline.wait_for_death()
    assert until(lambda: not left(four))


def test_the_reducers_own_error_arrives_with_its_traceback(four: Executor) -> None:
    def reduce(results: Iterator[int]) -> float:
        return sum(results) / 0

    with pytest.raises(ZeroDivisionError) as caught:
        four.map_reduce(abs, range(3), reduce).result(PATIENCE)
    assert "in reduce" in str(caught.value.__cause__)
    assert until(lambda: not left(four))


def test_what_cannot_travel_is_named_before_anything_is_sent(four: Executor, log: str) -> None:
    lock = open(os.devnull)
    future = four.map_reduce(noting(log), range(3), lambda results: lock)
    with pytest.raises(PackingError, match="closure variable 'lock'"):
        future.result(PATIENCE)
    with pytest.raises(PackingError, match="closure variable 'lock'"):
        four.map_reduce(lambda number: lock, range(3), sum).result(PATIENCE)
    with pytest.raises(PackingError, match="generator"):
        four.map_reduce(abs, range(3), lambda results: (result for result in results)).result(PATIENCE)
    assert lines(log) == []
    lock.close()


def test_what_has_no_meaning_is_refused_at_once(four: Executor) -> None:
    with pytest.raises(TypeError, match="map_reduce takes a function that reduces, not list"):
        four.map_reduce(abs, range(3), [])  # type: ignore[arg-type]
    for fan_in in (0, 1, -2, 2.5):
        with pytest.raises(ValueError, match="at least 2"):
            four.map_reduce(abs, range(3), sum, fan_in=fan_in)  # type: ignore[arg-type]

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the input")

    with pytest.raises(OSError, match="the input"):
        four.map_reduce(abs, broken(), sum)
    assert until(lambda: not left(four))
    ex = Executor("local", max_workers=1)
    ex.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        ex.map_reduce(abs, range(3), sum)


# -- How it ends


@pytest.mark.parametrize("where", ["map", "reducer"])
def test_cancelling_works_until_it_is_done_and_stops_what_runs(four: Executor, lifeline: Lifeline, where: str) -> None:
    path = lifeline.path
    work = (lambda number: hang(path)) if where == "map" else abs
    future = four.map_reduce(work, range(3), lambda results: hang(path) if where == "reducer" else list(results))
    lifeline.wait_for_holders(1)
    assert future.cancel() and future.cancelled()
    assert wait([future], PATIENCE).done, "whoever waits for it is told"
    with pytest.raises(CancelledError):
        future.result(0)
    lifeline.wait_for_death()
    assert until(lambda: not left(four))
    assert four.map_reduce(abs, range(3), sum).result(PATIENCE) == 3


def test_a_with_that_ends_waits_for_it_and_one_that_breaks_stops_it(lifeline: Lifeline) -> None:
    path = lifeline.path
    with Executor("local", max_workers=2) as ex:
        done = ex.map_reduce(abs, range(5), sum, fan_in=2)
    assert done.done() and done.result(0) == 10
    with pytest.raises(KeyError), Executor("local", max_workers=2) as ex:
        future = ex.map_reduce(abs, range(3), lambda results: hang(path))
        lifeline.wait_for_holders(1)
        raise KeyError
    assert future.cancelled()
    lifeline.wait_for_death()
    with Executor("local", max_workers=1) as ex:
        future = ex.map_reduce(lambda number: hang(path), range(3), sum)
        ex.shutdown(wait=False, cancel_futures=True)
        assert until(future.done) and future.cancelled()
        ex._assembly.close(kill=True)


# -- Whom it believes


def test_a_result_that_somebody_changed_is_not_loaded(tmp_path: Path, gate: Gate) -> None:
    paths = gate.paths
    with Executor("local", store=f"file://{tmp_path}/store", max_workers=1) as ex:
        future = ex.map_reduce(lambda number: pass_gate(paths, number) if number else 0, range(2), sum)
        gate.wait_for_task()
        (key,) = [key for key in left(ex) if "/results/" in key]
        ex.store.put(key, b"\x80\x05K\x07.")
        gate.let_go()
        with pytest.raises(SignatureError, match=r"reading result 0: .* is not what was stored there"):
            future.result(PATIENCE)


def test_a_notice_that_is_not_signed_is_not_believed(tmp_path: Path, gate: Gate, log: str) -> None:
    paths = gate.paths
    with Executor("local", store=f"file://{tmp_path}/store", max_workers=2) as ex:
        future = ex.map_reduce(
            lambda number: pass_gate(paths, number) if number else 0,
            range(2),
            lambda results: [note(log, result) for result in results],
        )
        assert until(lambda: lines(log))
        job = ex._assembly.engine._rules[0].__self__._reducers.tasks.job  # type: ignore[attr-defined]
        forged = Landed(job, 1, 2, (b"\0\x80\x05K\x07.",))
        ex.store.put(notice_key(job, 1), Signer(bytes(32)).seal(b"notice", forged.encode()))
        with pytest.raises(SignatureError, match="reading result 1: a notice of"):
            future.result(PATIENCE)
        gate.let_go()


def test_it_runs_in_the_callers_thread_where_all_else_does() -> None:
    with Executor("inline") as ex:
        assert ex.map_reduce(abs, range(5), lambda results: (os.getpid(), sum(results))).result(0) == (os.getpid(), 10)
        assert ex.map_reduce(abs, range(202), sum, fan_in=2).result(0) == sum(range(202))
        assert until(lambda: not left(ex))
