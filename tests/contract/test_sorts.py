"""One suite for every way to sort: the same call on our executors, on others' pools, on folders and on S3.

S3 is that of the local AWS, where all requests are counted at one place.
"""

import json
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws
from support.sorting import FIXED, Bucket, Folder, Place, assert_sorted, fill, kinds_of, parts_of, sortgen

import pywren_ng
from pywren_runtime.errors import OutputInUse, RecordError, ShuffleCorrupt, StoreError
from pywren_shuffle.records.rows_records import Rows, dump
from pywren_shuffle.sort import sort

POOLS = ("threads", "forks", "local", "lambda")
WAYS = [(pool, where) for pool in POOLS for where in ("folder", "s3") if (pool, where) != ("lambda", "folder")]
MEMORY = 512  # MB of the function
RECORDS, LITTLE = 10_000, 0.6  # so many, with so many MB for a worker, make a dozen splits


@dataclass(frozen=True)
class Way:
    """How to sort, and where."""

    sort: Callable[..., Any]
    place: Callable[[], Any]

    def run(self, place: Place, **options: Any) -> Any:
        return self.sort(place.url("in/*.dat"), place.url("out"), **{"records": FIXED, **options})


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, MEMORY, variables=PACKAGES) as made:
        yield made


@pytest.fixture(scope="module")
def sorts(there: Deployed) -> Iterator[dict[str, Callable[..., Any]]]:
    """Each pool's way to sort; a pool starts its workers when it is first used."""
    fork = multiprocessing.get_context("fork")
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(4))
        forks = stack.enter_context(ProcessPoolExecutor(2, mp_context=fork))
        local = stack.enter_context(pywren_ng.Executor("local", max_workers=2))
        on_lambda = stack.enter_context(pywren_ng.Executor("lambda", max_workers=4))
        yield {
            "threads": partial(sort, threads),
            "forks": partial(sort, forks),
            "local": local.sort,
            "lambda": on_lambda.sort,
        }


@pytest.fixture(params=WAYS, ids=" on ".join)
def way(
    request: pytest.FixtureRequest,
    there: Deployed,
    sorts: dict[str, Callable[..., Any]],
    local_aws: LocalAws,
    tmp_path: Path,
) -> Way:
    pool, where = request.param
    bucket = bucket_of(there)
    return Way(sorts[pool], partial(Folder, tmp_path) if where == "folder" else partial(Bucket, local_aws, bucket))


def bucket_of(there: Deployed) -> str:
    return there.where.store.removeprefix("s3://").partition("/")[0]


def encoded(format: Rows) -> bytes:
    return b"".join(map(bytes, format.pack([pickle.dumps("a row")])))


def decoded(format: Rows, data: bytes) -> int:
    return len(format.decode(memoryview(data))[0])


def explode(row: int) -> int:
    raise ZeroDivisionError(f"the key of {row}")


def test_it_sorts_and_says_what_it_did(way: Way) -> None:
    place = way.place()
    source = fill(place, "zipf", 20_000, files=3)
    result = way.run(place, partitions=5)
    assert_sorted(place, result, source)
    assert len(result.parts) == 5
    assert result.checksum
    assert result.seconds > 0
    manifest = json.loads(place.get("out/manifest.json"))
    assert manifest["records"] == source.records
    assert [part["name"] for part in manifest["parts"]] == [str(part).rpartition("/")[2] for part in result.parts]
    assert place.names() == sorted([*(f"in/{number:02}.dat" for number in range(3)), *place.names("out")])


def test_more_than_a_worker_may_hold(way: Way) -> None:
    place = way.place()
    source = fill(place, "uniform", 10_000, files=2)
    assert_sorted(place, way.run(place, memory=LITTLE, partitions=2), source)


def test_nothing_to_sort(way: Way) -> None:
    place = way.place()
    place.put("in/other.txt", b"not asked for")
    result = way.run(place)
    assert (result.records, result.bytes) == (0, 0)
    (notice,) = result.notices
    assert "nothing lies at" in notice
    assert place.names()[0] == "in/other.txt" and any(name.endswith("manifest.json") for name in place.names())


def test_an_input_of_any_name_is_read_or_an_error(way: Way) -> None:
    """Never passed over: what came out would be less than what lies there."""
    place = way.place()
    source = fill(place, "uniform", 1000)
    place.put("in/Ünser input 1.dat", place.get("in/00.dat"))
    if place.url("in").startswith("s3:"):
        with pytest.raises(StoreError, match=r"in/Ünser input 1\.dat', a name that cannot be read here"):
            way.run(place)
        assert place.names("out") == []
    else:
        assert way.run(place).records == 2 * source.records


def test_a_place_in_use_and_its_overwriting(way: Way) -> None:
    place = way.place()
    source = fill(place, "uniform", 1000)
    result = way.run(place, partitions=3)
    with pytest.raises(OutputInUse, match="overwrite=True"):
        way.run(place)
    assert_sorted(place, result, source)
    source = fill(place, "ascii", 1000, seed=1)
    assert_sorted(place, way.run(place, overwrite=True, partitions=2), source)


def test_what_fails_in_a_worker_is_said_as_it_is_and_leaves_nothing(way: Way) -> None:
    place = way.place()
    place.put("in/a.rows", b"".join(map(bytes, dump(range(100)))))
    with pytest.raises(ZeroDivisionError, match="the key of"):
        way.sort(place.url("in/*.rows"), place.url("out"), records="rows", key=explode, partitions=2)
    assert place.names() == ["in/a.rows"]


def test_files_of_other_records_are_refused(way: Way) -> None:
    place = way.place()
    place.put("in/torn.dat", bytes(250))
    with pytest.raises(RecordError, match="torn"):
        way.run(place)
    assert place.names() == ["in/torn.dat"]


def test_lines_of_text(way: Way) -> None:
    place = way.place()
    data = sortgen.records("ascii", 0, 3000)
    place.put("in/a.txt", data[:150_000])
    place.put("in/b.txt", data[150_000:])
    result = way.sort(place.url("in/*.txt"), place.url("out"), records="text", partitions=3)
    found = b"".join(place.get(part) for part in parts_of(place, result))
    assert found.splitlines() == sorted(data.splitlines())


@pytest.mark.parametrize("kind", ["local", "lambda"])
def test_who_reads_a_call_cannot_forge_what_lies_between_workers(
    sorts: dict[str, Callable[..., Any]], kind: str
) -> None:
    executor = sorts[kind].__self__  # type: ignore[attr-defined]
    format = Rows()
    another = executor.options(env={"ANOTHER": "process"})
    assert another.submit(decoded, format, executor.submit(encoded, format).result()).result() == 1
    with pytest.raises(ShuffleCorrupt, match="not what was written"):
        executor.submit(decoded, format, encoded(format)).result()


@pytest.mark.parametrize("kind", ["local", "lambda"])
def test_as_whom_the_executor_was_told_to_ask(
    there: Deployed, local_aws: LocalAws, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Bucket(local_aws, bucket_of(there))
    source = fill(place, "uniform", 1000, files=2)
    keys = [f"{name.lower()} = {os.environ[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    (tmp_path / "config").write_text("\n".join(["[profile work]", f"region = {local_aws.region}", *keys]))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pywren_ng.Executor(kind, profile="work", max_workers=2) as executor:
        result = executor.sort(place.url("in/*.dat"), place.url("out"), records=FIXED, partitions=2)
        assert place.url("out") in result.parts[0]
    assert_sorted(place, result, source)


# -- Requests, on S3


@pytest.fixture(params=list(POOLS), ids="{} on s3".format)
def on_s3(
    request: pytest.FixtureRequest, there: Deployed, sorts: dict[str, Callable[..., Any]], local_aws: LocalAws
) -> Way:
    bucket = bucket_of(there)
    return Way(sorts[request.param], partial(Bucket, local_aws, bucket))


def test_each_request_is_counted(on_s3: Way) -> None:
    place = on_s3.place()
    fill(place, "uniform", 10_000, files=3)
    result = on_s3.run(place, partitions=4)
    assert kinds_of(result.requests) == dict(place.asked())
    assert not place.unfinished()


def test_a_put_for_each_split_and_a_get_for_each_slice(on_s3: Way) -> None:
    place = on_s3.place()
    source = fill(place, "uniform", RECORDS)
    result = on_s3.run(place, memory=LITTLE)
    splits, between = len(result.parts), place.asked("shuffles/")
    assert splits >= 8
    assert between["PutObject"] == result.splits == splits
    assert between["GetRange"] - result.requests.get("hedges", 0) <= splits**2 <= between["GetRange"]
    assert kinds_of(result.requests) == dict(place.asked())
    assert_sorted(place, result, source)
    assert min(len(place.get(part)) for part in parts_of(place, result)) > 0


@pytest.mark.parametrize(("together", "memory"), [(1, LITTLE), (4, 2 * LITTLE)])
def test_without_hedging_not_one_get_more(there: Deployed, local_aws: LocalAws, together: int, memory: float) -> None:
    place = Bucket(local_aws, bucket_of(there))
    source = fill(place, "uniform", RECORDS)
    options = {"records": FIXED, "memory": memory, "partitions": 20, "together": together, "hedging": False}
    with ThreadPoolExecutor(4) as pool:
        result = sort(pool, place.url("in/*.dat"), place.url("out"), **options)
    tasks = ceil(20 / together)
    assert dict(place.asked("shuffles/")) == {"PutObject": result.splits, "GetRange": result.splits * tasks}
    assert result.reads == result.splits * tasks
    assert_sorted(place, result, source)


def test_parts_are_in_order_by_name(on_s3: Way) -> None:
    place = on_s3.place()
    fill(place, "uniform", 1000)
    result = on_s3.run(place, partitions=12)
    assert all(one < other for one, other in pairwise(result.parts))


def test_submit_sort_gives_a_future(sorts: dict[str, Callable[..., Any]], tmp_path: Path) -> None:
    place = Folder(tmp_path)
    source = fill(place, "uniform", 1000)
    executor = sorts["local"].__self__  # type: ignore[attr-defined]
    future = executor.submit_sort(place.url("in/*.dat"), place.url("out"), records=FIXED)
    assert isinstance(future, Future)
    assert_sorted(place, future.result(), source)
