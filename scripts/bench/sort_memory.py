#!/usr/bin/env python3
"""Sorts four times as much as all workers' memory together, under limits that the kernel enforces.

    4 GB in files ─► 4 forked processes, each may have 256 MB of anonymous memory beyond interpreter and imports
                     ├─► our sort: right, says the oracle
                     └─► a sort that reads a quarter of the input: out of memory

The limit is on what a process allocates (RLIMIT_DATA: heap, anonymous mappings, stacks of threads), used or not. A file
that is mapped does not count: the page cache is the machine's.
"""

import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import sortcheck
import sortgen
from contest import answered, asking, concluded, ends, scratch

from pywren_shuffle.sort import sort

__all__ = ["limited_pool", "naive_sort"]

MEGABYTE = 1 << 20


def limited_pool(workers: int, megabytes: int) -> ProcessPoolExecutor:
    """Forked processes that may allocate so much more than they have when they begin."""
    fork = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(workers, mp_context=fork, initializer=limit, initargs=(megabytes,))


def limit(megabytes: int) -> None:
    """From here on; what is allocated beyond fails."""
    import pywren_shuffle.records.fixed_batches  # noqa: F401 – an import is none of the sort's memory

    with open("/proc/self/status") as status:
        has = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    most = has + megabytes * MEGABYTE
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def naive_sort(paths: list[Path], records: int) -> int:
    """Reads the first so many records, and sorts them in memory."""
    found = np.concatenate([np.fromfile(path, "S100", records) for path in paths])[:records]
    return len(np.sort(found))


def main() -> int:
    parser = asking(__doc__, 1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=256, help="of each worker")
    parser.add_argument("--folder", type=Path, default=None, help="on which disk; default: where TMPDIR is")
    asked = answered(parser, "numpy")
    total = 4 * asked.workers * asked.megabytes * MEGABYTE
    with scratch(asked.folder) as stage:
        paths = sortgen.make_files(stage / "in", "uniform", -(-total // sortgen.RECORD), files=8)
        with limited_pool(asked.workers, asked.megabytes) as pool:
            try:
                pool.submit(naive_sort, paths, total // asked.workers // sortgen.RECORD).result()
                is_naive = False
            except MemoryError:
                is_naive = True
            result = sort(pool, f"{stage}/in/*.dat", f"{stage}/out", records="fixed:100:10", memory=asked.megabytes)
        output = sortcheck.summary_of_files([Path(part) for part in result.parts])
        sortcheck.check(output, sortcheck.summary_of_files(paths), stable=True)
    said = (
        f"{result.bytes / 1e9:.2f} GB by {asked.workers} workers of {asked.megabytes} MB in {result.seconds:.1f} s:"
        f" right; a naive sort of a quarter {'is out of memory' if is_naive else 'WORKS: the limit is none'}"
    )
    return concluded(asked, [("4", said, is_naive)])


if __name__ == "__main__":
    ends(main)
