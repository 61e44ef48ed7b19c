"""Pieces from a store that has no files here: fetched once, verified once, and never the same memory twice."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pywren_runtime import blobs
from pywren_runtime.blobs import MAPPED, Cache, fetch, is_remote
from pywren_runtime.errors import KeyMissing, SignatureError
from pywren_runtime.pickling import Ref, digest_of
from pywren_runtime.stores.file_store import FileStore
from pywren_runtime.stores.memory_store import MemoryStore
from pywren_runtime.wire import blob_key

SHORT = 1000
LONG = 3 * MAPPED


class CountingStore(MemoryStore):
    """A store without files of which others have the key, and that counts what is asked of it."""

    private = False

    def __init__(self) -> None:
        super().__init__("counting")
        self.asked: list[str] = []

    def get(self, key: str) -> bytes:
        self.asked.append(key)
        return super().get(key)

    def put_blob(self, size: int) -> Ref:
        data = os.urandom(size)
        digest = digest_of(memoryview(data))
        self.put(blob_key(digest), data)
        return Ref(blob_key(digest), size, digest)

    def raw(self, ref: Ref) -> bytes:
        return MemoryStore.get(self, ref.key)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


@pytest.mark.parametrize("size", [0, SHORT, MAPPED - 1, MAPPED, LONG])
def test_a_piece_is_asked_for_once(store: CountingStore, tmp_path: Path, size: int) -> None:
    ref, cache = store.put_blob(size), Cache(str(tmp_path / "blobs"))
    assert [bytes(cache.fetch(store, ref)) for _ in range(3)] == [store.raw(ref)] * 3
    assert store.asked == [ref.key]


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_what_a_task_writes_no_other_task_sees(store: CountingStore, tmp_path: Path, size: int) -> None:
    ref, cache = store.put_blob(size), Cache(str(tmp_path / "blobs"))
    first: Any = cache.fetch(store, ref)
    before = first[0]
    first[0] = before ^ 1
    second: Any = cache.fetch(store, ref)
    assert (second[0], first[0]) == (before, before ^ 1)


def test_long_pieces_are_shared_by_the_processes_of_a_machine_and_short_ones_are_not(
    store: CountingStore, tmp_path: Path
) -> None:
    short, long = store.put_blob(SHORT), store.put_blob(LONG)
    for _ in range(2):
        cache = Cache(str(tmp_path / "blobs"))  # as another process would
        cache.fetch(store, short)
        cache.fetch(store, long)
    assert (store.asked.count(short.key), store.asked.count(long.key)) == (2, 1)


def test_many_that_want_a_long_piece_at_once_ask_once(store: CountingStore, tmp_path: Path) -> None:
    ref = store.put_blob(LONG)
    barrier = threading.Barrier(8)
    found: list[bytes] = []

    def want() -> None:
        cache = Cache(str(tmp_path / "blobs"))
        barrier.wait(30)
        found.append(bytes(cache.fetch(store, ref)))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert store.asked == [ref.key]
    assert found == [store.raw(ref)] * 8


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_what_was_changed_on_its_way_is_refused_and_not_kept(store: CountingStore, tmp_path: Path, size: int) -> None:
    ref, cache = store.put_blob(size), Cache(str(tmp_path / "blobs"))
    right = store.raw(ref)
    store.put(ref.key, right[:-1] + bytes([right[-1] ^ 1]))
    with pytest.raises(SignatureError, match="another hash"):
        cache.fetch(store, ref)
    store.put(ref.key, right)
    assert bytes(cache.fetch(store, ref)) == right


@pytest.mark.parametrize("size", [SHORT, LONG])
def test_what_is_gone_is_missing_and_found_once_it_is_back(store: CountingStore, tmp_path: Path, size: int) -> None:
    ref, cache = store.put_blob(size), Cache(str(tmp_path / "blobs"))
    right = store.raw(ref)
    store.delete_many([ref.key])
    with pytest.raises(KeyMissing):
        cache.fetch(store, ref)
    store.put(ref.key, right)
    assert bytes(cache.fetch(store, ref)) == right


def test_the_longest_unused_short_pieces_go_first(store: CountingStore, tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "blobs"), kept=3 * SHORT)
    a, b, c, d = (store.put_blob(SHORT) for _ in range(4))
    for ref in (a, b, c, a, d, a, b):
        cache.fetch(store, ref)
    assert [store.asked.count(ref.key) for ref in (a, b, c, d)] == [1, 2, 1, 1]


def test_the_longest_unused_files_go_when_the_disk_is_full(
    store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "blobs"

    class Disk:
        """Room for two and a half long pieces."""

        f_frsize = 1

        @property
        def f_bavail(self) -> int:
            return LONG * 5 // 2 - sum(file.stat().st_size for file in root.iterdir())

    monkeypatch.setattr(os, "statvfs", lambda path: Disk())
    cache = Cache(str(root), spare=0)
    a, b, c = (store.put_blob(LONG) for _ in range(3))
    for number, ref in enumerate((a, b)):
        cache.fetch(store, ref)
        os.utime(root / ref.digest.hex(), (number, number))
    held = cache.fetch(store, a)  # now b is the longest unused
    cache.fetch(store, c)
    assert {file.name for file in root.iterdir() if not file.suffix} == {a.digest.hex(), c.digest.hex()}
    assert bytes(held) == store.raw(a)


def test_a_piece_for_which_the_disk_has_no_room_is_read(
    store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref, cache = store.put_blob(LONG), Cache(str(tmp_path / "blobs"), spare=1 << 60)
    assert bytes(cache.fetch(store, ref)) == store.raw(ref)
    assert [file for file in (tmp_path / "blobs").iterdir() if not file.suffix] == []


def test_a_piece_too_large_for_one_request_comes_in_several(
    store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "WHOLE", LONG - 1)
    monkeypatch.setattr(blobs, "STEP", blobs.PIECE)
    ref, cache = store.put_blob(2 * blobs.PIECE + 77), Cache(str(tmp_path / "blobs"))
    ranges: list[int] = []
    get_range = store.get_range
    monkeypatch.setattr(store, "get_range", lambda key, at, size: ranges.append(at) or get_range(key, at, size))
    assert bytes(cache.fetch(store, ref)) == store.raw(ref)
    assert ranges == [0, blobs.PIECE, 2 * blobs.PIECE]


def test_what_is_not_named_by_its_content_is_not_kept(store: CountingStore, tmp_path: Path) -> None:
    data = os.urandom(SHORT)
    ref, cache = Ref("jobs/j/results/1", SHORT, digest_of(memoryview(data))), Cache(str(tmp_path / "blobs"))
    store.put(ref.key, data)
    assert [bytes(cache.fetch(store, ref)) for _ in range(2)] == [data, data]
    assert len(store.asked) == 2


def test_a_store_with_files_is_not_remote(store: CountingStore, tmp_path: Path) -> None:
    assert is_remote(store)
    assert not is_remote(FileStore(str(tmp_path / "store")))


def test_without_a_cache_a_piece_is_verified_each_time(store: CountingStore) -> None:
    ref = store.put_blob(SHORT)
    assert bytes(fetch(store, ref)) == store.raw(ref)
    store.put(ref.key, bytes(SHORT))
    with pytest.raises(SignatureError):
        fetch(store, ref)
