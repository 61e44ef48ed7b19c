"""Where one partition ends and the next begins: keys from a sample, in workers, and boundaries from these.

A boundary is a key and a place. Of records with that very key, those at earlier places of the input come before it: so
a key that makes up more than a partition spreads over several, and the order stays that of `sorted`.
"""

import pickle
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.records import Batch, Format, Piece

__all__ = ["Boundary", "Hot", "SampleTask", "Sampled", "boundaries", "cuts", "packed", "sample", "unpacked"]


_PLAIN = (bytes, str, int, float)


@dataclass(frozen=True, slots=True)
class SampleTask:
    """Take keys of some splits."""

    format: Format
    splits: tuple[tuple[Piece, ...], ...]
    counts: tuple[int, ...]  # of keys, for each split
    places: int  # in each split
    block: int
    hedging: bool


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a SampleTask found, a batch of keys for each of its splits."""

    keys: tuple[Batch, ...]
    requests: Counter[str]


@dataclass(frozen=True, slots=True)
class Boundary:
    """Before it: all lower keys, and of equal ones those of earlier splits, and of the first `share` of its split."""

    key: Any
    split: int
    share: float  # from 0 to 1


@dataclass(frozen=True, slots=True)
class Hot:
    """A key so frequent that it fills more than a partition."""

    key: Any
    share: float  # of all records, as far as the sample tells


def sample(task: SampleTask) -> Sampled:
    """In a worker: keys from places spread evenly over each split."""
    exchange = Exchange(hedging=task.hedging, block=task.block)
    try:
        keys = [
            task.format.sample(pieces, count, min(task.places, count), exchange)
            for pieces, count in zip(task.splits, task.counts, strict=True)
        ]
        return Sampled(tuple(keys), exchange.requests)
    finally:
        exchange.close()


def boundaries(format: Format, keys: Sequence[Batch], partitions: int) -> tuple[list[Boundary], list[Hot]]:
    """The boundaries between so many partitions, from the keys of each split; none where there are no keys at all."""
    sizes = [len(batch) for batch in keys]
    total = sum(sizes)
    if not total:
        return [], []
    batch = format.join([batch for batch in keys if len(batch)]).sort()
    begins = [0, *accumulate(sizes)]
    found = []
    for partition in range(1, partitions):
        index = total * partition // partitions
        place = batch.origin(index)
        split = bisect_right(begins, place) - 1
        found.append(Boundary(batch.key(index), split, (place - begins[split]) / sizes[split]))
    return found, _hot(batch, found)


def packed(found: Sequence[Boundary]) -> "bytes | tuple[Boundary, ...]":
    """All boundaries as bytes, which are made once for all tasks and, if they are many, stored once for all workers.

    Boundaries with keys of the user's own types stay as they are: only what pickles the task knows how those travel.
    """
    is_plain = all(type(boundary.key) in _PLAIN for boundary in found)
    return pickle.dumps(tuple(found), 5) if is_plain else tuple(found)


def unpacked(found: "bytes | tuple[Boundary, ...]") -> tuple[Boundary, ...]:
    """The boundaries again, in a worker."""
    edges: tuple[Boundary, ...] = pickle.loads(found) if isinstance(found, bytes) else found
    return edges


def _hot(batch: Batch, found: Sequence[Boundary]) -> list[Hot]:
    hot: list[Hot] = []
    for one, next in pairwise(found):
        if one.key == next.key and not (hot and hot[-1].key == one.key):
            number = batch.bound(one.key, after=True) - batch.bound(one.key, after=False)
            hot.append(Hot(one.key, number / len(batch)))
    return hot


def cuts(batch: Batch, split: int, found: Sequence[Boundary], partitions: int) -> list[int]:
    """Where the sorted batch of a split is cut into partitions: from 0 to its length."""
    places = [0]
    for boundary in found:
        start = batch.bound(boundary.key, after=False)
        stop = batch.bound(boundary.key, after=True)
        if boundary.split > split:
            start = stop
        elif boundary.split == split and start < stop:
            # Equal records are in the order in which they were read.
            first = int(boundary.share * len(batch))
            start = bisect_left(range(len(batch)), first, start, stop, key=batch.origin)
        places.append(start)
    return places + [len(batch)] * (partitions + 1 - len(places))
