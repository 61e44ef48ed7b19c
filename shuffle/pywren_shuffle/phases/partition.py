"""The first phase, in a worker: a split is read, sorted, and written as one object with a slice for each partition."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from pywren_runtime.errors import ShuffleCorrupt
from pywren_runtime.stores import Buffer
from pywren_shuffle.host import heed
from pywren_shuffle.phases.sample import Boundary, cuts, unpacked
from pywren_shuffle.places.exchange import Exchange, joined
from pywren_shuffle.places.spare import put_kept
from pywren_shuffle.proof import ADVICE, MASK, Tally
from pywren_shuffle.records import Batch, Format, Piece
from pywren_shuffle.sizes import starts_of

__all__ = ["Block", "PartitionTask", "partition", "write_block"]


@dataclass(frozen=True, slots=True)
class PartitionTask:
    """Make one block of one split."""

    format: Format
    split: int
    pieces: tuple[Piece, ...]
    boundaries: bytes | tuple[Boundary, ...]  # see `sample.packed`
    partitions: int
    store: str  # where the block goes
    key: str
    block: int
    hedging: bool
    over: str = ""  # see `host.heed`
    spare: str = ""  # where it goes if the store does not take it
    ranges: int = 0  # of the partitions, with a slice for each; 0: a slice for each partition
    ahead: int = 0  # see `Flights`

    @property
    def bytes(self) -> int:
        """How many it reads."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    @property
    def reads(self) -> int:
        """How many ranges it asks for, at least."""
        return sum(-(-(piece.stop - piece.start) // self.block) for piece in joined(self.pieces))


@dataclass(frozen=True, slots=True)
class Block:
    """An object between phases: slice s lies from offsets[s] to offsets[s + 1], with so many records of that checksum.

    A slice is for one partition or, where data is exchanged more than once, for a range of them.
    """

    key: str
    offsets: "array[int]"
    records: "array[int]"
    sums: "array[int]"
    tally: Tally  # of the split as it was read
    requests: Counter[str]
    counts: "array[int]"  # of the records of each partition; the driver sets those of what was regrouped
    store: str  # where it lies
    notice: str = ""  # why that is the spare place
    lost: str = ""  # of what it should have been made: then it is not there


def partition(task: PartitionTask) -> Block:
    """Read, sort, cut and write one split; if it is run again, the same bytes lie at the same key."""
    exchange = Exchange(hedging=task.hedging, block=task.block, ahead=task.ahead)
    try:
        return write_block(task, task.format.load(task.pieces, exchange), exchange)
    finally:
        exchange.close()


def write_block(task: PartitionTask, batch: Batch, exchange: Exchange) -> Block:
    """Sort, cut and write what was read of a split."""
    total = batch.sums([0, len(batch)])[0]  # of what was read, before anything is done to it
    batch = batch.sort()
    each = places = cuts(batch, task.split, unpacked(task.boundaries), task.partitions)
    if task.ranges:
        places = [places[start] for start in starts_of(task.partitions, task.ranges)]
    sums = batch.sums(places)
    offsets = array("Q")
    lies = put_kept(exchange, task.store, task.spare, task.key, lambda: _slices(batch, places, offsets))
    heed(exchange, task.spare or task.store, task.over, [(lies.store, task.key)])
    if sum(sums) & MASK != total:
        raise ShuffleCorrupt(f"the slices of {task.key!r} are not, together, what was read of its split. {ADVICE}")
    tally = Tally(len(batch), batch.nbytes, total)
    if len(batch):
        tally = replace(tally, first=batch.key(0), last=batch.key(len(batch) - 1))
    records = array("Q", [stop - start for start, stop in pairwise(places)])
    counts = array("I", [stop - start for start, stop in pairwise(each)]) if task.ranges else records
    own = array("Q", sums)
    return Block(task.key, offsets, records, own, tally, exchange.requests, counts, lies.store, lies.notice)


def _slices(batch: Batch, places: list[int], offsets: "array[int]") -> Iterator[Buffer]:
    at = 0
    offsets[:] = array("Q", [0])
    for start, stop in pairwise(places):
        if stop > start:
            for buffer in batch.part(start, stop).encode():
                at += memoryview(buffer).nbytes
                yield buffer
        offsets.append(at)
