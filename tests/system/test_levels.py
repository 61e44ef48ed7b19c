"""Sorts whose data is exchanged twice or three times: right, proven, with as many requests as planned, nothing left."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.s3_server import KEYS
from support.sorting import FIXED, Folder, assert_sorted, fill, sort_requests, sortgen

from pywren_ng import Executor as Pywren
from pywren_runtime.errors import ShuffleCorrupt
from pywren_runtime.stores import open_store
from pywren_shuffle.planning.terms import FOLDER, Terms, Tier, Workers, tier_named
from pywren_shuffle.records.rows_records import dump, load
from pywren_shuffle.sort import Sorted, plan_sort, sort

LITTLE = 0.25  # MB, with which 20,000 records make 28 splits


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def stage() -> Iterator[sort_requests.Stage]:
    with pytest.MonkeyPatch.context() as patch, sort_requests.staged() as made:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield made


def run(pool: Executor, place: Folder, **options: Any) -> Sorted:
    return sort(pool, place.url("in/*.dat"), place.url("out"), **{"records": FIXED, "memory": LITTLE, **options})


# ── right ──


@pytest.mark.parametrize(("partitions", "levels"), [(7, 2), (50, 3), (97, 2)])
@pytest.mark.parametrize("kind", ["uniform", "zipf", "equal"])
def test_any_keys_by_more_levels(pool: Executor, place: Folder, kind: str, partitions: int, levels: int) -> None:
    source = fill(place, kind, 20_000, files=3)
    result = run(pool, place, partitions=partitions, levels=levels)
    assert result.plan.levels == levels
    assert len(result.parts) == partitions
    assert_sorted(place, result, source)
    assert [hot.key for hot in result.hot] == [
        hot.key for hot in run(pool, place, overwrite=True, partitions=partitions).hot
    ]


def test_nothing_and_almost_nothing_by_more_levels(pool: Executor, place: Folder) -> None:
    for records in (0, 2):
        source = fill(place, "uniform", records)
        assert_sorted(place, run(pool, place, partitions=9, levels=2, splits=5, overwrite=True), source)


def test_rows_of_equal_keys_stay_in_order(pool: Executor, tmp_path: Path) -> None:
    rows = [(number * 7919 % 13, number) for number in range(30_000)]
    (tmp_path / "in.rows").write_bytes(b"".join(dump(rows)))
    options = {"records": "rows", "key": first_of, "reverse": True, "partitions": 11, "levels": 2, "memory": 1}
    result = sort(pool, tmp_path / "in.rows", tmp_path / "out", **options)
    assert result.plan.levels == 2
    found = []
    for part in result.parts:
        with open(part, "rb") as file:
            found += load(file)
    assert found == sorted(rows, key=first_of, reverse=True)


def first_of(row: tuple[int, int]) -> int:
    return row[0]


class Between(ThreadPoolExecutor):
    """A pool that does something to the tasks of one phase, or to what lies there before its first one."""

    def __init__(self, phase: str, change: Callable[[Any], Any]) -> None:
        super().__init__(1)
        self._phase = phase
        self._change = change
        self.changed = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn.__name__ == self._phase:
            self.changed += 1
            args = (self._change(args[0]),)
        return super().submit(fn, *args, **kwargs)


def test_what_does_not_fit_between_is_regrouped_in_rounds(place: Folder) -> None:
    source = fill(place, "zipf", 20_000)
    with Between("regroup", lambda task: replace(task, memory=20_000)) as pool:
        result = run(pool, place, partitions=5, levels=2)
    assert pool.changed == result.plan.layers[1].objects
    assert_sorted(place, result, source)


# ── proven ──


def flipped(data: bytearray) -> None:
    data[55] ^= 1


def swapped(data: bytearray) -> None:
    data[10:100], data[-90:] = data[-90:], data[10:100]


def doubled(data: bytearray) -> None:
    data[100:200] = data[:100]


@pytest.mark.parametrize("damage", [flipped, swapped, doubled])
@pytest.mark.parametrize("phase", ["regroup", "merge"])
def test_a_block_of_any_layer_that_was_changed_is_named(
    place: Folder, phase: str, damage: Callable[[bytearray], None]
) -> None:
    fill(place, "uniform", 20_000)
    done: list[str] = []

    def change(task: Any) -> Any:
        if not done:
            done.append(task.keys[0])
            name = f"out/~shuffle/{task.keys[0]}"
            data = bytearray(place.get(name))
            damage(data)
            place.put(name, bytes(data))
        return task

    with Between(phase, change) as pool, pytest.raises(ShuffleCorrupt, match="shuffles/") as caught:
        run(pool, place, partitions=6, levels=2)
    assert done[0] in str(caught.value)
    assert ("/1-" in done[0]) == (phase == "merge")
    assert place.names() == ["in/00.dat"]


# ── requests ──


@pytest.mark.parametrize(
    ("partitions", "levels", "puts", "gets"), [(16, 1, 16, 256), (16, 2, 32, 128), (27, 3, 81, 243), (7, 2, 15, 42)]
)
def test_as_many_requests_as_levels_promise(
    stage: sort_requests.Stage, partitions: int, levels: int, puts: int, gets: int
) -> None:
    wanted = {"PutObject": puts, "GetRange": gets}
    said, is_met = sort_requests.whole_sort(stage, partitions, levels, wanted)
    assert is_met, said


@pytest.mark.parametrize(("records", "partitions"), [(20_000, 9), (2_000, 2)])  # some or all are sampled
def test_a_plan_names_each_request_of_a_sort_beforehand_and_asks_for_none(
    stage: sort_requests.Stage, pool: Executor, records: int, partitions: int
) -> None:
    named = f"named{records}x{partitions}"
    stage.store(f"{named}/in").put("all.dat", sortgen.records("uniform", 0, records))
    where = stage.url(f"{named}/in/*.dat"), stage.url(f"{named}/out")
    stage.ask("DELETE", "counts")
    plan = plan_sort(pool, *where, records=FIXED, memory=1, partitions=partitions)
    assert stage.ask("GET", "counts")["kinds"] == {"ListObjectsV2": 1}
    result = sort(pool, *where, records=FIXED, memory=1, partitions=partitions, hedging=False)
    assert result.plan == plan
    assert {kind: number for kind, number in result.requests.items() if number} == plan.requests
    actual = result.plan.actual
    assert actual is not None
    assert [dict(step.requests) for step in actual.steps] == [dict(step.requests) for step in plan.steps]
    assert (actual.seconds, actual.dollars) == (result.seconds, pytest.approx(plan.dollars))
    assert "actual" in str(result.plan)
    assert "actual" not in str(plan)


def test_keys_spread_over_prefixes_and_are_all_removed(stage: sort_requests.Stage, pool: Executor) -> None:
    store = replace(tier_named("s3"), gets=50, prefixes=4, prefixes_after=0.0)
    stage.store("spread/in").put("all.dat", sortgen.records("uniform", 0, 20_000))
    stage.ask("DELETE", "counts")
    result = sort(
        pool,
        stage.url("spread/in/*.dat"),
        stage.url("spread/out"),
        records=FIXED,
        memory=1,
        partitions=9,
        terms=Terms(Workers(4), store, store, (store,)),
    )
    keys = {seen["key"].partition("shuffles/")[2] for seen in stage.ask("GET", "log?key=shuffles/&kind=PutObject")}
    assert {key.partition("/")[0] for key in keys} == {f"{number:02x}" for number in range(result.plan.prefixes)}
    assert result.plan.prefixes > 1
    assert not list(stage.store("spread/out").keys("shuffles/"))


# ── a store that does not hold all ──


def test_a_small_store_is_filled_and_emptied_in_rounds(pool: Executor, place: Folder) -> None:
    source = fill(place, "zipf", 20_000, files=2)
    small = Tier("memory", capacity=600_000, puts=1e6, gets=1e6)
    terms = Terms(Workers(4, bandwidth=1e9), FOLDER, FOLDER, (small, FOLDER))
    held: list[int] = []
    store = open_store("memory:rounds")

    class Watching(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            held.append(sum(size for _, size in store.keys()))
            return super().submit(fn, *args, **kwargs)

    with Watching(1) as watching:
        result = run(watching, place, partitions=5, terms=terms, intermediate="memory:rounds")
    assert result.plan.rounds == 4
    assert [layer.tier for layer in result.plan.layers] == ["memory", "folder"]
    assert_sorted(place, result, source)
    assert 0 < max(held) <= 700_000 < source.records * 100
    assert not list(store.keys())


# ── the executor's own ──


def test_an_executor_plans_without_doing_anything(tmp_path: Path) -> None:
    place = Folder(tmp_path)
    fill(place, "uniform", 1000)
    with Pywren("local", max_workers=2) as executor:
        plan = executor.plan_sort(place.url("in/*.dat"), place.url("out"), records=FIXED, partitions=3)
        assert (plan.partitions, plan.levels, plan.seconds) == (3, 1, None)
        assert place.names() == ["in/00.dat"]
        result = executor.sort(place.url("in/*.dat"), place.url("out"), records=FIXED, partitions=3)
    assert result.plan == plan
    said = str(result.plan)
    assert "partitions=3 was asked for" in said
    assert "actual" in said
