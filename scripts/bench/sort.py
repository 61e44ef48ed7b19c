#!/usr/bin/env python3
"""How long it takes to sort 10 million records of 100 bytes, files to files, beside DuckDB, Polars and others.

    sort.py ─► pinned environment ─► stage: the records in every format ─► rounds × contestants, rotated
                                     └─► turn: a fresh process, timed from its start to its end ─► checked by sortcheck
            ─► medians ─► thresholds ─► PASS / FAIL

Everyone reads from the same disk, warm, what suits it best, has four threads or processes, and starts from nothing. The
floor is a throw-away sort in two phases that proves nothing: it shows what the machine can do, and must itself be 1.5
times as fast as numpy in one thread, else nothing is shown.

Exit codes: 0 every claim met, 1 one is not, 2 the run could not be done, 3 a partial run: not comparable.
"""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pinned import enter, environment_of
from rows import Figures, Row, Samples, Target, figures_of, judge, table, write
from sort_rivals import FLOOR, OURS, RIVALS, command

if TYPE_CHECKING:
    from sortcheck import Summary

ROUNDS = 5
RECORDS = 10_000_000
FILES = 4
LIMIT = 300  # seconds for one turn
TOUCHED = 5_000_000_000  # bytes: what one turn takes of the machine's memory, page cache included
FLOOR_MUST_BEAT = 1.5
TARGETS = (Target("≤", 0.6, "duckdb"), Target("<", 1, "numpy"), Target("≤", 1.5, FLOOR))
ROWS = (Row("sort", "5", "10 million records, files to files", "s", 1, TARGETS),)
QUIET = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}


class NotDone(Exception):
    """The run cannot be done or went wrong; its text is for the reader."""


# The stage.


def build(stage: Path, count: int, names: list[str]) -> "dict[str, Summary]":
    """The same records in the formats of these contestants, in a folder each; what they sum up to."""
    import sort_formats
    import sortcheck
    import sortgen

    kinds = {"records": "uniform", "text": "ascii"}
    for name, kind in kinds.items():
        sortgen.make_files(stage / name, kind, count, files=FILES)
    for name in {RIVALS[name].source for name in names} - kinds.keys():
        sort_formats.write_parquet(stage / "records", stage / name, compression=name)
    os.sync()
    return {name: sortcheck.summary_of_files(sorted((stage / name).iterdir())) for name in kinds}


def warm(folder: Path) -> None:
    """Brings the inputs into the page cache, and free memory into a virtual machine that gives it back when idle."""
    import numpy

    numpy.ones(TOUCHED // 8).sum()
    for path in folder.iterdir():
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
    os.sync()  # nobody waits for what another one has written


# A turn.


def turn(name: str, stage: Path, like: "dict[str, Summary]") -> float:
    """Seconds from the start of its process to its end; NotDone if its output is wrong."""
    import sort_formats
    import sortcheck

    rival = RIVALS[name]
    source, target = stage / rival.source, stage / "out"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    warm(source)
    begun = time.perf_counter()
    ran = subprocess.run(
        command(name, source, target), env=surroundings(stage), cwd=stage, capture_output=True, text=True, timeout=LIMIT
    )
    elapsed = time.perf_counter() - begun
    if ran.returncode:
        raise NotDone(f"{name} ended with {ran.returncode}:\n{(ran.stdout + ran.stderr)[-4_000:]}")
    try:
        sortcheck.check(sort_formats.summary_of_output(target), like["text" if rival.source == "text" else "records"])
    except sortcheck.NotSorted as wrong:
        raise NotDone(f"{name} has not sorted: {wrong}") from None
    finally:
        shutil.rmtree(target)
    return elapsed


def surroundings(folder: Path) -> dict[str, str]:
    """The same for all: bytes compare as bytes, no variables of ours, temporary files go with the run."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYWREN_NG_")}
    return kept | QUIET | {"LC_ALL": "C", "TMPDIR": str(folder)}


# The run.


def run(names: list[str], rounds: int, stage: Path, like: "dict[str, Summary]") -> Samples:
    """All rounds, each beginning with the next contestant; a turn that is not kept comes first."""
    samples: Samples = {"sort": {name: [] for name in names}}
    for name in names:
        print(f"round 0, not kept: {name} {turn(name, stage, like):.2f} s", file=sys.stderr, flush=True)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            elapsed = turn(name, stage, like)
            print(f"round {number + 1} of {rounds}: {name} {elapsed:.2f} s", file=sys.stderr, flush=True)
            samples["sort"][name].append([elapsed])
    return samples


def judged(samples: Samples) -> tuple[Figures, list[tuple[str, str, bool]]]:
    """Medians and verdicts; NotDone if the floor is none."""
    figures = figures_of(samples)
    of = figures["sort"]
    if of[FLOOR] * FLOOR_MUST_BEAT > of["numpy"]:
        raise NotDone(f"the floor took {of[FLOOR]:.2f} s and numpy {of['numpy']:.2f}: that is no floor on this machine")
    best = min(seconds for name, seconds in of.items() if name.startswith("duckdb"))
    return figures, list(judge({"sort": of | {"duckdb": best}}, ROWS))


def versions_of(names: list[str]) -> dict[str, str]:
    """Each one's version, and those of what they stand on; NotDone names those that are missing."""
    found, missing = {"python": platform.python_version()}, []
    for package in sorted({package for name in names for package in RIVALS[name].packages} | {"numpy", "pyarrow"}):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
    if shutil.which("sort") is None:
        missing.append("GNU sort")
    if missing:
        raise NotDone(f"not installed here: {', '.join(missing)}. A run without one shows nothing.")
    said = subprocess.run(["sort", "--version"], capture_output=True, text=True, check=True).stdout
    return found | {"sort": said.partition("\n")[0]}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="raw samples, versions and verdicts")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} or more, else not comparable")
    parser.add_argument("--only", metavar="A,B", help="a quick look at some, which is not comparable")
    parser.add_argument("--records", type=int, default=RECORDS, help="fewer are not comparable")
    parser.add_argument("--folder", type=Path, default=None, help="on which disk; default: where TMPDIR is")
    parser.add_argument("--venv", type=Path, default=environment_of("sort"), help="default: %(default)s")
    parser.add_argument("--here", action="store_true", help="in this environment, with what is installed")
    return parser


def main() -> int:
    asked = parser().parse_args()
    names = asked.only.split(",") if asked.only else list(RIVALS)
    if unknown := [name for name in names if name not in RIVALS]:
        raise NotDone(f"unknown: {', '.join(unknown)}; there are {', '.join(RIVALS)}")
    if not asked.here:
        enter(asked.venv, with_project=OURS in names, requirements="requirements-sort.txt")
    versions = versions_of(names)
    stage = Path(tempfile.mkdtemp(prefix="pns-", dir=asked.folder))  # short: ray's sockets lie below
    try:
        samples = run(names, max(1, asked.rounds), stage, build(stage, asked.records, names))
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    is_partial = set(names) != set(RIVALS) or asked.rounds < ROUNDS or asked.records != RECORDS
    figures, verdicts = (figures_of(samples), []) if is_partial else judged(samples)
    line = shlex.join(["scripts/bench/sort.py", *sys.argv[1:]])
    print(f"\n{line}\n{platform.platform()}, {os.cpu_count()} CPUs, medians of {asked.rounds} rounds")
    print(", ".join(f"{name} {version}" for name, version in versions.items()), end="\n\n")
    print(*table(figures, names, ROWS), sep="\n", end="\n\n")
    for claim, said, is_met in verdicts:
        print(f"{claim}  {said}  {'PASS' if is_met else 'FAIL'}")
    if asked.json:
        write(asked.json, line, versions, samples, figures, verdicts, ROWS)
    if is_partial:
        print(f"NOT COMPARABLE: a run needs all of {', '.join(RIVALS)}, {RECORDS:,} records and {ROUNDS} rounds.")
        return 3
    return 0 if all(is_met for _, _, is_met in verdicts) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (NotDone, subprocess.SubprocessError) as failed:
        print(f"sort.py: {failed}", file=sys.stderr)
        sys.exit(2)
