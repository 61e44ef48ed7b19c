"""Tables: columns of any type, in any direction, from Parquet files of any shape."""

import datetime
import importlib
import io
import math
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cmp_to_key
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.records import READER, cut, encoded, loaded, opened, put, written

from pywren_runtime.errors import ConfigError, RecordError
from pywren_shuffle.records.columns import by_keys, row_hashes, size_of
from pywren_shuffle.records.table_records import TableBatch
from pywren_shuffle.sort import sort

NAN = math.nan


def parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def back(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


def sorted_rows(rows: list[dict[str, Any]], by: list[str], nulls_first: bool) -> list[dict[str, Any]]:
    """By Python alone: nulls, then NaN, at the end or the beginning; and `sorted` is stable."""

    def compare(one: dict[str, Any], other: dict[str, Any]) -> int:
        for name in by:
            a, b = one[name.removeprefix("-")], other[name.removeprefix("-")]
            odd = [2 if value is None else 1 if value != value else 0 for value in (a, b)]
            if odd[0] != odd[1]:
                return (odd[0] - odd[1]) * (-1 if nulls_first else 1)
            if not odd[0] and a != b:
                return (-1 if a < b else 1) * (-1 if name.startswith("-") else 1)
        return 0

    return sorted(rows, key=cmp_to_key(compare))


rows = st.lists(
    st.tuples(
        st.sampled_from([None, 0, 1, 2]),
        st.sampled_from([None, NAN, 0.0, -0.0, 1.5, math.inf, -math.inf]),
        st.sampled_from([None, "", "a", "ab", "é"]),
    ),
    max_size=30,
)
by = st.lists(
    st.sampled_from(["i", "-i", "f", "-f", "s", "-s"]), min_size=1, max_size=3, unique_by=lambda name: name[-1]
)


@given(rows, by, st.booleans(), st.integers(1, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_tables_sort_as_python_sorts_their_rows(
    tmp_path: Path, rows: list[Any], by: list[str], nulls_first: bool, group: int
) -> None:
    schema = pa.schema([("i", pa.int32()), ("f", pa.float64()), ("s", pa.string()), ("n", pa.int64())])
    columns = [[row[at] for row in rows] for at in range(3)]
    source = put(tmp_path, parquet(pa.table([*columns, range(len(rows))], schema=schema), row_group_size=group))
    format = opened(f"table:{','.join(by)}" + ",nulls=first" * nulls_first, source)
    runs = [format.load([piece], READER).sort() for piece in cut(format, source, 97)]
    decoded, _ = format.decode(memoryview(b"".join(map(encoded, runs))))
    ordered = decoded.sort()
    found = back(written(format, ordered))
    assert found.schema.equals(schema)
    made = [dict(zip("ifsn", (*row, index), strict=True)) for index, row in enumerate(rows)]
    want = sorted_rows(made, by, nulls_first)
    assert repr(found.to_pylist()) == repr(want)
    keys = [[repr(row[name[-1]]).replace("-0.0", "0.0") for name in by] for row in want]
    for index, key in enumerate(keys):
        assert ordered.bound(ordered.key(index), after=False) == keys.index(key)
        assert ordered.bound(ordered.key(index), after=True) == keys.index(key) + keys.count(key)


def every_type(count: int, chance: random.Random) -> pa.Table:
    def some(values: list[Any], kind: pa.DataType | None = None) -> pa.Array:
        return pa.array([chance.choice([None, *values]) for _ in range(count)], kind)

    day = datetime.date(2024, 2, 29)
    return pa.table(
        {
            "bool": some([True, False]),
            "int8": some([-128, 0, 127], pa.int8()),
            "uint64": some([0, 2**64 - 1], pa.uint64()),
            "half": some([np.float16(0.5), np.float16(2)], pa.float16()),
            "float": some([NAN, 0.5, -2.0], pa.float32()),
            "decimal": some([Decimal("1.25"), Decimal("-3.50")], pa.decimal128(20, 2)),
            "bytes": some([b"", b"\xff", b"ab"], pa.binary()),
            "three": some([b"abc", b"xyz"], pa.binary(3)),
            "large": some(["", "größer", "größere", "x" * 200, "x" * 199 + "y"], pa.large_string()),
            "category": some(["x", "y"]).dictionary_encode(),
            "date": some([day, day + datetime.timedelta(1)]),
            "nanoseconds": some([1, 2], pa.timestamp("ns")),
            "zoned": some([5, 6], pa.timestamp("us", "Europe/Paris")),
            "time": some([1, 86_399_999_999], pa.time64("us")),
            "duration": some([-1, 1], pa.duration("ms")),
            "nothing": pa.nulls(count),
            "list": some([[], [1], [1, None], [None, 1]], pa.list_(pa.int16())),
            "pair": some([[1.0, 2.0], [2.0, 1.0]], pa.list_(pa.float32(), 2)),
            "struct": some([{"a": 1, "b": "x"}, {"a": None, "b": "x"}]),
            "map": some([[("k", 1)], []], pa.map_(pa.string(), pa.int8())),
            "index": pa.array(range(count)),
        }
    )


UNSORTABLE = ("list", "pair", "struct", "map")
EVERY_TYPE = every_type(120, random.Random(3))


@pytest.mark.parametrize("name", EVERY_TYPE.column_names)
def test_a_column_of_any_type_goes_along_and_is_sorted_by(tmp_path: Path, name: str) -> None:
    source = put(tmp_path, parquet(EVERY_TYPE, row_group_size=50))
    if name in UNSORTABLE:
        with pytest.raises(ConfigError, match=f"'{name}'.*no order"):
            opened(f"table:{name}", source)
        return
    format = opened(f"table:-{name}", source)
    batch = loaded(format, source)
    found = back(written(format, batch.sort()))
    assert found.schema.equals(EVERY_TYPE.schema)
    assert repr(found.to_pylist()) == repr(sorted_rows(EVERY_TYPE.to_pylist(), [f"-{name}"], False))
    (total,) = batch.sums([0, 120])
    assert loaded(opened("table:index", again := put(tmp_path, parquet(found), "out")), again).sums([0, 120]) == [total]


@pytest.mark.parametrize("name", EVERY_TYPE.column_names)
def test_a_hash_tells_values_apart_and_not_how_they_are_stored(name: str) -> None:
    table = EVERY_TYPE.select([name])
    found = row_hashes(table)
    assert len(set(found.tolist())) == len(set(map(repr, table[name].to_pylist())))
    order = random.Random(1).sample(range(120), 120)
    shuffled = pa.concat_tables([table.take(order[:50]), table.take(order[50:])])
    assert row_hashes(shuffled).tolist() == found[order].tolist()
    assert row_hashes(table.slice(7, 30)).tolist() == found[7:37].tolist()
    assert size_of(shuffled[name]) == size_of(table[name]) == size_of(table[name][:33]) + size_of(table[name][33:])


def test_hashes_of_rows_tell_columns_and_neighbours_apart() -> None:
    def one(*columns: list[Any]) -> int:
        return int(row_hashes(pa.table(list(columns), names=list("abc")[: len(columns)])).sum(dtype=np.uint64))

    assert one([1], [2]) != one([2], [1])
    assert one(["ab"], ["c"]) != one(["a"], ["bc"])
    assert one([1, 2], ["x", "y"]) != one([1, 2], ["y", "x"])
    assert one([[1, 2], [3]]) != one([[1], [2, 3]]) != one([[1], [3, 2]])
    assert one([None]) != one([0])


def test_a_large_row_group_is_cut_without_being_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywren_shuffle.records.parquet.WHOLE", 50_000)
    monkeypatch.setattr("pywren_shuffle.records.parquet.PAGES", 10_000)
    numbers = np.random.default_rng(0).integers(0, 2**60, 60_000)
    table = pa.table({"k": numbers, "i": np.arange(60_000)})
    source = put(tmp_path, parquet(table, row_group_size=10**9, data_page_size=10_000, use_dictionary=False))
    format = opened("table:k", source)
    pieces = cut(format, source, source.size // 8)
    batches = [format.load([piece], READER) for piece in pieces]
    sizes = [len(batch) for batch in batches]
    assert sum(sizes) == 60_000
    assert max(sizes) < 10_000
    assert back(written(format, *batches)).equals(table)


def test_parts_are_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywren_shuffle.records.parquet.GROUP", 10_000)
    source = put(tmp_path, parquet(pa.table({"k": range(5000)}), compression="zstd"))
    format = opened("table:k", source)
    batch = loaded(format, source)
    writer = format.writer()
    early = [bytes(buffer) for at in range(0, 5000, 500) for buffer in writer.write(batch.part(at, at + 500))]
    data = b"".join([*early, *map(bytes, writer.close())])
    metadata = pq.read_metadata(io.BytesIO(data))
    assert (metadata.num_rows, metadata.num_row_groups) == (5000, 4)
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert len(b"".join(early)) > len(data) / 2  # it leaves before the end


@pytest.mark.parametrize("partitions", [40, 1], ids=["at once", "in rounds"])
def test_a_whole_sort_of_tables(tmp_path: Path, partitions: int) -> None:
    numbers = np.random.default_rng(1)
    few = numbers.integers(0, 9, 30_000) / 4  # so that many rows have equal keys, and stay in order
    table = pa.table({"a": numbers.integers(0, 50, 30_000), "b": few, "i": range(30_000)})
    for number in range(3):
        put(tmp_path, parquet(table.slice(number * 10_000, 10_000), row_group_size=4000), f"{number}.parquet")
    with ThreadPoolExecutor(2) as pool:
        where = f"{tmp_path}/*.parquet", f"{tmp_path}/out"
        found = sort(pool, *where, records="table:a,-b", partitions=partitions, memory=1)
    parts = [pq.read_table(part) for part in found.parts]
    whole = pa.concat_tables(parts)
    assert whole.equals(table.sort_by([("a", "ascending"), ("b", "descending"), ("i", "ascending")]))
    assert all(part.schema.equals(table.schema) for part in parts)
    assert found.bytes == 30_000 * 24


def test_only_the_columns_to_sort_by_are_sampled(tmp_path: Path) -> None:
    source = put(tmp_path, parquet(EVERY_TYPE))
    format = opened("table:large,-date", source)
    sample = format.sample(cut(format, source), 50, 50, READER)
    assert isinstance(sample, TableBatch)
    assert sample.table.column_names == ["large", "date"]


@pytest.mark.parametrize(
    ("records", "options", "want"),
    [
        ("table:k", {}, [1, 1, 2, None]),
        ("table:-k", {}, [2, 1, 1, None]),
        ("table:k", {"reverse": True}, [2, 1, 1, None]),
        ("table:-k,nulls=first", {"reverse": True}, [None, 1, 1, 2]),
        ("table", {"key": "-k"}, [2, 1, 1, None]),
        ("table", {"key": ["k", "i"]}, [1, 1, 2, None]),
        ("table:nulls=first", {"key": [("k", "descending")]}, [None, 2, 1, 1]),
    ],
)
def test_ways_to_say_the_order(tmp_path: Path, records: str, options: dict[str, Any], want: list[Any]) -> None:
    source = put(tmp_path, parquet(pa.table({"k": [1, None, 2, 1], "i": range(4)})))
    format = opened(records, source, **options)
    assert back(written(format, loaded(format, source).sort()))["k"].to_pylist() == want


@pytest.mark.parametrize(
    ("records", "key"), [("table", None), ("table:", None), ("table", len), ("table", 3), ("table", [("a", "up")])]
)
def test_ways_that_say_nothing(records: str, key: object) -> None:
    with pytest.raises(ConfigError, match="table:country,-time"):
        opened(records, key=key)


def test_a_column_that_is_not_there_is_an_error_with_those_that_are(tmp_path: Path) -> None:
    source = put(tmp_path, parquet(pa.table({"time": [1], "place": [2]})))
    with pytest.raises(ConfigError, match="no column 'tiem'; it has 'time', 'place'"):
        opened("table:tiem", source)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"k": ["x"], "i": [1]}, "'k' of type string where another input has 'k' of type int64"),
        ({"i": [1], "k": [1]}, "'i' of type int64 where another"),
        ({"k": [1]}, "1 columns where another input has 2"),
    ],
)
def test_another_table_is_an_error_that_names_it(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    source = put(tmp_path, parquet(pa.table({"k": range(9), "i": range(9)})))
    odd = put(tmp_path, parquet(pa.table(other)), "odd")
    with pytest.raises(RecordError, match=f"'odd'.*{message}"):
        loaded(opened("table:k", source), source, odd)


@pytest.mark.parametrize("data", [b"k,i\n1,2\n", b"PAR1" + bytes(100)])
def test_another_file_is_an_error_that_names_it(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RecordError, match=r"'input'.*no Parquet"):
        opened("table:k", put(tmp_path, data))


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    data = bytearray(parquet(pa.table({"k": range(5000)}), compression="none", write_page_checksum=True))
    source = put(tmp_path, bytes(data))
    format = opened("table:k", source)
    data[20_000] ^= 1
    with pytest.raises(RecordError, match="row group 0 of 'input'"):
        loaded(format, put(tmp_path, bytes(data)))


def test_a_pyarrow_whose_private_module_is_called_otherwise_groups_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("pyarrow.acero")
    monkeypatch.setitem(sys.modules, "pyarrow._acero", None)
    monkeypatch.delattr(pa, "_acero")
    found = by_keys(pa.table({"k": [1, 2, 1], "x": [1, 2, 3]}), ["k"], [("x", "sum")], ["all"])
    assert found.to_pydict() == {"k": [1, 2], "all": [4, 2]}
