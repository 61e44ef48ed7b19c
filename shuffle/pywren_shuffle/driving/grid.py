"""The blocks of a layer as the driver has them, and the tasks that read them.

rows[g][r]    the block with what group g of the input has of range r of the partitions, a slice for each finer range
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, pairwise

from pywren_shuffle.phases.merge import MergeTask
from pywren_shuffle.phases.partition import Block
from pywren_shuffle.proof import MASK
from pywren_shuffle.sizes import groups, starts_of

__all__ = ["Grid"]


@dataclass(frozen=True, slots=True)
class Grid:
    """All blocks of one layer; each row has as many as there are ranges."""

    rows: Sequence[Sequence[Block]]
    ranges: int
    partitions: int

    def regroups(
        self, base: MergeTask, number: int, ranges: int, finer: int
    ) -> Iterator[tuple[MergeTask, "array[int]"]]:
        """Tasks for so many groups of so many ranges, row by row, and what each block will have of each partition.

        Their blocks are to be sliced for `finer` ranges. They are like `base` but for what they read; the key is left.
        """
        own, before = starts_of(self.partitions, ranges), starts_of(self.partitions, self.ranges)
        slices = starts_of(self.partitions, finer)
        for begin, end in pairwise(starts_of(len(self.rows), min(number, len(self.rows)))) if self.rows else ():
            for place, (first, stop) in enumerate(pairwise(own)):
                parent = place * self.ranges // ranges
                blocks = [row[parent] for row in self.rows[begin:end]]
                counts = _added([block.counts[first - before[parent] : stop - before[parent]] for block in blocks])
                cuts = [start - first for start in slices if first <= start <= stop]
                sizes = array("Q", [sum(counts[start:end]) for start, end in pairwise(cuts)])
                inside = place - parent * (ranges // self.ranges)
                yield replace(_reading(base, blocks, inside, inside + 1), counts=sizes), counts

    def merges(self, base: MergeTask, keys: Sequence[str], together: int) -> Iterator[MergeTask]:
        """Tasks that make the parts at these keys, of so many neighbouring partitions of one range each."""
        for number, (first, stop) in enumerate(pairwise(starts_of(self.partitions, self.ranges))):
            columns = _Columns(base, [row[number] for row in self.rows], stop - first)
            for own in groups(stop - first, together):
                task = columns.reading(own.start, own.stop)
                yield replace(task, parts=tuple(keys[first + own.start : first + own.stop]))


class _Columns:
    """Some blocks' figures, one block behind the other: what all have of one slice is every `width`-th.

    There are as many figures as splits times partitions, and so all of it is left to `array`, which is quick.
    """

    def __init__(self, base: MergeTask, blocks: Sequence[Block], width: int) -> None:
        self._base = base
        self._width = width
        self._keys = tuple(block.key for block in blocks)
        stores = tuple(block.store for block in blocks)
        self._stores = stores if set(stores) - {base.store} else ()
        self._offsets = _laid(block.offsets for block in blocks)
        self._records = _laid(block.records for block in blocks)
        self._sums = _laid(block.sums for block in blocks)

    def reading(self, first: int, stop: int) -> MergeTask:
        """The task with the slices from `first` to `stop`, but for those that have nothing of them."""
        starts, stops = self._offsets[first :: self._width + 1], self._offsets[stop :: self._width + 1]
        records = [self._records[place :: self._width] for place in range(first, stop)]
        sums = [self._sums[place :: self._width] for place in range(first, stop)]
        one = stop - first == 1
        task = replace(
            self._base,
            keys=self._keys,
            stores=self._stores,
            starts=starts,
            stops=stops,
            records=records[0] if one else _added(records),
            sums=sums[0] if one else array("Q", (total & MASK for total in map(sum, zip(*sums, strict=True)))),
            counts=array("Q", map(sum, records)),
        )
        return _without_empty(task) if 0 in task.records else task


def _without_empty(task: MergeTask) -> MergeTask:
    full = [number > 0 for number in task.records]
    return replace(
        task,
        keys=tuple(compress(task.keys, full)),
        stores=tuple(compress(task.stores, full)),
        starts=array("Q", compress(task.starts, full)),
        stops=array("Q", compress(task.stops, full)),
        records=array("Q", compress(task.records, full)),
        sums=array("Q", compress(task.sums, full)),
    )


def _laid(figures: Iterable["array[int]"]) -> "array[int]":
    flat = array("Q")
    for each in figures:
        flat.extend(each)
    return flat


def _added(counts: Sequence["array[int]"]) -> "array[int]":
    return array("Q", map(sum, zip(*counts, strict=True)))


def _reading(base: MergeTask, blocks: Sequence[Block], first: int, stop: int) -> MergeTask:
    """The task with the slices from `first` to `stop` of these blocks, but for those that have nothing of them."""
    full = [block for block in blocks if block.offsets[stop] > block.offsets[first]]
    return replace(
        base,
        keys=tuple(block.key for block in full),
        stores=tuple(block.store for block in full) if any(block.store != base.store for block in full) else (),
        starts=array("Q", [block.offsets[first] for block in full]),
        stops=array("Q", [block.offsets[stop] for block in full]),
        records=array("Q", [sum(block.records[first:stop]) for block in full]),
        sums=array("Q", [sum(block.sums[first:stop]) & MASK for block in full]),
    )
