"""What plans of groups, joins and MapReduce say: what is asked of S3, as a proxy counts it, and what is read."""

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.grouping import put_rows
from support.s3_server import KEYS
from support.sorting import sort_requests

from pywren_shuffle.even import repartition
from pywren_shuffle.group import How, Reduced, distinct, group, map_reduce_by_key, reduce_by_key
from pywren_shuffle.join import join
from pywren_shuffle.records.rows_records import dump

ROWS = [(number % 97, number) for number in range(2000)]
HOW = How(partitions=3, hedging=False)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def stage() -> Iterator[sort_requests.Stage]:
    with pytest.MonkeyPatch.context() as patch, sort_requests.staged() as made:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        for name, rows in (("large", ROWS), ("small", ROWS[:9])):
            made.store(name).put("0.rows", b"".join(dump(rows)))
        yield made


def pairs_of(item: int) -> Iterator[tuple[int, int]]:
    return ((number % 97, item) for number in range(100))


RUNS: dict[str, Callable[[Executor, str, str, str], Reduced[Any]]] = {
    "group": lambda pool, large, _, out: group(pool, large, out, lambda key, values: list(values), how=HOW),
    "reduce": lambda pool, large, _, out: reduce_by_key(pool, large, out, operator.add, how=HOW),
    "distinct": lambda pool, large, _, out: distinct(pool, large, out, how=HOW),
    "join": lambda pool, large, small, out: join(pool, large, small, out, key=operator.itemgetter(0), how=HOW),
    "join-to-all": lambda pool, large, small, out: join(
        pool, large, small, out, key=operator.itemgetter(0), how=replace(HOW, partitions=None)
    ),
    "repartition": lambda pool, large, _, out: repartition(pool, large, out, 3, how=HOW),
    "map_reduce": lambda pool, *places: map_reduce_by_key(
        pool, pairs_of, range(20), lambda key, values: sum(values), target=places[2], how=HOW
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_was_asked_stands_beside_what_was_expected(stage: sort_requests.Stage, pool: Executor, name: str) -> None:
    stage.ask("DELETE", "counts")
    done = RUNS[name](pool, stage.url("large"), stage.url("small"), stage.url(f"{name}/out"))
    counted = stage.ask("GET", "counts")["kinds"]
    plan, actual = done.plan, done.plan.actual
    assert actual is not None
    assert [step.name for step in actual.steps] == [step.name for step in plan.steps]
    asked = sum((Counter(dict(step.requests)) for step in actual.steps), Counter())
    assert asked == counted == {kind: number for kind, number in done.requests.items() if number}
    for expected, was in zip(plan.steps[:-1], actual.steps[:-1], strict=True):
        wanted = {kind: number for kind, number in expected.requests.items() if number}
        if expected.name == "merge":
            assert dict(was.requests) == wanted
        assert was.requests.keys() == wanted.keys()  # a file of rows is read in two or three requests
        assert was.requests["PutObject"] == wanted["PutObject"]
        assert was.tasks == expected.tasks
        assert was.seconds > 0
    assert sum(step.seconds for step in actual.steps) == pytest.approx(actual.seconds)
    around, was_around = plan.steps[-1].requests, dict(actual.steps[-1].requests)
    was_around.pop("GetRange", None)  # frames of files of rows, which nobody plans
    assert was_around == around
    said = str(plan)
    assert said.startswith({"map_reduce": "group what comes of 20 items: 8 splits,"}.get(name, f"{plan.what} 4"))
    assert said.count("actual") == 3


def test_what_is_combined_is_not_read_again(stage: sort_requests.Stage, pool: Executor) -> None:
    """Of each key one value comes to the merge, and the plan says how much that was."""
    stage.ask("DELETE", "counts")
    done = reduce_by_key(pool, stage.url("large"), stage.url("sums"), operator.add, how=HOW)
    assert done.plan.actual is not None
    partition, merge, _ = done.plan.actual.steps
    assert 0 < merge.bytes < partition.bytes / 4
    assert partition.bytes < done.plan.bytes  # but for the heads of files
    assert stage.counted("shuffles/") == {"PutObject": partition.tasks, "GetRange": merge.requests["GetRange"]}


def test_in_a_folder_there_is_a_plan_of_a_join_to_all(pool: Executor, tmp_path: Path) -> None:
    large, small = put_rows(tmp_path / "large", ROWS), put_rows(tmp_path / "small", ROWS[:9])
    done = join(pool, large, small, tmp_path / "out", key=operator.itemgetter(0))
    said = str(done.plan)
    assert "of one side go to each of" in said and "nothing lies between" in said
    assert done.plan.actual is not None
    assert done.plan.actual.steps[0].tasks == len(done.parts) == done.plan.steps[0].tasks
