"""Batches of records of one width, as numpy has them: see `fixed_records`.

A batch is the bytes as they were loaded and, once it is sorted, the order of the records. They are moved only as they
leave: in blocks that stay in a core's cache, where they are also looked at for the proof.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np

from pywren_runtime.stores import Buffer
from pywren_shuffle.proof import NOTHING, Tally
from pywren_shuffle.records import Batch
from pywren_shuffle.records.vectors import Array, Mixer, are_ordered, rows_of, stable_order

__all__ = ["FixedBatch", "FixedWriter", "Shape", "joined", "spread", "table_of"]


class Shape(Protocol):
    """What a batch must know of its format."""

    @property
    def width(self) -> int:
        """How many bytes a record has."""
        ...

    @property
    def key(self) -> int:
        """How many of the first are the key."""
        ...

    @property
    def reverse(self) -> bool:
        """Whether the greatest key comes first."""
        ...


def table_of(width: int, data: memoryview) -> Array:
    """These bytes as records."""
    return np.frombuffer(data, np.uint8).reshape(-1, width)


def spread(table: Array, count: int, key: int) -> Array:
    """The keys of so many records, evenly spread."""
    places = (np.arange(count) * len(table) + len(table) // 2) // count
    return table[places, :key]


def joined(batches: Sequence[Batch]) -> "FixedBatch":
    """The records of all batches, one behind the other."""
    own = cast("Sequence[FixedBatch]", batches)
    return FixedBatch(own[0].format, np.concatenate([batch.records() for batch in own]))


class FixedBatch:
    """A table of bytes, a row for each record; with an order, in that order."""

    def __init__(self, format: Shape, table: Array, order: Array | None = None, scratch: "_Scratch | None" = None):
        self.format = format
        self._table = table
        self._order = order
        self._scratch = scratch or _Scratch(format.width, table)

    def __len__(self) -> int:
        return len(self._table if self._order is None else self._order)

    @property
    def nbytes(self) -> int:
        return len(self) * self.format.width

    def sort(self) -> "FixedBatch":
        return FixedBatch(self.format, self._table, self._sorted(), self._scratch)

    def _sorted(self) -> Array:
        table = self.records() if self._order is not None else self._table
        return stable_order(_words(self.format, table), 8 * self.format.key, len(table))

    def key(self, index: int) -> bytes:
        found = self._table[self.origin(index), : self.format.key]
        return bytes(found ^ 255 if self.format.reverse else found)

    def bound(self, key: bytes, *, after: bool) -> int:
        word = np.uint64(int.from_bytes(key[:8].ljust(8, b"\0"), "big"))
        start, stop = (int(found) for found in (self._first.searchsorted(word, side) for side in ("left", "right")))
        if len(key) <= 8 or start == stop:
            return stop if after else start
        return (bisect_right if after else bisect_left)(range(len(self)), key, start, stop, key=self.key)

    @cached_property
    def _first(self) -> Array:
        """The first word of each key, in this batch's order."""
        index = None if self._order is None else self._order
        return _words(self.format, self._table)(0, index)

    def origin(self, index: int) -> int:
        return index if self._order is None else int(self._order[index])

    def part(self, start: int, stop: int) -> "FixedBatch":
        if self._order is None:
            return FixedBatch(self.format, self._table[start:stop])
        return FixedBatch(self.format, self._table, self._order[start:stop], self._scratch)

    def sums(self, cuts: Sequence[int]) -> list[int]:
        hashes = self._scratch.hashes
        if self._order is not None:
            hashes = hashes.take(self._order.view(np.int64), mode="clip")
        return [int(hashes[start:stop].sum(dtype=np.uint64)) for start, stop in pairwise(cuts)]

    def encode(self) -> Iterator[Buffer]:
        return (memoryview(block).cast("B") for block in self.blocks())

    def blocks(self) -> Iterator[Array]:
        """The records in this batch's order as tables; the next may lie where the last did."""
        if self._order is None:
            rows = rows_of(self.format.width)
            return (self._table[start : start + rows] for start in range(0, len(self._table), rows))
        return self._scratch.gathered(self._order)

    def left(self, start: int, hashes: Array) -> None:
        """Records from `start` have left, with these hashes."""
        if self._order is not None:
            self._scratch.left(self._order[start : start + len(hashes)], hashes)

    def records(self) -> Array:
        """All of them as one table."""
        return self._table if self._order is None else self._table[self._order]

    def __reduce__(self) -> tuple[Any, ...]:
        return FixedBatch, (self.format, self.records())


class _Scratch:
    """What all batches over one table share: hashes, and room for the records that leave."""

    def __init__(self, width: int, table: Array) -> None:
        self._width = width
        self._table = table
        self._hashes: Array = None
        self._missing = len(table)

    @property
    def hashes(self) -> Array:
        """The hash of each record of the table: as it left, if all have, and else as it lies there."""
        if self._hashes is None or self._missing:
            self._hashes, self._missing = np.empty(len(self._table), np.uint64), 0
            Mixer(self._width, len(self._hashes)).hashes(self._table, self._hashes)
        return self._hashes

    def left(self, places: Array, hashes: Array) -> None:
        """The records at these places have left, with these hashes."""
        if self._hashes is None:
            self._hashes = np.zeros(len(self._table), np.uint64)  # that of a record which never leaves is wrong
        if self._missing:
            self._hashes[places.view(np.int64)] = hashes
            self._missing -= len(places)

    @cached_property
    def _room(self) -> Array:
        return np.empty((max(1, min(rows_of(self._width), len(self._table))), self._width), np.uint8)

    def gathered(self, order: Array) -> Iterator[Array]:
        """The records in that order, block by block, each in the same place."""
        whole = np.dtype((np.void, self._width))
        table = self._table.view(whole).reshape(-1)
        for start in range(0, len(order), len(self._room)):
            places = order[start : start + len(self._room)]
            room = self._room[: len(places)]
            np.take(table, places.view(np.int64), out=room.view(whole).reshape(-1), mode="clip")
            yield room


class FixedWriter:
    """A part is the records, one behind the other; each block is looked at as it leaves."""

    def __init__(self, format: Shape) -> None:
        self._format = format
        rows = rows_of(format.width)
        self._mixer = Mixer(format.width, rows)
        self._hashes = np.empty(rows, np.uint64)
        self._tally = NOTHING

    @property
    def tally(self) -> Tally:
        return self._tally

    def write(self, batch: Batch) -> Iterator[Buffer]:
        own, at = cast(FixedBatch, batch), 0
        for block in own.blocks():
            hashes = self._hashes[: len(block)]
            self._mixer.hashes(block, hashes)
            own.left(at, hashes)
            at += len(block)
            self._tally = self._tally.then(self._measure(block, int(hashes.sum(dtype=np.uint64))))
            yield memoryview(block).cast("B")

    def close(self) -> Iterable[Buffer]:
        return ()

    def _measure(self, block: Array, checksum: int) -> Tally:
        own = FixedBatch(self._format, block)
        return Tally(
            records=len(block),
            bytes=block.nbytes,
            checksum=checksum,
            first=own.key(0),
            last=own.key(len(block) - 1),
            in_order=are_ordered(_words(self._format, block), 8 * self._format.key, len(block)),
        )


def _words(format: Shape, table: Array) -> Any:
    """The words of the keys, as `vectors` asks for them; what the key lacks of its last word is zero."""
    width, length = format.width, format.key

    def words(word: int, index: Array | None) -> Array:
        start = 8 * word
        have = min(8, length - start)
        if start + 8 <= width and table.flags.c_contiguous:
            strided = np.ndarray((len(table),), ">u8", table, start, (width,)) if len(table) else np.empty(0, ">u8")
            found = (strided if index is None else strided[index]).astype(np.uint64)
        else:
            padded = np.zeros((len(table) if index is None else len(index), 8), np.uint8)
            padded[:, :have] = (table if index is None else table[index])[:, start : start + have]
            found = padded.view(">u8").reshape(-1).astype(np.uint64)
        if format.reverse:
            found = ~found
        return found & np.uint64(-1 << 8 * (8 - have) & 0xFFFFFFFFFFFFFFFF) if have < 8 else found

    return words
