"""What somebody sees and gets wrong who sorts, groups and joins for the first time."""

import importlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pywren_ng import Executor
from pywren_runtime.errors import ConfigError, KeysIncomparable
from pywren_shuffle.host import Host
from pywren_shuffle.records.rows_records import dump, load
from pywren_shuffle.sort import sort


@pytest.fixture(scope="module")
def ex() -> Iterator[Executor]:
    with Executor("inline") as ex:
        yield ex


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with open(tmp_path / "in.rows", "wb") as file:
        file.writelines(dump([{"age": 30}, {"age": 9}, {"age": None}, {"age": 9}]))
    return tmp_path / "in.rows"


def rows_of(done: Any) -> list[object]:
    found: list[object] = []
    for part in done.parts:
        with open(part, "rb") as file:
            found += load(file)
    return found


def age(row: Any) -> int:
    return row["age"] or 0


def test_a_result_reads_as_a_sentence_and_is_the_next_step_s_input(ex: Executor, source: Path, tmp_path: Path) -> None:
    done = ex.sort(source, tmp_path / "out", records="rows", key=age, partitions=2)
    assert str(done).startswith("sorted 4 records, ") and str(done).endswith(f" s: 2 parts in {tmp_path}/out")
    assert repr(done).startswith("Sorted(id=") and "Plan(" not in repr(done)
    counts = ex.group(done, tmp_path / "counts", lambda key, rows: len(list(rows)), key=age)
    assert str(counts).startswith("4 records became 3, ") and "Plan(" not in repr(counts)
    assert sorted(rows_of(counts), key=str) == [(0, 1), (30, 1), (9, 2)]
    assert ex.top_k(counts, 1) == [(30, 1)]


def test_a_notebook_shows_a_plan_and_a_result_as_print_does(ex: Executor, source: Path, tmp_path: Path) -> None:
    from IPython.lib.pretty import pretty

    plan = ex.plan_sort(source, tmp_path / "out", records="rows", key=age)
    assert pretty(plan) == str(plan)
    done = ex.sort(source, tmp_path / "out", records="rows", key=age)
    assert pretty(done) == str(done)


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ([3, 1, 2], "3 is no place: write a path"),
        (b"in.rows", "b'in.rows' is no place"),
        (7, "7 is no place"),
        ("", "'' is no place"),
        ("redis://:secret@host/x", "'host/x': neither input nor output lies in Redis"),
    ],
)
def test_what_is_no_place_is_said(ex: Executor, tmp_path: Path, place: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ex.sort(place, tmp_path / "out", records="text")
    with open(__file__) as file, pytest.raises(ConfigError, match="is no place"):
        ex.sort(file, tmp_path / "out", records="text")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_password_that_workers_would_not_have_is_refused(ex: Executor, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"in the URL of redis://host would not come to workers: .* REDISCLI_AUTH"):
        ex.sort(source, tmp_path / "out", records="rows", key=age, intermediate="redis://:secret@host")
    with pytest.raises(ConfigError, match="ttl='soon' should be a number"):
        ex.sort(source, tmp_path / "out", records="rows", key=age, intermediate="redis://host?ttl=soon")
    assert not (tmp_path / "out").exists()


def test_a_mistyped_pattern_does_not_empty_what_was_there(ex: Executor, source: Path, tmp_path: Path) -> None:
    ex.sort(source, tmp_path / "out", records="rows", key=age)
    with pytest.raises(ConfigError, match="nothing to read, and overwrite=True would replace 2 files"):
        ex.sort(tmp_path / "*.rowz", tmp_path / "out", records="rows", key=age, overwrite=True)
    assert len(list((tmp_path / "out").glob("part-*"))) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"records": "csv"}, "Lines are 'text', Parquet files 'table:COLUMN'"),
        ({"records": "rows", "key": "age"}, r"such as key=lambda row: row\['age'\]"),
        ({"records": "rows", "memory": "1GB"}, "memory='1GB' should be a number"),
        ({"records": "table:age", "key": "age"}, "both name columns"),
        ({"records": "table"}, "records='table' does not name the columns that are the key"),
    ],
)
def test_options_that_cannot_be(ex: Executor, source: Path, tmp_path: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ex.sort(source, tmp_path / "out", **options)


def test_none_among_keys_is_told_how_to_come_last(ex: Executor, source: Path, tmp_path: Path) -> None:
    with pytest.raises(KeysIncomparable, match=r"To have None last, write key=lambda row: \(row\['name'\] is None"):
        ex.sort(source, tmp_path / "out", records="rows", key=lambda row: row["age"])
    done = ex.sort(source, tmp_path / "out", records="rows", key=lambda row: (row["age"] is None, row["age"]))
    assert rows_of(done) == [{"age": 9}, {"age": 9}, {"age": 30}, {"age": None}]


def test_tables_without_pyarrow_say_what_to_install(
    ex: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pywren_shuffle.records.table_records", raising=False)
    package = importlib.import_module("pywren_shuffle.records")
    monkeypatch.delattr(package, "table_records", raising=False)
    calls: list[Any] = [
        lambda: ex.sort("in", tmp_path / "out", records="table:a"),
        lambda: ex.group("in", tmp_path / "out", len, records="table:a"),
        lambda: ex.reduce_by_key("in", tmp_path / "out", {"b": "sum"}, records="table:a"),
        lambda: ex.distinct("in", tmp_path / "out", records="table"),
        lambda: ex.join("in", "in", tmp_path / "out", key="a", records="table"),
        lambda: ex.repartition("in", tmp_path / "out", 2, records="table"),
        lambda: ex.top_k("in", 2, records="table:a"),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"needs the package 'pyarrow'.*pip install 'pywren-ng\[arrow\]'"):
            call()


def test_help_says_that_submit_sort_gives_a_future() -> None:
    assert str(inspect.signature(Executor.submit_sort)).endswith("-> 'Future[Sorted]'")
    assert inspect.signature(Executor.submit_sort).parameters == inspect.signature(Executor.sort).parameters


class Watched(ThreadPoolExecutor):
    """A pool that notes what it is to show."""

    def __init__(self) -> None:
        super().__init__(2)
        self.shown: list[tuple[str, int]] = []
        self.ended: list[str] = []
        self._host = Host(show=self._show)

    def _show(self, title: str, futures: Sequence[Future[Any]]) -> Any:
        self.shown.append((title, len(futures)))
        return lambda: self.ended.append(title) if all(future.done() for future in futures) else None


def test_each_step_is_shown_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("b\na\n" * 1000)
    with Watched() as pool:
        sort(pool, tmp_path / "in", tmp_path / "out", records="text", partitions=3, splits=2)
        assert pool.shown == [("sample", 2), ("partition", 2), ("merge", 3)]
        assert pool.ended == ["sample", "partition", "merge"]


def test_an_executor_shows_a_bar_for_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with Executor("inline", progress=True) as ex:
        futures: list[Future[int]] = [Future(), Future()]
        look = ex._host.show("merge", futures)
        futures[0].set_result(1)
        look()
        assert "merge:  50%" in capsys.readouterr().err
        futures[1].cancel()
        look()
        assert "cancelled=1" in (shown := capsys.readouterr().err) and "merge: 2 tasks in " in shown


def test_a_folder_between_the_phases_is_as_it_was(ex: Executor, source: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    done = ex.sort(source, tmp_path / "out", records="rows", key=age, intermediate=str(tmp_path / "scratch"))
    assert done.records == 4 and list((tmp_path / "scratch").iterdir()) == []
