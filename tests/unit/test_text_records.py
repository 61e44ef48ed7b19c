"""Lines: split anywhere, with any ends, and sorted as Python sorts their bytes."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.records import READER, cut, loaded, opened, put, written

from pywren_runtime.errors import ConfigError, RecordError
from pywren_shuffle.records import Piece, text_records
from pywren_shuffle.records.text_records import AHEAD, NO_LINES
from pywren_shuffle.sort import sort

FILES = [
    b"b\r\na\r\n\r\nccc",  # carriage returns, an empty line, no last newline
    b"x\ny\n" * 3,
    b"\n\n\n",
    b"one line without an end",
    b"a\n" + b"long" * 20 + b"\nb\n",
    b"\r\n\rx\r\n\n\r",
]


def with_ends(data: bytes) -> bytes:
    """The same lines, of which the last one has an end like the one before it."""
    if not data or data.endswith(b"\n"):
        return data
    crlf = data[: data.rfind(b"\n") + 1].endswith(b"\r\n")
    return data + (b"\r\n" if crlf else b"\n")


def in_order(data: bytes, *, reverse: bool = False) -> bytes:
    lines = with_ends(data).split(b"\n")[:-1]
    return b"".join(line + b"\n" for line in sorted(lines, key=lambda line: line.removesuffix(b"\r"), reverse=reverse))


@pytest.mark.parametrize("data", FILES)
def test_a_file_can_be_cut_at_any_two_bytes(tmp_path: Path, data: bytes) -> None:
    source = put(tmp_path, data)
    format = opened("text", source)
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            cuts = [0, first, second, len(data)]
            pieces = [Piece(source, *ends) for ends in pairwise(cuts) if ends[0] < ends[1]]
            batches = [format.load([piece], READER) for piece in pieces]
            assert written(format, *batches) == with_ends(data), (first, second)


@given(st.lists(st.sampled_from([b"a", b"b", b"\n", b"\r", b"\r\n", b"\xff"])).map(b"".join), st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_sort_as_their_lines_do(tmp_path: Path, data: bytes, size: int) -> None:
    source = put(tmp_path, data)
    format = opened("text", source)
    runs = [format.load([piece], READER).sort() for piece in cut(format, source, size)]
    ordered = [format.join(runs).sort()] if runs else []
    assert written(format, *ordered) == in_order(data)


@pytest.mark.parametrize("length", [100, AHEAD - 1, AHEAD, 3 * AHEAD])
def test_a_line_may_be_longer_than_its_piece(tmp_path: Path, length: int) -> None:
    data = b"before\n" + b"x" * length + b"\nafter\n"
    source = put(tmp_path, data)
    format = opened("text", source)
    sizes = [len(format.load([piece], READER)) for piece in cut(format, source, 50)]
    assert sum(sizes) == 3
    assert written(format, *(format.load([piece], READER) for piece in cut(format, source, 50))) == data


@pytest.mark.parametrize("reverse", [False, True])
def test_lines_of_either_end_keep_theirs_and_their_order(tmp_path: Path, reverse: bool) -> None:
    data = b"b\r\nb\na\x01\r\na\n\xc3\xa9\nz\n"
    source = put(tmp_path, data)
    format = opened("text", source, reverse=reverse)
    batch = loaded(format, source)
    assert written(format, batch.sort()) == in_order(data, reverse=reverse)
    assert [batch.sort().origin(index) for index in range(2)] == ([4, 5] if reverse else [3, 2])


def test_a_key_gets_a_str_whatever_the_bytes_are(tmp_path: Path) -> None:
    seen: list[str] = []
    source = put(tmp_path, "é 3\r\nb 1\r\n".encode() + b"\xff 2")
    format = opened("text", source, key=lambda line: [seen.append(line), int(line.split()[1])][1])
    assert written(format, loaded(format, source).sort()) == b"b 1\r\n\xff 2\r\n" + "é 3\r\n".encode()
    assert {"é 3", "b 1", "\udcff 2"} == set(seen)


def test_an_error_of_the_key_names_the_line(tmp_path: Path) -> None:
    source = put(tmp_path, b"1\n2\nthree\n", "numbers.txt")
    with pytest.raises(ValueError, match="three") as caught:
        opened("text", source, key=int)
    assert "record 2 of 'numbers.txt'" in caught.value.__notes__[0]


def test_short_lines_take_more_memory_than_long_ones(tmp_path: Path) -> None:
    short, long = put(tmp_path, b"a\n" * 1000, "short"), put(tmp_path, b"a" * 999 + b"\n", "long")
    assert opened("text", short).expansion > 10 > 2 > opened("text", long).expansion
    assert opened("text", short, long).record_size == 2  # what the largest has


def test_files_are_sorted_together(tmp_path: Path) -> None:
    for number, data in enumerate(FILES):
        put(tmp_path, data, f"{number}.txt")
    with ThreadPoolExecutor(2) as pool:
        found = sort(pool, f"{tmp_path}/*.txt", f"{tmp_path}/out", records="text", partitions=3)
    whole = b"".join(Path(part).read_bytes() for part in found.parts)
    assert whole == in_order(b"".join(map(with_ends, FILES)))
    assert found.bytes == len(whole)


def test_more_lines_than_memory_are_merged_in_rounds(tmp_path: Path) -> None:
    lines = [b"%d and %d" % (number * 7919 % 400, number) for number in range(20_000)]
    put(tmp_path, b"\n".join(lines), "lines.txt")
    with ThreadPoolExecutor(2) as pool:
        found = sort(
            pool,
            f"{tmp_path}/*.txt",
            f"{tmp_path}/out",
            records="text",
            key=lambda line: line.partition(" ")[0],
            partitions=1,
            memory=1,
        )
    (part,) = found.parts
    assert Path(part).read_bytes().splitlines() == sorted(lines, key=lambda line: line.partition(b" ")[0])
    assert found.splits > 1


@pytest.mark.parametrize(("records", "key"), [("text:utf-8", None), ("text", "name")])
def test_what_text_does_not_take(records: str, key: object) -> None:
    with pytest.raises(ConfigError):
        opened(records, key=key)


@pytest.mark.parametrize("magic", sorted(NO_LINES))
def test_what_is_no_text_is_not_sorted_as_if_it_were(tmp_path: Path, magic: bytes) -> None:
    with pytest.raises(RecordError, match=r"'input' in .* is no text but "):
        loaded(opened("text"), put(tmp_path, magic + b" and more\n"))
    assert len(loaded(opened("text"), put(tmp_path, b"first\n" + magic + b" and more\n"))) == 2


def test_an_error_of_a_key_counts_lines_from_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_records, "CHUNK", 20)
    source = put(tmp_path, b"".join(b"%d\n" % number for number in range(10, 50)) + b"x\n")
    with pytest.raises(ValueError, match="invalid literal") as raised:
        loaded(opened("text", key=int), source)
    assert raised.value.__notes__[0].endswith("key of record 40 of 'input' in " + source.store + ", counted from 0.")
    with pytest.raises(ValueError, match="invalid literal") as raised:
        opened("text", key=int).load([Piece(source, 60, source.size)], READER)
    assert "of record 20 of 'input'" in raised.value.__notes__[0] and "from its byte 60 on" in raised.value.__notes__[0]
