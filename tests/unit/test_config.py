"""Settings: which layer decides, what is accepted, and what a mistake is told."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pywren_ng.config import Layer, Setting, load, render, resolve
from pywren_runtime.errors import ConfigError

# For each key: its default, then a value for each layer, the variable's together with its text.
KEYS: dict[str, tuple[Any, Any, tuple[str, Any], Any, Any]] = {
    "backend": ("local", "argument", ("variable", "variable"), "project", "user"),
    "store": (None, "memory:a", ("memory:v", "memory:v"), "memory:p", "memory:u"),
    "max_workers": (None, 11, ("12", 12), 13, 14),
    "memory": (None, 110, ("120", 120), 130, 140),
    "time_limit": (None, 1.5, ("2.5", 2.5), 3.5, 4),
    "retries": (2, 0, ("12", 12), 13, 14),
    "progress": (None, True, ("0", False), True, False),
    "name": (None, "argument", ("variable", "variable"), "project", "user"),
    "deployment": (None, "argument", ("variable", "variable"), "project", "user"),
    "invoke": ("auto", "sync", ("async", "async"), "auto", "sync"),
    "profile": (None, "argument", ("variable", "variable"), "project", "user"),
    "region": (None, "argument", ("variable", "variable"), "project", "user"),
    "requirements": (None, ["a"], ("b c>=1,<2", ["b", "c>=1,<2"]), ["d", "e"], "user.txt"),
    "check_packages": (True, False, ("0", False), True, False),
}

# A process for each line takes its arguments and its environment, and says its settings.
SHOW = """
import json, os, sys
from pywren_ng.config import load
for line in sys.stdin:
    arguments, environ = json.loads(line)
    os.environ.update(environ)
    settings = load(arguments)
    for name in environ:
        del os.environ[name]
    print(json.dumps({key: [setting.value, setting.source] for key, setting in settings.items()}), flush=True)
"""


@pytest.fixture
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working directory, and no variable of ours."""
    for name in list(os.environ):
        if name.startswith("PYWREN_NG_") or name == "XDG_CONFIG_HOME":
            monkeypatch.delenv(name)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(work)
    return tmp_path


@pytest.fixture
def shower(config_home: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process in that directory that shows its settings."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SHOW]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def write(path: Path, values: Mapping[str, object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in values.items()))
    return str(path)


def message(*layers: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(*layers)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


# ── who decides ──


def test_the_defaults(config_home: Path) -> None:
    assert load({}) == {key: Setting(values[0], "default") for key, values in KEYS.items()}


@pytest.mark.parametrize("key", KEYS)
def test_the_first_layer_that_gives_a_key_decides_it(
    config_home: Path, shower: "subprocess.Popen[str]", key: str
) -> None:
    """Real files and a real process's environment, the layers taken away one after the other."""
    assert shower.stdin is not None and shower.stdout is not None
    default, argument, (text, variable), project, user = KEYS[key]
    project_file, user_file = (
        config_home / "work/pywren-ng.toml",
        config_home / "home/.config/pywren-ng/config.toml",
    )
    write(project_file, {key: project})
    write(user_file, {key: user})
    name = f"PYWREN_NG_{key.upper()}"

    def shown(arguments: dict[str, object], environ: dict[str, str]) -> dict[str, list[object]]:
        shower.stdin.write(json.dumps([arguments, environ]) + "\n")
        shower.stdin.flush()
        settings: dict[str, list[object]] = json.loads(shower.stdout.readline())
        others = {other: setting for other, setting in settings.items() if other != key}
        assert others == {other: [KEYS[other][0], "default"] for other in others}
        return settings

    assert shown({key: argument}, {name: text})[key] == [argument, "argument"]
    assert shown({key: None}, {name: text})[key] == [variable, name]
    assert shown({}, {name: ""})[key] == [project, str(project_file)]
    project_file.unlink()
    assert shown({}, {})[key] == [user, str(user_file)]
    user_file.unlink()
    assert shown({}, {})[key] == [default, "default"]


def test_layers_are_merged_key_by_key() -> None:
    settings = resolve(
        {"memory": 1, "store": None},
        {"PYWREN_NG_RETRIES": "3", "HOME": "/", "PYWREN_NG_NAME": ""},
        Layer("p.toml", {"retries": 4, "name": "p"}),
        Layer("u.toml", {"retries": 5, "name": "u", "memory": 6, "time_limit": 7}),
    )
    changed = {key: (setting.value, setting.source) for key, setting in settings.items() if setting.source != "default"}
    assert changed == {
        "memory": (1, "argument"),
        "retries": (3, "PYWREN_NG_RETRIES"),
        "name": ("p", "p.toml"),
        "time_limit": (7.0, "u.toml"),
    }
    assert list(settings) == list(KEYS)


def test_what_is_false_or_zero_is_given() -> None:
    settings = resolve({"progress": False, "retries": 0}, {"PYWREN_NG_PROGRESS": "1", "PYWREN_NG_RETRIES": "5"})
    assert (settings["progress"].value, settings["retries"].value) == (False, 0)


def test_the_user_file_moves_with_xdg_config_home(config_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = write(config_home / "home/.config/pywren-ng/config.toml", {"name": "usual"})
    moved = write(config_home / "xdg/pywren-ng/config.toml", {"name": "moved"})
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config_home / "xdg"))
    assert load({})["name"] == Setting("moved", moved)
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", ignored)
        assert load({})["name"] == Setting("usual", usual)


def test_a_working_directory_that_is_gone_has_no_project_file(config_home: Path) -> None:
    (config_home / "work").rmdir()
    assert load({})["backend"].source == "default"


# ── what is accepted ──


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("true", True), ("TRUE", True), ("0", False), ("false", False), ("False", False)],
)
def test_switches_in_variables(text: str, value: bool) -> None:
    assert resolve({}, {"PYWREN_NG_PROGRESS": text})["progress"].value is value


def test_numbers_of_other_types_are_numbers() -> None:
    class Whole:
        def __index__(self) -> int:
            return 7

    settings = resolve({"max_workers": Whole(), "time_limit": Fraction(1, 2)}, {})
    assert [settings["max_workers"].value, settings["time_limit"].value] == [7, 0.5]
    assert [type(settings[key].value) for key in ("max_workers", "time_limit")] == [int, float]


BAD: dict[str, tuple[list[object], list[str], str]] = {
    "backend": (["", 3, True, b"local"], [], "text"),
    "store": (["", 3, ["a"]], [], "text"),
    "max_workers": (
        [0, -1, 1.0, "4", True, [], float("nan")],
        ["0", "four", "1.5", "-1", " "],
        "whole number, 1 or",
    ),
    "memory": ([0, 512.5, "512", False], ["512MB", "0"], "megabytes"),
    "time_limit": (
        [0, -1, "5", True, float("nan"), float("inf"), 10**400],
        ["0", "nan", "inf", "5s"],
        "seconds",
    ),
    "retries": ([-1, 1.5, "2", True], ["-1", "two"], "whole number, 0 or more"),
    "progress": ([0, 1, "true", "no"], ["yes", "2", "-1", "01"], "true or false"),
    "name": (["", 1], [], "text"),
    "deployment": (["", 1], [], "text"),
    "profile": (["", 1], [], "text"),
    "region": (["", 1], [], "text"),
    "invoke": (["asynchronous", "", 1], ["fast"], "'auto', 'sync' or 'async'"),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (values, _, _) in BAD.items() for value in values])
def test_a_bad_value_is_told_with_key_value_source_and_what_is_accepted(key: str, value: object) -> None:
    for said, source in (
        (message({key: value}, {}), "argument"),
        (message({}, {}, Layer("/a/project.toml", {key: value})), "/a/project.toml"),
        (message({}, {}, None, Layer("/a/user.toml", {key: value})), "/a/user.toml"),
        (message({key: KEYS[key][1]}, {}, Layer("/a/overridden.toml", {key: value})), "/a/overridden.toml"),
    ):
        assert key in said and repr(value) in said and source in said and BAD[key][2] in said


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, (_, texts, _) in BAD.items() for text in texts])
def test_a_bad_text_in_a_variable_is_told(key: str, text: str) -> None:
    said = message({}, {f"PYWREN_NG_{key.upper()}": text})
    assert f"PYWREN_NG_{key.upper()}={text!r}" in said and BAD[key][2] in said


# ── mistakes in names and files ──


def test_an_unknown_key_is_told_with_the_one_that_is_meant() -> None:
    assert "'max_worker' in the arguments is no setting; perhaps 'max_workers' is meant" in message(
        {"max_worker": None}, {}
    )
    said = message({}, {}, Layer("/p.toml", {"timelimit": 3}))
    assert "'timelimit' in /p.toml" in said and "perhaps 'time_limit' is meant" in said
    said = message({}, {"PYWREN_NG_MAXWORKERS": "3"})
    assert "PYWREN_NG_MAXWORKERS" in said and "perhaps 'PYWREN_NG_MAX_WORKERS' is meant" in said
    said = message({}, {"PYWREN_NG_memory": "3"})
    assert "perhaps 'PYWREN_NG_MEMORY' is meant" in said
    said = message({}, {}, Layer("/p.toml", {"colour": {"red": 1}}))
    assert "perhaps" not in said and all(key in said for key in KEYS)


def test_variables_between_our_own_processes_and_of_others_are_no_settings() -> None:
    environ = {"PYWREN_NG_INTERNAL_ANYTHING": "x", "PYWREN_NGX": "1", "MEMORY": "x", "XPYWREN_NG_MEMORY": "x"}
    assert resolve({}, environ) == resolve({}, {})


@pytest.mark.parametrize("place", ["work/pywren-ng.toml", "home/.config/pywren-ng/config.toml"])
@pytest.mark.parametrize("content", [b"max_workers = \n", b"name = 'a'\nname = 'b'\n", b"name = '\xff'\n", b"a"])
def test_a_broken_file_is_named(config_home: Path, place: str, content: bytes) -> None:
    path = config_home / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="TOML") as caught:
        load({})
    assert str(path) in str(caught.value)


def test_a_folder_in_place_of_the_file_is_named(config_home: Path) -> None:
    (config_home / "work/pywren-ng.toml").mkdir()
    with pytest.raises(ConfigError, match="Is a directory") as caught:
        load({})
    assert str(config_home / "work/pywren-ng.toml") in str(caught.value)


def test_an_empty_file_says_nothing(config_home: Path) -> None:
    write(config_home / "work/pywren-ng.toml", {})
    assert load({}) == resolve({}, {})


# ── what is shown, and what it costs ──


def test_the_table() -> None:
    settings = resolve({"memory": 512}, {"PYWREN_NG_PROGRESS": "0"}, Layer("/p.toml", {"store": "file:///a"}))
    assert [line.split() for line in render(settings).splitlines()] == [
        ["setting", "value", "from"],
        ["backend", "local", "default"],
        ["store", "file:///a", "/p.toml"],
        ["max_workers", "None", "default"],
        ["memory", "512", "argument"],
        ["time_limit", "None", "default"],
        ["retries", "2", "default"],
        ["progress", "False", "PYWREN_NG_PROGRESS"],
        ["name", "None", "default"],
        ["deployment", "None", "default"],
        ["invoke", "auto", "default"],
        ["profile", "None", "default"],
        ["region", "None", "default"],
        ["requirements", "None", "default"],
        ["check_packages", "True", "default"],
    ]
    assert len({line.rindex("  ") for line in render(settings).splitlines()}) == 1


def test_without_files_nothing_is_imported_to_read_them(config_home: Path) -> None:
    script = (
        "import sys; from pywren_ng.config import load; load({'memory': 3});"
        " print(sorted({'tomllib', 'difflib', 'pathlib', 'argparse'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        text=True,
        env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "[]\n", done.stderr
