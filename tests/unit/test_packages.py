"""Packages: found by uv or pip for another platform, packed once, laid out whole, compared with what is here."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import psutil
import pytest
from support.wheels import module, only_index, source, wheel, without

from pywren_ng.comparison import Comparison, Row, is_serious, table
from pywren_ng.imports import surely_imported
from pywren_ng.packages import PackageSet, prepare
from pywren_ng.requirements import HERE, Target, fetch, on_lambda, read
from pywren_runtime.errors import ConfigError, PackagesError
from pywren_runtime.packages import PIECE, Manifest, Packages, drop, place_of, sets
from pywren_runtime.pickling import Ref
from pywren_runtime.stores.memory_store import MemoryStore

ARM = on_lambda("3.13", "arm64")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index that is a folder, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    only_index(monkeypatch, tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture(params=["uv", "pip"])
def tool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """uv, which the tests' own environment has; then pip, as if it had not."""
    if request.param == "pip":
        without(monkeypatch, "uv")
    return str(request.param)


def fetched(wanted: list[str], target: Target, folder: Path) -> list[str]:
    fetch(read(wanted), target, str(folder))
    return sorted(path.name.removesuffix(".dist-info") for path in folder.glob("*.dist-info"))


def refused(wanted: list[str], folder: Path) -> str:
    with pytest.raises(PackagesError) as caught:
        fetch(read(wanted), Target(HERE), str(folder))
    return str(caught.value)


# ── what was asked for ──


def test_a_list_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "requirements.lock"
    file.write_text("one==1\ntwo==2\n")
    assert read([" one==1", "two==2 "]).text == read(file).text == read(str(file)).text
    assert read(str(file)).path == str(file)


@pytest.mark.parametrize("given", ["numpy", ["numpy", 3], [""], ["a\nb"]])
def test_what_is_no_requirement(given: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"requirements=\["):
        read(given)  # type: ignore[arg-type]


def test_lambda_has_an_older_libc_below_python_3_11() -> None:
    assert [on_lambda(*each).platform for each in [("3.11", "x86_64"), ("3.12", "x86_64"), ("3.13", "arm64")]] == [
        "x86_64-manylinux2014",
        "x86_64-manylinux_2_34",
        "aarch64-manylinux_2_34",
    ]


# ── uv and pip ──


def test_the_wheels_are_those_of_the_target(index: Path, tool: str, tmp_path: Path) -> None:
    for tag in (
        "cp313-cp313-manylinux_2_28_aarch64",
        "cp313-cp313-manylinux_2_28_x86_64",
        "cp311-cp311-macosx_11_0_arm64",
    ):
        wheel(index, "native", "1", {"native.so": tag.encode()}, tag=tag)
    assert fetched(["native"], ARM, tmp_path / "site") == ["native-1"]
    assert (tmp_path / "site" / "native.so").read_text() == "cp313-cp313-manylinux_2_28_aarch64"


def test_markers_are_read_as_on_the_target(index: Path, tool: str, tmp_path: Path) -> None:
    names = {
        "old": 'python_version < "3.13"',
        "new": 'python_version >= "3.13"',
        "arm": 'platform_machine == "aarch64"',
    }
    names["mac"] = 'sys_platform == "darwin"'
    module(index, "top", "1", needs=[f"{name}; {marker}" for name, marker in names.items()])
    for name in names:
        module(index, name, "1")
    assert fetched(["top"], ARM, tmp_path / "site") == ["arm-1", "new-1", "top-1"]
    assert fetched(["top"], on_lambda("3.12", "x86_64"), tmp_path / "other") == ["old-1", "top-1"]


def test_a_conflict_is_one_error(index: Path, tool: str, tmp_path: Path) -> None:
    module(index, "low", "1", needs=["base<2"])
    module(index, "high", "1", needs=["base>=2"])
    for version in ("1", "2"):
        module(index, "base", version)
    text = refused(["low", "high"], tmp_path / "site")
    assert text.startswith(
        f"['low', 'high'] cannot be had for Python {HERE} on this machine: the requirements conflict."
    )
    assert f"{tool} said:" in text and "base" in text.partition(f"{tool} said:")[2]


def test_a_package_without_a_wheel_is_one_error(index: Path, tool: str, tmp_path: Path) -> None:
    source(index, "unbuilt", "1")
    text = refused(["unbuilt"], tmp_path / "site")
    assert "unbuilt" in text and "wheel for that" in text
    assert "built after all" not in text and "setuptools" not in text  # which a build would need


def test_a_package_that_is_not_there_is_one_error(index: Path, tool: str, tmp_path: Path) -> None:
    assert "there is no such package or version" in refused(["absent"], tmp_path / "site")


def test_neither_uv_nor_pip(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "uv", "pip")
    assert "needs uv or pip" in refused(["absent"], tmp_path / "site")


def test_of_a_list_uv_takes_what_is_installed_here(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1.0", "2.0"):
        module(index, "both", version)
    here = tmp_path / "here"
    (here / "both-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(here)
    (tmp_path / "lock").write_text("both\n")
    assert fetched(["both"], ARM, tmp_path / "one") == ["both-1.0"]
    assert fetched(["both>1"], ARM, tmp_path / "two") == ["both-2.0"]
    fetch(read(tmp_path / "lock"), ARM, str(tmp_path / "three"))
    assert (tmp_path / "three" / "both-2.0.dist-info").exists()


def test_what_pip_was_told_uv_is_told(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module(index, "told", "1")
    monkeypatch.delenv("UV_FIND_LINKS")
    assert fetched(["told"], ARM, tmp_path / "site") == ["told-1"]
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))  # uv's own setting comes first
    assert "there is no such package" in refused(["told"], tmp_path / "other")


# ── packed ──


def stack(index: Path) -> list[str]:
    """A package as packages are: modules, a long binary, a script, tests, and a .pth file."""
    files = {
        "big/__init__.py": b"from big.part import answer\n",
        "big/part.py": b"answer = 42\n",
        "big/lib.so": b"\x7fELF" + bytes(2 * PIECE + 12345),
        "big/empty.txt": b"",
        "big/tests/test_big.py": b"import nothing\n",
        "big/broken.py": b"print 'for Python 2'\n",
        "big.pth": b"big_more\n",
        "big_more/more.py": b"more = 1\n",
    }
    wheel(index, "big", "1.5", files, needs=["small"])
    module(index, "small", "2")
    return ["big"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> PackageSet:
    """One for all who only read it."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        only_index(patch, folder / "index")
        return prepare(read(stack(folder / "index")), Target(HERE))


@pytest.fixture
def packed_here(index: Path) -> PackageSet:
    """One in this test's own cache, from its own index."""
    return prepare(read(stack(index)), Target(HERE))


def from_folder(found: PackageSet, counter: Path | None = None) -> str:
    """Source code of a fetch that reads a set's pieces, and notes each."""
    return textwrap.dedent(f"""
        import os, sys
        from pywren_runtime.packages import Packages
        from pywren_runtime.pickling import Ref
        def fetch(ref):
            with open({str(counter or os.devnull)!r}, "a") as notes:
                notes.write(ref.key + "\\n")
            with open(os.path.join({found.folder!r}, os.path.basename(ref.key)), "rb") as file:
                return file.read()
        wanted = Ref({found.ref.key!r}, {found.ref.size}, {found.ref.digest!r})
    """)


def run(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def output(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate(timeout=20)
    assert process.returncode == 0, said
    return said.strip()


USE = """
Packages(sys.argv[1]).install(wanted, fetch)
import big, big.part, more, small, importlib.metadata
print(big.answer, more.more, small.version, importlib.metadata.version("big"), big.part.__cached__, big.__file__)
"""


def test_a_worker_can_import_it(packed: PackageSet, tmp_path: Path) -> None:
    said = output(run(from_folder(packed) + USE, tmp_path / "root")).split()
    assert said[:4] == ["42", "1", "2", "1.5"]
    (place,) = (tmp_path / "root").glob("[0-9a-f]*[0-9a-f]")
    assert said[5] == f"{place}/big/__init__.py"
    assert (place / "big" / "lib.so").read_bytes() == b"\x7fELF" + bytes(2 * PIECE + 12345)
    assert (place / "big" / "empty.txt").read_bytes() == b""
    assert sorted(path.name.partition(".")[0] for path in place.glob("big/__pycache__/*")) == ["__init__", "part"]
    assert os.path.samefile(said[4], next(place.glob("big/__pycache__/part.*")))
    assert not list(place.glob("big/tests/__pycache__/*"))


def test_only_the_same_python_takes_it(packed: PackageSet, tmp_path: Path) -> None:
    manifest = Manifest("3.99", "", (), 1, ())
    with pytest.raises(PackagesError, match=r"are for Python 3\.99"):
        Packages(str(tmp_path)).install(packed.ref, lambda ref: manifest.encode())


def test_two_processes_at_once_lay_it_out_once(packed: PackageSet, tmp_path: Path) -> None:
    """The second comes while the first fetches, and waits for that."""
    pausing = """
def paused(ref):
    print("fetching", flush=True)
    input()
    return fetch(ref)
print("begun", flush=True)
"""
    code = from_folder(packed, tmp_path / "notes") + pausing + USE.replace("wanted, fetch", "wanted, paused")
    root = tmp_path / "root"
    first, second = start(code, root), None
    try:
        assert [first.stdout.readline() for _ in range(2)] == ["begun\n", "fetching\n"]
        second = start(code, root)
        assert second.stdout.readline() == "begun\n"
        deadline = time.monotonic() + 20
        while psutil.Process(second.pid).status() != psutil.STATUS_SLEEPING:  # it waits for the first, or fetches, too
            assert time.monotonic() < deadline
        go_on = "\n" * 2 * (1 + len(packed.manifest.pieces))
        assert "42" in first.communicate(go_on, timeout=20)[0]
        assert "42" in second.communicate(go_on, timeout=20)[0]
    finally:
        for process in filter(None, (first, second)):
            process.kill()
    assert len((tmp_path / "notes").read_text().split()) == 1 + len(packed.manifest.pieces)


def start(code: str, *arguments: object) -> Any:
    """A process that can be spoken with."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_half_written_set_is_written_anew(packed: PackageSet, tmp_path: Path) -> None:
    left = tmp_path / f"{place_of(packed.ref)}.part"
    (left / "big").mkdir(parents=True)
    (left / "big" / "stray.py").write_text("of = 'one who died'\n")
    assert output(run(from_folder(packed) + USE, tmp_path)).startswith("42")
    assert not left.exists()
    assert not (tmp_path / place_of(packed.ref) / "big" / "stray.py").exists()


def test_one_interpreter_takes_one_set(packed: PackageSet, tmp_path: Path) -> None:
    code = (
        "packages = Packages(sys.argv[1]); packages.install(wanted, fetch); packages.install(wanted, None)\n"
        "packages.install(Ref('packages/other', 1, bytes(32)), None)"
    )
    said, _ = run(from_folder(packed) + code, tmp_path).communicate(timeout=20)
    assert "this worker has another set of packages" in said


def test_too_little_room_is_one_error(packed: PackageSet, tmp_path: Path) -> None:
    size = 10**18
    manifest = Manifest(HERE, "", packed.manifest.distributions, size, packed.manifest.pieces)
    with pytest.raises(PackagesError) as caught:
        Packages(str(tmp_path)).install(packed.ref, lambda ref: manifest.encode())
    assert "the packages (big 1.5, small 2) take 1,000,000,000,000 MB on the disk, and only" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_sets_that_nobody_uses_make_room(packed: PackageSet, tmp_path: Path) -> None:
    """The one in use stays, the others go before the disk is said to be full."""
    root = tmp_path / "root"
    unused = root / "unused"
    unused.mkdir(parents=True)
    code = from_folder(packed) + "Packages(sys.argv[1]).install(wanted, fetch); print('in use', flush=True); input()"
    holder = start(code, root)
    assert holder.stdout.readline() == "in use\n"
    used = root / place_of(packed.ref)
    assert set(sets(str(root))) == {str(unused), str(used)}
    other = Ref("packages/other", 1, bytes(range(32)))
    with pytest.raises(PackagesError, match="are free in"):
        Packages(str(root)).install(other, lambda ref: Manifest(HERE, "", (), 10**18, ()).encode())
    assert sets(str(root)) == [str(used)]
    holder.communicate("end\n", timeout=20)
    assert drop(str(used)) and sets(str(root)) == []


def test_what_was_packed_is_not_packed_again(packed_here: PackageSet, index: Path) -> None:
    for path in index.iterdir():
        path.unlink()  # who asked again would find nothing
    assert prepare(read(["big"]), Target(HERE)) == packed_here
    with pytest.raises(PackagesError):
        prepare(read(["big>1"]), Target(HERE))


def test_one_lock_is_packed_once_whoever_asks(packed_here: PackageSet, index: Path) -> None:
    assert prepare(read(["big==1.5", "small"]), Target(HERE)).folder == packed_here.folder


def test_the_same_wheels_give_the_same_bytes(
    packed_here: PackageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    again = prepare(read(["big"]), Target(HERE))
    assert again.folder != packed_here.folder
    assert again.ref == packed_here.ref


def test_another_wheel_of_the_same_version_is_another_set(
    packed_here: PackageSet, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "uv")  # which has it in a cache
    wheel(index, "big", "1.5", {"big/__init__.py": b"answer = 43\n"})
    assert prepare(read(["big", "small"]), Target(HERE)).ref != packed_here.ref


# ── compared ──


def code_of(source_text: str) -> CodeType:
    scope: dict[str, object] = {}
    exec(f"def f(x=None):\n{textwrap.indent(textwrap.dedent(source_text), '    ')}", scope)
    code: CodeType = scope["f"].__code__  # type: ignore[attr-defined]
    return code


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import a.b, c\nfrom d import e\nreturn a", {"a", "c", "d"}),
        ("if x:\n    import a\nimport b", set()),
        ("import b\nif x:\n    import a", {"b"}),
        ("try:\n    import a\nexcept ImportError:\n    pass", set()),
        ("for y in x:\n    import a", set()),
        ("def g():\n    import a\nreturn g", set()),
        ("return x", set()),
    ],
)
def test_what_a_function_is_sure_to_import(text: str, names: set[str]) -> None:
    assert surely_imported(code_of(text)) == names


def test_versions_that_matter() -> None:
    pairs = {("1.26.4", "2.2.6"): True, ("2.4.6", "2.2.6"): False, ("0.1.2", "0.2"): True, ("0.1.2", "0.1"): False}
    assert {pair: is_serious(*pair) for pair in pairs} == pairs


def test_the_table() -> None:
    assert table([Row("Python", "3.11", "3.11"), Row("scikit-learn", "1.6", "")]).splitlines() == [
        "                local  runtime",
        "  Python        3.11   3.11",
        "  scikit-learn  1.6    –",
    ]


def test_a_package_that_the_workers_lack() -> None:
    comparison = Comparison({}, frozenset({"six"}), "")
    comparison.check("the function f", ["json", "six", "made"])
    with pytest.raises(PackagesError) as caught:
        comparison.check("the function f", comparison.imports(code_of("import pytest, os")))
    text = str(caught.value)
    assert text.startswith("the imports of the function f are not what the workers have; nothing was sent:")
    assert f"  Python  {HERE}" in text and f"  pytest  {pytest.__version__}" in text
    assert "Executor(…, requirements=['pytest'])" in text


def test_a_package_of_another_major_version() -> None:
    comparison = Comparison({"pytest": ("pytest", "0.9")}, None, "['pytest<1']")
    with pytest.raises(PackagesError, match=rf"pip install pytest==0\.9, or ask for pytest=={pytest.__version__}"):
        comparison.check("it", ["pytest"])


def test_a_lesser_difference_is_a_warning_and_only_once(recwarn: pytest.WarningsRecorder) -> None:
    near = ".".join([*pytest.__version__.split(".")[:1], "999"])
    comparison = Comparison({"pytest": ("pytest", near)}, frozenset(), "")
    for _ in range(2):
        comparison.check("it", ["pytest"])
    (warned,) = recwarn
    assert f"pytest  {pytest.__version__}  {near}" in str(warned.message)
    assert warned.filename == __file__


def test_what_is_not_here_either_is_left_to_the_worker() -> None:
    Comparison({"there": ("there-only", "1")}, frozenset(), "").check("it", ["there", "nowhere"])


def test_what_is_on_its_way_is_told(packed: PackageSet) -> None:
    said: list[object] = []

    @contextmanager
    def told(title: str, size: int) -> Iterator[Callable[[int], object]]:
        said.append((title, size))
        yield said.append

    store = MemoryStore("told")
    store.private = False
    packed.put(store, told)
    (title, size), *came = said
    assert (title, size) == ("packages to memory:told", sum(came))
    packed.put(store, told)
    assert len(said) == 1 + len(packed.manifest.pieces), "it lies there already"
