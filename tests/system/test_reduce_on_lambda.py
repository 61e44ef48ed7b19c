"""A map that is reduced on Lambda: its results go from worker to worker through S3, and S3 counts who reads what."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from scene import PATIENCE, lines, note, until
from support.deployed import PACKAGES, Deployed, deployed, describe
from support.local_aws import LocalAws

from pywren_ng import Executor

SIZE = 512
RESULTS = "/results/"
Make = Callable[..., Executor]


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, SIZE, variables=PACKAGES) as made:
        yield made


@pytest.fixture
def make(there: Deployed, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    with ExitStack() as stack:

        def made(invoke: str, **options: Any) -> Executor:
            monkeypatch.setenv("PYWREN_NG_INVOKE", invoke)
            return stack.enter_context(Executor("lambda", **{"max_workers": 8} | options))

        yield made


def asked(aws: LocalAws, key: str, *, client: bool) -> dict[str, int]:
    """Requests for such keys, by kind: the client's, or the workers'."""
    everybody = aws.ask("GET", f"/_proxy/counts?key={key}")["kinds"]
    mine = aws.ask("GET", f"/_proxy/counts?key={key}&access_key=^{aws.access_key}$")["kinds"]
    return mine if client else {kind: number - mine.get(kind, 0) for kind, number in everybody.items()}


def left(there: Deployed) -> list[str]:
    """What lies in the bucket of results, and of what was said about them."""
    return [key for key in there.keys("jobs/") if RESULTS in key or "/notices/" in key]


@pytest.mark.parametrize("invoke", ["sync", "async"])
def test_each_result_is_put_once_and_read_once_and_never_by_the_client(
    there: Deployed, local_aws: LocalAws, make: Make, invoke: str
) -> None:
    ex = make(invoke)
    future = ex.map_reduce(lambda number: [number] * 100_000, range(12), lambda lists: sum(map(len, lists)))
    assert future.result(PATIENCE) == 1_200_000
    theirs, mine = (asked(local_aws, RESULTS, client=client) for client in (False, True))
    assert theirs == {"ConditionalPut": 12, "GetObject": 12}, describe(theirs)
    assert set(mine) <= {"DeleteObjects"}, describe(mine)
    small = ex.map_reduce(abs, range(9), sum, fan_in=3)
    assert small.result(PATIENCE) == 36
    assert asked(local_aws, RESULTS, client=False) == {"ConditionalPut": 24, "GetObject": 24}  # 9 and 3 more
    ex.shutdown()
    assert left(there) == []


def test_a_reducer_that_dies_is_tried_again_and_no_map_runs_twice(make: Make, tmp_path: Path) -> None:
    log, flag = str(tmp_path / "log"), str(tmp_path / "flag")

    def work(number: int) -> int:
        note(log, number)
        return number

    def reduce(results: Iterator[int]) -> int:
        first = next(results)
        if not os.path.exists(flag):
            open(flag, "w").close()
            os._exit(1)
        return first + sum(results)

    assert make("sync").map_reduce(work, range(6), reduce).result(PATIENCE) == 15
    assert sorted(lines(log)) == list("012345") and os.path.exists(flag)


def test_it_is_told_by_s3_of_what_lands_after_it_began(there: Deployed, make: Make, tmp_path: Path) -> None:
    log, gate = str(tmp_path / "log"), str(tmp_path / "open")

    def work(number: int) -> int:
        if number == 3:
            until(lambda: os.path.exists(gate))
        return number

    ex = make("sync")
    future = ex.map_reduce(work, range(4), lambda results: [int(note(log, result)) for result in results])
    assert until(lambda: lines(log) == ["0", "1", "2"])
    open(gate, "w").close()
    assert future.result(PATIENCE) == [0, 1, 2, 3]
    ex.shutdown()
    assert left(there) == []


def test_environments_that_are_ended_under_it_cost_time_and_no_result(
    there: Deployed, local_aws: LocalAws, make: Make
) -> None:
    ex = make("sync", retries=4)
    local_aws.knobs(kill={"fraction": 1, "times": 4})
    assert ex.map_reduce(lambda number: [number] * 10_000, range(6), lambda lists: sum(map(max, lists))).result() == 15
    assert local_aws.injected()["kill"] == 4
    ex.shutdown()
    assert left(there) == []
