"""A large object is written into pages made beforehand, and nothing of that is ever seen or left."""

import os
from pathlib import Path

import numpy as np
import pytest

from pywren_ng import Executor
from pywren_runtime import pages
from pywren_runtime.pages import LEAST, Pages
from pywren_runtime.pickling import digest_of
from pywren_runtime.stores import Copy
from pywren_runtime.stores.file_store import FileStore


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(str(tmp_path / "store"), private=True)


def put(store: FileStore, key: str, data: bytes) -> bool:
    """Put under a key that is worked out while the store writes, as the client's blobs are."""

    def name(copy: Copy | None) -> str:
        digest_of(memoryview(data), copy)
        return key

    return store.put_new(name, data)


def set_aside(store: FileStore) -> list[Path]:
    """The files that lie ready, once nothing is being made."""
    making = store._pages._making
    if making is not None:
        making.join()
    return list(Path(store.url.removeprefix("file://"), "~partial").iterdir())


def test_the_next_large_object_takes_what_was_set_aside(store: FileStore) -> None:
    assert put(store, "a", b"a" * LEAST)
    (ready,) = set_aside(store)
    inode = ready.stat().st_ino
    assert ready.stat().st_size == LEAST
    assert put(store, "b", b"b" * LEAST)
    assert os.stat(store.local_path("b") or "").st_ino == inode
    assert store.get("a") == b"a" * LEAST and store.get("b") == b"b" * LEAST


@pytest.mark.parametrize("size", [LEAST + 1, 2 * LEAST - 1, 3 * LEAST])
def test_an_object_of_another_size_is_as_long_as_itself(store: FileStore, size: int) -> None:
    put(store, "a", b"a" * (2 * LEAST))
    assert len(set_aside(store)) == 1
    assert put(store, "b", b"b" * size)
    assert store.get("b") == b"b" * size
    assert os.stat(store.local_path("b") or "").st_blocks * 512 <= size + 65536, "what it did not need is given back"


def test_what_is_there_already_changes_nothing(store: FileStore) -> None:
    put(store, "a", b"a" * LEAST)
    assert len(set_aside(store)) == 1
    assert not put(store, "a", b"b" * LEAST)
    assert store.get("a") == b"a" * LEAST
    assert [key for key, _ in store.keys()] == ["a"]


def test_a_key_that_cannot_be_had_leaves_no_file_but_the_next_ones(store: FileStore) -> None:
    def fails(copy: Copy | None) -> str:
        raise LookupError("no key")

    put(store, "a", b"a" * LEAST)
    with pytest.raises(LookupError):
        store.put_new(fails, b"b" * LEAST)
    assert len(set_aside(store)) <= 1


def test_small_objects_huge_ones_and_others_stores_set_nothing_aside(store: FileStore, tmp_path: Path) -> None:
    put(store, "small", b"a" * (LEAST - 1))
    store.put_new("with a key".replace(" ", "-"), b"a" * LEAST)
    assert set_aside(store) == []
    shared = FileStore(str(tmp_path / "shared"))
    put(shared, "large", b"a" * LEAST)
    assert set_aside(shared) == []


def test_nothing_is_set_aside_where_room_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SHARE", 1 << 60)
    short = FileStore(str(tmp_path / "short"), private=True)
    assert put(short, "a", b"a" * LEAST)
    assert set_aside(short) == []


def test_closing_gives_up_what_is_set_aside_and_what_is_being_made(tmp_path: Path) -> None:
    name = str(tmp_path / "next")
    several = Pages(lambda: name)
    several.prepare(LEAST)
    several.close()
    assert list(tmp_path.iterdir()) == []
    several.prepare(LEAST)
    assert several._making is None and several.take(LEAST) is None


def test_tasks_see_their_own_array_and_no_later_one() -> None:
    """Arrays sent one after the other into pages that were set aside: each task sums its own."""
    with Executor(max_workers=2) as ex:
        arrays = [np.full(LEAST // 8 + i, float(i)) for i in range(6)]
        futures = [ex.submit(lambda a: (float(a.sum()), len(a)), array) for array in arrays]
        assert [f.result() for f in futures] == [(float(a.sum()), len(a)) for a in arrays]


def test_a_file_that_was_taken_is_nobody_elses(tmp_path: Path) -> None:
    several = Pages(lambda: str(tmp_path / "next"))
    several.prepare(LEAST)
    if several._making is not None:
        several._making.join()
    page = several.take(LEAST)
    assert page is not None and (page.path, page.size) == (str(tmp_path / "next"), LEAST)
    assert several.take(LEAST) is None
    several.close()


@pytest.mark.parametrize("fault", ["too short", "cleaned away"])
def test_a_file_that_is_too_short_or_was_cleaned_away_is_not_used(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "next"
    several = Pages(lambda: str(path))
    several.prepare(LEAST)
    if several._making is not None:
        several._making.join()
    assert path.exists()
    if fault == "cleaned away":
        path.unlink()
    assert several.take(LEAST + (fault == "too short")) is None
    assert not path.exists()
    several.close()
