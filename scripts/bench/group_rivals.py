#!/usr/bin/env python3
"""Who takes part in group.py: each one's own way from files to files, in a process of its own.

    group_rivals.py NAME WORK SOURCE TARGET      prints the seconds of each turn that is not the first

All work is the same: of so many pairs (k, v), for each k the sum of v. The settings were tried out, one by one, on the
work of group.py; each function says which others there were.
"""

import json
import operator
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DASK", "DUCKDB", "OURS", "RIVALS", "WORKERS", "Rival"]

OURS, DASK, DUCKDB = "pywren_ng", "dask.bag", "duckdb"
WORKERS = 4
AGAIN = 5  # turns of a process that has begun
FRESH = 5  # processes one after the other, where a turn is short


@dataclass(frozen=True, slots=True)
class Rival:
    """One contestant in one kind of work: what it reads, and what its output ends in."""

    source: str  # a folder of group.py's stage: rows, pickles, tables
    run: Callable[[Path, Path], None]
    times: int = 1  # processes in each round
    again: int = 0  # how often each does the same again, and only that counts


def total(key: int, values: Iterator[int]) -> int:
    """What becomes of a group."""
    return sum(values)


def ours(work: str) -> Callable[[Path, Path], None]:
    """As a user would, with the proof; in one executor as often as it is asked."""
    held: list[Any] = []

    def run(source: Path, target: Path) -> None:
        from pywren_ng import Executor

        if not held:
            held.append(Executor("local", max_workers=WORKERS))
        executor = held[0]
        if work == "group":
            executor.group(f"{source}/*.rows", str(target), total)
        elif work == "reduce":
            executor.reduce_by_key(f"{source}/*.rows", str(target), operator.add)
        else:
            executor.reduce_by_key(f"{source}/*.parquet", str(target), {"v": "sum"}, records="table:k")

    return run


def dask_bag(work: str) -> Callable[[Path, Path], None]:
    """Lists of pairs in a pickle for each part, which it reads faster than lines of JSON or text.

    A shuffle through the disk into as many parts as there are inputs; "tasks" takes twice as long, other numbers of
    parts are no faster. A reduction is `foldby`.
    """

    def run(source: Path, target: Path) -> None:
        import dask
        import dask.bag
        from dask import delayed

        paths = sorted(source.iterdir())
        bag = dask.bag.from_delayed([delayed(read_pickle)(path) for path in paths])
        if work == "group":
            out = bag.groupby(operator.itemgetter(0), shuffle="disk", npartitions=len(paths)).map(sum_of_group)
        else:
            out = bag.foldby(operator.itemgetter(0), add_value, 0, operator.add, 0)
        parts = [
            delayed(write_pickle)(part, target / f"{number:03}.pickle") for number, part in enumerate(out.to_delayed())
        ]
        with dask.config.set(scheduler="processes", num_workers=WORKERS, temporary_directory=str(target.parent)):
            dask.compute(*parts)

    return run


def read_pickle(path: Path) -> Any:
    """A list of pairs."""
    with open(path, "rb") as file:
        return pickle.load(file)


def write_pickle(part: Any, path: Path) -> None:
    """The pairs of a part."""
    with open(path, "wb") as file:
        pickle.dump(list(part), file, 5)


def sum_of_group(group: tuple[int, list[tuple[int, int]]]) -> tuple[int, int]:
    """dask's groups have whole records."""
    return group[0], sum(value for _, value in group[1])


def add_value(sum_so_far: int, pair: tuple[int, int]) -> int:
    """A step of a fold."""
    return sum_so_far + pair[1]


def duckdb_one_thread(source: Path, target: Path) -> None:
    """Parquet to Parquet, Snappy as ours; LZ4 is as fast."""
    import duckdb

    query = f"SELECT k, sum(v)::BIGINT v FROM read_parquet('{source}/*.parquet') GROUP BY k"
    with duckdb.connect(config={"threads": 1}) as database:
        database.execute(f"COPY ({query}) TO '{target}/out.parquet' (FORMAT parquet, COMPRESSION snappy)")


RIVALS = {
    "group": {OURS: Rival("rows", ours("group")), DASK: Rival("pickles", dask_bag("group"))},
    "reduce": {OURS: Rival("rows", ours("reduce")), DASK: Rival("pickles", dask_bag("reduce"))},
    "table": {
        OURS: Rival("tables", ours("table"), times=FRESH),
        DUCKDB: Rival("tables", duckdb_one_thread, times=FRESH),
    },
    "again": {
        OURS: Rival("tables", ours("table"), again=AGAIN),
        DUCKDB: Rival("tables", duckdb_one_thread, again=AGAIN),
    },
}


def main(name: str, work: str, source: Path, target: Path) -> int:
    rival = RIVALS[work][name]
    seconds = []
    for number in range(1 + rival.again):
        begun = time.monotonic()
        folder = target / str(number)
        folder.mkdir()
        rival.run(source, folder)
        seconds.append(time.monotonic() - begun)
    print(json.dumps(seconds[1:]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
