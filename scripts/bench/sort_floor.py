"""The floor of sort.py: how fast these processors and this memory sort files in two phases, when nothing else is asked.

    split ─► prefix of the keys, bucket, stable order ─► gathered ─► one file ─► slices ─► order by key ─► one part

Throw-away: four processes that were forked, no proof, no checksums, no bound on memory, nothing against faults, and it
trusts that keys are spread evenly. What a real sort takes longer is what those cost.
"""

import os
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["in_memory", "two_phases"]

RECORD, PREFIX = 100, 8
SPLITS, PARTS, PROCESSES = 16, 64, 4
SAMPLED = 100  # for each part
WHOLE = np.dtype((np.void, RECORD))

Records = NDArray[np.uint8]
Span = tuple[Path, int, int]  # of a file, the records from one number to another


def in_memory(source: Path, target: Path) -> None:
    """One thread: everything read, one order, everything written."""
    paths = sorted(source.iterdir())
    sizes = [path.stat().st_size for path in paths]
    found = np.empty((sum(sizes) // RECORD, RECORD), np.uint8)
    at = 0
    for path, size in zip(paths, sizes, strict=True):
        with open(path, "rb", buffering=0) as file:
            file.readinto(memoryview(found).cast("B")[at : at + size])  # type: ignore[attr-defined]
        at += size
    _gathered(found, _order(found)).tofile(target / "part-00000.dat")


def two_phases(source: Path, target: Path) -> None:
    """Four processes, intermediate files beside the output."""
    splits = _splits(source)
    bounds = _bounds(splits)
    between = [target / f"split-{number:05}" for number in range(SPLITS)]
    parts = [target / f"part-{number:05}.dat" for number in range(PARTS)]
    with get_context("fork").Pool(PROCESSES) as pool:
        jobs = [(*split, bounds, path) for split, path in zip(splits, between, strict=True)]
        cuts = pool.starmap(_partition, jobs, chunksize=1)
        slices = [
            [(path, *cut[number : number + 2]) for path, cut in zip(between, cuts, strict=True)]
            for number in range(PARTS)
        ]
        pool.starmap(_merge, list(zip(slices, parts, strict=True)), chunksize=1)
    for path in between:
        path.unlink()


def _splits(source: Path) -> list[Span]:
    paths = sorted(source.iterdir())
    each = SPLITS // len(paths)
    spans = []
    for path in paths:
        count = path.stat().st_size // RECORD
        cuts = [count * number // each for number in range(each + 1)]
        spans += [(path, start, stop) for start, stop in pairwise(cuts)]
    return spans


def _bounds(splits: list[Span]) -> NDArray[np.uint64]:
    die = np.random.default_rng(0)
    found = []
    for path, start, stop in splits:
        table = np.memmap(path, np.uint8, "r").reshape(-1, RECORD)
        found.append(_prefix(table[np.sort(die.integers(start, stop, SAMPLED * PARTS // SPLITS))]))
    keys = np.sort(np.concatenate(found))
    return keys[[len(keys) * number // PARTS for number in range(1, PARTS)]]


def _partition(path: Path, start: int, stop: int, bounds: NDArray[np.uint64], into: Path) -> list[int]:
    table = np.fromfile(path, np.uint8, (stop - start) * RECORD, offset=start * RECORD).reshape(-1, RECORD)
    part = np.searchsorted(bounds, _prefix(table), side="right").astype(np.uint8)
    _gathered(table, np.argsort(part, kind="stable")).tofile(into)
    return [0, *np.cumsum(np.bincount(part, minlength=PARTS)).tolist()]


def _merge(slices: list[Span], into: Path) -> None:
    table = np.empty((sum(stop - start for _, start, stop in slices), RECORD), np.uint8)
    at = 0
    for path, start, stop in slices:
        size = (stop - start) * RECORD
        with open(path, "rb", buffering=0) as file:
            os.preadv(file.fileno(), [memoryview(table).cast("B")[at : at + size]], start * RECORD)
        at += size
    _gathered(table, _order(table)).tofile(into)


def _prefix(table: Records) -> NDArray[np.uint64]:
    return np.ascontiguousarray(table[:, :PREFIX]).view(">u8").ravel().astype(np.uint64)


def _order(table: Records) -> NDArray[np.intp]:
    """By the first eight bytes, vectorised and unstable; where those are equal somewhere, by the whole key."""
    prefix = _prefix(table)
    order = np.argsort(prefix)
    prefix = prefix[order]
    if (prefix[1:] == prefix[:-1]).any():
        rest = np.ascontiguousarray(table[:, PREFIX:10]).view(">u2").ravel()
        order = np.lexsort((rest, _prefix(table)))
    return order


def _gathered(table: Records, order: NDArray[np.intp]) -> NDArray[np.void]:
    return np.take(table.view(WHOLE).ravel(), order)
