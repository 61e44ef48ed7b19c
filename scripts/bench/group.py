#!/usr/bin/env python3
"""How long groups of 10 million pairs take, files to files, beside dask.bag (rows) and DuckDB on one thread (tables).

    group.py ─► pinned environment ─► stage: the pairs as rows, pickles, tables ─► rounds × contestants, rotated
                                      └─► turn: a fresh process, timed from its start to its end ─► sums checked
             ─► medians ─► thresholds ─► PASS / FAIL

Each contestant starts from nothing: a fresh process, with its imports, its workers and their end. A table takes DuckDB
half a second so, and a round has several processes of each, in turn; what both take for the same work once they have
begun is a row of its own. Reductions of rows are for the reader.

Exit codes: 0 every claim met, 1 one is not, 2 the run could not be done, 3 a partial run: not comparable.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from group_rivals import DASK, DUCKDB, OURS, RIVALS
from pinned import enter, environment_of
from rows import Row, Samples, Target, figures_of, judge, table, write

ROUNDS = 3
PAIRS = 10_000_000
KEYS = 100_000
FILES = 16
LIMIT = 600  # seconds for one turn
PACKAGES = ("dask", "duckdb", "numpy", "pyarrow")
ROWS = (
    Row("group", "6c", "rows by key, start-up included", "s", 1, (Target("≤", 1 / 3, DASK),)),
    Row("reduce", "", "rows reduced by key, start-up included", "s"),
    Row("table", "6d", "a table by key, start-up included", "s", 1, (Target("≤", 2, DUCKDB),)),
    Row("again", "6e", "the same, processes that have begun", "s", 1, (Target("≤", 2, DUCKDB),)),
)


class NotDone(Exception):
    """The run cannot be done or went wrong; its text is for the reader."""


def build(stage: Path, pairs: int) -> Any:
    """The same pairs in every format; the sum of each key, or -1 where it has none."""
    import numpy as np

    for name in ("rows", "pickles", "tables"):
        (stage / name).mkdir()
    with ProcessPoolExecutor() as pool:
        sums, counts = np.sum(list(pool.map(partial(build_file, stage, pairs // FILES), range(FILES))), axis=0)
    os.sync()
    return np.where(counts, sums, -1)


def build_file(stage: Path, pairs: int, number: int) -> Any:
    """One file of each format."""
    import pickle

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pywren_shuffle.records.rows_records import dump

    chance = np.random.default_rng(number)
    keys, values = chance.integers(0, KEYS, pairs), chance.integers(0, 1000, pairs)
    pq.write_table(pa.table({"k": keys, "v": values}), stage / "tables" / f"{number:02}.parquet")
    rows = list(zip(keys.tolist(), values.tolist(), strict=True))
    with open(stage / "rows" / f"{number:02}.rows", "wb") as file:
        file.writelines(dump(rows))
    (stage / "pickles" / f"{number:02}.pickle").write_bytes(pickle.dumps(rows, 5))
    return np.stack([np.bincount(keys, values, KEYS).astype(np.int64), np.bincount(keys, minlength=KEYS)])


def check(folder: Path, sums: Any) -> None:
    """NotDone unless these are the sums, of each key once."""
    import numpy as np

    found = np.full(len(sums), -1, np.int64)
    count = 0
    for path in sorted(folder.iterdir()):
        for keys, values in pairs_in(path):
            found[keys] = values
            count += len(keys)
    if count != (sums >= 0).sum() or not (found == sums).all():
        raise NotDone(f"{folder} has {count:,} sums, of which {int((found != sums).sum()):,} are wrong")


def pairs_in(path: Path) -> Any:
    """The keys and values of a part."""
    import pickle

    import numpy as np
    import pyarrow.parquet as pq

    from pywren_shuffle.records.rows_records import load

    if path.suffix == ".parquet":
        part = pq.read_table(path)
        yield part["k"].to_numpy(), part["v"].to_numpy()
    elif path.suffix in (".rows", ".pickle"):
        with open(path, "rb") as file:
            rows = list(load(file)) if path.suffix == ".rows" else pickle.load(file)
        if rows:
            yield tuple(np.array(rows, np.int64).T)


def turn(name: str, work: str, stage: Path, sums: Any) -> list[float]:
    """Seconds of one contestant's process, or of what that did again."""
    target = stage / "out"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    source = stage / RIVALS[work][name].source
    for path in source.iterdir():
        path.read_bytes()  # into the page cache
    script = str(Path(__file__).with_name("group_rivals.py"))
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYWREN_NG_")}
    begun = time.monotonic()
    ran = subprocess.run(
        [sys.executable, script, name, work, str(source), str(target)],
        env=variables | {"TMPDIR": str(stage)},
        stdout=subprocess.PIPE,
        timeout=LIMIT,
        check=True,
        text=True,
    )
    elapsed = time.monotonic() - begun
    for folder in target.iterdir():
        check(folder, sums)
    again: list[float] = json.loads(ran.stdout.splitlines()[-1])
    return again or [elapsed]


def run(works: list[str], rounds: int, stage: Path, sums: Any) -> Samples:
    """All rounds, each beginning with the next contestant."""
    samples: Samples = {}
    for number in range(rounds):
        for work in works:
            names = list(RIVALS[work])
            shift = number % len(names)
            own: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(max(rival.times for rival in RIVALS[work].values())):
                for name in names[shift:] + names[:shift]:
                    own[name] += turn(name, work, stage, sums)
            for name, seconds in own.items():
                said = " ".join(f"{each:.3g}" for each in seconds)
                print(f"round {number + 1} of {rounds}: {work} {name} {said} s", file=sys.stderr, flush=True)
                samples.setdefault(work, {}).setdefault(name, []).append(seconds)
    return samples


def versions() -> dict[str, str]:
    """Each one's version; NotDone names what is missing."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise NotDone(f"{package} is not installed here. A run without it shows nothing.") from None
    return found


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="raw samples, versions and verdicts")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} or more, else not comparable")
    parser.add_argument("--only", metavar="A,B", help="a quick look at some work, which is not comparable")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="fewer are not comparable")
    parser.add_argument("--folder", type=Path, default=None, help="on which disk; default: where TMPDIR is")
    parser.add_argument("--venv", type=Path, default=environment_of("group"), help="default: %(default)s")
    parser.add_argument("--here", action="store_true", help="in this environment, with what is installed")
    return parser


def main() -> int:
    asked = parser().parse_args()
    works = asked.only.split(",") if asked.only else list(RIVALS)
    if unknown := [work for work in works if work not in RIVALS]:
        raise NotDone(f"unknown: {', '.join(unknown)}; there are {', '.join(RIVALS)}")
    if not asked.here:
        enter(asked.venv, with_project=True, requirements="requirements-group.txt")
    found = versions()
    stage = Path(tempfile.mkdtemp(prefix="png-", dir=asked.folder))
    try:
        samples = run(works, max(1, asked.rounds), stage, build(stage, asked.pairs))
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    is_partial = set(works) != set(RIVALS) or asked.rounds < ROUNDS or asked.pairs != PAIRS
    figures = figures_of(samples)
    verdicts = [] if is_partial else list(judge(figures, ROWS))
    line = shlex.join(["scripts/bench/group.py", *sys.argv[1:]])
    print(f"\n{line}\n{platform.platform()}, {os.cpu_count()} CPUs, medians of {asked.rounds} rounds")
    print(", ".join(f"{name} {version}" for name, version in found.items()), end="\n\n")
    print(*table(figures, [OURS, DASK, DUCKDB], ROWS), sep="\n", end="\n\n")
    for claim, said, is_met in verdicts:
        print(f"{claim}  {said}  {'PASS' if is_met else 'FAIL'}")
    if asked.json:
        write(asked.json, line, found, samples, figures, verdicts, ROWS)
    if is_partial:
        print(f"NOT COMPARABLE: a run needs all of {', '.join(RIVALS)}, {PAIRS:,} pairs and {ROUNDS} rounds.")
        return 3
    return 0 if all(is_met for _, _, is_met in verdicts) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (NotDone, subprocess.SubprocessError) as failed:
        print(f"group.py: {failed}", file=sys.stderr)
        sys.exit(2)
