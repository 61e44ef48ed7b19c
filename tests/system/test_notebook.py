"""Notebook manners: what is defined in cells travels, errors show its lines, and a Job shows itself."""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from jupyter_client import BlockingKernelClient
from scene import surroundings
from support.kernels import kernel_in, run_cell

BEGIN = """
from pywren_ng import Executor
ex = Executor("local", max_workers=2, progress=False)
"""
SHAPES = """
from dataclasses import dataclass

@dataclass
class Square:
    side: float

    def area(self):
        return side_times(self.side, self.side)

def side_times(a, b):
    return a * b

def grow(shape):
    return Square(shape.side + 1)
"""
FAILS = """
def weigh(row):
    weight = row["weight"]
    if weight < 0:
        raise ValueError(f"no weight is below zero")  # a line of a cell
    return weight

class Scales:
    def use(self, row):
        return weigh(row)  # a line of a class in a cell
"""


@pytest.fixture(scope="module")
def client() -> Iterator[BlockingKernelClient]:
    with TemporaryDirectory(dir="/tmp") as folder, kernel_in(Path(folder), surroundings()) as (_, client):
        assert run_cell(client, BEGIN).error == ""
        yield client


def test_functions_and_classes_of_cells_travel(client: BlockingKernelClient) -> None:
    assert run_cell(client, SHAPES).error == ""
    cell = "[s.area() for s in ex.map(grow, [Square(n) for n in range(3)])], ex.submit(Square(3).area).result()"
    shown = run_cell(client, cell)
    assert shown.value["text/plain"] == "([1, 4, 9], 9)"


def test_what_a_cell_defines_anew_is_what_is_used(client: BlockingKernelClient) -> None:
    """Also by methods of a class whose instances came back from workers, with their class."""
    run_cell(client, SHAPES)
    assert run_cell(client, "list(ex.map(grow, [Square(0)]))").value["text/plain"] == "[Square(side=1)]"
    run_cell(client, "def side_times(a, b): return -a * b")
    shown = run_cell(client, "Square(2).area(), list(ex.map(Square.area, [Square(2)]))")
    assert shown.value["text/plain"] == "(-4, [-4])"


def test_an_error_shows_the_lines_of_its_cells(client: BlockingKernelClient) -> None:
    assert run_cell(client, FAILS).error == ""
    shown = run_cell(client, "ex.map(Scales().use, [{'weight': 1}, {'weight': -1}]).results()")
    assert shown.error == "ValueError: no weight is below zero"
    text = re.sub(r"\x1b\[[\d;]*m", "", shown.traceback)
    remote = text[text.index("RemoteTraceback") :]
    assert "return weigh(row)  # a line of a class in a cell" in remote
    assert 'raise ValueError(f"no weight is below zero")  # a line of a cell' in remote
    assert remote.index("in use") < remote.index("in weigh")


def test_a_job_as_last_expression_shows_a_table(client: BlockingKernelClient) -> None:
    run_cell(client, "job = ex.map(lambda x: 1 / x, [1, 0, 2]); job.results(return_exceptions=True)")
    shown = run_cell(client, "job")
    assert re.fullmatch(r"<Job local-\w+-\d+: 3 of 3 tasks done, 1 failed>", shown.value["text/plain"])
    assert "3 of 3" in shown.value["text/html"] and "ZeroDivisionError: division by zero" in shown.value["text/html"]


def test_a_cell_may_await_a_job(client: BlockingKernelClient) -> None:
    """The kernel's own loop runs meanwhile."""
    assert run_cell(client, "[x async for x in ex.map(abs, range(-3, 0))]").value["text/plain"] == "[3, 2, 1]"
    cell = "[f.result() async for f in ex.map(abs, [-4]).as_completed()]"
    assert run_cell(client, cell).value["text/plain"] == "[4]"


def test_a_notebook_is_looked_at(client: BlockingKernelClient) -> None:
    cell = """
import pywren_ng.progress
pywren_ng.progress._PATIENCE = 0  # else a job must take half a second to be worth a bar
with Executor("local", max_workers=1, name="looked-at") as shown: shown.map(abs, [1]).results()
"""
    printed = run_cell(client, cell).printed
    assert "looked-at: 100%" in printed["stderr"] and "looked-at: 1 task in" in printed["stderr"]
    assert printed["stdout"] == ""
