"""One suite for every executor: groups, joins and MapReduce on this machine and on Lambda, in folders and on S3."""

import io
import operator
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws
from support.sorting import Bucket, Folder, parts_of

import pywren_ng
from pywren_runtime.errors import ConfigError, KeyUnsupported
from pywren_shuffle.records.rows_records import dump, load

MEMORY = 512  # MB of the function
ROWS = [(key, f"{number}") for number in range(400) for key in [("a", number % 7)]]


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, MEMORY, variables=PACKAGES) as made:
        yield made


@pytest.fixture(scope="module")
def executors(there: Deployed) -> Iterator[dict[str, pywren_ng.Executor]]:
    with ExitStack() as stack:
        yield {
            "local": stack.enter_context(pywren_ng.Executor("local", max_workers=2)),
            "lambda": stack.enter_context(pywren_ng.Executor("lambda", max_workers=3)),
        }


@pytest.fixture(params=["local", "lambda"])
def way(
    request: pytest.FixtureRequest,
    there: Deployed,
    executors: dict[str, pywren_ng.Executor],
    local_aws: LocalAws,
    tmp_path: Path,
) -> tuple[pywren_ng.Executor, Any]:
    """An executor and the place of its data."""
    if request.param == "local":
        return executors["local"], Folder(tmp_path)
    return executors["lambda"], Bucket(local_aws, there.where.store.removeprefix("s3://").partition("/")[0])


def rows_of(place: Any, result: Any) -> list[Any]:
    return [row for part in parts_of(place, result) for row in load(io.BytesIO(place.get(part)))]


def put_rows(place: Any, name: str, rows: list[Any]) -> str:
    for number in (0, 1):
        place.put(f"{name}/{number}.rows", b"".join(dump(rows[number::2])))
    return place.url(f"{name}/*.rows")


def test_groups_and_reductions(way: tuple[pywren_ng.Executor, Any]) -> None:
    executor, place = way
    source = put_rows(place, "in", ROWS)
    prefix = "key "  # of a closure
    counts = executor.group(
        source, place.url("out"), lambda key, values: prefix + str(sum(1 for _ in values)), partitions=2
    )
    expected = Counter(key for key, _ in ROWS)
    assert dict(rows_of(place, counts)) == {key: f"key {number}" for key, number in expected.items()}
    sums = executor.reduce_by_key(
        source, place.url("sums"), operator.add, value=lambda row: int(row[1]), partitions=2, memory=1
    )
    assert sum(value for _, value in rows_of(place, sums)) == sum(range(400))
    assert place.names("out") == sorted(["out/manifest.json", *parts_of(place, counts)])


def test_tables_and_joins(way: tuple[pywren_ng.Executor, Any]) -> None:
    executor, place = way
    for name, table in (
        ("left", pa.table({"id": [1, 2, 3, None] * 50, "x": range(200)})),
        ("right", pa.table({"id": [1, 2, 4], "name": ["one", "two", "four"]})),
    ):
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        place.put(f"{name}/0.parquet", buffer.getvalue())
    left, right = place.url("left"), place.url("right")
    joined = executor.join(left, right, place.url("out"), kind="left", key="id", records="table", broadcast=False)
    found = pa.concat_tables([pq.read_table(io.BytesIO(place.get(part))) for part in parts_of(place, joined)])
    assert Counter(found["name"].to_pylist()) == {"one": 50, "two": 50, None: 100}
    best = executor.top_k(left, 2, records="table:x")
    assert best["x"].to_pylist() == [199, 198]
    even = executor.repartition(left, place.url("even"), 2, records="table")
    assert (even.rows, len(even.parts)) == (200, 2)
    once = executor.distinct(left, place.url("once"), records="table", key="id")
    assert once.rows == 4


def words(text: str) -> Iterator[tuple[str, int]]:
    for word in text.split():
        yield word, 1


def test_words_are_counted(way: tuple[pywren_ng.Executor, Any]) -> None:
    executor, place = way
    texts = [f"w{number % 3} w{number % 5} the" for number in range(60)]
    expected = Counter(word for text in texts for word in text.split())
    assert executor.map_reduce_by_key(words, texts, lambda key, ones: sum(ones)).result() == expected
    output = place.url("out")
    done = executor.map_reduce_by_key(
        words, texts, lambda key, ones: sum(ones), operator.add, partitions=2, output=output
    ).result()
    assert dict(rows_of(place, done)) == expected
    assert (done.records, done.rows) == (180, len(expected))
    assert place.names() == sorted(["out/manifest.json", *parts_of(place, done)])


def test_nothing_stays_in_the_store(there: Deployed, executors: dict[str, pywren_ng.Executor]) -> None:
    with pytest.raises(KeyUnsupported, match=r"builtins\.set"):
        executors["lambda"].map_reduce_by_key(lambda item: [({item}, 1)], [1, 2], lambda key, ones: 1).result()
    assert executors["lambda"].map_reduce_by_key(words, ["a"], lambda key, ones: 1).result() == {"a": 1}
    assert [key for key in there.keys() if "shuffles/" in key] == []


def test_a_folder_here_is_not_there(executors: dict[str, pywren_ng.Executor], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lies on this machine"):
        executors["lambda"].group(tmp_path, tmp_path / "out", lambda key, values: None)
