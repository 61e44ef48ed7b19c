"""Every breakage of scripts/sabotages fits the code as it stands, and names tests that exist."""

import re
import shlex
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def script() -> ModuleType:
    """scripts/sabotage, which is no module by its name, and is not run."""
    loader = SourceFileLoader("sabotage", str(ROOT / "scripts" / "sabotage"))
    spec = spec_from_loader("sabotage", loader)
    assert spec is not None
    made = sys.modules["sabotage"] = module_from_spec(spec)  # its dataclass asks for it
    loader.exec_module(made)
    return made


SABOTAGE = script()
BREAKAGES: list[Any] = SABOTAGE.read_breakages()  # asks for the right keys, and for names of their own


def collected(files: list[str]) -> list[str]:
    """What pytest finds in these, as `test_file.py::test_name[parameters]`."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return [line for line in run.stdout.splitlines() if "::" in line]


def files_of(selection: str) -> list[str]:
    return [word for word in shlex.split(selection) if word.startswith("tests/")]


def chosen(selection: str, tests: list[str]) -> dict[str, list[str]]:
    """What a selection picks of these, by file."""
    words = shlex.split(selection)
    wanted = words[words.index("-k") + 1] if "-k" in words else ""

    def is_wanted(test: str) -> bool:
        name = test.removeprefix(f"{Path(test.partition('::')[0]).parent}/").lower()
        said = re.sub(
            r"[^\s()]+", lambda w: w[0] if w[0] in ("and", "or", "not") else str(w[0].lower() in name), wanted
        )
        return not wanted or bool(eval(said))

    return {file: [t for t in tests if t.startswith(f"{file}::") and is_wanted(t)] for file in files_of(selection)}


def misfit(breakage: Any) -> str:
    """What is wrong with it, if anything is."""
    try:
        whole, broken = breakage.edit(ROOT)
        if breakage.file.endswith(".py"):
            compile(broken, breakage.file, "exec", dont_inherit=True)
    except (SystemExit, OSError, SyntaxError) as error:
        return str(error)
    return "" if broken != whole else "breaks nothing"


def test_every_breakage_fits_its_file() -> None:
    assert [f"{each.name}: {wrong}" for each in BREAKAGES if (wrong := misfit(each))] == []


def test_every_breakage_names_tests_that_exist(request: pytest.FixtureRequest) -> None:
    files = {file for each in BREAKAGES for file in files_of(each.tests)}
    tests = [item.nodeid for item in request.session.items]
    if request.config.option.keyword or not files <= {test.partition("::")[0] for test in tests}:
        tests = collected(sorted(files))  # for this is not a run of all tests, which found them already
    assert [each.name for each in BREAKAGES if not any(chosen(each.tests, tests).values())] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("setup.cfg", "no such text", "", "occurs 0 times"),
        ("no/such/file", "", "", "No such file"),
        ("pywren_ng/pricing.py", "import", "imports", "occurs"),
        ("pywren_ng/cli.py", "def main", "def", "invalid syntax"),
        ("pywren_ng/cli.py", "def main", "def main", "breaks nothing"),
    ],
)
def test_a_breakage_that_does_not_fit_would_be_seen(file: str, old: str, new: str, says: str) -> None:
    assert says in misfit(SABOTAGE.Breakage(name="wrong", guarantee="", file=file, old=old, new=new, tests=""))


def test_a_selection_picks_what_pytest_would() -> None:
    tests = ["tests/unit/test_a.py::test_one[x/1]", "tests/unit/test_a.py::test_two", "tests/unit/test_b.py::test_one"]
    assert chosen("tests/unit/test_a.py -k 'ONE and not 2'", tests) == {"tests/unit/test_a.py": tests[:1]}
    assert chosen("tests/unit/test_a.py --timeout 40 tests/unit/test_b.py", tests) == {
        "tests/unit/test_a.py": tests[:2],
        "tests/unit/test_b.py": tests[2:],
    }
    assert chosen("tests/unit/test_a.py -k 'three or unit'", tests) == {"tests/unit/test_a.py": []}
