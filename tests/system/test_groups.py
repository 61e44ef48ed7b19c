"""Groups, joins and MapReduce of Python's objects on this machine, compared with what a few lines of Python say."""

import json
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from decimal import Decimal
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any

import pytest
from support.grouping import SHAPES, keys_like, put_rows, rows_of

from pywren_runtime.errors import ConfigError, KeyUnsupported, OutputInUse, PackingError, RecordError, ShuffleCorrupt
from pywren_shuffle.even import repartition, top_k
from pywren_shuffle.group import How, distinct, group, map_reduce_by_key, reduce_by_key
from pywren_shuffle.join import KINDS, join
from pywren_shuffle.phases.merge import merge
from pywren_shuffle.records.rows_records import load

LITTLE = 1.0  # MB: so that splits leave in several blocks, and partitions are merged in rounds


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def all_of(key: Any, values: Iterator[Any]) -> list[Any]:
    return list(values)


# -- Groups


@pytest.mark.parametrize("memory", [None, LITTLE])
@pytest.mark.parametrize("shape", SHAPES)
def test_groups_are_complete_and_in_the_order_of_the_input(
    pool: Executor, tmp_path: Path, shape: str, memory: float | None
) -> None:
    rows = [(key, f"{number:0120}") for number, key in enumerate(keys_like(shape, 10_000, 2500))]
    expected: dict[int, list[str]] = defaultdict(list)
    for key, value in rows:
        expected[key].append(value)
    source = put_rows(tmp_path / "in", rows)
    result = group(pool, source, tmp_path / "out", all_of, how=How(partitions=3, memory=memory))
    found = rows_of(result.parts)
    assert len(found) == len(expected)
    assert dict(found) == expected
    assert (result.records, result.rows, len(result.parts)) == (10_000, len(expected), 3)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["records"] == len(expected)
    assert len(files_in(tmp_path / "out")) == 4


@pytest.mark.parametrize("memory", [None, LITTLE])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_combined(pool: Executor, tmp_path: Path, shape: str, memory: float | None) -> None:
    rows = [(f"key {key}", f"{number:060}") for number, key in enumerate(keys_like(shape, 10_000, 2500))]
    expected: dict[str, str] = defaultdict(str)
    for key, value in rows:
        expected[key] += value  # associative, and not commutative: the order counts
    source = put_rows(tmp_path / "in", rows)
    result = reduce_by_key(pool, source, tmp_path / "out", operator.add, how=How(partitions=2, memory=memory))
    assert dict(rows_of(result.parts)) == expected
    assert (result.records, result.rows) == (10_000, len(expected))


def test_what_all_records_of_a_key_cost_when_they_are_combined(pool: Executor, tmp_path: Path) -> None:
    """A key that all records have passes on as one value of each split."""
    source = put_rows(tmp_path / "in", [("hot", 1)] * 20_000, files=4)
    seen: list[int] = []

    class Watching(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            if fn is merge:
                seen.append(sum(args[0].records))
            return super().submit(fn, *args, **kwargs)

    with Watching(2) as watching:
        result = reduce_by_key(watching, source, tmp_path / "out", operator.add, how=How(memory=LITTLE, partitions=2))
    assert rows_of(result.parts) == [("hot", 20_000)]
    assert 1 <= sum(seen) <= 2 * result.splits


def test_keys_that_are_equal_are_one_group_whatever_their_types(pool: Executor, tmp_path: Path) -> None:
    rows = [(1, "a"), ("1", "b"), (b"1", "c"), (1.0, "d"), (True, "e"), ((1,), "f"), (-0.0, "g"), (0, "h")]
    rows += [(nan, "i"), (float("nan"), "j"), (None, "k"), (2**53, "l"), (2.0**53, "m"), (2**53 + 1, "n")]
    source = put_rows(tmp_path / "in", rows, files=7)  # no two equal ones in the same file
    result = group(pool, source, tmp_path / "out", all_of, how=How(partitions=4))
    found = sorted("".join(values) for _, values in rows_of(result.parts))
    assert found == ["ade", "b", "c", "f", "gh", "ij", "k", "lm", "n"]
    keys = {"".join(values): key for key, values in rows_of(result.parts)}
    assert keys["ade"] == 1
    assert type(keys["ade"]) is int  # the first one that came


def test_a_function_need_not_look_at_all_values(pool: Executor, tmp_path: Path) -> None:
    source = put_rows(tmp_path / "in", [(number % 3, number) for number in range(9000)])
    result = group(pool, source, tmp_path / "out", lambda key, values: list(islice(values, 2)), how=How(memory=LITTLE))
    assert sorted(rows_of(result.parts)) == [(0, [0, 3]), (1, [1, 4]), (2, [2, 5])]
    assert result.records == 9000  # and all were proven


def test_lines_of_text_by_a_key_and_a_value(pool: Executor, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("fig 1\npear 2\nfig 3\n")
    result = reduce_by_key(
        pool,
        tmp_path / "in",
        tmp_path / "out",
        operator.add,
        records="text",
        key=lambda line: line.split()[0],
        value=lambda line: int(line.split()[1]),
    )
    assert sorted(rows_of(result.parts)) == [("fig", 4), ("pear", 2)]


def test_the_first_record_of_each_key(pool: Executor, tmp_path: Path) -> None:
    rows = [{"id": number % 100, "n": number} for number in range(5000)]
    source = put_rows(tmp_path / "in", rows)
    result = distinct(pool, source, tmp_path / "out", key=lambda row: row["id"], how=How(memory=LITTLE, partitions=3))
    assert sorted(row["n"] for row in rows_of(result.parts)) == list(range(100))
    same = distinct(pool, put_rows(tmp_path / "same", ["a", "b", "a"] * 9), tmp_path / "alike")
    assert sorted(rows_of(same.parts)) == ["a", "b"]
    assert (same.records, same.rows) == (27, 2)


def test_no_input_is_no_groups(pool: Executor, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = group(pool, tmp_path / "in", tmp_path / "out", all_of)
    assert (result.records, result.rows, rows_of(result.parts)) == (0, 0, [])


# -- What goes wrong


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"key": lambda row: [row]}, KeyUnsupported, r"builtins\.list.*tuple\(key\)"),
        ({"key": lambda row: Decimal(1) if row == 2 else 1}, KeyUnsupported, r"decimal\.Decimal.*str\(key\)"),
        ({"key": lambda row: row / 0}, ZeroDivisionError, "division"),
        ({}, RecordError, r"no pair of a key and a value.*key=lambda"),
        ({"key": "name"}, ConfigError, "function of one record"),
        ({"records": "fixed:100:10"}, ConfigError, "'rows', 'text'"),
        ({"key": abs, "fn": "sum"}, ConfigError, "must be a function of a key and an iterator"),
        ({"key": abs, "how": How(memory="1 GB")}, ConfigError, "memory='1 GB' should be a number"),
    ],
)
def test_an_error_says_what_to_do_and_leaves_nothing(
    pool: Executor, tmp_path: Path, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    source = put_rows(tmp_path / "in", [1, 2, 3])
    with pytest.raises(error, match=says):
        group(pool, source, tmp_path / "out", **{"fn": all_of, **options})
    assert not (tmp_path / "out").exists()


def test_an_error_of_a_reduction_names_the_key(pool: Executor, tmp_path: Path) -> None:
    source = put_rows(tmp_path / "in", [("a", 0), ("b", 1)])
    with pytest.raises(ZeroDivisionError) as raised:
        group(pool, source, tmp_path / "out", lambda key, values: 1 / next(values))
    assert raised.value.__notes__ == ["That was the group of the key 'a' (str), whose values come as an iterator."]
    assert not (tmp_path / "out").exists()


def test_a_row_that_cannot_be_written_names_the_key(pool: Executor, tmp_path: Path) -> None:
    source = put_rows(tmp_path / "in", [("a", 0)])
    with pytest.raises(PackingError, match="generator") as raised:
        group(pool, source, tmp_path / "out", lambda key, values: (value for value in values))
    assert "of the key 'a' (str); of an iterator make a list" in raised.value.__notes__[0]


def test_a_place_in_use_is_not_touched(pool: Executor, tmp_path: Path) -> None:
    source = put_rows(tmp_path / "in", [(1, 2)])
    first = group(pool, source, tmp_path / "out", all_of)
    with pytest.raises(OutputInUse):
        group(pool, source, tmp_path / "out", all_of)
    assert rows_of(first.parts) == [(1, [2])]
    second = group(pool, source, tmp_path / "out", all_of, how=How(overwrite=True))
    assert files_in(tmp_path / "out") == sorted(["manifest.json", Path(second.parts[0]).name])


@pytest.mark.parametrize("memory", [None, LITTLE])
def test_the_proof_alone(pool: Executor, tmp_path: Path, memory: float | None) -> None:
    """Nobody looks at what comes out: what is lost between the phases must be noticed by the run itself."""
    source = put_rows(tmp_path / "in", [(number % 997, number) for number in range(20_000)])
    group(pool, source, tmp_path / "out", lambda key, values: None, how=How(memory=memory, partitions=3))


def test_a_block_that_was_changed_is_named(tmp_path: Path) -> None:
    source = put_rows(tmp_path / "in", [(number % 100, number) for number in range(5000)])

    class Tampering(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            if fn is merge:
                for path in (tmp_path / "out").rglob("*-0000"):
                    data = bytearray(path.read_bytes())
                    data[-1] ^= 1
                    path.write_bytes(data)
            return super().submit(fn, *args, **kwargs)

    with Tampering(1) as tampering, pytest.raises(ShuffleCorrupt, match="not what was written"):
        group(tampering, source, tmp_path / "out", all_of)
    assert not (tmp_path / "out").exists()


# -- Joins


def joined(left: list[Any], right: list[Any], kind: str) -> list[Any]:
    """As Python has it: None is equal to None."""
    of_right = defaultdict(list)
    for row in right:
        of_right[row[0]].append(row)
    keys = {row[0] for row in left}
    if kind == "semi":
        return [row for row in left if row[0] in of_right]
    pairs = [(one, two) for one in left for two in of_right.get(one[0], ())]
    if kind in ("left", "outer"):
        pairs += [(row, None) for row in left if row[0] not in of_right]
    if kind in ("right", "outer"):
        pairs += [(None, row) for row in right if row[0] not in keys]
    return pairs


@pytest.mark.parametrize("how", [How(), How(partitions=3), How(partitions=1, memory=0.3)])  # the last in rounds
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["uniform", "zipf"])
def test_joins(pool: Executor, tmp_path: Path, kind: str, shape: str, how: How) -> None:
    left = [(key or None, number, "x" * 150) for number, key in enumerate(keys_like(shape, 1500, 300))]
    right = [(float(key) if key else None, -number) for number, key in enumerate(keys_like(shape, 200, 500, seed=1))]
    sources = put_rows(tmp_path / "left", left), put_rows(tmp_path / "right", right)
    result = join(pool, *sources, tmp_path / "out", kind=kind, key=lambda row: row[0], how=how)
    assert sorted(map(repr, rows_of(result.parts))) == sorted(map(repr, joined(left, right, kind)))
    assert result.records == 1700


@pytest.mark.parametrize("broadcast", [True, False])
def test_a_table_joined_with_itself_and_rows_made_of_both(pool: Executor, tmp_path: Path, broadcast: bool) -> None:
    people = [("ann", None), ("bob", "ann"), ("cid", "ann")]
    source = put_rows(tmp_path / "in", people)
    result = join(
        pool,
        source,
        source,
        tmp_path / "out",
        key=(lambda row: row[1], lambda row: row[0]),
        fn=lambda one, boss: f"{one[0]} works for {boss[0]}",
        broadcast=broadcast,
    )
    assert sorted(rows_of(result.parts)) == ["bob works for ann", "cid works for ann"]


@pytest.mark.parametrize("kind", KINDS)
def test_more_rows_of_one_key_on_both_sides_than_may_be_held(pool: Executor, tmp_path: Path, kind: str) -> None:
    """Of 0.3 MB a fifth may be held: forty of these rows."""
    left = [("hot", number, "x" * 1000) for number in range(130)] + [("left", 0, "")]
    right = [("hot", -number, "y" * 1000) for number in range(110)] + [("right", 0, "")]
    sources = put_rows(tmp_path / "left", left), put_rows(tmp_path / "right", right)
    how = How(partitions=1, memory=0.3)
    result = join(pool, *sources, tmp_path / "out", kind=kind, key=operator.itemgetter(0), how=how)
    found = rows_of(result.parts)
    assert sorted(map(str, found)) == sorted(map(str, joined(left, right, kind)))
    if kind != "semi":
        again = join(pool, *sources, tmp_path / "same", kind=kind, key=operator.itemgetter(0), how=how)
        assert rows_of(again.parts) == found


def test_joins_that_cannot_be(pool: Executor, tmp_path: Path) -> None:
    source = put_rows(tmp_path / "in", [(1, 2)])
    with pytest.raises(ConfigError, match="inner, left, right, outer, semi"):
        join(pool, source, source, tmp_path / "out", kind="cross")
    with pytest.raises(ConfigError, match="fn='x' must be a function of a row of the left"):
        join(pool, source, source, tmp_path / "out", fn="x")  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=r"no pair of a key and a value.*row\['name'\]\.$"):
        join(pool, put_rows(tmp_path / "odd", [1]), source, tmp_path / "out")
    with pytest.raises(ZeroDivisionError) as raised:
        join(pool, source, source, tmp_path / "out", fn=lambda one, two: 1 / 0)
    assert raised.value.__notes__ == ["That was a row of the key 1 (int)."]
    with pytest.raises(ConfigError, match="broadcast=True does not go with kind='outer'"):
        join(pool, source, source, tmp_path / "out", kind="outer", broadcast=True)
    assert not (tmp_path / "out").exists()


# -- What needs no order


def test_as_many_parts_as_are_asked_for_in_the_same_order(pool: Executor, tmp_path: Path) -> None:
    rows = list(range(20_000))
    result = repartition(pool, put_rows(tmp_path / "in", rows), tmp_path / "out", 7, how=How(memory=LITTLE))
    assert rows_of(result.parts) == rows
    sizes = [len(rows_of([part])) for part in result.parts]
    assert max(sizes) < 1.05 * min(sizes)
    odd: list[Any] = [None, 1, "a", {2: 3}, 1j]  # what no sort would take
    assert rows_of(repartition(pool, put_rows(tmp_path / "odd", odd), tmp_path / "parts", 2).parts) == odd


def test_the_greatest_of_all(pool: Executor, tmp_path: Path) -> None:
    rows = [(number * 7919 % 1000, number) for number in range(20_000)]
    source = put_rows(tmp_path / "in", rows)
    best = sorted(rows, key=operator.itemgetter(0), reverse=True)
    least = sorted(rows, key=operator.itemgetter(0))
    how = How(memory=LITTLE)
    assert top_k(pool, source, 50, key=operator.itemgetter(0), how=how) == best[:50]  # ties: the first comes first
    assert top_k(pool, source, 50, key=operator.itemgetter(0), smallest=True) == least[:50]
    assert top_k(pool, source, 0) == []
    assert len(top_k(pool, source, 30_000)) == 20_000
    with pytest.raises(ConfigError, match="k=-1"):
        top_k(pool, source, -1)


# -- MapReduce


def words(path: Path) -> Iterator[tuple[str, int]]:
    for word in path.read_text().split():
        yield word, 1


def total(key: str, values: Iterator[int]) -> int:
    return sum(values)


@pytest.mark.parametrize("combine", [None, operator.add])
def test_words_of_a_thousand_files(pool: Executor, tmp_path: Path, combine: Any) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(1000)]
    for number, path in enumerate(paths):
        path.write_text(" ".join(f"w{key}" for key in keys_like("zipf", 40, 300, seed=number)))
    counts = Counter(word for path in paths for word in path.read_text().split())
    result = map_reduce_by_key(pool, words, paths, total, combine=combine)
    assert result.value == counts
    assert (result.records, result.rows, result.parts) == (counts.total(), len(counts), ())


def test_more_pairs_than_fit_into_memory_from_one_item(pool: Executor, tmp_path: Path) -> None:
    def pairs(item: int) -> Iterator[tuple[int, bytes]]:
        return ((number % 10, bytes(1000)) for number in range(3000))

    def size(key: int, values: Iterator[bytes]) -> int:
        return sum(map(len, values))

    result = map_reduce_by_key(pool, pairs, [0], size, target=tmp_path / "out", how=How(memory=LITTLE, partitions=2))
    assert sorted(rows_of(result.parts)) == [(number, 300_000) for number in range(10)]
    assert result.value is None


def test_no_items_and_items_without_pairs(pool: Executor) -> None:
    assert map_reduce_by_key(pool, words, [], total).value == {}
    assert map_reduce_by_key(pool, lambda item: [], [1, 2], total).value == {}


def test_what_is_no_function_is_refused_before_anything_runs(pool: Executor) -> None:
    for given in ({"fn": "x"}, {"reduce_fn": None}, {"combine": 4}):
        with pytest.raises(ConfigError, match=f"{next(iter(given.values()))!r} must be a function of"):
            map_reduce_by_key(pool, items=[1], **({"fn": words, "reduce_fn": total} | given))  # type: ignore[arg-type]


def test_a_value_that_cannot_travel_names_its_key(pool: Executor) -> None:
    with pytest.raises(PackingError, match="generator") as raised:
        map_reduce_by_key(pool, lambda item: [("a", (one for one in "b"))], [1], total)
    assert raised.value.__notes__ == ["That was of the values of the key 'a' (str)."]


@pytest.mark.parametrize(
    ("found", "error", "says"),
    [
        (None, RecordError, "returned None"),
        (["ab"], RecordError, r"yielded 'ab' \(str\)"),
        ([(1, 2, 3)], RecordError, r"yielded \(1, 2, 3\)"),
        ([({}, 2)], KeyUnsupported, "builtins.dict"),
        ([(1j, 2)], KeyUnsupported, "builtins.complex"),
    ],
)
def test_what_a_map_function_must_not_do(pool: Executor, found: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        map_reduce_by_key(pool, lambda item: found, ["x"], total)
    if error is RecordError:
        assert raised.value.__notes__ == ["That was item 0: 'x' (str)."]


def test_a_file_of_groups_can_be_read_and_grouped_again(pool: Executor, tmp_path: Path) -> None:
    source = put_rows(tmp_path / "in", [(number % 10, 1) for number in range(100)])
    reduce_by_key(pool, source, tmp_path / "counts", operator.add)
    by_count = group(pool, tmp_path / "counts", tmp_path / "out", all_of, key=lambda row: row[1])
    with open(by_count.parts[0], "rb") as file:
        [(count, keys)] = load(file)
    assert (count, sorted(key for key, _ in keys)) == (10, list(range(10)))
