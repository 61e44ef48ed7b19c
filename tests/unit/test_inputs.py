"""What lies at a place: all that a user means by it, and an error rather than less than that."""

from pathlib import Path

import pytest

from pywren_runtime.errors import ConfigError
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.places.inputs import find, store_url


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def found(*places: Path) -> list[str]:
    return [source.key for source in find(places, Exchange(hedging=False))]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("", ["a.txt", "b.dat", "x/c.txt", "x/y/d.txt"]),
        ("*.txt", ["a.txt"]),
        ("*/*.txt", ["x/c.txt"]),
        ("**/*.txt", ["a.txt", "x/c.txt", "x/y/d.txt"]),
        ("x/**", ["c.txt", "y/d.txt"]),  # as seen from the folder where the pattern begins
        ("**/y/*", ["x/y/d.txt"]),
        ("[ab].*", ["a.txt", "b.dat"]),
        ("?.txt", ["a.txt"]),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, wanted: list[str]) -> None:
    put(tmp_path, "a.txt", "b.dat", "x/c.txt", "x/y/d.txt", ".hidden.txt", "x/_SUCCESS", "~partial/e.txt")
    assert found(tmp_path / pattern) == wanted


def test_brackets_of_a_file_that_is_there_are_its_name(tmp_path: Path) -> None:
    put(tmp_path, "run [1].txt", "run 1.txt", "in [2]/a.txt")
    assert found(tmp_path / "run [1].txt") == ["run [1].txt"]
    assert found(tmp_path / "in [2]") == ["a.txt"]


@pytest.mark.parametrize("place", ["*", "", "**/*"])
def test_a_manifest_is_no_input_beside_its_parts_and_any_other_file_of_that_name_is(tmp_path: Path, place: str) -> None:
    put(tmp_path, "out/part-00000-x.txt", "out/manifest.json", "mine/manifest.json")
    assert found(tmp_path / "out" / place) == ["part-00000-x.txt"]
    assert found(tmp_path / "mine" / place) == ["manifest.json"]
    assert found(tmp_path) == ["mine/manifest.json", "out/part-00000-x.txt"]


def test_a_path_that_is_not_there_is_an_error_and_nothing_below_it_none(tmp_path: Path) -> None:
    put(tmp_path, "a.txt")
    (tmp_path / "empty").mkdir()
    assert found(tmp_path / "empty", tmp_path / "*.tXt") == []
    for place, says in [
        (tmp_path / "b.txt", r"no file or folder '.*/b\.txt'"),
        (tmp_path / "b" / "*", r"no folder '.*/b'"),
    ]:
        with pytest.raises(ConfigError, match=says):
            found(tmp_path / "a.txt", place)


def test_a_tilde_is_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert store_url("~/in") == "file:///home/ann/in"
    assert store_url("/x/~in") == "file:///x/~in"
