"""What the tests of groups and joins share: files of rows and tables, and what came out."""

import random
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support.local_aws import SCRIPTS

from pywren_shuffle.records.rows_records import dump, load

sys.path.insert(0, str(SCRIPTS / "bench"))

import group_memory

__all__ = ["SHAPES", "group_memory", "keys_like", "put_rows", "put_table", "rows_of", "sorted_rows", "table_of"]

SHAPES = ("uniform", "zipf", "one")


def keys_like(shape: str, count: int, distinct: int, seed: int = 0) -> list[int]:
    """So many keys: as frequent as each other, one in `distinct` as frequent as the first, or all the same."""
    chance = random.Random(seed)
    if shape == "one":
        return [7] * count
    weights = [1.0 if shape == "uniform" else 1 / rank for rank in range(1, distinct + 1)]
    return chance.choices(range(distinct), weights, k=count)


def put_rows(folder: Path, rows: Sequence[object], files: int = 3) -> str:
    """These rows in so many files; the pattern of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        part = rows[len(rows) * number // files : len(rows) * (number + 1) // files]
        with open(folder / f"{number}.rows", "wb") as file:
            file.writelines(dump(part))
    return f"{folder}/*.rows"


def put_table(folder: Path, table: pa.Table, files: int = 2) -> str:
    """This table in so many files; the pattern of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        start, stop = (len(table) * edge // files for edge in (number, number + 1))
        pq.write_table(table.slice(start, stop - start), folder / f"{number}.parquet", row_group_size=1000)
    return f"{folder}/*.parquet"


def rows_of(parts: Iterable[str]) -> list[Any]:
    """The rows of some parts in a folder."""
    found = []
    for part in parts:
        with open(part, "rb") as file:
            found += load(file)
    return found


def table_of(parts: Iterable[str]) -> pa.Table:
    """The rows of some Parquet files."""
    return pa.concat_tables([pq.read_table(part) for part in parts])


def sorted_rows(table: pa.Table) -> list[str]:
    """A table's rows in an order of their own, to be compared: nine digits of numbers, as sums are not exact."""
    columns = [column.to_pylist() for column in table.columns]
    return sorted(repr([_shown(value) for value in row]) for row in zip(*columns, strict=True))


def _shown(value: object) -> object:
    return f"{value + 0:.9g}" if isinstance(value, int | float | Decimal) else value
