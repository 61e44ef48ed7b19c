"""Records of one width whose first bytes are the key: `fixed:100:10` is 100 bytes with a key of 10.

A batch is the bytes as they were loaded and, once it is sorted, the order of the records. They are moved only as they
leave: in blocks that stay in a core's cache, where they are also looked at for the proof.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import numpy as np

from pywren_runtime.errors import ConfigError, RecordError
from pywren_runtime.stores import Buffer
from pywren_shuffle.proof import MASK, NOTHING, Tally
from pywren_shuffle.records import Batch, Piece, Reader, Source
from pywren_shuffle.vectors import Array, Mixer, are_ordered, rows_of, stable_order

__all__ = ["Fixed", "FixedBatch", "open_format"]

_BESIDE = 120  # bytes: order and hash of a record, its key's first word, and what sorting many equal keys takes


@dataclass(frozen=True, slots=True)
class Fixed:
    """Records of `width` bytes, sorted by the first `key` of them as bytes compare."""

    width: int
    key: int
    reverse: bool = False

    suffix = ".dat"

    @property
    def record_size(self) -> int:
        return self.width

    @property
    def expansion(self) -> float:
        return _BESIDE / self.width

    @property
    def decoded_expansion(self) -> float:
        return self.expansion

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Fixed":
        return self

    def cut(self, source: Source, size: int, reader: Reader) -> Iterable[Piece]:
        if source.size % self.width:
            raise RecordError(
                f"{source.key!r} in {source.store} has {source.size:,} bytes, which is no multiple of {self.width}:"
                f" it is not made of records of {self.width} bytes. Correct records='fixed:{self.width}:{self.key}',"
                " or leave that object out."
            )
        records = source.size // self.width
        pieces = -(-source.size // max(size, self.width))
        cuts = [records * number // pieces * self.width for number in range(pieces + 1)] if pieces else []
        return [Piece(source, start, stop) for start, stop in pairwise(cuts)]

    def sample(self, pieces: Sequence[Piece], count: int, places: int, reader: Reader) -> Batch:
        total = sum(piece.stop - piece.start for piece in pieces) // self.width
        found = []
        for piece in pieces:
            records = (piece.stop - piece.start) // self.width
            share = -(-count * records // total)
            found.append(self._sample(piece, records, share, max(1, min(share, places * records // total)), reader))
        keys = np.concatenate(found) if found else np.empty((0, self.key), np.uint8)
        return FixedBatch(replace(self, width=self.key), keys)

    def _sample(self, piece: Piece, records: int, count: int, places: int, reader: Reader) -> Array:
        count = min(count, records)
        if places >= count:  # a mapping: what is not looked at is not read
            table = self._table(reader.read([piece]))
            return table[(np.arange(count) * records + records // 2) // count, : self.key]
        stretch = -(-count // places)
        starts = [piece.start + (records - stretch) * number // places * self.width for number in range(places)]
        stretches = [Piece(piece.source, start, start + stretch * self.width) for start in starts]
        return self._table(reader.read(stretches))[:, : self.key].copy()

    def load(self, pieces: Sequence[Piece], reader: Reader) -> Batch:
        return FixedBatch(self, self._table(reader.read(pieces)))

    def decode(self, data: memoryview) -> tuple[Batch, int]:
        whole = len(data) // self.width * self.width
        return FixedBatch(self, self._table(data[:whole])), whole

    def join(self, batches: Sequence[Batch]) -> Batch:
        own = cast("Sequence[FixedBatch]", batches)
        return FixedBatch(own[0].format, np.concatenate([batch.records() for batch in own]))

    def writer(self) -> "FixedWriter":
        return FixedWriter(self)

    def _table(self, data: memoryview) -> Array:
        return np.frombuffer(data, np.uint8).reshape(-1, self.width)


class FixedBatch:
    """A table of bytes, a row for each record; with an order, in that order."""

    def __init__(self, format: Fixed, table: Array, order: Array | None = None, scratch: "_Scratch | None" = None):
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
        hashes = self._scratch.hashes if self._order is None else self._scratch.hashes[self._order]
        totals = np.zeros(len(hashes) + 1, np.uint64)
        np.cumsum(hashes, out=totals[1:])
        at = [int(total) for total in totals[list(cuts)]]
        return [(stop - start) & MASK for start, stop in pairwise(at)]

    def encode(self) -> Iterator[Buffer]:
        return (memoryview(block).cast("B") for block in self.blocks())

    def blocks(self) -> Iterator[Array]:
        """The records in this batch's order as tables; the next may lie where the last did."""
        if self._order is None:
            rows = rows_of(self.format.width)
            return (self._table[start : start + rows] for start in range(0, len(self._table), rows))
        return self._scratch.gathered(self._order)

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

    @cached_property
    def hashes(self) -> Array:
        """The hash of each record of the table."""
        found = np.empty(len(self._table), np.uint64)
        Mixer(self._width, len(found)).hashes(self._table, found)
        return found

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

    def __init__(self, format: Fixed) -> None:
        self._format = format
        rows = rows_of(format.width)
        self._mixer = Mixer(format.width, rows)
        self._hashes = np.empty(rows, np.uint64)
        self._tally = NOTHING

    @property
    def tally(self) -> Tally:
        return self._tally

    def write(self, batch: Batch) -> Iterator[Buffer]:
        for block in cast(FixedBatch, batch).blocks():
            self._tally = self._tally.then(self._measure(block))
            yield memoryview(block).cast("B")

    def close(self) -> Iterable[Buffer]:
        return ()

    def _measure(self, block: Array) -> Tally:
        hashes = self._hashes[: len(block)]
        self._mixer.hashes(block, hashes)
        own = FixedBatch(self._format, block)
        return Tally(
            records=len(block),
            bytes=block.nbytes,
            checksum=int(hashes.sum(dtype=np.uint64)),
            first=own.key(0),
            last=own.key(len(block) - 1),
            in_order=are_ordered(_words(self._format, block), 8 * self._format.key, len(block)),
        )


def open_format(rest: str, *, key: object = None, reverse: object = False) -> Fixed:
    """`WIDTH:KEY`: bytes of a record, and how many of the first are the key; with `reverse` the last key first."""
    width, _, length = rest.partition(":")
    if not (width.isdecimal() and length.isdecimal() and 1 <= int(length) <= int(width)):
        raise ConfigError(
            f"records='fixed:{rest}' should be 'fixed:WIDTH:KEY', the bytes of a record and how many of its first bytes"
            " are the key, at least one: 'fixed:100:10'."
        )
    if key is not None or not isinstance(reverse, bool):
        raise ConfigError(
            f"records of fixed width are sorted by their first bytes: key={key!r}, reverse={reverse!r} cannot be; there"
            " are reverse=True and reverse=False, and no key."
        )
    return Fixed(int(width), int(length), reverse)


def _words(format: Fixed, table: Array) -> Any:
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
