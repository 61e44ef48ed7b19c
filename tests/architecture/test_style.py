"""House rules that a reader would otherwise have to remember."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for package in ("pywren_ng", "runtime/pywren_runtime", "shuffle/pywren_shuffle")
    for path in (ROOT / package).rglob("*.py")
)
LONGEST = 400
BANNED = {"activation", "context", "handler", "helper", "info", "manager", "util"}
# Lambda names its entry point, and the standard library names these parameters and methods.
ALLOWED = {"handler.py": {"handler"}}


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name, in the singular."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {part.lower().removesuffix("s") for part in parts}


def names(path: Path) -> list[str]:
    """The module's own name, and those of its classes, functions and their parameters."""
    found = [path.stem]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.name)
        elif isinstance(node, ast.arg):
            found.append(node.arg)
    return found


def test_there_are_sources() -> None:
    assert {"executor.py", "worker.py"} <= {path.name for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_avoid_words_that_say_nothing(path: Path) -> None:
    banned = BANNED - ALLOWED.get(path.name, set())
    assert [name for name in names(path) if words(name) & banned] == []


@pytest.mark.parametrize("name", ["TaskManager", "get_util", "utils", "JobInfo", "handler_for"])
def test_the_rule_sees_a_banned_word(name: str) -> None:
    assert words(name) & BANNED
