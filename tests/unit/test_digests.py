"""Hashes of many records at once: each tells its record apart, and their sum what records exchange."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.records import READER, opened, put

from pywren_shuffle.records import Piece
from pywren_shuffle.records.digests import SHORT, hashes_of, total_of
from pywren_shuffle.records.keyed import MANY

LENGTHS = [0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 100, SHORT, SHORT + 1, 5000]


def some(chance: random.Random, count: int) -> list[bytes]:
    return [chance.randbytes(chance.choice(LENGTHS)) for _ in range(count)]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 17, SHORT, SHORT + 1])
def test_any_other_record_has_another_hash(length: int) -> None:
    record = random.Random(length).randbytes(length)
    others = {record + b"\0", b"\0" + record, record + record + b"x"}
    for bit in range(8 * length):
        changed = bytearray(record)
        changed[bit // 8] ^= 1 << bit % 8
        others.add(bytes(changed))
    found = {total_of([other]) for other in others}
    assert len(found) == len(others)
    assert total_of([record]) not in found


def test_a_hash_does_not_depend_on_neighbours_or_order() -> None:
    chance = random.Random(1)
    records = some(chance, 20_000)
    one_by_one = sum(total_of([record]) for record in records)
    chance.shuffle(records)
    assert total_of(records) == one_by_one % (1 << 64)
    assert total_of(records[:77]) + total_of(records[77:]) & (1 << 64) - 1 == total_of(records)
    assert total_of([]) == 0


def test_where_records_lie_makes_no_difference() -> None:
    data = np.frombuffer(b"xxabcdefghijklyyyyabcdefghijkl" + bytes(8), np.uint8)
    one, other = hashes_of(data, np.array([2, 18]), np.array([12, 12])).tolist()
    assert one == other == total_of([b"abcdefghijkl"])


@pytest.mark.parametrize("cut", [1, 4, 8, 12])
def test_what_two_records_exchange_shows(cut: int) -> None:
    one, other = b"a" * 20, b"b" * 20
    swapped = [one[:cut] + other[cut:], other[:cut] + one[cut:]]
    assert total_of(swapped) != total_of([one, other])


def test_small_sorts_of_text_import_no_numpy(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"b\na\n" * 1000)
    assert imported(tmp_path, "text") == "[]"


def test_large_ones_do_and_hash_as_well(tmp_path: Path) -> None:
    """All that the formats themselves say of it is what the plain hash says, too: only the sums differ."""
    line = b"some words of a line\n"
    text = opened("text", put(tmp_path, line * (MANY // len(line) + 1)))
    plain = opened("text", source := put(tmp_path, line * 100))
    pieces = [Piece(source, 0, source.size)]
    many, few = text.load(pieces, READER), plain.load(pieces, READER)
    assert many.sums([0, 50, 100]) == [total_of([line[:-1]] * 50)] * 2
    assert few.sums([0, 50, 100]) != many.sums([0, 50, 100])


def test_tables_are_sorted_grouped_and_joined_without_pandas(tmp_path: Path) -> None:
    table = pa.table({"k": [3.0, None, 1.0], "s": ["a", None, "x" * 300], "b": [True, None, False], "n": [1, 2, None]})
    pq.write_table(table, tmp_path / "in")
    assert "pandas" not in imported(tmp_path, "table:k,-s,b,nulls=first", SORT + GROUPS)


SORT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pywren_shuffle.sort import sort
with ThreadPoolExecutor(2) as pool:
    sort(pool, sys.argv[1] + "/in", sys.argv[1] + "/out", records=sys.argv[2], partitions=2)
"""
GROUPS = """
from pywren_shuffle.group import distinct, group, reduce_by_key
from pywren_shuffle.join import join
def count(key, tables):
    return sum(map(len, tables))
with ThreadPoolExecutor(2) as pool:
    source, target = sys.argv[1] + "/in", sys.argv[1] + "/"
    group(pool, source, target + "group", count, records="table:k,s")
    distinct(pool, source, target + "distinct", records="table")
    reduce_by_key(pool, source, target + "reduce", {"n": "sum", "m": ("n", "mean")}, records="table:k,b")
    join(pool, source, source, target + "join", records="table:k")
    join(pool, source, source, target + "outer", records="table:k,s", kind="outer", broadcast=False)
"""
SAID = """
print([name for name in ("numpy", "pandas") if name in sys.modules])
"""


def imported(folder: Path, records: str, script: str = SORT) -> str:
    """Which of numpy and pandas a script has imported that sorts `in` there, and may do more."""
    command = [sys.executable, "-c", script + SAID, str(folder), records]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
