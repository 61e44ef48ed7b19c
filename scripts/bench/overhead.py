#!/usr/bin/env python3
"""What our executor costs, beside ProcessPoolExecutor, loky, dask.distributed, ray and Lithops, in one run.

    overhead.py ─► pinned environment ─► rounds × contestants, rotated ─┬► turn: a fresh process of this
                                                                        │  script, one pool, all warm rows
                                                                        └► its first script, from cold
                ─► medians ─► thresholds ─► PASS / FAIL

One contestant at a time is alive, and nobody's imports weigh on another. All do the same untimed repeats
first, get arrays never seen before, and have what they return checked. Hashing, pickling and putting are
timed, making the arrays is not.

Exit codes: 0 every claim met, 1 one is not, 2 the run could not be done, 3 a partial run: not comparable.
"""

import argparse
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from contestants import ENTRANTS, OURS, Contestant, Entrant, Ours
from pinned import enter, environment_of
from rows import ROWS, Samples, figures_of, judge, table, write

ROUNDS = 5
ARRAY = 12_500_000  # of 8 bytes: 100 MB
TASKS = 100
MEGABYTE = 1_000_000
PAGE = 4_096
TOUCHED = 1_500_000_000
LIMIT = 600  # seconds for one turn or one first script: past it something hangs
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


class NotDone(Exception):
    """The run cannot be done or went wrong; its text is for the reader."""


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


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    contestants: list[str]
    rounds: int
    json: Path | None

    @property
    def is_partial(self) -> bool:
        return set(self.contestants) != set(ENTRANTS) or self.rounds < ROUNDS


def versions_of(contestants: list[str]) -> dict[str, str]:
    """Each one's version, and those of what they stand on; NotDone names those that are missing."""
    wanted = [ENTRANTS[name].distribution for name in contestants] + ["dask", "numpy", "cloudpickle"]
    found, missing = {"python": platform.python_version()}, []
    for distribution in filter(None, wanted):
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            missing.append(distribution)
    if missing:
        raise NotDone(f"not installed here: {', '.join(missing)}. A run without one shows nothing.")
    return found


def turn(name: str, folder: Path) -> dict[str, list[float]]:
    """`play` in a process of its own."""
    answer = folder / "turn.json"
    answer.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--here", "--turn", name, "--json", str(answer)]
    ran = subprocess.run(command, cwd=folder, env=surroundings(folder), timeout=LIMIT, capture_output=True, text=True)
    if ran.returncode or not answer.exists():
        raise NotDone(f"{name} ended with {ran.returncode}:\n{(ran.stdout + ran.stderr)[-4_000:]}")
    samples: dict[str, list[float]] = json.loads(answer.read_text())
    return samples


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
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYWREN_NG_"))}
    return kept | ONE_THREAD | QUIET | {"TMPDIR": str(folder)}


def run(options: Options, folder: Path) -> Samples:
    """All rounds, each beginning with the next contestant."""
    samples: Samples = {row.name: {} for row in ROWS}
    workers = os.cpu_count() or 1
    for number in range(options.rounds):
        shift = number % len(options.contestants)
        for name in options.contestants[shift:] + options.contestants[:shift]:
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            of_turn = turn(name, folder)
            # The first start reads what fell out of the page cache, and is not kept.
            _, *cold = [first_result(name, ENTRANTS[name], folder, workers) for _ in range(3)]
            for row, values in (of_turn | {"first": cold}).items():
                samples[row].setdefault(name, []).append(values)
    return samples


def report(options: Options, samples: Samples, versions: dict[str, str]) -> int:
    """Prints medians and verdicts, writes the JSON file; the exit code."""
    figures = figures_of(samples)
    command = shlex.join(["scripts/bench/overhead.py", *sys.argv[1:]])
    print(f"\n{command}\n{platform.platform()}, {os.cpu_count()} CPUs, medians of {options.rounds} rounds")
    print(", ".join(f"{name} {version}" for name, version in versions.items()), end="\n\n")
    print(*table(figures, options.contestants), sep="\n", end="\n\n")
    verdicts = [] if options.is_partial else list(judge(figures))
    for claim, said, is_met in verdicts:
        print(f"{claim}  {said}  {'PASS' if is_met else 'FAIL'}")
    if options.json:
        write(options.json, command, versions, samples, figures, verdicts)
    if options.is_partial:
        print(f"NOT COMPARABLE: a run needs all of {', '.join(ENTRANTS)} and {ROUNDS} rounds.")
        return 3
    return 0 if all(is_met for _, _, is_met in verdicts) else 1


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="raw samples, versions and verdicts")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} or more, else not comparable")
    parser.add_argument("--only", metavar="A,B", help="a quick look at some, which is not comparable")
    parser.add_argument("--venv", type=Path, default=environment_of("bench"), help="default: %(default)s")
    parser.add_argument("--here", action="store_true", help="in this environment, with what is installed")
    parser.add_argument("--turn", choices=ENTRANTS, help=argparse.SUPPRESS)
    return parser


def chosen(asked: str | None) -> list[str]:
    names = asked.split(",") if asked else list(ENTRANTS)
    if unknown := [name for name in names if name not in ENTRANTS]:
        raise NotDone(f"unknown: {', '.join(unknown)}; there are {', '.join(ENTRANTS)}")
    return names


def main() -> int:
    asked = parser().parse_args()
    if asked.turn:
        asked.json.write_text(json.dumps(play(asked.turn, os.cpu_count() or 1)))
        return 0
    contestants = chosen(asked.only)
    if not asked.here:
        enter(asked.venv, with_project=OURS in contestants)
    options = Options(contestants, max(1, asked.rounds), asked.json and asked.json.absolute())
    versions = versions_of(contestants)
    folder = Path(tempfile.mkdtemp(prefix="pnb-", dir="/tmp"))  # short: ray's sockets lie below
    try:
        samples = run(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report(options, samples, versions)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (NotDone, subprocess.SubprocessError) as failed:
        print(f"overhead.py: {failed}", file=sys.stderr)
        sys.exit(2)
