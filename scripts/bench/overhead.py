#!/usr/bin/env python3
"""What our executor costs, beside ProcessPoolExecutor, loky, dask.distributed, ray and Lithops, in one run.

    overhead.py ─► pinned environment ─► rounds × contestants, rotated ─┬► turn: a fresh process of this
                                                                        │  script, one pool, all warm rows
                                                                        └► its first script, from cold
                ─► medians ─► thresholds ─► PASS / FAIL

One contestant at a time is alive, and nobody's imports weigh on another. All do the same untimed repeats
first, get arrays never seen before, and have what they return checked. Hashing, pickling and putting are
timed, making the arrays is not.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from contest import (
    NotDone,
    answered,
    asking,
    chosen,
    ends,
    left_by,
    scratch,
    taking_turns,
    versions_of,
    without,
)
from contestants import ENTRANTS, Contestant, Entrant, Ours
from rows import OURS, Row, Samples, Target, compared

ROUNDS = 5
ARRAY = 12_500_000  # of 8 bytes: 100 MB
TASKS = 100
MEGABYTE = 1_000_000
PAGE = 4_096
TOUCHED = 1_500_000_000
LIMIT = 600  # seconds for one turn or one first script: past it something hangs
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
ROWS = (
    Row("submit", "3a", "submit → result", "ms", 1e3, (Target("≤", 1, "processpool"),)),
    Row("noops", "3b", "no-ops, one task each", "/s", 1, (Target("≥", 4, "processpool"),)),
    Row("first", "3c", "script start → first result", "s", 1, (Target("≤", 1, "loky"),)),
    Row(
        *("array", "3d", "100 MB array to one task", "s", 1),
        targets=(Target("<", 1, "processpool"), Target("≤", 2, "ray")),
    ),
    # The hundred tasks sum a hundredth each: together the arithmetic of the one task, so that the ratio shows
    # what sharing costs. A hundred whole sums take a second of CPU whoever does them: a row for the reader.
    Row("shared", "3e", "the same array to 100 tasks", "s", 1, (Target("<", 2, OURS, "array"),)),
    Row("stored", "3e", "how often it was stored", "times", 1, (Target("≥", 1), Target("<", 1.5))),
    Row("summed", "", "100 tasks, each sums all of it", "s"),
    Row("results", "3f", "100 tasks return 1 MB each", "s", 1, (Target("≤", 1, "ray"),)),
)


# What the tasks do. They live in `__main__`, as a user's functions would. numpy is imported only where it is
# used: no task carries an import that it does not need.


def same(number: int) -> int:
    return number


def total(array: Any) -> float:
    return float(array.sum())


def total_of_share(array: Any, index: int) -> float:
    size = len(array) // 100
    return float(array[index * size : (index + 1) * size].sum())


def total_again(array: Any, index: int) -> float:
    return float(array.sum()) + index


def megabyte_of(index: int) -> Any:
    import numpy

    return numpy.full(1_000_000, index, dtype=numpy.uint8)


# A turn: one contestant, warm, all rows.


def check(is_right: bool, what: str) -> None:
    if not is_right:
        raise NotDone(f"a wrong value came back: {what}")


def fresh_array() -> Any:
    """Random content: nobody's cache has it, and every page is there."""
    import numpy

    return numpy.random.default_rng().random(ARRAY)


def touch_free_memory() -> None:
    """Brings free pages back into the virtual machine.

    Where free pages go back to the hypervisor within seconds, the next touch of each costs many times the
    work that is to be measured, and hits whoever comes first. tmpfs takes its pages from the same free list,
    so this serves those who go through files and shared memory as it serves those who go through pipes.
    """
    import numpy

    numpy.ones(TOUCHED // 8).sum()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def submits(contestant: Contestant, repeats: int) -> Iterator[float]:
    for number in range(-(repeats // 10) - 1, repeats):  # those below zero warm up
        elapsed, value = timed(lambda number=number: contestant.call(same, number))  # type: ignore[misc]
        check(value == number, f"{value!r} for {number}")
        if number >= 0:
            yield elapsed


def noops(contestant: Contestant, repeats: int) -> Iterator[float]:
    """Tasks per second."""
    for numbers in (range(repeats // 5), range(repeats)):
        elapsed, values = timed(lambda numbers=numbers: contestant.map(same, numbers))  # type: ignore[misc]
        check(values == list(numbers), "of the no-ops")
    yield repeats / elapsed


def arrays(contestant: Contestant) -> Iterator[float]:
    for is_warm in (False, False, True, True, True):
        array = fresh_array()
        touch_free_memory()
        elapsed, value = timed(lambda array=array: contestant.call(total, array))  # type: ignore[misc]
        check(math.isclose(value, total(array), rel_tol=1e-12), "of the array's sum")
        if is_warm:
            yield elapsed


def shared_arrays(contestant: Contestant, fn: Callable[[Any, int], float]) -> Iterator[tuple[float, float]]:
    """Seconds, and how many times its size the array took in our store (for others 0)."""
    indices = range(TASKS)
    for is_warm in (False, True, True):
        array = fresh_array()
        touch_free_memory()
        before = contestant.blobs() if isinstance(contestant, Ours) else {}
        elapsed, values = timed(
            lambda array=array: contestant.share(fn, array, indices)  # type: ignore[misc]
        )
        after = contestant.blobs() if isinstance(contestant, Ours) else {}
        wanted = [fn(array, index) for index in (0, 1, TASKS - 1)]
        got = [values[index] for index in (0, 1, TASKS - 1)]
        check(len(values) == TASKS and all(map(_is_close, got, wanted)), "of the shared array")
        if is_warm:
            yield elapsed, sum(size for key, size in after.items() if key not in before) / array.nbytes


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-12)


def results(contestant: Contestant) -> Iterator[float]:
    def fetch() -> bool:
        values = contestant.map(megabyte_of, range(TASKS))
        is_right = [
            len(value) == MEGABYTE and value[-1] == index and int(value[::PAGE].sum()) == index * pages
            for index, value in enumerate(values)
        ]
        return len(is_right) == TASKS and all(is_right)

    pages = math.ceil(MEGABYTE / PAGE)
    for is_warm in (False, False, True, True, True):
        touch_free_memory()
        elapsed, is_right = timed(fetch)  # every page of what came is read within
        check(is_right, "of the results of 1 MB")
        if is_warm:
            yield elapsed


def play(name: str, workers: int) -> dict[str, list[float]]:
    """All warm rows of one contestant: row → samples."""
    entrant = ENTRANTS[name]
    contestant = entrant.open(workers)
    try:
        samples = {
            "submit": list(submits(contestant, entrant.round_trips)),
            "noops": list(noops(contestant, entrant.noops)),
            "array": list(arrays(contestant)),
            "results": list(results(contestant)),
        }
        if entrant.is_sharing:
            shared = list(shared_arrays(contestant, total_of_share))
            samples["shared"] = [elapsed for elapsed, _ in shared]
            samples["summed"] = [elapsed for elapsed, _ in shared_arrays(contestant, total_again)]
            if name == OURS:
                samples["stored"] = [times for _, times in shared]
        return samples
    finally:
        contestant.close()


# The run.


def turn(name: str, folder: Path) -> dict[str, list[float]]:
    """`play` in a process of its own."""
    told = (__file__, "--turn", name)
    found: dict[str, list[float]] = left_by(told, limit=LIMIT, cwd=folder, env=surroundings(folder))
    return found


def first_result(name: str, entrant: Entrant, folder: Path, workers: int) -> float:
    """From the start of a fresh interpreter until the line with the result is here; the rest is not timed."""
    script = folder / f"first_{name}.py"
    script.write_text(entrant.script(workers))
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=folder,
        env=surroundings(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    guard = threading.Timer(LIMIT, process.kill)
    guard.start()
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        elapsed = time.monotonic() - start
        process.stdout.read()
    guard.cancel()
    if line != b"42\n" or process.returncode:
        raise NotDone(f"{name}'s first script printed {line!r} and ended with {process.returncode}")
    return elapsed


def surroundings(folder: Path) -> dict[str, str]:
    """The same for all: one BLAS thread per worker, nothing on the path, temporary files go with the run."""
    return without("PYTHON", "PYWREN_NG_") | ONE_THREAD | QUIET | {"TMPDIR": str(folder)}


def run(names: list[str], rounds: int, folder: Path) -> Samples:
    """All rounds, everybody warm and from cold."""
    samples: Samples = {row.name: {} for row in ROWS}
    workers = os.cpu_count() or 1
    for name in taking_turns(names, rounds):
        of_turn = turn(name, folder)
        # The first start reads what fell out of the page cache, and is not kept.
        _, *cold = [first_result(name, ENTRANTS[name], folder, workers) for _ in range(3)]
        for row, values in (of_turn | {"first": cold}).items():
            samples[row].setdefault(name, []).append(values)
    return samples


def main() -> int:
    parser = asking(__doc__, ROUNDS, pinned="overhead")
    parser.add_argument("--only", metavar="A,B", help="some contestants, which is not comparable")
    parser.add_argument("--turn", choices=ENTRANTS, help=argparse.SUPPRESS)
    asked = answered(parser)
    if asked.turn:
        asked.json.write_text(json.dumps(play(asked.turn, os.cpu_count() or 1)))
        return 0
    names = chosen(asked.only, ENTRANTS)
    asked.versions |= versions_of(
        *filter(None, (ENTRANTS[name].distribution for name in names)), "dask", "numpy", "cloudpickle"
    )
    asked.is_partial |= len(names) < len(ENTRANTS)
    with scratch(Path("/tmp")) as folder:  # ray's sockets lie below
        samples = run(names, asked.rounds, folder)
    return compared(asked, samples, ROWS, names)


if __name__ == "__main__":
    ends(main)
