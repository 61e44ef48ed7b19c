"""One suite for every record format: each `*_records.py` in the folder is under test the moment it lies there."""

import io
import json
import pickle
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.records import READER, cut, encoded, put, written
from support.records import loaded as load_all
from support.records import opened as known
from support.s3_server import S3Server

import pywren_shuffle.records
from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import open_store
from pywren_shuffle.phases.rounds import Slice, rounds
from pywren_shuffle.records import Batch, Format, Piece, Source, open_format
from pywren_shuffle.records.rows_records import dump, load
from pywren_shuffle.sort import sort

FOLDER = Path(pywren_shuffle.records.__file__).parent
FOUND = sorted(path.name.removesuffix("_records.py") for path in FOLDER.glob("*_records.py"))
Row = tuple[int, int]  # a key, and what tells the record from all others


@dataclass(frozen=True)
class Kind:
    """How the suite makes files of a format, and reads them without it."""

    records: str
    make: Callable[[Sequence[Row]], bytes]
    parse: Callable[[bytes], list[Row]]
    options: dict[str, Any] = field(default_factory=dict)


def lines(data: bytes) -> list[Row]:
    return [(int(line[:4]), int(line[5:])) for line in data.decode().splitlines()]


def parquet(rows: Sequence[Row]) -> bytes:
    out = io.BytesIO()
    table = pa.table(
        {"index": pa.array([i for _, i in rows], pa.int64()), "key": pa.array([k for k, _ in rows], pa.int16())}
    )
    pq.write_table(table, out, row_group_size=max(70, len(rows) // 10))
    return out.getvalue()


KINDS = {
    "fixed": Kind(
        "fixed:12:4",
        lambda rows: b"".join(b"%04d%08d" % row for row in rows),
        lambda data: [(int(data[at : at + 4]), int(data[at + 4 : at + 12])) for at in range(0, len(data), 12)],
    ),
    "text": Kind(
        "text", lambda rows: b"".join(b"%04d %d\n" % row for row in rows), lines, {"key": itemgetter(slice(4))}
    ),
    "rows": Kind(
        "rows", lambda rows: b"".join(dump(rows)), lambda data: list(load(io.BytesIO(data))), {"key": itemgetter(0)}
    ),
    "table": Kind(
        "table:key",
        parquet,
        lambda data: [(row["key"], row["index"]) for row in pq.read_table(io.BytesIO(data)).to_pylist()],
    ),
}


@pytest.fixture(params=FOUND)
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param not in KINDS:
        pytest.fail(f"no way to make files of the format {request.param!r} for the tests: add one to KINDS")
    return KINDS[request.param]


@pytest.fixture(params=[False, True], ids=["", "reverse"])
def reverse(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def rows() -> list[Row]:
    chance = random.Random(5)
    return [(chance.randrange(40), index) for index in range(500)]


def opened(kind: Kind, *sources: Source, reverse: bool = False) -> Format:
    return known(kind.records, *sources, reverse=reverse, **kind.options)


def loaded(kind: Kind, folder: Path, rows: Sequence[Row], *, reverse: bool = False) -> tuple[Format, Batch]:
    source = put(folder, kind.make(rows))
    format = opened(kind, source, reverse=reverse)
    return format, load_all(format, source)


def in_order(rows: Sequence[Row], reverse: bool) -> list[Row]:
    return sorted(rows, key=itemgetter(0), reverse=reverse)


def test_every_format_is_found() -> None:
    assert {"fixed", "text", "rows", "table"} <= set(FOUND)


def test_an_unknown_format_is_an_error_that_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="fixed, rows, table, text"):
        open_format("lines")


# ── in ──


@pytest.mark.parametrize("size", [40, 333, 1500, 10**9])
def test_pieces_of_any_size_hold_every_record_once(kind: Kind, tmp_path: Path, rows: list[Row], size: int) -> None:
    source = put(tmp_path, kind.make(rows))
    format = opened(kind, source)
    pieces = cut(format, source, size)
    assert kind.parse(written(format, format.load(pieces, READER))) == rows
    one_by_one = [format.load([piece], READER) for piece in pieces]
    assert kind.parse(written(format, *one_by_one)) == rows


def test_an_empty_object_has_no_records(kind: Kind, tmp_path: Path) -> None:
    source, full = put(tmp_path, b"", "empty"), put(tmp_path, kind.make([(1, 1)]))
    assert cut(opened(kind, full), source) == []
    for format in (opened(kind), opened(kind, source)):
        assert format.expansion >= 0
        assert format.record_size > 0


def test_a_format_and_its_samples_can_be_pickled(kind: Kind, tmp_path: Path, rows: list[Row]) -> None:
    source = put(tmp_path, kind.make(rows))
    format = pickle.loads(pickle.dumps(opened(kind, source)))
    sample = pickle.loads(pickle.dumps(format.sample(cut(format, source), 50, 8, READER)))
    assert 40 <= len(sample) <= 80
    ordered = format.join([sample, sample]).sort()
    keys = [ordered.key(index) for index in range(len(ordered))]
    assert all(not later < earlier for earlier, later in pairwise(keys))
    assert sorted(ordered.origin(index) for index in range(len(ordered))) == list(range(2 * len(sample)))


def test_a_sample_is_spread_over_the_input(kind: Kind, tmp_path: Path) -> None:
    ascending = [(index // 10, index) for index in range(5000)]
    source = put(tmp_path, kind.make(ascending))
    format = opened(kind, source)
    _, batch = loaded(kind, tmp_path, ascending)
    sample = format.sample(cut(format, source, 20_000), 400, 400, READER).sort()
    quarters = [sample.bound(batch.key(at), after=False) / len(sample) for at in (1250, 2500, 3750)]
    assert quarters == pytest.approx([0.25, 0.5, 0.75], abs=0.06)


def test_records_are_sampled_where_there_are_any(kind: Kind, tmp_path: Path) -> None:
    source = put(tmp_path, kind.make([(7, 1)]))
    format = opened(kind, source)
    assert len(format.sample(cut(format, source), 1, 1, READER)) == 1


# ── order ──


def test_a_sort_is_stable_and_knows_where_records_were(
    kind: Kind, tmp_path: Path, rows: list[Row], reverse: bool
) -> None:
    format, batch = loaded(kind, tmp_path, rows, reverse=reverse)
    ordered = batch.sort()
    assert kind.parse(written(format, ordered)) == in_order(rows, reverse)
    assert [rows[ordered.origin(index)] for index in range(len(rows))] == in_order(rows, reverse)
    assert ordered.part(100, 200).origin(5) == ordered.origin(105)


def test_a_bound_is_where_a_key_would_go(kind: Kind, tmp_path: Path, reverse: bool) -> None:
    _, every = loaded(kind, tmp_path, [(key, 0) for key in range(20)], reverse=reverse)
    rows = [(key, key) for key in (3, 3, 3, 5, 8, 8, 13)]
    _, batch = loaded(kind, tmp_path, rows, reverse=reverse)
    ordered = batch.sort()
    places = [-key if reverse else key for key, _ in in_order(rows, reverse)]
    for key in range(20):
        place = -key if reverse else key
        assert ordered.bound(every.key(key), after=False) == bisect_left(places, place)
        assert ordered.bound(every.key(key), after=True) == bisect_right(places, place)


def test_keys_survive_a_pickle_and_compare_as_the_sort_does(kind: Kind, tmp_path: Path, reverse: bool) -> None:
    _, batch = loaded(kind, tmp_path, [(2, 0), (1, 0), (2, 1)], reverse=reverse)
    two, one, again = pickle.loads(pickle.dumps([batch.key(index) for index in range(3)]))
    assert two == again != one
    assert (two < one, one < two) == (reverse, not reverse)


# ── between the phases ──


def test_encoded_batches_end_to_end_are_one(kind: Kind, tmp_path: Path, rows: list[Row]) -> None:
    format, batch = loaded(kind, tmp_path, rows)
    data = b"".join(encoded(batch.part(start, start + 125)) for start in range(0, 500, 125))
    decoded, used = format.decode(memoryview(data))
    assert used == len(data)
    assert kind.parse(written(format, decoded)) == rows


def test_what_is_cut_off_comes_again(kind: Kind, tmp_path: Path, rows: list[Row]) -> None:
    format, batch = loaded(kind, tmp_path, rows)
    data = encoded(batch.part(0, 3)) + encoded(batch.part(3, 5))
    for stop in range(len(data) + 1):
        first, used = format.decode(memoryview(data)[:stop])
        rest, more = format.decode(memoryview(data)[used:])
        assert used <= stop
        assert used + more == len(data)
        assert kind.parse(written(format, first, rest)) == rows[:5]


def test_sorting_what_was_joined_merges(kind: Kind, tmp_path: Path, rows: list[Row], reverse: bool) -> None:
    format, batch = loaded(kind, tmp_path, rows, reverse=reverse)
    runs = [batch.part(start, start + 100).sort() for start in range(0, 500, 100)]
    assert kind.parse(written(format, format.join(runs).sort())) == in_order(rows, reverse)


def test_a_merge_in_bounded_memory_equals_a_full_sort(kind: Kind, tmp_path: Path, reverse: bool) -> None:
    chance = random.Random(1)
    rows = [(chance.choice((7, chance.randrange(9999))), index) for index in range(40_000)]
    format, batch = loaded(kind, tmp_path, rows, reverse=reverse)
    runs = [batch.part(start, start + 10_000).sort() for start in range(0, 40_000, 10_000)]
    sources = [put(tmp_path, encoded(run), f"run-{number}") for number, run in enumerate(runs)]
    slices = [Slice(number, Piece(source, 0, source.size)) for number, source in enumerate(sources)]
    ended: list[tuple[int, int, int]] = []
    memory = int(sum(source.size for source in sources) * (1 + format.decoded_expansion) / 5)
    found = list(rounds(slices, format, READER, memory=memory, check=lambda *seen: ended.append(seen)))
    assert kind.parse(written(format, *found)) == in_order(rows, reverse)
    assert max(map(len, found)) < 0.6 * len(rows)
    assert sorted(ended) == [(number, 10_000, run.sums([0, 10_000])[0]) for number, run in enumerate(runs)]


# ── proof ──


def test_sums_do_not_depend_on_order_or_cuts(kind: Kind, tmp_path: Path, rows: list[Row]) -> None:
    format, batch = loaded(kind, tmp_path, rows)
    (whole,) = batch.sums([0, 500])
    ordered = batch.sort()
    decoded, _ = format.decode(memoryview(encoded(ordered)))
    for same in (ordered, decoded, decoded.sort(), format.join([batch.part(250, 500), batch.part(0, 250)])):
        assert same.sums([0, 500]) == [whole]
        assert sum(same.sums([0, 1, 1, 77, 500])) % 2**64 == whole
        assert same.nbytes == batch.nbytes
    assert batch.sums([0, 0]) == [0]
    assert decoded.sums([0, 77, 500]) == [decoded.part(0, 77).sums([0, 77])[0], decoded.part(77, 500).sums([0, 423])[0]]
    assert 0 < whole < 2**64


def test_sums_show_whatever_has_changed(kind: Kind, tmp_path: Path, rows: list[Row]) -> None:
    def total(rows: list[Row]) -> int:
        return loaded(kind, tmp_path, rows)[1].sums([0, len(rows)])[0]

    (one, a), (other, b), *rest = [(key, 1000 + index) for key, index in rows if key != rows[0][0] or not index]
    assert one != other
    changed = {
        "as it was": [(one, a), (other, b), *rest],
        "dropped": rest,
        "doubled": [(one, a), (one, a), *rest],
        "what follows the key has changed places": [(one, b), (other, a), *rest],
        "one bit": [(one, a ^ 1), (other, b), *rest],
        "two records, one up, one down": [(one, a + 5), (other, b - 5), *rest],
    }
    assert len({total(rows) for rows in changed.values()}) == len(changed)


# ── out ──


def test_a_writer_measures_what_it_writes(kind: Kind, tmp_path: Path, rows: list[Row], reverse: bool) -> None:
    format, batch = loaded(kind, tmp_path, rows, reverse=reverse)
    ordered = batch.sort()
    writer = format.writer()
    for part in (ordered.part(0, 200), ordered.part(200, 200), ordered.part(200, 500)):
        for _ in writer.write(part):
            pass
    assert (writer.tally.records, writer.tally.bytes) == (500, batch.nbytes)
    assert [writer.tally.checksum] == batch.sums([0, 500])
    assert (writer.tally.first, writer.tally.last) == (ordered.key(0), ordered.key(499))
    assert writer.tally.in_order


@pytest.mark.parametrize("swapped", [0, 100, 498])
def test_a_writer_notices_what_is_out_of_order(kind: Kind, tmp_path: Path, reverse: bool, swapped: int) -> None:
    rows = in_order([(index, index) for index in range(500)], reverse)
    rows[swapped], rows[swapped + 1] = rows[swapped + 1], rows[swapped]
    format, batch = loaded(kind, tmp_path, rows, reverse=reverse)
    for cuts in ([0, 500], [0, 101, 500]):  # within a batch, and between two
        writer = format.writer()
        for start, stop in pairwise(cuts):
            for _ in writer.write(batch.part(start, stop)):
                pass
        assert not writer.tally.in_order


def test_a_part_without_records_is_a_file_of_its_kind(kind: Kind, tmp_path: Path) -> None:
    source = put(tmp_path, kind.make([(1, 1)]))
    assert kind.parse(written(opened(kind, source))) == []


def test_a_part_can_be_sorted_again(kind: Kind, tmp_path: Path, rows: list[Row]) -> None:
    format, batch = loaded(kind, tmp_path, rows)
    source = put(tmp_path, written(format, batch.sort()), "part")
    again = opened(kind, source)
    assert kind.parse(written(again, again.load(cut(again, source), READER))) == in_order(rows, False)


def test_a_sort_from_a_bucket_to_a_bucket(kind: Kind, s3_server: S3Server, rows: list[Row], reverse: bool) -> None:
    url, target = s3_server.url(), s3_server.url()
    store, made = open_store(url), open_store(target)
    for number in range(2):
        store.put(f"{number}", kind.make(rows[number * 250 : (number + 1) * 250]))
    with ThreadPoolExecutor(2) as pool:
        found = sort(pool, url, target, records=kind.records, reverse=reverse, partitions=3, **kind.options)
    parts = [kind.parse(made.get(part.partition("?")[0].rpartition("/")[2])) for part in found.parts]
    assert [row for part in parts for row in part] == in_order(rows, reverse)
    assert min(map(len, parts)) > 100


# ── what is not installed ──

WITHOUT = """
import json, sys
sys.modules[sys.argv[1]] = None  # as if it were not there
from pywren_shuffle.records import open_format
try:
    open_format(sys.argv[2])
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.mark.parametrize(
    ("package", "records", "extra"), [("numpy", "fixed:100:10", "sort"), ("pyarrow", "table:a", "arrow")]
)
def test_what_is_not_installed_is_named_with_the_command(package: str, records: str, extra: str) -> None:
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", WITHOUT, package, records], capture_output=True, check=True, text=True)
    name, message = json.loads(done.stdout)
    assert name == "ConfigError"
    assert f"pip install 'pywren-ng[{extra}]'" in message
