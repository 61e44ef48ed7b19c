#!/usr/bin/env python3
"""How long groups of 10 million pairs take, files to files, beside dask.bag (rows) and DuckDB on one thread (tables).

    group.py ─► pinned environment ─► stage: the pairs as rows, pickles, tables ─► rounds × contestants, rotated
                                      └─► turn: a fresh process, timed from its start to its end ─► sums checked
             ─► medians ─► thresholds ─► PASS / FAIL

Each contestant starts from nothing: a fresh process, with its imports, its workers and their end. A table takes DuckDB
half a second so, and a round has several processes of each, in turn; what both take for the same work once they have
begun is a row of its own. Reductions of rows are for the reader.
"""

import json
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from contest import NotDone, answered, asking, chosen, ends, played, scratch, taking_turns, without
from group_rivals import DASK, DUCKDB, OURS, RIVALS
from rows import Row, Samples, Target, compared

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
    begun = time.monotonic()
    said = played(
        [sys.executable, script, name, work, str(source), str(target)],
        limit=LIMIT,
        env=without("PYWREN_NG_") | {"TMPDIR": str(stage)},
    )
    elapsed = time.monotonic() - begun
    for folder in target.iterdir():
        check(folder, sums)
    again: list[float] = json.loads(said.splitlines()[-1])
    return again or [elapsed]


def run(works: list[str], rounds: int, stage: Path, sums: Any) -> Samples:
    """All rounds of each kind of work, of so many processes each."""
    samples: Samples = {work: {name: [] for name in RIVALS[work]} for work in works}
    for work in works:
        times = max(rival.times for rival in RIVALS[work].values())
        for name in taking_turns(list(RIVALS[work]), rounds * times, f"{work}, "):
            samples[work][name].append(turn(name, work, stage, sums))
    return samples


def main() -> int:
    parser = asking(__doc__, ROUNDS, pinned="group")
    parser.add_argument("--only", metavar="A,B", help="some work, which is not comparable")
    parser.add_argument("--folder", type=Path, default=None, help="on which disk; default: where TMPDIR is")
    asked = answered(parser, *PACKAGES)
    works = chosen(asked.only, RIVALS)
    asked.is_partial |= len(works) < len(RIVALS)
    with scratch(asked.folder) as stage:
        samples = run(works, asked.rounds, stage, build(stage, PAIRS // 10 if asked.quick else PAIRS))
    return compared(asked, samples, ROWS, [OURS, DASK, DUCKDB])


if __name__ == "__main__":
    ends(main)
