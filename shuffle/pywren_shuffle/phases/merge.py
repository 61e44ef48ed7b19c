"""The second phase, in a worker: some neighbouring partitions' slices of all blocks become output parts.

slices ──► all fit into memory? ──► read, decode, sort once ──────────────────┐
                     └──► rounds: a block of each, what is safe of it sorted ─┴─► writer ──► part, part, …
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import sub

from pywren_runtime.errors import ShuffleCorrupt
from pywren_runtime.stores import Buffer
from pywren_shuffle.host import heed
from pywren_shuffle.phases.rounds import Slice, rounds
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.places.spare import BlocksLost, kept
from pywren_shuffle.proof import ADVICE, Tally
from pywren_shuffle.records import Batch, Format, Made, Piece, Reducer, Source, Witness, Writer
from pywren_shuffle.sizes import fits, reads

__all__ = ["MergeTask", "Merged", "Part", "batches_of", "following", "merge"]


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
    counts: "array[int]"  # of the records of each part, or of each slice of a block
    target: str
    parts: tuple[str, ...]  # keys there
    memory: int
    block: int
    hedging: bool
    over: str = ""  # see `host.heed`
    stores: tuple[str, ...] = ()  # where each key lies, if not all in `store`
    spare: str = ""  # where what is lost can be made again: to lose it is no error then, but `Merged.lost`
    ahead: int = 0  # see `Flights`

    @property
    def sizes(self) -> list[int]:
        """How many bytes each slice has."""
        return list(map(sub, self.stops, self.starts))

    @property
    def bytes(self) -> int:
        """How many it reads."""
        return sum(self.stops) - sum(self.starts)

    @property
    def reads(self) -> int:
        """How many ranges it asks for, hedges apart."""
        return reads(self.sizes, self.memory, self.format.decoded_expansion, self.block)


@dataclass(frozen=True, slots=True)
class Part:
    """One output part as it was written; `size` is that of the object, `tally` that of the records merged."""

    key: str
    size: int
    tally: Tally
    made: Made | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """What a MergeTask made; nothing that counts if something was `lost`, in words."""

    parts: tuple[Part, ...]
    requests: Counter[str]
    lost: str = ""


def merge(task: MergeTask) -> Merged:
    """Read, merge and write; if it is run again, the same parts lie at the same keys."""
    exchange = Exchange(hedging=task.hedging, block=task.block, ahead=task.ahead)
    try:
        batches = batches_of(task, exchange, late=True)
        rest: list[Batch] = []
        parts = []
        for key, count in zip(task.parts, task.counts, strict=True):
            writer = task.format.writer()
            size = exchange.put_stream(task.target, key, _part(writer, count, rest, batches))
            parts.append(Part(key, size, writer.tally, writer.made if isinstance(writer, Reducer) else None))
        if rest or next(batches, None) is not None:  # it is asked in any case: what has left is checked then
            raise ShuffleCorrupt(f"a partition goes on where it should end: {task.parts[-1]!r}. {ADVICE}")
        heed(exchange, task.spare or task.store, task.over, [(task.target, key) for key in task.parts])
        return Merged(tuple(parts), exchange.requests)
    except BlocksLost as lost:
        return Merged((), exchange.requests, str(lost))
    finally:
        exchange.close()


def _part(writer: Writer | Reducer, count: int, rest: list[Batch], batches: Iterator[Batch]) -> Iterator[Buffer]:
    """One part's bytes: its records are the next `count`; what of a batch is the next part's stays in `rest`."""
    own = following(count, rest, batches)
    if isinstance(writer, Reducer):
        yield from writer.reduce(own)
        return
    while (batch := next(own, None)) is not None:
        yield from writer.write(batch)
        del batch  # it need not be in memory while the next one is made
    yield from writer.close()


def following(count: int, rest: list[Batch], batches: Iterator[Batch]) -> Iterator[Batch]:
    """The next `count` records; what of a batch comes after them stays in `rest`, for the next call."""
    while count:
        batch = rest.pop() if rest else next(batches, None)
        if batch is None:
            raise ShuffleCorrupt(f"a partition ended {count:,} records before its end. {ADVICE}")
        if len(batch) > count:
            rest.append(batch.part(count, len(batch)))
            batch = batch.part(0, count)
        count -= len(batch)
        yield batch
        del batch


def batches_of(task: MergeTask, exchange: Exchange, *, late: bool = False) -> Iterator[Batch]:
    """All records in order: as one batch if they fit into memory, else in several.

    With `late`, some slices are checked as the iterator ends, so it must be asked until then.
    """
    whole = fits(task.sizes, task.memory, task.format.decoded_expansion)
    batches = _at_once(task, exchange, late) if whole else _in_rounds(task, exchange)
    return kept(batches) if task.spare else batches


def _at_once(task: MergeTask, exchange: Exchange, late: bool) -> Iterator[Batch]:
    """All records, as one sorted batch; with `late`, those are looked at once that a writer looks at as they leave."""
    if not task.keys:
        return
    batch, _ = task.format.decode(exchange.read([_piece(task, number) for number in range(len(task.keys))]))
    cuts = list(accumulate(task.records, initial=0))
    if len(batch) != cuts[-1]:
        raise ShuffleCorrupt(
            f"the blocks {task.keys[0]!r} to {task.keys[-1]!r} in {task.store} hold {len(batch):,} records of these"
            f" partitions, and {cuts[-1]:,} were written. {ADVICE}"
        )
    if not (late and isinstance(batch, Witness)):
        _check_all(task, batch.sums(cuts))
        yield batch.sort()
        return
    yield batch.sort()
    found = batch.sums(cuts)
    for number, (has, had) in enumerate(zip(found, task.sums, strict=True)):
        if has != had:  # which is at fault, the block or this worker?
            again, _ = task.format.decode(exchange.read([_piece(task, number)]))
            _check(task, number, len(again), again.sums([0, len(again)])[0])
            raise ShuffleCorrupt(
                f"the records of {task.keys[number]!r} in {task.store} were not what was read of it when they left a"
                f" worker. {ADVICE}"
            )


def _in_rounds(task: MergeTask, exchange: Exchange) -> Iterator[Batch]:
    """All records in sorted batches, each of which fits into memory."""

    def check(number: int, records: int, found: int) -> None:
        _check(task, number, records, found)

    slices = [Slice(number, _piece(task, number)) for number in range(len(task.keys))]
    return rounds(slices, task.format, exchange, memory=task.memory, check=check)


def _piece(task: MergeTask, number: int) -> Piece:
    start, stop = task.starts[number], task.stops[number]
    store = task.stores[number] if task.stores else task.store
    return Piece(Source(store, task.keys[number], stop), start, stop)


def _check_all(task: MergeTask, sums: Sequence[int]) -> None:
    for number, found in enumerate(sums):
        _check(task, number, task.records[number], found)


def _check(task: MergeTask, number: int, records: int, found: int) -> None:
    """ShuffleCorrupt, with the block's name, unless a slice is what was written."""
    if records != task.records[number] or found != task.sums[number]:
        raise ShuffleCorrupt(
            f"the block {task.keys[number]!r} in {task.store} is not what was written: its bytes"
            f" {task.starts[number]:,} to {task.stops[number]:,} should be {task.records[number]:,} records with the"
            f" checksum {task.sums[number]:016x}, and are {records:,} with {found:016x}. {ADVICE}"
        )
