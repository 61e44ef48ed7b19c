"""The first phase, in a worker: a split is read, sorted, and written as one object with a slice for each partition."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from pywren_runtime.errors import ShuffleCorrupt
from pywren_runtime.stores import Buffer
from pywren_shuffle.exchange import Exchange
from pywren_shuffle.proof import ADVICE, MASK, Tally
from pywren_shuffle.records import Batch, Format, Piece
from pywren_shuffle.sample import Boundary, cuts

__all__ = ["Block", "PartitionTask", "partition"]


@dataclass(frozen=True, slots=True)
class PartitionTask:
    """Make one block of one split."""

    format: Format
    split: int
    pieces: tuple[Piece, ...]
    boundaries: tuple[Boundary, ...]
    partitions: int
    store: str  # where the block goes
    key: str
    block: int
    hedging: bool


@dataclass(frozen=True, slots=True)
class Block:
    """A split's object: slice p lies from offsets[p] to offsets[p + 1], with so many records of that checksum."""

    key: str
    offsets: "array[int]"
    records: "array[int]"
    sums: "array[int]"
    tally: Tally  # of the split as it was read
    requests: Counter[str]


def partition(task: PartitionTask) -> Block:
    """Read, sort, cut and write one split; if it is run again, the same bytes lie at the same key."""
    exchange = Exchange(hedging=task.hedging, block=task.block)
    try:
        batch = task.format.load(task.pieces, exchange)
        total = batch.sums([0, len(batch)])[0]  # of what was read, before anything is done to it
        batch = batch.sort()
        places = cuts(batch, task.split, task.boundaries, task.partitions)
        sums = batch.sums(places)
        offsets = array("Q", [0])
        exchange.put(task.store, task.key, _slices(batch, places, offsets))
        if sum(sums) & MASK != total:
            raise ShuffleCorrupt(f"the slices of {task.key!r} are not, together, what was read of its split. {ADVICE}")
        tally = Tally(len(batch), batch.nbytes, total)
        if len(batch):
            tally = replace(tally, first=batch.key(0), last=batch.key(len(batch) - 1))
        records = array("Q", [stop - start for start, stop in pairwise(places)])
        return Block(task.key, offsets, records, array("Q", sums), tally, exchange.requests)
    finally:
        exchange.close()


def _slices(batch: Batch, places: list[int], offsets: "array[int]") -> Iterator[Buffer]:
    at = 0
    for start, stop in pairwise(places):
        if stop > start:
            for buffer in batch.part(start, stop).encode():
                at += memoryview(buffer).nbytes
                yield buffer
        offsets.append(at)
