"""Groups and joins of tables on this machine, compared with DuckDB."""

import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from support.grouping import SHAPES, keys_like, put_table, rows_of, sorted_rows, table_of

from pywren_runtime.errors import ConfigError, RecordError
from pywren_shuffle.even import repartition, top_k
from pywren_shuffle.group import How, distinct, group, reduce_by_key
from pywren_shuffle.join import KINDS, join
from pywren_shuffle.tables import hashed as module_of_hashes
from pywren_shuffle.tables import pairs as table_pairs
from pywren_shuffle.tables.hashed import hashed

LITTLE = 1.0  # MB: so that splits leave in several blocks
AGGREGATES = {
    "total": ("amount", "sum"),
    "mean": ("amount", "mean"),
    "least": ("amount", "min"),
    "most": ("name", "max"),
    "known": ("amount", "count"),
    "n": ("", "rows"),
    "all_flags": ("flag", "all"),
    "any_flag": ("flag", "any"),
}
SQL = (
    "sum(amount) total, avg(amount) mean, min(amount) least, max(name) most, count(amount) known, count(*) n,"
    " bool_and(flag) all_flags, bool_or(flag) any_flag"
)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def sales(shape: str, count: int, *, seed: int = 0) -> pa.Table:
    chance = np.random.default_rng(seed)
    keys = pa.array([None if key == 3 else key for key in keys_like(shape, count, 400, seed)])
    city = [("Oslo", "Rome", None)[number] for number in chance.integers(0, 3, count)]
    return pa.table(
        {
            "id": keys,
            "city": pa.array(city).dictionary_encode(),
            "size": pa.array(chance.choice([0.0, -0.0, 1.5, float("nan")], count), mask=chance.random(count) < 0.1),
            "amount": pa.array(chance.normal(size=count), mask=chance.random(count) < 0.1),
            "name": np.char.zfill(chance.integers(0, 1000, count).astype(str), 100),
            "flag": chance.random(count) < 0.9,
        }
    )


def asked(statement: str, **tables: pa.Table) -> list[str]:
    with duckdb.connect() as database:
        for name, table in tables.items():
            database.register(name, table)
        return sorted_rows(database.sql(statement).to_arrow_table())


@pytest.mark.parametrize("memory", [None, LITTLE])
@pytest.mark.parametrize("key", ["id", ["city", "size"]])
@pytest.mark.parametrize("shape", SHAPES)
def test_aggregates(pool: Executor, tmp_path: Path, shape: str, key: Any, memory: float | None) -> None:
    table = sales(shape, 20_000)
    source = put_table(tmp_path / "in", table)
    how = How(partitions=3, memory=memory)
    result = reduce_by_key(pool, source, tmp_path / "out", AGGREGATES, records="table", key=key, how=how)
    by = key if isinstance(key, str) else ", ".join(key)
    expected = asked(f"select {by}, {SQL} from t group by {by}", t=table)
    assert sorted_rows(table_of(result.parts)) == expected
    assert (result.records, result.rows) == (20_000, len(expected))


def test_more_groups_than_fit_into_memory(pool: Executor, tmp_path: Path) -> None:
    """Each is in three splits or spills, so some go on in the next batch of a merge."""
    chance = np.random.default_rng(0)
    table = pa.table({"id": np.concatenate([chance.permutation(30_000) for _ in range(3)]), "one": np.ones(90_000)})
    source = put_table(tmp_path / "in", table, files=3)
    how = How(partitions=2, memory=LITTLE)
    result = reduce_by_key(pool, source, tmp_path / "out", {"one": "sum"}, records="table:id", how=how)
    found = table_of(result.parts)
    assert sorted(found["id"].to_pylist()) == list(range(30_000))
    assert set(found["one"].to_pylist()) == {3.0}


@pytest.mark.parametrize("memory", [None, LITTLE])
def test_distinct_rows(pool: Executor, tmp_path: Path, memory: float | None) -> None:
    table = sales("zipf", 20_000)
    source = put_table(tmp_path / "in", table)
    how = How(partitions=3, memory=memory)
    of_some = distinct(pool, source, tmp_path / "some", records="table", key=["id", "city"], how=how)
    seen: dict[Any, Any] = {}
    for row in table.to_pylist():
        seen.setdefault((row["id"], row["city"]), row)
    assert sorted(map(repr, table_of(of_some.parts).to_pylist())) == sorted(map(repr, seen.values()))
    assert of_some.records == 20_000
    pairs = put_table(tmp_path / "pairs", table.select(["id", "size"]))
    of_all = distinct(pool, pairs, tmp_path / "all", records="table", how=how)
    assert of_all.rows == len(asked("select distinct id, size + 0.0 from t", t=table))


@pytest.mark.parametrize("memory", [None, LITTLE])
def test_a_function_of_each_group(pool: Executor, tmp_path: Path, memory: float | None) -> None:
    table = sales("zipf", 20_000)
    expected: dict[Any, list[str]] = defaultdict(list)
    for row in table.to_pylist():
        expected[row["id"]].append(row["name"])
    result = group(
        pool,
        put_table(tmp_path / "in", table),
        tmp_path / "out",
        lambda key, tables: [name for some in tables for name in some["name"].to_pylist()],
        records="table:id",
        how=How(partitions=3, memory=memory),
    )
    assert dict(rows_of(result.parts)) == expected


@pytest.mark.parametrize("how", [How(), How(partitions=3), How(partitions=1, memory=0.5)])  # the last in rounds
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["uniform", "zipf"])
def test_joins(pool: Executor, tmp_path: Path, kind: str, shape: str, how: How) -> None:
    left = sales(shape, 3000).select(["id", "city", "name"])
    right = sales(shape, 300, seed=1).select(["id", "city", "amount"])
    right = right.set_column(0, "id", right["id"].cast(pa.float64()))  # the other side has whole numbers
    sources = put_table(tmp_path / "left", left), put_table(tmp_path / "right", right)
    result = join(pool, *sources, tmp_path / "out", kind=kind, key=["id", "city"], records="table", how=how)
    statement = (
        "select * from l where exists (select 1 from r where l.id = r.id and l.city = r.city)"
        if kind == "semi"
        else f"select * from l {'full' if kind == 'outer' else kind} join r using (id, city)"
    )
    assert sorted_rows(table_of(result.parts)) == asked(statement, l=left, r=right)


@pytest.mark.parametrize("memory", [0.3, 4.0])  # of the first side, not all can be held
@pytest.mark.parametrize("kind", KINDS)
def test_a_join_of_one_hot_key(pool: Executor, tmp_path: Path, kind: str, memory: float) -> None:
    chance = np.random.default_rng(0)

    def wide(column: str, count: int, other: str) -> pa.Table:
        return pa.table(
            {
                "k": ["hot"] * count + [None, other],
                column: range(count + 2),
                f"{column} wide": [chance.bytes(500) for _ in range(count + 2)],
            }
        )

    left, right = wide("x", 200, "only left"), wide("y", 150, "only right")
    sources = put_table(tmp_path / "left", left, files=3), put_table(tmp_path / "right", right)
    how = How(partitions=2, memory=memory)
    result = join(pool, *sources, tmp_path / "out", kind=kind, key="k", records="table", how=how)
    expected = {"inner": 30_000, "left": 30_002, "right": 30_002, "outer": 30_004, "semi": 200}
    assert result.rows == expected[kind]
    pairs = table_of(result.parts)
    if kind != "semi":
        assert len(set(zip(pairs["x"].to_pylist(), pairs["y"].to_pylist(), strict=True))) == result.rows


@pytest.mark.parametrize("memory", [0.3, 4.0])  # of the first side, not all can be held
@pytest.mark.parametrize("kind", KINDS)
def test_different_keys_of_one_hash_are_told_apart(
    pool: Executor, tmp_path: Path, kind: str, memory: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of hashes of 64 bits nobody finds two that are alike, so here there are but two."""
    real = table_pairs.row_hashes
    monkeypatch.setattr(table_pairs, "row_hashes", lambda table: real(table) % np.uint64(2))
    wide = [np.random.default_rng(number).bytes(2000) for number in range(500)]
    left = pa.table({"k": [number % 50 for number in range(500)], "x": range(500), "w": wide})
    right = pa.table(
        {"k": [25 + number // 6 for number in range(300)], "y": range(300), "v": [value[:1500] for value in wide[:300]]}
    )
    sources = put_table(tmp_path / "left", left), put_table(tmp_path / "right", right)
    how = How(partitions=1, memory=memory)
    result = join(pool, *sources, tmp_path / "out", kind=kind, key="k", records="table", how=how)
    statement = (
        "select * from l where exists (select 1 from r where l.k = r.k)"
        if kind == "semi"
        else f"select * from l {'full' if kind == 'outer' else kind} join r using (k)"
    )
    assert sorted_rows(table_of(result.parts)) == asked(statement, l=left, r=right)


@pytest.fixture
def weak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of hashes of 64 bits nobody finds two that are alike, so here keys of two columns have one of two."""
    real = module_of_hashes.row_hashes

    def weakened(table: pa.Table) -> Any:
        return real(table) % np.uint64(2) if table.num_columns == 2 else real(table)

    monkeypatch.setattr(module_of_hashes, "row_hashes", weakened)


@pytest.mark.parametrize("memory", [None, 0.3])  # all of a hash at once, or in many batches
def test_groups_of_one_hash_are_told_apart(pool: Executor, tmp_path: Path, memory: float | None, weak: None) -> None:
    """Rows of 15 keys, with nulls and nans among them, lie mixed, as all that is sorted by is the hash."""
    chance = np.random.default_rng(0)
    names = [("a", "b", None, "d", "e")[number] for number in chance.integers(0, 5, 600)]
    sizes = pa.array(chance.choice([0.0, -0.0, float("nan")], 600), mask=chance.random(600) < 0.1)
    wide = [chance.bytes(1000) for _ in range(600)]
    table = pa.table({"k": pa.array(names).dictionary_encode(), "s": sizes, "x": range(600), "w": wide})
    assert len(set(hashed(table, ["k", "s"]).column(0).to_pylist())) == 2
    source = put_table(tmp_path / "in", table)
    how = How(partitions=1, memory=memory)
    options: dict[str, Any] = {"records": "table", "key": ["k", "s"], "how": how}
    sums = reduce_by_key(pool, source, tmp_path / "sums", {"x": "sum"}, **options)
    assert sorted_rows(table_of(sums.parts)) == asked("select k, s + 0.0, sum(x) from t group by all", t=table)
    expected: dict[str, list[int]] = defaultdict(list)
    for row in table.to_pylist():
        expected[shown(row["k"], row["s"])].append(row["x"])
    lists = group(pool, source, tmp_path / "lists", all_x, **options)
    assert {shown(k, s): found for (k, s), found in rows_of(lists.parts)} == expected
    assert lists.rows == len(expected) == 15
    firsts = group(pool, source, tmp_path / "firsts", lambda key, tables: next(tables)["x"][0].as_py(), **options)
    assert sorted(first for _, first in rows_of(firsts.parts)) == sorted(found[0] for found in expected.values())
    once = distinct(pool, source, tmp_path / "once", **options)
    assert sorted(table_of(once.parts)["x"].to_pylist()) == sorted(found[0] for found in expected.values())


def shown(name: str | None, size: float | None) -> str:
    """A key, of which equal ones are the same."""
    return repr((name, None if size is None else size + 0.0))


def all_x(key: Any, tables: Iterator[pa.Table]) -> list[int]:
    return [x for some in tables for x in some["x"].to_pylist()]


@pytest.mark.parametrize("name", ["half", "nothing"])
def test_keys_with_which_pyarrow_does_not_calculate(pool: Executor, tmp_path: Path, name: str) -> None:
    half = pa.array(np.array([0.0, -0.0, np.nan, np.nan, 1.5], np.float16), mask=np.array([False] * 4 + [True]))
    keys, groups, pairs = {"half": (half, 3, 8), "nothing": (pa.nulls(5), 1, 0)}[name]
    source = put_table(tmp_path / "in", pa.table({"k": keys, "x": range(5)}), files=2)
    options: dict[str, Any] = {"records": "table", "key": "k", "how": How(partitions=2)}
    assert reduce_by_key(pool, source, tmp_path / "sums", {"x": "sum"}, **options).rows == groups
    assert distinct(pool, source, tmp_path / "once", **options).rows == groups
    counted = group(pool, source, tmp_path / "counts", lambda key, tables: sum(map(len, tables)), **options)
    assert len(rows_of(counted.parts)) == groups and sum(number for _, number in rows_of(counted.parts)) == 5
    for broadcast in (False, True):
        target = tmp_path / f"join {broadcast}"
        assert join(pool, source, source, target, broadcast=broadcast, **options).rows == pairs


def test_parts_and_the_greatest(pool: Executor, tmp_path: Path) -> None:
    table = sales("uniform", 5000).append_column("n", pa.array(range(5000)))
    source = put_table(tmp_path / "in", table)
    parts = repartition(pool, source, tmp_path / "out", 3, records="table", how=How(memory=LITTLE)).parts
    assert len(parts) == 3
    assert table_of(parts)["n"].to_pylist() == list(range(5000))
    assert top_k(pool, source, 3, records="table:n")["n"].to_pylist() == [4999, 4998, 4997]


@pytest.mark.parametrize(
    ("fn", "key", "says"),
    [
        ({"amount": "sum"}, "town", "no column 'town'"),
        ({"amont": "sum"}, "id", "'amont' that is to be aggregated is none of 'id', 'city'"),
        ({"amount": "median"}, "id", "no such function; there are sum.*use group"),
        ({"city": "sum"}, "id", "there is no 'sum' of the column 'city', which is of type string"),
        (max, "id", r"write \{'amount': 'sum'\}"),
        (
            {"id": ("amount", "sum")},
            "id",
            r"two columns .* called 'id'.*\{'its_sum': \('amount', 'sum'\)",
        ),
        ({"amount": "sum"}, abs, "which columns are the key"),
        ({"amount": "sum"}, "-id", "has no direction"),
        ({"amount": "sum"}, None, "which columns are the key.*key='country'"),
    ],
)
def test_mistakes_are_named(pool: Executor, tmp_path: Path, fn: Any, key: Any, says: str) -> None:
    source = put_table(tmp_path / "in", sales("uniform", 50))
    with pytest.raises(ConfigError, match=says):
        reduce_by_key(pool, source, tmp_path / "out", fn, records="table", key=key)
    assert not (tmp_path / "out").exists()


def test_mistakes_in_joins(pool: Executor, tmp_path: Path) -> None:
    left = put_table(tmp_path / "left", pa.table({"k": [1], "x": [1]}))
    right = put_table(tmp_path / "right", pa.table({"k": ["1"], "x": [1]}))
    with pytest.raises(ConfigError, match=r"'k' of the left side is of type int64.*string"):
        join(pool, left, right, tmp_path / "out", key="k", records="table")
    for key, says, note in (
        (("k", "x", "y"), "a tuple is the key of the left side and that of the right", ""),
        ((["k", "x"], "k"), "of the left side is of 2 columns and that of the right one of 1", ""),
        (("k", "z"), "no column 'z'; it has 'k', 'x'", r"the right side, whose key is 'z'.*key=\(left, right\)"),
    ):
        with pytest.raises(ConfigError, match=says) as raised:
            join(pool, left, right, tmp_path / "out", key=key, records="table")
        assert re.search(note, "".join(getattr(raised.value, "__notes__", ())))
    with pytest.raises(ConfigError, match="value= is for rows and text"):
        group(pool, left, tmp_path / "out", len, records="table:k", value=len)
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="the right side has no files"):
        join(pool, left, tmp_path / "none", tmp_path / "out", key="k", records="table")
    both = join(pool, left, left, tmp_path / "out", key="k", records="table")
    assert table_of(both.parts).column_names == ["k", "x", "x_right"]
    put_table(tmp_path / "left" / "other", pa.table({"k": [1]}), files=1)
    with pytest.raises(RecordError, match="has no column 'x'"):
        reduce_by_key(pool, tmp_path / "left", tmp_path / "sums", {"x": "sum"}, records="table:k")
