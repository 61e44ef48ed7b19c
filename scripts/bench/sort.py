#!/usr/bin/env python3
"""How long it takes to sort 10 million records of 100 bytes, files to files, beside DuckDB, Polars and others.

    sort.py ─► pinned environment ─► stage: the records in every format ─► rounds × contestants, rotated
                                     └─► turn: a fresh process, timed from its start to its end ─► checked by sortcheck
            ─► medians ─► thresholds ─► PASS / FAIL

Everyone reads from the same disk, warm, what suits it best, has four threads or processes, and starts from nothing. The
floor is a throw-away sort in two phases that proves nothing: it shows what the machine can do, and must itself be 1.5
times as fast as numpy in one thread, else nothing is shown.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from contest import (
    NotDone,
    Verdict,
    answered,
    asking,
    chosen,
    ends,
    played,
    scratch,
    taking_turns,
    versions_of,
    without,
)
from rows import Figures, Row, Samples, Target, compared, judge
from sort_rivals import FLOOR, RIVALS, command

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
    played(command(name, source, target), limit=LIMIT, env=surroundings(stage), cwd=stage)
    elapsed = time.perf_counter() - begun
    try:
        sortcheck.check(sort_formats.summary_of_output(target), like["text" if rival.source == "text" else "records"])
    except sortcheck.NotSorted as wrong:
        raise NotDone(f"{name} has not sorted: {wrong}") from None
    finally:
        shutil.rmtree(target)
    return elapsed


def surroundings(folder: Path) -> dict[str, str]:
    """The same for all: bytes compare as bytes, no variables of ours, temporary files go with the run."""
    return without("PYWREN_NG_") | QUIET | {"LC_ALL": "C", "TMPDIR": str(folder)}


# The run.


def run(names: list[str], rounds: int, stage: Path, like: "dict[str, Summary]") -> Samples:
    """All rounds; a turn that is not kept comes first."""
    for name in taking_turns(names, 1, "not kept, "):
        turn(name, stage, like)
    samples: Samples = {"sort": {name: [] for name in names}}
    for name in taking_turns(names, rounds):
        samples["sort"][name].append([turn(name, stage, like)])
    return samples


def judged(figures: Figures, rows: Sequence[Row]) -> list[Verdict]:
    """NotDone if the floor is none."""
    of = figures["sort"]
    if of[FLOOR] * FLOOR_MUST_BEAT > of["numpy"]:
        raise NotDone(f"the floor took {of[FLOOR]:.2f} s and numpy {of['numpy']:.2f}: that is no floor on this machine")
    best = min(seconds for name, seconds in of.items() if name.startswith("duckdb"))
    return list(judge({"sort": of | {"duckdb": best}}, rows))


def versions(names: list[str]) -> dict[str, str]:
    """Each one's, and those of what they stand on."""
    if shutil.which("sort") is None:
        raise NotDone("there is no GNU sort here. A run without it shows nothing.")
    said = subprocess.run(["sort", "--version"], capture_output=True, text=True, check=True).stdout
    packages = [package for name in names for package in RIVALS[name].packages]
    return versions_of(*packages, "numpy", "pyarrow") | {"sort": said.partition("\n")[0]}


def main() -> int:
    parser = asking(__doc__, ROUNDS, pinned="sort")
    parser.add_argument("--only", metavar="A,B", help="some contestants, which is not comparable")
    parser.add_argument("--folder", type=Path, default=None, help="on which disk; default: where TMPDIR is")
    asked = answered(parser)
    names = chosen(asked.only, RIVALS)
    asked.versions |= versions(names)
    asked.is_partial |= len(names) < len(RIVALS)
    with scratch(asked.folder) as stage:
        samples = run(names, asked.rounds, stage, build(stage, RECORDS // 10 if asked.quick else RECORDS, names))
    return compared(asked, samples, ROWS, names, judged=judged)


if __name__ == "__main__":
    ends(main)
