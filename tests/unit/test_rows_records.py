"""Python objects as records: what may be one, how it is compared, and what is loaded when."""

import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.records import READER, cut, encoded, loaded, opened, put, written

from pywren_runtime.errors import ConfigError, KeysIncomparable, PackingError, RecordError, ShuffleCorrupt
from pywren_shuffle.records.rows_records import END, FRAME, MAGIC, dump, load
from pywren_shuffle.sort import sort

LOADED: list[str] = []


class Trap:
    """Loading it shows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return spring, ()


def spring() -> None:
    """What an evil pickle does."""
    LOADED.append("loaded")


def file_of(*rows: object) -> bytes:
    return b"".join(dump(rows))


def back(data: bytes) -> list[Any]:
    return list(load(io.BytesIO(data)))


keys = st.one_of(st.integers(-3, 3), st.floats(allow_nan=False, width=16))


@given(st.lists(keys, max_size=60), st.booleans(), st.integers(1, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_sort_as_python_sorts_them(tmp_path: Path, keys: list[float], reverse: bool, each: int) -> None:
    rows = [(key, index) for index, key in enumerate(keys)]
    sources = [put(tmp_path, file_of(*rows[at : at + each]), str(at)) for at in range(0, len(rows), each)]
    format = opened("rows", *sources, key=itemgetter(0), reverse=reverse)
    runs = [loaded(format, source).sort() for source in sources]
    decoded, _ = format.decode(memoryview(b"".join(map(encoded, runs))))
    assert back(written(format, decoded.sort())) == sorted(rows, key=itemgetter(0), reverse=reverse)


@given(st.lists(st.tuples(st.text(max_size=2), st.booleans()), max_size=40), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_rows_without_a_key_are_compared_themselves(tmp_path: Path, rows: list[Any], reverse: bool) -> None:
    source = put(tmp_path, file_of(*rows))
    format = opened("rows", source, reverse=reverse)
    assert back(written(format, loaded(format, source).sort())) == sorted(rows, reverse=reverse)


def test_a_whole_sort_of_rows(tmp_path: Path) -> None:
    rows = [{"name": f"n{index * 7919 % 1000}", "index": index} for index in range(6000)]
    for number in range(3):
        put(tmp_path, file_of(*rows[number::3]), f"{number}.rows")
    joined = [row for number in range(3) for row in rows[number::3]]
    with ThreadPoolExecutor(2) as pool:
        found = sort(
            pool,
            f"{tmp_path}/*.rows",
            f"{tmp_path}/out",
            records="rows",
            key=itemgetter("name"),
            reverse=True,
            partitions=5,
            memory=1,
        )
    parts = [back(Path(part).read_bytes()) for part in found.parts]
    assert [row for part in parts for row in part] == sorted(joined, key=itemgetter("name"), reverse=True)
    assert min(map(len, parts)) > 800


def test_a_file_of_many_frames_is_cut_between_them(tmp_path: Path) -> None:
    rows = [bytes(1000) + b"%d" % index for index in range(5 * FRAME // 1000)] + [bytes(3 * FRAME), b"last"]
    source = put(tmp_path, file_of(*rows))
    format = opened("rows", source)
    pieces = cut(format, source, 5 * FRAME // 2)
    assert 4 <= len(pieces) <= 6
    assert all(piece.stop - piece.start < 5 * FRAME for piece in pieces)
    assert back(written(format, *(format.load([piece], READER) for piece in pieces))) == rows


def test_rows_are_read_as_they_are_written() -> None:
    asked: list[int] = []

    def rows() -> Iterator[bytes]:
        for number in range(100):
            asked.append(number)
            yield bytes(FRAME)

    out = dump(rows())
    for _ in range(3):
        next(out)
    assert len(asked) < 5


@pytest.mark.parametrize(
    ("rows", "one", "other"),
    [
        ([3, 1, "two", 4], "'two' (str)", "(int)"),
        ([(1, "a"), (2, None), (1, None)], "(1, None)", "(1, 'a')"),
        ([1, 2, None], "None (NoneType)", "2 (int)"),
        ([{"a": 1}, {"a": 2}], "{'a': 1} (dict)", "{'a': 2} (dict)"),
    ],
)
def test_keys_that_cannot_be_compared_are_both_named(tmp_path: Path, rows: list[Any], one: str, other: str) -> None:
    source = put(tmp_path, file_of(*rows))
    format = opened("rows", source)
    with pytest.raises(KeysIncomparable) as caught:
        loaded(format, source).sort()
    assert one in str(caught.value)
    assert other in str(caught.value)
    assert "key=" in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_keys_of_two_files_that_cannot_be_compared_are_both_named(tmp_path: Path) -> None:
    put(tmp_path, file_of(*range(100)), "1.rows")
    put(tmp_path, file_of(*map(str, range(100))), "2.rows")
    for partitions in (1, 2):
        with ThreadPoolExecutor(1) as pool, pytest.raises(KeysIncomparable, match=r"\(int\).*\(str\)|\(str\).*\(int\)"):
            sort(pool, f"{tmp_path}/*.rows", f"{tmp_path}/out", records="rows", partitions=partitions)
    assert not list(tmp_path.glob("out/*"))


def test_a_key_that_has_no_place_is_an_error(tmp_path: Path) -> None:
    source = put(tmp_path, file_of(1.0, float("nan"), 2.0))
    with pytest.raises(KeysIncomparable, match="nan"):
        loaded(opened("rows", source), source).sort()


def test_an_error_of_the_key_names_the_row(tmp_path: Path) -> None:
    source = put(tmp_path, file_of({"a": 1}, {"b": 2}), "some.rows")
    with pytest.raises(KeyError) as caught:
        opened("rows", source, key=itemgetter("a"))
    assert "record 1 of 'some.rows'" in caught.value.__notes__[0]


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(PackingError, match=r"row 1 cannot be pickled.*lock"):
        file_of(1, threading.Lock())


SCRIPT = """
import sys
from dataclasses import dataclass
from pywren_shuffle.records.rows_records import dump

@dataclass(order=True)
class Point:
    x: int

sys.stdout.buffer.writelines(dump([Point(2), Point(1)]))
"""


def test_classes_of_a_script_go_along() -> None:
    data = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True).stdout
    assert [row.x for row in sorted(back(data))] == [1, 2]


def test_nothing_is_loaded_between_the_phases_that_this_sort_did_not_write(tmp_path: Path) -> None:
    source = put(tmp_path, file_of(1))
    ours, another = opened("rows", source), opened("rows", source)
    forged = encoded(loaded(another, source))
    trapped = file_of(Trap())
    assert back(trapped) == [None] and LOADED.pop() == "loaded"  # that is what it would do
    frame = trapped[len(MAGIC) : trapped.index(END)]
    for data in (forged, frame, encoded(loaded(ours, source))[:-1] + b"?"):
        with pytest.raises(ShuffleCorrupt):
            ours.decode(memoryview(data))
    again, _ = pickle.loads(pickle.dumps(ours)).decode(memoryview(encoded(loaded(ours, source))))
    assert len(again) == 1
    assert not LOADED


@pytest.mark.parametrize("at", [8, 20, 60, -30])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, at: int) -> None:
    data = bytearray(file_of(*range(100)))
    data[at] ^= 1
    source = put(tmp_path, bytes(data), "bad.rows")
    with pytest.raises(RecordError, match="'bad"):
        loaded(opened("rows", source), source)


@pytest.mark.parametrize("data", [pickle.dumps([1, 2]), b"x" * 100, file_of(1) + file_of(2), file_of(1, 2)[:-1]])
def test_another_file_is_an_error_that_says_how_to_make_one(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RecordError, match="dump"):
        opened("rows", put(tmp_path, data))


@pytest.mark.parametrize(("records", "key"), [("rows:name", None), ("rows", "name")])
def test_what_rows_do_not_take(records: str, key: object) -> None:
    with pytest.raises(ConfigError):
        opened(records, key=key)
