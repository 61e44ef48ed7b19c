#!/usr/bin/env python3
"""Groups and joins of one hot key, under limits on memory that the kernel enforces.

    group   one key with 10 million values ─► 4 forked processes of 128 MB each ─► all of them, in order, one by one
    join    one key, 10^5 × 10^2 rows      ─► the same                          ─► 10^7 rows
    tables  the same of two tables         ─► the same                          ─► 10^7 rows

As with sort_memory.py, the limit is on what a process allocates beyond interpreter and imports. In the run of
the group, a function that holds all values of the key dies of the limit.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from contest import answered, asking, concluded, ends, scratch
from sort_memory import limited_pool

from pywren_shuffle.group import How, group
from pywren_shuffle.join import join
from pywren_shuffle.records.rows_records import dump, load

COUNT = 10_000_000
IDS = {"group": "5f", "join": "5g", "tables": "5h"}

__all__ = [
    "count_in_order",
    "first",
    "group_of_one_key",
    "hold_all",
    "join_of_one_key",
    "join_of_tables",
    "many_pairs",
    "put_rows",
    "total_size",
]


def count_in_order(key: object, values: Iterator[int]) -> int:
    """How many, if they are 0, 1, 2, …"""
    count = 0
    for value in values:
        if value != count:
            raise ValueError(f"value {count:,} is {value:,}")
        count += 1
    return count


def hold_all(key: object, values: Iterator[int]) -> int:
    """As many would write it."""
    return len(sorted(f"{value:0200}" for value in values))  # far beyond the limit, whatever was free before


def first(row: tuple[Any, ...]) -> Any:
    """The key of a row."""
    return row[0]


def many_pairs(item: int) -> Iterator[tuple[int, bytes]]:
    """A thousand bytes for each of so many thousand values of one key."""
    return ((7, bytes(1000)) for _ in range(1000 * item))


def total_size(key: int, values: Iterator[bytes]) -> int:
    """Of all values."""
    return sum(map(len, values))


def put_rows(folder: Path, count: int, files: int, row: Callable[[int], Any]) -> str:
    """So many rows of one key, in files; the pattern of their names."""
    folder.mkdir(parents=True)
    for number in range(files):
        with open(folder / f"{number:02}.rows", "wb") as file:
            file.writelines(dump(map(row, range(count * number // files, count * (number + 1) // files))))
    return f"{folder}/*.rows"


def group_of_one_key(pool: Executor, folder: Path, count: int, megabytes: int) -> int:
    """How many values the function saw, in order."""
    source = put_rows(folder / "in", count, 8, lambda number: ("hot", number))
    result = group(pool, source, folder / "out", count_in_order, how=How(memory=megabytes, partitions=2))
    [(_, seen)] = [row for part in result.parts for row in rows_of(part)]
    return int(seen)


def join_of_one_key(pool: Executor, folder: Path, left: int, right: int, megabytes: int) -> int:
    """How many rows came out, if all are different."""
    sources = (
        put_rows(folder / "left", left, 4, lambda number: ("hot", number)),
        put_rows(folder / "right", right, 1, lambda number: ("hot", -number)),
    )
    how = How(memory=megabytes, partitions=2)
    result = join(pool, *sources, folder / "joined", key=first, broadcast=False, how=how)
    seen = bytearray(left * right)
    for part in result.parts:
        for (_, one), (_, other) in rows_of(part):
            seen[one * right - other] += 1
    if seen.count(1) != len(seen):
        raise ValueError(f"{seen.count(0):,} rows are missing, {len(seen) - seen.count(0) - seen.count(1):,} double")
    return result.rows


def join_of_tables(pool: Executor, folder: Path, left: int, right: int, megabytes: int) -> int:
    """The same of two tables."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, count in (("a", left), ("b", right)):
        (folder / name).mkdir(parents=True)
        table = pa.table({"k": ["hot"] * count, name: np.arange(count)})
        pq.write_table(table, folder / name / "0.parquet", row_group_size=10_000)
    result = join(
        pool,
        folder / "a",
        folder / "b",
        folder / "joined",
        key="k",
        records="table",
        broadcast=False,
        how=How(memory=megabytes, partitions=2),
    )
    seen = np.zeros(left * right, np.int8)
    for part in result.parts:
        for batch in pq.ParquetFile(part).iter_batches(columns=["a", "b"]):
            np.add.at(seen, batch["a"].to_numpy() * right + batch["b"].to_numpy(), 1)
    if not (seen == 1).all():
        raise ValueError(f"{int((seen == 0).sum()):,} rows are missing, {int((seen > 1).sum()):,} double")
    return result.rows


def rows_of(part: str) -> Iterator[Any]:
    with open(part, "rb") as file:
        yield from load(file)


def dies(pool: ProcessPoolExecutor, folder: Path, megabytes: int) -> bool:
    """Whether a function that holds all values is out of memory."""
    try:
        group(pool, folder / "in", folder / "naive", hold_all, how=How(memory=megabytes, partitions=2))
    except MemoryError:
        return True
    return False


def main() -> int:
    parser = asking(__doc__, 1)
    parser.add_argument("what", choices=list(IDS))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=128, help="of each worker")
    parser.add_argument("--folder", type=Path, default=None, help="on which disk; default: where TMPDIR is")
    asked = answered(parser, "numpy", "pyarrow")
    count = COUNT // 10 if asked.quick else COUNT
    with scratch(asked.folder) as stage, limited_pool(asked.workers, asked.megabytes) as pool:
        if asked.what == "group":
            seen = group_of_one_key(pool, stage, count, asked.megabytes)
            is_naive = dies(pool, stage, asked.megabytes)
            said = "values of one key; a list of them " + ("is out of memory" if is_naive else "FITS: no limit")
        else:
            made = join_of_one_key if asked.what == "join" else join_of_tables
            seen, is_naive = made(pool, stage, count // 100, 100, asked.megabytes), True
            said = "rows of one key, all different"
    said = f"{seen:,} {said}; {asked.workers} workers of {asked.megabytes} MB"
    verdict = (IDS[asked.what], said, is_naive and seen == count)
    return concluded(asked, [verdict])


if __name__ == "__main__":
    ends(main)
