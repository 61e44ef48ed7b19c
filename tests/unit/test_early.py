"""Workers import what tables need while the driver does, as many as will have something to read."""

import importlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pywren_ng import Executor
from pywren_ng.observers import Event, JobStarted
from pywren_runtime.errors import ConfigError
from pywren_shuffle.early import TABLES, begin
from pywren_shuffle.sizes import SMALL


class Counting(ThreadPoolExecutor):
    """A pool that knows how much it was given."""

    given = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.given += 1
        return super().submit(fn, *args, **kwargs)


def begun(records: str, *places: str) -> int:
    """How many of three workers begin."""
    with Counting(1) as pool:
        begin(pool, records, places, 3)
        return pool.given


@pytest.mark.parametrize("size, workers", [(0, 0), (1, 1), (SMALL, 1), (SMALL + 1, 2), (100 * SMALL, 3)])
def test_as_many_begin_as_will_have_something_to_read(tmp_path: Path, size: int, workers: int) -> None:
    for number in range(2):
        with open(tmp_path / f"{number}.parquet", "wb") as file:
            file.truncate(size // 2 if number else size - size // 2)
    assert begun("table:k", f"{tmp_path}/*.parquet") == workers


def test_nobody_does_for_what_imports_little_or_lies_in_a_store(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x")
    here = str(tmp_path / "in")
    assert begun("table:k", here) == 1
    assert begun("rows", here) == begun("text", here) == begun("table:k", here, "s3://bucket/in") == 0


def test_what_names_no_records_is_said_as_ever(tmp_path: Path) -> None:
    nothing: Any = None
    with Executor("local", max_workers=1) as executor, pytest.raises(ConfigError, match="there is no such format"):
        executor.sort(tmp_path, tmp_path / "out", records=nothing)


def test_a_folder_that_is_not_there_is_said_as_ever(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file or folder"):
        begun("table", str(tmp_path / "no" / "folder"))


@pytest.mark.parametrize("name", TABLES)
def test_what_they_import_is_there(name: str) -> None:
    assert importlib.import_module(name)


@pytest.mark.parametrize("backend, workers", [("local", 2), ("inline", 0)])
def test_an_executor_whose_workers_are_processes_lets_them_begin(tmp_path: Path, backend: str, workers: int) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 60, 700_000)
    pq.write_table(pa.table({"k": values}), tmp_path / "in")
    events: list[Event] = []
    with Executor(backend, max_workers=2, progress=events.append) as executor:
        found = executor.top_k(str(tmp_path / "in"), 1, records="table:k")
    assert found["k"].to_pylist() == [values.max()]
    names = [event.name for event in events if isinstance(event, JobStarted)]
    assert names.count("prepare") == workers
    assert names[:workers] == ["prepare"] * workers
