"""The second phase, in a worker: some neighbouring partitions' slices of all blocks become output parts.

slices ──► all fit into memory? ──► read, decode, sort once ──────────────────┐
                     └──► rounds: a block of each, what is safe of it sorted ─┴─► writer ──► part, part, …
"""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

from pywren_runtime.errors import ShuffleCorrupt
from pywren_runtime.stores import Buffer
from pywren_shuffle.exchange import Exchange
from pywren_shuffle.plan import fits
from pywren_shuffle.proof import ADVICE, Tally
from pywren_shuffle.records import Batch, Format, Piece, Source, Writer
from pywren_shuffle.rounds import Slice, rounds

__all__ = ["MergeTask", "Merged", "Part", "merge"]


@dataclass(frozen=True, slots=True)
class MergeTask:
    """Make the parts of some neighbouring partitions.

    Of the block `keys[s]`, the bytes from starts[s] to stops[s] are theirs; they hold records[s] records whose checksum
    is sums[s].
    """

    format: Format
    store: str
    keys: tuple[str, ...]
    starts: "array[int]"
    stops: "array[int]"
    records: "array[int]"
    sums: "array[int]"
    counts: "array[int]"  # of the records of each part
    target: str
    parts: tuple[str, ...]  # keys there
    memory: int
    block: int
    hedging: bool

    @property
    def sizes(self) -> list[int]:
        """How many bytes each slice has."""
        return [stop - start for start, stop in zip(self.starts, self.stops, strict=True)]


@dataclass(frozen=True, slots=True)
class Part:
    """One output part as it was written; `size` is that of the object."""

    key: str
    size: int
    tally: Tally


@dataclass(frozen=True, slots=True)
class Merged:
    """What a MergeTask made."""

    parts: tuple[Part, ...]
    requests: Counter[str]


def merge(task: MergeTask) -> Merged:
    """Read, merge and write; if it is run again, the same parts lie at the same keys."""
    exchange = Exchange(hedging=task.hedging, block=task.block)
    try:
        whole = fits(task.sizes, task.memory, task.format.decoded_expansion)
        batches = _at_once(task, exchange) if whole else _in_rounds(task, exchange)
        rest: list[Batch] = []
        parts = []
        for key, count in zip(task.parts, task.counts, strict=True):
            writer = task.format.writer()
            size = exchange.put_stream(task.target, key, _part(writer, count, rest, batches))
            parts.append(Part(key, size, writer.tally))
        return Merged(tuple(parts), exchange.requests)
    finally:
        exchange.close()


def _part(writer: Writer, count: int, rest: list[Batch], batches: Iterator[Batch]) -> Iterator[Buffer]:
    """One part's bytes: its records are the next `count`; what of a batch is the next part's stays in `rest`."""
    while count:
        batch = rest.pop() if rest else next(batches, None)
        if batch is None:
            raise ShuffleCorrupt(f"a partition ended {count:,} records before its end. {ADVICE}")
        if len(batch) > count:
            rest.append(batch.part(count, len(batch)))
            batch = batch.part(0, count)
        count -= len(batch)
        yield from writer.write(batch)
        del batch  # it need not be in memory while the next one is made
    yield from writer.close()


def _at_once(task: MergeTask, exchange: Exchange) -> Iterator[Batch]:
    """All records, as one sorted batch."""
    if not task.keys:
        return
    batch, _ = task.format.decode(exchange.read([_piece(task, number) for number in range(len(task.keys))]))
    cuts = list(accumulate(task.records, initial=0))
    if len(batch) != cuts[-1]:
        raise ShuffleCorrupt(
            f"the blocks {task.keys[0]!r} to {task.keys[-1]!r} in {task.store} hold {len(batch):,} records of these"
            f" partitions, and {cuts[-1]:,} were written. {ADVICE}"
        )
    for number, found in enumerate(batch.sums(cuts)):
        _check(task, number, task.records[number], found)
    yield batch.sort()


def _in_rounds(task: MergeTask, exchange: Exchange) -> Iterator[Batch]:
    """All records in sorted batches, each of which fits into memory."""

    def check(number: int, records: int, found: int) -> None:
        _check(task, number, records, found)

    slices = [Slice(number, _piece(task, number)) for number in range(len(task.keys))]
    return rounds(slices, task.format, exchange, memory=task.memory, check=check)


def _piece(task: MergeTask, number: int) -> Piece:
    start, stop = task.starts[number], task.stops[number]
    return Piece(Source(task.store, task.keys[number], stop), start, stop)


def _check(task: MergeTask, number: int, records: int, found: int) -> None:
    """ShuffleCorrupt, with the block's name, unless a slice is what was written."""
    if records != task.records[number] or found != task.sums[number]:
        raise ShuffleCorrupt(
            f"the block {task.keys[number]!r} in {task.store} is not what was written: its bytes"
            f" {task.starts[number]:,} to {task.stops[number]:,} should be {task.records[number]:,} records with the"
            f" checksum {task.sums[number]:016x}, and are {records:,} with {found:016x}. {ADVICE}"
        )
