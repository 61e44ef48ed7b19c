"""The notebooks run from a clean kernel with the package as it is installed, and show their pictures."""

import base64
import re
import struct
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"1-quick-start": 1, "2-random-forest": 2, "3-mandelbrot": 2, "4-k-means": 1}
PNG = struct.Struct(">8s4x4sII")
pytestmark = pytest.mark.timeout(300)  # the first test waits for all four
BACKEND = re.compile(r'^backend = "local"', re.MULTILINE)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory, is_full: bool) -> Path:
    """All of them, executed; those that failed have their error in them."""
    folder = tmp_path_factory.mktemp("notebooks")
    command = [sys.executable, str(ROOT / "scripts/notebooks"), "--to", str(folder)]
    command += [] if is_full else ["--quick"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    """The pictures that its cells gave."""
    data = (output.get("data", {}).get("image/png") for output in outputs(notebook))
    return [base64.b64decode(text) for text in data if text]


def test_these_are_all() -> None:
    assert sorted(PICTURES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_ran_and_the_pictures_are_there(executed: Path, name: str) -> None:
    notebook = nbformat.read(executed / f"{name}.ipynb", as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    found = pictures(notebook)
    assert len(found) == PICTURES[name]
    for picture in found:
        start, kind, width, height = PNG.unpack_from(picture)
        assert start == b"\x89PNG\r\n\x1a\n" and kind == b"IHDR"
        assert width > 300 and height > 100 and len(picture) > 4000


@pytest.mark.parametrize("name", NAMES)
def test_what_is_published_was_executed_and_one_cell_chooses_the_backend(name: str) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert len(pictures(notebook)) == PICTURES[name]
    assert [bool(BACKEND.search(cell.source)) for cell in code] == [True] + [False] * (len(code) - 1)
    text = "".join(str(output) for output in outputs(notebook))
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)


@pytest.mark.parametrize("name", NAMES)
def test_its_figures_come_from_the_jobs_own_rows(name: str) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "job.stats" in source
    assert not re.search(r"\b(time\.(time|perf_counter|monotonic)|%%?time)", source)
