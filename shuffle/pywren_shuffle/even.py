"""What needs no order: records in so many parts of one size, and the greatest of all.

repartition     splits ──► cut where the bytes of the input say ──► parts, in the order of the input
top_k           splits ──► the k greatest of each ──► driver ──► the k greatest of all
"""

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, cast

from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import Buffer
from pywren_shuffle.driving.run import Place, Run
from pywren_shuffle.group import USUAL, How, Places, Reduced, Spread
from pywren_shuffle.phases.sample import Boundary, Hot
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.planning.plan import Plan
from pywren_shuffle.proof import Tally
from pywren_shuffle.records import Batch, Format, Piece, Reader, Source, Writer, is_table, open_format
from pywren_shuffle.records.keyed import Keyed

__all__ = ["repartition", "top_k"]


def repartition(
    executor: Executor,
    source: Places,
    target: Place,
    partitions: int,
    *,
    records: str = "rows",
    how: How = USUAL,
) -> "Reduced[None]":
    """The same records in the same order, in so many parts of about the same size."""
    run = _Even(executor, Unsorted(_unsorted(records)), target, replace(how, partitions=partitions))
    return run.run(source)


def top_k(
    executor: Executor,
    source: Places,
    k: int,
    *,
    records: str = "rows",
    key: object = None,
    smallest: bool = False,
    how: How = USUAL,
) -> Any:
    """The k greatest records, greatest first, as `sorted(…, reverse=True)[:k]` has them: a list, or a pyarrow.Table.

    They come to the driver from every split, so k should be small beside the input; what is not is for a sort.
    """
    if not isinstance(k, int) or k < 0:
        raise ConfigError(f"k={k!r} must be a number of records, 0 or more.")
    format = open_format(records, key=key, reverse=not smallest)
    run = _Top(executor, format, "memory:top", how.intermediate, how.hedging)
    return run.best(source, k, how.memory)


@dataclass(frozen=True, slots=True)
class Unsorted:
    """The records of another format, in the order in which they lie there."""

    inner: Format
    memory: int = 0

    @property
    def suffix(self) -> str:
        """See Format."""
        return self.inner.suffix

    @property
    def expansion(self) -> float:
        """See Format."""
        return self.inner.expansion

    @property
    def decoded_expansion(self) -> float:
        """See Format."""
        return self.inner.decoded_expansion

    @property
    def record_size(self) -> int:
        """See Format."""
        return self.inner.record_size

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Unsorted":
        """See Format."""
        return replace(self, inner=self.inner.prepare(sources, reader))

    def cut(self, source: Source, size: int, reader: Reader) -> Iterable[Piece]:
        """See Format."""
        return self.inner.cut(source, size, reader)

    def spills(self, pieces: Sequence[Piece], reader: Reader) -> Iterator["UnsortedBatch"]:
        """See Spilling: a split fits into memory."""
        yield UnsortedBatch(self.inner.load(pieces, reader))

    def decode(self, data: memoryview) -> tuple["UnsortedBatch", int]:
        """See Format."""
        batch, used = self.inner.decode(data)
        return UnsortedBatch(batch), used

    def join(self, batches: Sequence[Batch]) -> "UnsortedBatch":
        """See Format."""
        return UnsortedBatch(self.inner.join([cast(UnsortedBatch, batch).inner for batch in batches]))

    def writer(self) -> "UnsortedWriter":
        """See Format."""
        return UnsortedWriter(cast(Writer, self.inner.writer()))


class UnsortedBatch:
    """Records that all have the same key: sorting them, which is stable, changes nothing."""

    def __init__(self, inner: Batch) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def nbytes(self) -> int:
        """See Batch."""
        return self.inner.nbytes

    def sort(self) -> "UnsortedBatch":
        """See Batch."""
        return self

    def key(self, index: int) -> int:
        """See Batch."""
        return 0

    def bound(self, key: int, *, after: bool) -> int:
        """See Batch."""
        return len(self) if after else 0

    def origin(self, index: int) -> int:
        """See Batch."""
        return index

    def part(self, start: int, stop: int) -> "UnsortedBatch":
        """See Batch."""
        return UnsortedBatch(self.inner.part(start, stop))

    def sums(self, cuts: Sequence[int]) -> list[int]:
        """See Batch."""
        return self.inner.sums(cuts)

    def encode(self) -> Iterator[Buffer]:
        """See Batch."""
        return self.inner.encode()


class UnsortedWriter:
    """A part as the other format has it."""

    def __init__(self, inner: Writer) -> None:
        self._inner = inner

    @property
    def tally(self) -> Tally:
        """See Writer: whatever comes is in order."""
        found = self._inner.tally
        return replace(found, first=0, last=0, in_order=True) if found.records else found

    def write(self, batch: Batch) -> Iterable[Buffer]:
        """See Writer."""
        return self._inner.write(cast(UnsortedBatch, batch).inner)

    def close(self) -> Iterable[Buffer]:
        """See Writer."""
        return self._inner.close()


class _Even(Spread):
    """One run whose partitions are stretches of the input."""

    WHAT = "repartition"

    def sampled(self, splits: Sequence[tuple[Piece, ...]], plan: Plan) -> tuple[list[Boundary], list[Hot]]:
        """The boundaries, at bytes of the input: as many records lie between two as fill so many bytes."""
        ends = list(accumulate((_size(split) for split in splits), initial=0))
        found = []
        split = 0
        for number in range(1, plan.partitions):
            at = ends[-1] * number // plan.partitions
            while split < len(splits) - 1 and ends[split + 1] <= at:
                split += 1
            size = ends[split + 1] - ends[split] if splits else 0
            found.append(Boundary(0, split, (at - ends[split]) / size if size else 0.0))
        return found, []


@dataclass(frozen=True, slots=True)
class TopTask:
    """Find the first records of a split, once it is sorted."""

    format: Format
    pieces: tuple[Piece, ...]
    k: int
    block: int
    hedging: bool


def top(task: TopTask) -> tuple[Batch, Counter[str]]:
    """In a worker: the first k."""
    exchange = Exchange(hedging=task.hedging, block=task.block)
    try:
        batch = task.format.load(task.pieces, exchange).sort()
        return task.format.join([batch.part(0, min(task.k, len(batch)))]), exchange.requests
    finally:
        exchange.close()


class _Top(Run):
    """One run that writes nothing."""

    WHAT = "top_k"

    def best(self, source: Any, k: int, memory: float | None) -> Any:
        """The first k of all."""
        try:
            sources = self.found(source, False)
            plan = self.planned(sources, None, 1, memory)
            splits = self.cut(sources, plan)
            tasks = [TopTask(self._format, split, k, plan.block, self._hedging) for split in splits]
            with self._steps.step("top", tasks):
                found = [batch for batch, _ in self._all(top, tasks)]
            batch = self._format.join(found)
            batch = batch.sort()
            return _contents(self._format, batch.part(0, min(k, len(batch))))
        finally:
            self.exchange.close()


def _contents(format: Any, batch: Any) -> Any:
    """Records as a user has use for them."""
    if hasattr(batch, "table"):
        return batch.table
    if not isinstance(batch, Keyed):
        return [bytes(buffer) for number in range(len(batch)) for buffer in batch.part(number, number + 1).encode()]
    if format.extra:
        return [row.removesuffix(b"\r").decode("utf-8", "surrogateescape") for row in batch.rows]
    return list(map(pickle.loads, batch.rows))


def _unsorted(records: str) -> Format:
    if is_table(records):
        from pywren_shuffle.records.table_records import Table

        return Table(())
    return open_format(records, key=_alike if records.partition(":")[0] in ("rows", "text") else None)


def _alike(record: object) -> int:
    """The key of records whose order is nobody's concern."""
    return 0


def _size(pieces: Sequence[Piece]) -> int:
    return sum(piece.stop - piece.start for piece in pieces)
