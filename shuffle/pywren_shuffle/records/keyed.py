"""Records that Python compares: the bytes of each, and what it is sorted by, in two lists of one length.

Text and rows are such. Sorting a list of sorted runs costs Python little more than comparing neighbours, so `sort`
merges, too.
"""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice, pairwise
from operator import lt, ne
from typing import Any, Final, Protocol, cast
from zlib import adler32, crc32

from pywren_runtime.errors import ConfigError, KeysIncomparable
from pywren_runtime.stores import Buffer
from pywren_shuffle.proof import MASK, NOTHING, Tally
from pywren_shuffle.records import Batch, Piece

__all__ = [
    "MANY",
    "KeyFunction",
    "Keyed",
    "KeyedWriter",
    "Order",
    "Packing",
    "check_key",
    "deep_size",
    "evenly",
    "hashes",
    "join",
    "keys_by",
    "place_of",
    "shown",
]

KeyFunction = Callable[[Any], Any]

MANY: Final = 16 << 20  # bytes of input with which it pays to import numpy


def hashes(records: list[bytes]) -> Iterator[int]:
    """A 64-bit hash of each, the same in every process, at the speed of C.

    Two sums alone would be linear, and what two records exchange might not show; the hash of the pair is not.
    """
    return map(hash, zip(map(crc32, records), map(adler32, records), strict=True))


def _total_of(records: list[bytes]) -> int:
    return sum(hashes(records)) & MASK


@cache
def _vectorised() -> Callable[[Sequence[bytes]], int] | None:
    """The same with other hashes in half the time; all workers of a sort have the same packages."""
    try:
        from pywren_shuffle.records.digests import total_of
    except ModuleNotFoundError:
        return None
    return total_of


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A key as the phases see it: `<` as the sort has it, which may be reversed, and an error that names both keys."""

    key: Any
    reverse: bool = False

    def __lt__(self, other: "Order") -> bool:
        low, high = (other.key, self.key) if self.reverse else (self.key, other.key)
        try:
            return bool(low < high)
        except TypeError as error:
            how = "A sort needs keys of one kind: make them so with key=, such as key=lambda row: str(row['name'])."
            if self.key is None or other.key is None:
                how = "To have None last, write key=lambda row: (row['name'] is None, row['name'])."
            raise KeysIncomparable(
                f"the keys {shown(self.key)} and {shown(other.key)} cannot be compared: {error}. {how}"
            ) from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Order) and bool(self.key == other.key)


class Packing(Protocol):
    """What a batch must know of its format."""

    @property
    def reverse(self) -> bool:
        """Whether the greatest key comes first."""
        ...

    @property
    def vectors(self) -> bool:
        """Whether hashes are taken of many records at once, where there is numpy: it takes time to be imported."""
        ...

    @property
    def extra(self) -> int:
        """How many bytes a record has beside its own: a line has its end."""
        ...

    def pack(self, rows: list[bytes]) -> Iterator[Buffer]:
        """Records as `encode` gives them."""
        ...


class Keyed:
    """Records in an order. `keys is rows` where they are their own keys; a sample has no rows."""

    __slots__ = ("_order", "_packing", "keys", "rows")

    def __init__(self, packing: Packing, keys: list[Any], rows: list[bytes], order: Sequence[int] | None = None):
        self._packing = packing
        self._order = order
        self.keys = keys
        self.rows = rows

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        return sum(map(len, self.rows)) + self._packing.extra * len(self.rows)

    def sort(self) -> "Keyed":
        """See Batch. Records that are their own keys and equal cannot be told apart: any order of these is stable."""
        reverse = self._packing.reverse
        if self.keys is self.rows:
            rows = sorted(self.rows, reverse=reverse)
            return Keyed(self._packing, rows, rows)
        if any(map(ne, self.keys, self.keys)):
            odd = next(key for key in self.keys if key != key)
            raise KeysIncomparable(
                f"the key {shown(odd)} is not equal to itself, so it has no place in a sort. Give such records another"
                " key: key=lambda row: (row.x != row.x, row.x) puts them last."
            )
        try:
            order = array("Q", sorted(range(len(self)), key=self.keys.__getitem__, reverse=reverse))
        except TypeError:
            sorted(map(Order, self.keys))  # the same comparisons, and the error says of what
            raise
        rows = [self.rows[place] for place in order] if self.rows else []
        return Keyed(self._packing, [self.keys[place] for place in order], rows, order)

    def key(self, index: int) -> Order:
        return Order(self.keys[index], self._packing.reverse)

    def bound(self, key: Order, *, after: bool) -> int:
        return (bisect_right if after else bisect_left)(range(len(self)), key, key=self.key)

    def origin(self, index: int) -> int:
        return index if self._order is None else self._order[index]

    def part(self, start: int, stop: int) -> "Keyed":
        order = None if self._order is None else self._order[start:stop]
        rows = self.rows[start:stop]
        return Keyed(self._packing, rows if self.keys is self.rows else self.keys[start:stop], rows, order)

    def sums(self, cuts: Sequence[int]) -> list[int]:
        total_of = (self._packing.vectors and _vectorised()) or _total_of
        return [total_of(self.rows[start:stop]) for start, stop in pairwise(cuts)]

    def encode(self) -> Iterator[Buffer]:
        return self._packing.pack(self.rows)

    def in_order(self) -> bool:
        """Whether no key is below the one before it."""
        if self._packing.reverse:
            return not any(map(lt, self.keys, islice(self.keys, 1, None)))
        return not any(map(lt, islice(self.keys, 1, None), self.keys))

    def memory(self) -> float:
        """About how many bytes of memory such records take, loaded and sorted, for each byte that they have."""
        own = self.keys is self.rows
        taken = sum(map(sys.getsizeof, self.rows)) + 24 * len(self)  # in the list, in the sorted one, while sorting
        # The same, and the numbers of their places.
        taken += 0 if own else sum(map(deep_size, self.keys)) + 60 * len(self)
        return taken / max(1, self.nbytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return Keyed, (self._packing, self.keys, self.rows, self._order)


class KeyedWriter:
    """A part is the records as they are packed, one behind the other."""

    def __init__(self, packing: Packing) -> None:
        self._packing = packing
        self._tally = NOTHING

    @property
    def tally(self) -> Tally:
        return self._tally

    def write(self, batch: Batch) -> Iterator[Buffer]:
        self.measure(batch)
        return self._packing.pack(cast(Keyed, batch).rows)

    def measure(self, batch: Batch) -> None:
        """Note what is about to go out."""
        if len(batch):
            self._tally = self._tally.then(_measure(cast(Keyed, batch)))

    def close(self) -> Iterable[Buffer]:
        return ()


def _measure(batch: Keyed) -> Tally:
    return Tally(
        records=len(batch),
        bytes=batch.nbytes,
        checksum=batch.sums([0, len(batch)])[0],
        first=batch.key(0),
        last=batch.key(len(batch) - 1),
        in_order=batch.in_order(),
    )


def join(packing: Packing, batches: Sequence[Batch]) -> Keyed:
    """The records of all, one behind the other."""
    own = cast("Sequence[Keyed]", batches)
    rows = list(chain.from_iterable(batch.rows for batch in own))
    if all(batch.keys is batch.rows for batch in own):
        return Keyed(packing, rows, rows)
    return Keyed(packing, list(chain.from_iterable(batch.keys for batch in own)), rows)


def keys_by(function: KeyFunction, records: Iterable[Any], where: str, what: str = "key", begin: int = 0) -> list[Any]:
    """The key of each record; an exception of the function says in a note which record that was, from 0."""
    keys: list[Any] = []
    try:
        keys.extend(map(function, records))
    except Exception as error:
        error.add_note(f"That was the {what} of record {begin + len(keys):,} of {where}, counted from 0.")
        raise
    return keys


def place_of(piece: Piece, first: int = 0) -> str:
    """Where records were counted from, for a message: an object, whose first record begins at that byte, or part."""
    at = f" from its byte {piece.start:,} on" if piece.start > first else ""
    return f"{piece.source.key!r} in {piece.source.store}{at}"


def evenly(count: int, of: int) -> Iterator[int]:
    """`count` places of `of`, as evenly as can be; all if there are no more."""
    count = min(count, of)
    return ((number * of + of // 2) // count for number in range(count))


def check_key(records: str, key: object, reverse: object) -> tuple[KeyFunction | None, bool]:
    """The arguments of a sort whose records Python compares."""
    if key is not None and not callable(key):
        name = key if isinstance(key, str) else "name"
        raise ConfigError(
            f"key={key!r} of records={records!r} must be a function of one record, such as"
            f" key=lambda row: row[{name!r}], or None."
        )
    return key, bool(reverse)


def shown(value: object) -> str:
    """A value for a message."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:59] + '…'} ({type(value).__name__})"


def deep_size(value: object, depth: int = 8) -> int:
    """The memory of a value and of what it holds, so deep, as far as the built-in containers show it."""
    held: Iterable[object] = ()
    if not depth:
        pass
    elif isinstance(value, dict):
        held = chain(value.keys(), value.values())
    elif isinstance(value, tuple | list | set | frozenset):
        held = value
    elif hasattr(value, "__dict__"):
        held = (vars(value),)
    return sys.getsizeof(value) + sum(deep_size(each, depth - 1) for each in held)
