#!/usr/bin/env python3
"""Reduces far more than any process holds: results of a map that one reducer reads, in order, through the store.

    1,000 tasks ── 10 MB each ──► store ──► one reducer: a checksum over all of it, in order

The answer is computed anew here, in the client, once the client's own peak has been noted. With `--backend lambda` it
runs on what the environment leads to: `scripts/on-local-aws scripts/bench/reduce.py --backend lambda`. What lies in the
store at a time is the whole of it: a local run uses a folder on the disk, and a local AWS its memory.
"""

import resource
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from contest import answered, asking, concluded, ends, scratch

from pywren_ng import Executor

REDUCER, CLIENT = 300, 150  # MB


def main() -> int:
    parser = asking(__doc__, 1)
    parser.add_argument("--backend", default="local")
    parser.add_argument("--tasks", type=int, default=1000, help="fewer show less")
    parser.add_argument("--bytes", type=int, default=10_000_000, help="of each result")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=None, help="on which disk; default: where TMPDIR is")
    asked = answered(parser)
    size = asked.bytes // 8

    def make(number: int) -> bytes:
        return number.to_bytes(8, "little") * size

    def checksum(results: Iterator[bytes]) -> tuple[int, int]:
        total = found = 0
        for result in results:
            total, found = total + len(result), zlib.crc32(result, found)
        return total, found

    with scratch(asked.folder) as stage:
        store = f"file://{stage}" if asked.backend == "local" else None
        with Executor(asked.backend, store=store, max_workers=asked.workers, progress=False) as ex:
            began = time.perf_counter()
            future = ex.map_reduce(make, range(asked.tasks), checksum)
            answer = future.result()
            seconds = time.perf_counter() - began
        left = [key for key, _ in ex.store.keys("jobs/") if "/results/" in key]
    client = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    reducer = max(attempt.peak for attempt in future.reduce_stats) / 1e6
    expected = 0
    for number in range(asked.tasks):
        expected = zlib.crc32(make(number), expected)
    is_right = answer == (asked.tasks * size * 8, expected)
    again = len(future.map_stats) - asked.tasks
    is_met = is_right and reducer < REDUCER and client < CLIENT and not left
    said = (
        f"{answer[0] / 1e9:.2f} GB of {asked.tasks} results on {asked.backend} in {seconds:.0f} s: "
        f"{'right' if is_right else 'WRONG'}, reducer {reducer:.0f} MB, client {client:.0f} MB, "
        f"{again} attempts more than tasks, {len(left)} results left"
    )
    return concluded(asked, [("1", said, is_met)])


if __name__ == "__main__":
    ends(main)
