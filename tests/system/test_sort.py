"""Sorts on this machine, judged by an oracle that shares no code with them: right, proven, clean, within bounds."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.sorting import FIXED, KINDS, Folder, assert_sorted, fill, parts_of, sortgen

from pywren_runtime.errors import ConfigError, OutputInUse, RecordError, ShuffleCorrupt
from pywren_shuffle.sort import Sorted, sort

LITTLE = 0.25  # MB: what a worker must have at least


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def run(pool: Executor, place: Folder, **options: Any) -> Sorted:
    return sort(pool, place.url("in/*.dat"), place.url("out"), records=FIXED, **options)


# -- Right


@pytest.mark.parametrize("partitions", [1, 7, 50, 97])
@pytest.mark.parametrize("kind", KINDS)
def test_any_keys_in_any_number_of_partitions(pool: Executor, place: Folder, kind: str, partitions: int) -> None:
    source = fill(place, kind, 3000, files=3)
    result = run(pool, place, partitions=partitions)
    assert len(result.parts) == partitions
    assert_sorted(place, result, source)


@pytest.mark.parametrize("kind", KINDS)
def test_many_times_the_memory_merged_in_rounds(pool: Executor, place: Folder, kind: str) -> None:
    source = fill(place, kind, 20_000, files=2)  # 2 MB: each of two partitions is four times a worker's memory
    assert_sorted(place, run(pool, place, memory=LITTLE, partitions=2), source)


@pytest.mark.parametrize("records", [1, 2, 3])
def test_fewer_records_than_partitions(pool: Executor, place: Folder, records: int) -> None:
    source = fill(place, "uniform", records)
    assert_sorted(place, run(pool, place, partitions=50), source)


def test_empty_files_among_others_and_alone(pool: Executor, place: Folder) -> None:
    source = fill(place, "zipf", 3, files=9)
    assert_sorted(place, run(pool, place, partitions=2), source)
    for name in place.names("in"):
        place.put(name, b"")
    result = run(pool, place, overwrite=True)
    assert result.records == 0
    assert all(place.get(name) == b"" for name in place.names("out") if name.endswith(".dat"))


def test_no_files_at_all(pool: Executor, place: Folder) -> None:
    Path(place.url("in")).mkdir()
    result = sort(pool, place.url("in"), place.url("out"), records=FIXED, partitions=3)
    assert (result.records, result.bytes) == (0, 0)
    assert json.loads(place.get("out/manifest.json"))["records"] == 0


def test_neighbouring_keys_that_differ_in_their_last_byte_only(pool: Executor, place: Folder) -> None:
    data = sortgen.records("sorted", 0, 256)
    place.put("in/0.dat", b"".join(data[start : start + 100] for start in range(25_500, -1, -100)))
    result = run(pool, place, partitions=4)
    assert b"".join(place.get(part) for part in parts_of(place, result)) == data


def test_partitions_of_even_keys_are_even(pool: Executor, place: Folder) -> None:
    source = fill(place, "uniform", 200_000, files=4)
    result = run(pool, place, partitions=16)
    sizes = [len(place.get(part)) for part in parts_of(place, result)]
    assert max(sizes) / (sum(sizes) / len(sizes)) <= 1.15
    assert_sorted(place, result, source)
    assert not result.hot


@pytest.mark.parametrize(("kind", "share"), [("equal", 1.0), ("zipf", 0.05)])
def test_a_hot_key_is_spread_and_named(pool: Executor, place: Folder, kind: str, share: float) -> None:
    source = fill(place, kind, 50_000, files=2)
    result = run(pool, place, partitions=50)
    sizes = [len(place.get(part)) for part in parts_of(place, result)]
    assert max(sizes) / (sum(sizes) / len(sizes)) <= 1.5
    assert max(hot.share for hot in result.hot) == pytest.approx(share, rel=0.2)
    assert_sorted(place, result, source)


# -- What the proof catches


@pytest.mark.parametrize("memory", [LITTLE, 2])  # in rounds, and at once
@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_the_proof_alone(pool: Executor, place: Folder, kind: str, memory: float) -> None:
    """Nobody else looks at what comes out: breakages of the phases must be noticed by the sort itself."""
    fill(place, kind, 20_000, files=3)
    run(pool, place, memory=memory, partitions=4)


class Tampering(ThreadPoolExecutor):
    """A pool that meddles with what lies in a folder when a phase is over: what a disk, a store or a rival may do."""

    def __init__(self, phase: str, meddle: Callable[[], None]) -> None:
        super().__init__(1)  # tasks run one after the other, so a phase is over when the next begins
        self._phase = phase
        self._meddle = meddle
        self.done = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn.__name__ != "merge":
            return super().submit(fn, *args, **kwargs)
        if self._phase == "partition" and not self.done:
            self._act()
        return super().submit(self._merge, fn, *args, **kwargs)

    def _merge(self, fn: Callable[[Any], Any], task: Any) -> Any:
        made = fn(task)
        if self._phase == "merge" and not self.done:
            self._act()
        return made

    def _act(self) -> None:
        self._meddle()
        self.done += 1


def blocks(place: Folder) -> list[str]:
    """The intermediate objects, in order."""
    return [name for name in place.names() if "shuffles/" in name and not name.endswith("/")]


def changed(place: Folder, change: Callable[[bytearray], object], number: int = 0) -> None:
    """Change what lies in one block."""
    name = blocks(place)[number]
    data = bytearray(place.get(name))
    change(data)
    place.put(name, bytes(data))


def drop_record(place: Folder) -> None:
    changed(place, lambda data: data.__delitem__(slice(300, 400)))


def double_record(place: Folder) -> None:
    changed(place, lambda data: data.__setitem__(slice(300, 400), data[200:300]))


def insert_record(place: Folder) -> None:
    changed(place, lambda data: data.__setitem__(slice(300, 300), data[200:300]))


def swap_payloads(place: Folder) -> None:
    def change(data: bytearray) -> None:
        data[210:300], data[310:400] = data[310:400], data[210:300]

    changed(place, change)


def swap_distant_payloads(place: Folder) -> None:
    def change(data: bytearray) -> None:
        data[10:100], data[-90:] = data[-90:], data[10:100]

    changed(place, change)


def swap_blocks(place: Folder) -> None:
    one, other = blocks(place)[:2]
    data = place.get(one), place.get(other)
    place.put(other, data[0])
    place.put(one, data[1])


def flip_a_bit(place: Folder) -> None:
    changed(place, lambda data: data.__setitem__(5050, data[5050] ^ 1))


def flip_a_bit_of_a_key(place: Folder) -> None:
    changed(place, lambda data: data.__setitem__(5009, data[5009] ^ 1))


def take_another_shuffles_block(place: Folder) -> None:
    data = sortgen.records("uniform", 0, len(place.get(blocks(place)[0])) // 100, seed=7)
    ordered = sorted(data[start : start + 100] for start in range(0, len(data), 100))
    place.put(blocks(place)[0], b"".join(ordered))


def cut_block(place: Folder) -> None:
    changed(place, lambda data: data.__delitem__(slice(-100, None)), number=-1)


def lose_block(place: Folder) -> None:
    place.remove(blocks(place)[0])


def parts(place: Folder) -> list[str]:
    return [name for name in place.names("out") if "/part-" in name]


def cut_part(place: Folder) -> None:
    place.put(parts(place)[0], place.get(parts(place)[0])[:-100])


def lose_part(place: Folder) -> None:
    place.remove(parts(place)[0])


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize(
    "meddle",
    [
        drop_record,
        double_record,
        insert_record,
        swap_payloads,
        swap_distant_payloads,
        swap_blocks,
        flip_a_bit,
        flip_a_bit_of_a_key,
        take_another_shuffles_block,
        cut_block,
    ],
)
def test_a_block_that_was_changed_is_named(place: Folder, meddle: Callable[[Folder], None], rounds: bool) -> None:
    fill(place, "uniform", 20_000, files=4)
    options: dict[str, Any] = {"memory": LITTLE, "partitions": 2} if rounds else {"memory": 2, "partitions": 3}
    with Tampering("partition", lambda: meddle(place)) as pool, pytest.raises(ShuffleCorrupt, match="shuffles/"):
        run(pool, place, **options)
    assert pool.done == 1
    assert place.names() == [f"in/{number:02}.dat" for number in range(4)]


@pytest.mark.parametrize("meddle", [cut_part, lose_part])
def test_a_part_that_was_changed_after_it_was_written_is_named(place: Folder, meddle: Callable[[Folder], None]) -> None:
    fill(place, "uniform", 3000)
    with Tampering("merge", lambda: meddle(place)) as pool, pytest.raises(ShuffleCorrupt, match="part-00000-"):
        run(pool, place, partitions=3)
    assert pool.done == 1
    assert place.names() == ["in/00.dat"]


def test_a_block_that_has_gone_is_a_clear_error(place: Folder) -> None:
    fill(place, "uniform", 3000)
    with Tampering("partition", lambda: lose_block(place)) as pool, pytest.raises(Exception, match="shuffles/"):
        run(pool, place, partitions=3)
    assert pool.done == 1
    assert place.names() == ["in/00.dat"]


def test_an_input_that_was_cut_meanwhile_is_a_clear_error(pool: Executor, place: Folder) -> None:
    fill(place, "uniform", 3000)

    class Cutting(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if fn.__name__ == "partition":
                place.put("in/00.dat", place.get("in/00.dat")[:100_000])
            return super().submit(fn, *args, **kwargs)

    with Cutting(2) as cutting, pytest.raises(ShuffleCorrupt, match=r"00\.dat"):
        run(cutting, place, partitions=3)
    assert place.names() == ["in/00.dat"]


# -- Outputs


def test_a_place_in_use_is_an_error_and_stays_as_it_is(pool: Executor, place: Folder) -> None:
    source = fill(place, "uniform", 1000)
    result = run(pool, place, partitions=3)
    with pytest.raises(OutputInUse, match="overwrite=True"):
        run(pool, place, partitions=2)
    assert_sorted(place, result, source)


def test_of_what_is_overwritten_no_old_part_stays(pool: Executor, place: Folder) -> None:
    fill(place, "uniform", 1000)
    run(pool, place, partitions=9)
    source = fill(place, "ascii", 2000)
    assert_sorted(place, run(pool, place, partitions=2, overwrite=True), source)


def test_a_sort_that_fails_leaves_what_it_was_to_overwrite(place: Folder, pool: Executor) -> None:
    source = fill(place, "uniform", 1000)
    result = run(pool, place, partitions=3)
    with Tampering("partition", lambda: flip_a_bit(place)) as tampering, pytest.raises(ShuffleCorrupt):
        run(tampering, place, partitions=2, overwrite=True)
    assert_sorted(place, result, source)


def test_a_strangers_file_is_not_overwritten(pool: Executor, place: Folder) -> None:
    fill(place, "uniform", 100)
    place.put("out/thesis.txt", b"three years of work")
    with pytest.raises(OutputInUse):
        run(pool, place)
    run(pool, place, overwrite=True)
    assert place.get("out/thesis.txt") == b"three years of work"


def test_what_makes_no_sense_is_said_before_anything_is_done(pool: Executor, place: Folder) -> None:
    fill(place, "uniform", 100)
    place.put("in/torn.dat", bytes(150))
    with pytest.raises(RecordError, match=r"torn\.dat.*150"):
        run(pool, place)
    with pytest.raises(ConfigError, match="partitions=0"):
        run(pool, place, partitions=0)
    with pytest.raises(ConfigError, match="memory"):
        run(pool, place, memory=0.001)
    with pytest.raises(ConfigError, match="fixed"):
        sort(pool, place.url("in"), place.url("out"), records="fixt:100:10")
    assert not place.names("out")


def test_two_sorts_at_once_in_one_pool(pool: Executor, tmp_path: Path) -> None:
    one, other = Folder(tmp_path / "one"), Folder(tmp_path / "other")
    sources = fill(one, "uniform", 5000, files=2), fill(other, "zipf", 5000, files=2)
    with ThreadPoolExecutor(2) as drivers:
        results = list(drivers.map(lambda place: run(pool, place, partitions=5), [one, other]))
    for place, source, result in zip([one, other], sources, results, strict=True):
        assert_sorted(place, result, source)


def test_every_task_run_twice_changes_nothing(place: Folder) -> None:
    class Twice(ThreadPoolExecutor):
        ran = 0

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            Twice.ran += 1
            super().submit(fn, *args, **kwargs)
            return super().submit(fn, *args, **kwargs)

    source = fill(place, "zipf", 5000, files=3)
    with Twice(4) as pool:
        result = run(pool, place, partitions=4)
    assert Twice.ran >= 5
    assert_sorted(place, result, source)
