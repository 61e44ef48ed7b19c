"""Many records at once, with numpy: their order by keys, a hash of each, and whether they are in order.

Only what has many records at once imports this module, and with it numpy.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Array", "Mixer", "are_ordered", "rows_of", "stable_order"]

Array = Any  # numpy's own types say nothing that these functions need
Words = Callable[[int, Array | None], Array]
"""`words(j, index)`: the j-th 8 bytes of each key as big-endian numbers, of all records or of those in `index`.

They are the caller's own, to write on.
"""

_BLOCK = 256 << 10  # bytes of records that stay in a core's cache while they are looked at several times
_MASK = (1 << 64) - 1


def stable_order(words: Words, bits: int, count: int) -> Array:
    """The places of `count` records whose keys have so many bits, sorted by key and then by place.

    Numbers are sorted, several times as fast as places by their numbers: each is made of as much of the key as tells
    records apart, and of the place. Where that was too little of a key, the rest of it decides among those alike.
    """
    if not count:
        return np.empty(0, np.uint64)
    place_bits = max(1, (count - 1).bit_length())
    values = words(0, None)
    values -= values.min()
    have = min(bits, 64)
    span = int(values.max()).bit_length()  # what is above is the same in all
    shift = max(0, span - (64 - place_bits))
    # In place wherever that can be: fresh memory costs as much as the work on it.
    packed = values >> _u8(shift)
    packed <<= _u8(place_bits)
    places = np.arange(count, dtype=np.uint64)
    packed |= places
    packed.sort()
    order = np.bitwise_and(packed, _u8((1 << place_bits) - 1), out=places)
    packed >>= _u8(place_bits)
    at, groups = _alike(packed)
    if len(at):
        # `values` still knows the lower bits of the first word; the others are asked for.
        _refine(order, at, groups, place_bits, _rest_of(values, shift, words, bits - have))
    return order


def _rest_of(values: Array, shift: int, words: Words, more: int) -> Callable[[int, Array], tuple[Array, int] | None]:
    """The key's further stretches: `rest(n, index)` gives the n-th one, and how many bits it has, or None."""
    stretches = ([None] if shift else []) + list(range(1, 1 + -(-more // 64)))

    def rest(number: int, index: Array) -> tuple[Array, int] | None:
        if number >= len(stretches):
            return None
        word = stretches[number]
        if word is None:
            return values[index] & _u8((1 << shift) - 1), shift
        have = min(64, more - 64 * (word - 1))
        return words(word, index) >> _u8(64 - have), have

    return rest


def _refine(order: Array, at: Array, groups: Array, place_bits: int, rest: Callable[..., Any]) -> None:
    """Put into order, in place, those that were alike so far: at the places `at`, in groups of neighbours."""
    number, done = 0, 0
    while len(at):
        places = order[at]
        found = rest(number, places)
        if found is None:
            return
        values, have = found
        take = min(have - done, 64 - place_bits - int(groups[-1]).bit_length())
        part = (values >> _u8(have - done - take)) & _u8((1 << take) - 1)
        packed = (groups << _u8(take + place_bits)) | (part << _u8(place_bits)) | places
        packed.sort()
        order[at] = packed & _u8((1 << place_bits) - 1)
        kept, groups = _alike(packed >> _u8(place_bits))
        at = at[kept]
        done += take
        if done == have:
            number, done = number + 1, 0


def _alike(values: Array) -> tuple[Array, Array]:
    """Of sorted values, the places of those that have an equal neighbour, and the number of each one's group."""
    same = values[1:] == values[:-1]
    if not same.any():
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    kept = np.zeros(len(values), bool)
    kept[1:] = same
    begins = np.zeros(len(values), bool)
    begins[:-1] = same
    begins &= ~kept
    at = np.flatnonzero(begins | kept)
    return at, np.cumsum(begins[at], dtype=np.uint64) - _u8(1)


def are_ordered(words: Words, bits: int, count: int) -> bool:
    """Whether no key is below the one before it."""
    values = words(0, None)
    if (values[:-1] > values[1:]).any():
        return False
    index = np.flatnonzero(values[:-1] == values[1:])
    for word in range(1, -(-bits // 64)):
        if not len(index):
            break
        earlier, later = words(word, index), words(word, index + 1)
        if (earlier > later).any():
            return False
        index = index[earlier == later]
    return True


def rows_of(width: int) -> int:
    """How many records of that width are looked at together."""
    return max(64, _BLOCK // width)


class Mixer:
    """A hash of 64 bits for each record of one width, not linear, and the same in every process.

    A record's words of 32 bits are multiplied by odd numbers of 64 and added, and the sum is mixed as a whole: records
    that exchange a part change both hashes, and the sum of all hashes with them.
    """

    def __init__(self, width: int, count: int) -> None:
        lanes = -(-width // 4)
        self._width = width
        self._rows = max(1, min(rows_of(width), count))
        self._padded = np.zeros((self._rows, 4 * lanes), np.uint8) if width % 4 else None
        self._factors = np.array([_odd(lane) for lane in range(lanes)], np.uint64)
        self._mixed = np.empty(self._rows, np.uint64)

    def hashes(self, records: Array, out: Array) -> None:
        """The hash of each row of a table of bytes, into `out`."""
        for start in range(0, len(records), self._rows):
            stop = min(len(records), start + self._rows)
            self._block(records[start:stop], out[start:stop])

    def _block(self, records: Array, out: Array) -> None:
        if self._padded is not None:
            self._padded[: len(records), : self._width] = records
            records = self._padded[: len(records)]
        # Of words of 64 bits the highest bits would have nowhere to go, and those of two words would cancel out.
        np.einsum("ij,j->i", records.view("<u4"), self._factors, out=out, dtype=np.uint64)
        out += _u8(_ADDED)
        mixed = self._mixed[: len(out)]
        for factor in _FINAL:
            out ^= np.right_shift(out, _u8(33), out=mixed)
            out *= _u8(factor)
        out ^= np.right_shift(out, _u8(33), out=mixed)


_ADDED = 0x9E3779B97F4A7C15
_FINAL = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)


def _odd(lane: int) -> int:
    """The multiplier of a lane: numbers that look like chance (splitmix64)."""
    value = (lane + 1) * _ADDED & _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return (value ^ value >> 31) | 1


def _u8(value: int) -> Any:
    return np.uint64(value)
