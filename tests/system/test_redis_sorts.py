"""Sorts whose intermediate data lies in a folder, on S3, in Redis, in a Redis cluster, behind TLS and a password.

One suite for all of them; then what only Redis can do to a sort, each fault with a real server: it is full, evicts,
is restarted, loses a node of its cluster, is not there.
"""

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.redis_servers import SECRET, Redis, RedisCluster, cluster, standalone
from support.s3_server import S3Server
from support.sorting import FIXED, Between, Folder, Place, assert_sorted, fill, parts_of, sortgen

import pywren_ng
from pywren_runtime.stores import open_store
from pywren_shuffle.records.rows_records import dump
from pywren_shuffle.sort import Sorted, sort

PLACES = ("folder", "s3", "redis", "cluster", "tls")
RECORDS, LITTLE = 10_000, 0.6  # so many, with so many MB for a worker, make a dozen splits


class Bucket:
    """A place on S3; its endpoint is in the environment."""

    def __init__(self, url: str) -> None:
        self._url = url.partition("?")[0]
        self._store = open_store(self._url)

    def url(self, name: str) -> str:
        return f"{self._url}/{name}"

    def put(self, name: str, data: bytes) -> None:
        self._store.put(name, data)

    def get(self, name: str) -> bytes:
        return self._store.get(name)

    def names(self, below: str = "") -> list[str]:
        return [key for key, _ in self._store.keys(below)]

    def remove(self, name: str) -> None:
        self._store.delete_many([name])


class Way:
    """How to sort: between which places, with what in between."""

    def __init__(self, place: Any, between: str | None, size: Callable[[], int]) -> None:
        self.place, self.between, self.size = place, between, size

    def run(self, pool: Executor, **options: Any) -> Sorted:
        options = {"records": FIXED, "intermediate": self.between} | options
        before = self.size()
        try:
            return sort(pool, self.place.url("in/*.dat"), self.place.url("out"), **options)
        finally:
            assert self.size() == before


@pytest.fixture
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "place")


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    return Bucket(s3_server.url())


@pytest.fixture(params=PLACES)
def way(request: pytest.FixtureRequest, folder: Folder) -> Way:
    kind = request.param
    if kind == "folder":
        return Way(folder, None, lambda: 0)
    if kind == "s3":
        return Way(request.getfixturevalue("bucket"), None, lambda: 0)
    name = {"redis": "redis_server", "cluster": "redis_cluster", "tls": "redis_tls"}[kind]
    redis: Redis | RedisCluster = request.getfixturevalue(name)
    return Way(folder, redis.url(), redis.size)


def explode(row: int) -> int:
    raise ZeroDivisionError(f"the key of {row}")


# ── one suite ──


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_it_sorts_more_than_a_worker_may_hold(way: Way, pool: Executor, kind: str) -> None:
    source = fill(way.place, kind, RECORDS, files=3)
    result = way.run(pool, memory=LITTLE)
    assert_sorted(way.place, result, source)
    assert result.splits > 8 and result.notices == ()
    assert [name for name in way.place.names() if not name.startswith(("in/", "out/"))] == []


def test_partitions_that_are_merged_in_rounds(way: Way, pool: Executor) -> None:
    source = fill(way.place, "ascii", RECORDS, files=2)
    assert_sorted(way.place, way.run(pool, memory=LITTLE, partitions=2), source)


def test_two_levels(way: Way, pool: Executor) -> None:
    source = fill(way.place, "uniform", RECORDS)
    result = way.run(pool, memory=LITTLE, partitions=20, levels=2)
    assert_sorted(way.place, result, source)
    assert result.plan.levels == 2


def test_nothing_to_sort(way: Way, pool: Executor) -> None:
    way.place.put("in/other.txt", b"not asked for")
    way.place.put("in/0.dat", b"")
    assert way.run(pool).records == 0


def test_lines_of_text(way: Way, pool: Executor) -> None:
    data = sortgen.records("ascii", 0, 3000)
    way.place.put("in/a.dat", data)
    result = way.run(pool, records="text", partitions=3)
    found = b"".join(way.place.get(part) for part in parts_of(way.place, result))
    assert found.splitlines() == sorted(data.splitlines())


def test_what_fails_leaves_nothing(way: Way, pool: Executor) -> None:
    way.place.put("in/a.dat", b"".join(map(bytes, dump(range(100)))))
    with pytest.raises(ZeroDivisionError, match="the key of"):
        way.run(pool, records="rows", key=explode, partitions=2)
    assert way.place.names() == ["in/a.dat"]


def test_our_own_workers_know_the_password(way: Way) -> None:
    source = fill(way.place, "uniform", 3000)
    with pywren_ng.Executor("local", max_workers=2) as executor:
        assert_sorted(way.place, way.run(executor, partitions=4), source)


# ── faults ──


@pytest.fixture
def broken() -> Iterator[Redis]:
    """A server that a test may break."""
    with standalone() as server:
        yield server


def sorted_although(
    pool: Executor, place: Place, between: str, phase: str, act: Callable[[], object], **options: Any
) -> Sorted:
    """Sort while that happens; the answer is right, and nothing is left but the output."""
    source = fill(place, "uniform", RECORDS)
    fragile = Between(pool, phase, act)
    options = {"records": FIXED, "memory": LITTLE, "intermediate": between} | options
    result = sort(fragile, place.url("in/*.dat"), place.url("out"), **options)
    assert fragile.acted == 1
    assert_sorted(place, result, source)
    assert [name for name in place.names() if not name.startswith(("in/", "out/"))] == []
    return result


def the_notice(result: Sorted, caplog: pytest.LogCaptureFixture, pattern: str) -> re.Match[str]:
    """The one thing that the user was told, in the result and in the log."""
    (notice,) = result.notices
    found = re.fullmatch(pattern, notice, re.DOTALL)
    assert found is not None, notice
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"the sort {result.id}: {notice}"
    ]
    return found


def fill_up(server: Redis) -> None:
    """There is room for some of the blocks."""
    used = int(server.ask("INFO", "memory").partition("used_memory:")[2].split()[0])
    server.ask("CONFIG", "SET", "maxmemory", str(used + 400_000))


def test_a_server_that_is_full(pool: Executor, folder: Folder, broken: Redis, caplog: pytest.LogCaptureFixture) -> None:
    result = sorted_although(pool, folder, broken.url(), "partition", lambda: fill_up(broken))
    found = the_notice(
        result,
        caplog,
        r"(\d+) of (\d+) blocks went to file:///.*/out/~shuffle, as redis://.* did not take them: .* could not write"
        r" 'shuffles/.*': the server has no memory left \(its maxmemory is reached\).*",
    )
    assert 1 <= int(found[1]) <= int(found[2]) == result.splits
    assert broken.size() == 0


def test_what_an_attempt_put_elsewhere_that_was_not_heard_of(pool: Executor, folder: Folder, broken: Redis) -> None:
    """Redis did not take a block, its worker died, and Redis took that of the next attempt."""

    def put() -> None:
        (run,) = (folder.path / "out" / "~shuffle" / "shuffles").iterdir()
        there = {path.name for path in run.iterdir()}
        key = next(name for number in count() if (name := f"{number:06}") not in there)
        assert f"/{key}" in broken.ask("KEYS", "*")
        (run / key).write_bytes(b"block")

    sorted_although(Between(pool, "partition", lambda: fill_up(broken)), folder, broken.url(), "merge", put)


@pytest.mark.parametrize("levels", [1, 2])
def test_a_server_that_is_restarted_between_the_phases(
    pool: Executor, folder: Folder, broken: Redis, caplog: pytest.LogCaptureFixture, levels: int
) -> None:
    result = sorted_although(pool, folder, broken.url(), "merge", broken.restart, levels=levels)
    for notice in result.notices:
        found = re.fullmatch(
            r"(\d+) of (\d+) blocks were lost in redis://.*, and are made again in file:///.*/out/~shuffle: nothing"
            r" lies at 'shuffles/.* or was restarted\.",
            notice,
        )
        assert found is not None and found[1] == found[2], notice
    assert len(result.notices) == len(caplog.records) == levels  # what the lost was made of was lost, too
    assert broken.size() == 0


def test_what_was_lost_is_made_again_on_s3(
    pool: Executor, bucket: Bucket, broken: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    result = sorted_although(pool, bucket, broken.url(), "merge", broken.restart)
    assert "made again in s3://" in result.notices[0]


def test_keys_that_are_evicted(pool: Executor, folder: Folder, broken: Redis, caplog: pytest.LogCaptureFixture) -> None:
    def evict() -> None:
        broken.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
        used = int(broken.ask("INFO", "memory").partition("used_memory:")[2].split()[0])
        broken.ask("CONFIG", "SET", "maxmemory", str(used - 300_000))
        assert 1 <= broken.size() < 12
        broken.ask("CONFIG", "SET", "maxmemory", "0")

    result = sorted_although(pool, folder, broken.url(), "merge", evict)
    found = the_notice(result, caplog, r"(\d+) of (\d+) blocks were lost in redis://.*the server has evicted it.*")
    evicted = int(broken.ask("INFO", "stats").partition("evicted_keys:")[2].split()[0])
    assert 1 <= int(found[1]) == evicted < int(found[2])
    assert broken.size() == 0


def test_a_policy_that_may_evict_is_named_before(
    pool: Executor, folder: Folder, broken: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    broken.ask("CONFIG", "SET", "maxmemory", "100mb")
    broken.ask("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    result = sorted_although(pool, folder, broken.url(), "partition", lambda: None)
    the_notice(result, caplog, r"redis://.* may lose data, .*maxmemory-policy is volatile-ttl: it may drop.*noeviction")


def test_a_server_that_lets_in_too_few(
    pool: Executor, folder: Folder, broken: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    broken.ask("CONFIG", "SET", "maxclients", "6")
    result = sorted_although(pool, folder, broken.url(), "partition", lambda: None)
    the_notice(
        result, caplog, r"redis://.* is not used, .*: connections: 4 workers .* lets in [12] more \(its maxclients\)"
    )
    assert result.plan.tier == "folder"


def test_a_node_of_a_cluster_that_is_killed(pool: Executor, folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with cluster() as nodes:
        result = sorted_although(pool, folder, nodes.url("?patience=0.3"), "merge", nodes.nodes[2].kill)
        assert result.notices[0].startswith(f"{result.splits} of {result.splits} blocks were lost in redis+cluster://")
        assert re.search(r"could not be reached|CLUSTERDOWN|stopped answering", result.notices[0])
        assert "could not be removed, and goes by itself" in result.notices[1]
        assert len(caplog.records) == 2


def test_nobody_listens(pool: Executor, folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = sorted_although(pool, folder, f"redis://127.0.0.1:{port}?patience=0.1", "partition", lambda: None)
    the_notice(
        result,
        caplog,
        rf"redis://127.0.0.1:{port}\?patience=0.1 is not used, and file:///.*/out/~shuffle is instead: .*Redis at"
        rf" 127.0.0.1:{port} could not be reached .*Connection refused.*",
    )


def test_a_server_that_goes_while_blocks_are_written(
    pool: Executor, folder: Folder, broken: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    result = sorted_although(pool, folder, broken.url("?patience=0.1"), "partition", broken.kill)
    assert result.notices[0].startswith(f"{result.splits} of {result.splits} blocks went to file://")
    assert "could not be removed, and goes by itself" in result.notices[1]


# ── more than fits ──


def test_more_than_the_cap_in_rounds(pool: Executor, folder: Folder, redis_server: Redis) -> None:
    """No more than the cap ever lies there: each round is merged to where the output goes, and removed."""
    seen: list[int] = []

    class Looking(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if fn.__name__ in ("regroup", "merge"):
                store = open_store(between)
                seen.append(sum(size for _, size in store.keys("shuffles/")))
            return super().submit(fn, *args, **kwargs)

    between, before = redis_server.url("?bytes=300000"), redis_server.size()
    source = fill(folder, "uniform", RECORDS, files=3)
    with Looking(4) as looking:
        result = sort(
            looking, folder.url("in/*.dat"), folder.url("out"), records=FIXED, memory=LITTLE, intermediate=between
        )
    assert_sorted(folder, result, source)
    assert result.plan.rounds >= 4 and result.notices == ()
    assert 150_000 < max(seen) <= 300_000
    assert seen[-1] == 0  # the last phase reads what lies beside the output
    assert redis_server.size() == before


def test_a_server_that_is_restarted_within_a_round(pool: Executor, folder: Folder, broken: Redis) -> None:
    result = sorted_although(pool, folder, broken.url("?bytes=300000"), "regroup", broken.restart)
    (notice,) = result.notices
    assert result.plan.rounds >= 4
    found = re.match(r"(\d+) of (\d+) blocks were lost in redis://", notice)
    assert found is not None and found[1] == found[2] and int(found[1]) < result.splits  # of one round
    assert broken.size() == 0


# ── passwords ──


def test_no_password_is_in_what_travels(folder: Folder, redis_tls: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    class Listening(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            sent.append(repr(args))
            return super().submit(fn, *args, **kwargs)

    monkeypatch.delenv("REDISCLI_AUTH")
    source = fill(folder, "uniform", 1000)
    between = redis_tls.url().replace("://", f"://:{SECRET}@")
    with Listening(2) as pool:
        result = sort(
            pool, folder.url("in/*.dat"), folder.url("out"), records=FIXED, partitions=3, intermediate=between
        )
    assert_sorted(folder, result, source)
    assert any("rediss://127.0.0.1" in task for task in sent)
    assert not any(SECRET in text for text in (*sent, repr(result), str(result.plan)))
    assert os.environ["REDISCLI_AUTH"] == SECRET


# ── the store of an executor ──


def test_an_executor_whose_store_is_redis(redis_tls: Redis, redis_cluster: RedisCluster) -> None:
    for server in (redis_tls, redis_cluster):
        with pywren_ng.Executor("local", max_workers=2, store=server.url()) as executor:
            assert executor.map(len, [os.urandom(200_000)] * 4).results() == [200_000] * 4
            assert executor.submit(bytes, 300_000).result() == bytes(300_000)
            with pytest.raises(ZeroDivisionError, match="the key of 3"):
                executor.submit(explode, 3).result()
            keys = [key for key, _ in executor.store.keys()]
            assert any(key.startswith("blobs/") for key in keys)
            executor.store.delete_many(keys)
