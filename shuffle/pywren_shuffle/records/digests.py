"""Hashes of 64 bits of many records of different lengths at once, with numpy; the same in every process.

bytes of all records, end to end ─┐
where each begins, how long it is ┴─► longest first ─► word by word: of all that are that long, one more ─► mixed
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pywren_shuffle.records.keyed import hashes

__all__ = ["PAD", "SHORT", "hashes_of", "mixed", "total_of"]

Array = Any
PAD = 8  # bytes that must lie behind the last record: words are read whole
SHORT = 256  # bytes of a record at most; longer ones are better off each by itself

_TOGETHER = 1 << 13  # records, so that what is worked on stays in a processor's cache
_ODD = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_FIRST = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)  # of a word, so many bytes


def mixed(values: Array) -> Array:
    """Numbers that look like chance (splitmix64), other ones for other values."""
    values = values + _ODD
    values ^= values >> np.uint64(30)
    values *= _FACTORS[0]
    values ^= values >> np.uint64(27)
    values *= _FACTORS[1]
    values ^= values >> np.uint64(31)
    return values


def hashes_of(data: Array, begins: Array, lengths: Array) -> Array:
    """The hash of each record; none may be longer than SHORT. `data` has PAD bytes more than the records need."""
    words = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))  # that begin at each byte
    found = np.empty(len(begins), np.uint64)
    for start in range(0, len(begins), _TOGETHER):
        stop = min(start + _TOGETHER, len(begins))
        _some(words, begins[start:stop], lengths[start:stop].astype(np.uint16), found[start:stop])
    return found


def _some(words: Array, begins: Array, lengths: Array, out: Array) -> None:
    order = np.argsort(lengths, kind="stable")[::-1]
    begins, lengths = begins[order], lengths[order].astype(np.int64)
    found = lengths.astype(np.uint64) * _ODD
    steps = np.arange(0, int(lengths[0]), 8)
    ascending = lengths[::-1]
    begun = len(lengths) - np.searchsorted(ascending, steps, side="right")  # how many have a byte at that step
    whole = len(lengths) - np.searchsorted(ascending, steps + 8, side="left")  # and how many a word
    for step, some, full in zip(steps.tolist(), begun.tolist(), whole.tolist(), strict=True):
        begins = begins[:some]
        word = words[begins]
        if full < some:
            word[full:] &= _FIRST[lengths[full:some] - step]
        part = found[:some]
        part ^= word
        part *= _FACTORS[0]
        np.right_shift(part, np.uint64(32), out=word)
        part ^= word
        begins += 8
    out[order] = mixed(found)


def total_of(records: Sequence[bytes]) -> int:
    """The sum of the hashes of records, modulo 2**64; long ones have the hash of `keyed.hashes`."""
    total = 0
    for start in range(0, len(records), _TOGETHER):
        some = records[start : start + _TOGETHER]
        lengths = np.fromiter(map(len, some), np.int64, len(some))
        if (lengths > SHORT).any():
            total += sum(hashes([record for record in some if len(record) > SHORT]))
            some = [record for record in some if len(record) <= SHORT]
            lengths = lengths[lengths <= SHORT]
        data = np.frombuffer(b"".join(some) + bytes(PAD), np.uint8)
        total += int(hashes_of(data, np.cumsum(lengths) - lengths, lengths).sum(dtype=np.uint64))
    return total & (1 << 64) - 1
