"""Clients and runtimes of different releases: they work together, or one error says so before anything is run.

The other release is a copy of this one with another wire version: its zip is built from that copy, and its client runs
from there.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws

import pywren_ng
import pywren_runtime
import pywren_shuffle
from pywren_ng import ConfigError, Executor, VersionError, deployment
from pywren_runtime.modules import Unit
from pywren_runtime.pickling import Ref
from pywren_runtime.wire import VERSION, Call, Environment, Head, Outcome, Signer, Status, TaskCall

SIZE, OTHER = 512, 640
PATIENCE = 20
CLIENT = """
import json
from pywren_ng import Executor
try:
    with Executor("lambda", max_workers=2) as ex:
        said = ["done", ex.map(lambda x: x * x, range(5)).results()]
except Exception as error:
    said = [type(error).__name__, str(error)]
print(json.dumps(said))
"""
BUILD = "import pathlib, sys; from pywren_ng.deploy import bundle; bundle.build(pathlib.Path(sys.argv[1]))"

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True)
class Release:
    """A copy of this release that calls itself otherwise."""

    folder: Path

    def run(self, code: str, *args: object) -> str:
        path = os.pathsep.join([str(self.folder), *filter(None, sys.path)])
        variables = {**os.environ, "PYTHONPATH": path, "PYWREN_NG_CHECK_PACKAGES": "0"}
        command = [sys.executable, "-P", "-c", code, *map(str, args)]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True, cwd="/").stdout

    def zip(self) -> bytes:
        self.run(BUILD, self.folder / "runtime.zip")
        return (self.folder / "runtime.zip").read_bytes()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Release]:
    """Releases by wire version and name, each made once."""
    made: dict[tuple[int, str], Release] = {}

    def make(wire: int, name: str = pywren_ng.__version__) -> Release:
        if (wire, name) not in made:
            folder = tmp_path_factory.mktemp("release")
            for package in (pywren_ng, pywren_runtime, pywren_shuffle):
                source = Path(str(package.__file__)).parent
                shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            edit(folder / "pywren_runtime/wire.py", rf"^VERSION = {VERSION}$", f"VERSION = {wire}")
            edit(folder / "pywren_runtime/__init__.py", r'^__version__ = ".*"$', f'__version__ = "{name}"')
            made[wire, name] = Release(folder)
        return made[wire, name]

    return make


def edit(file: Path, old: str, new: str) -> None:
    text, count = re.subn(old, new, file.read_text(), flags=re.MULTILINE)
    assert count == 1, f"{old} stands {count} times in {file}"
    file.write_text(text)


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, SIZE, variables=PACKAGES) as made:
        yield made


@pytest.fixture
def aws(there: Deployed, local_aws: LocalAws) -> LocalAws:
    return local_aws


def asked(aws: LocalAws) -> tuple[int, int]:
    """How many Invokes came, and how many ran something."""
    return aws.counters().get("invokes", 0), aws.counters().get("executions", 0)


@pytest.mark.parametrize(
    ("step", "cure"), [(-1, "Upgrade: pip install 'pywren-ng>="), (1, "Run `pywren-ng setup`: it adds functions")]
)
def test_a_client_of_another_wire_version_sends_nothing(
    aws: LocalAws, release: Callable[..., Release], step: int, cure: str
) -> None:
    kind, said = json.loads(release(VERSION + step).run(CLIENT))
    assert kind == "VersionError"
    assert f"wire version is {VERSION}, and ours {VERSION + step}); nothing was sent. {cure}" in said
    assert asked(aws) == (0, 0)


@pytest.mark.parametrize("invoke", ["sync", "async"])
@pytest.mark.parametrize("step", [-1, 1])
def test_a_client_whose_file_is_not_the_deployment_s_finds_no_function(
    aws: LocalAws,
    there: Deployed,
    release: Callable[..., Release],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    invoke: str,
    step: int,
) -> None:
    """Somebody has set it up with another release since."""
    monkeypatch.setenv("PYWREN_NG_DEPLOYMENT", str(there.rewritten(tmp_path, wire=VERSION + step)))
    monkeypatch.setenv("PYWREN_NG_INVOKE", invoke)
    kind, said = json.loads(release(VERSION + step).run(CLIENT))
    assert kind == "FunctionMissing", said
    assert f"-w{VERSION + step}-py" in said and "pywren-ng setup" in said and "another release" in said
    assert 1 <= asked(aws)[0] <= 5 and asked(aws)[1] == 0


@pytest.mark.parametrize("step", [-1, 1])
def test_a_runtime_of_another_wire_version_runs_nothing(
    aws: LocalAws, there: Deployed, release: Callable[..., Release], tmp_path: Path, step: int
) -> None:
    """Somebody has put another release's zip into a function by hand."""
    other = Deployed(aws, there.where, there.file, release(VERSION + step).zip())
    other.function(OTHER, variables=PACKAGES)
    trace = tmp_path / "ran"
    with Executor("lambda", memory=OTHER, max_workers=1) as ex:
        error = ex.submit(trace.touch).exception(PATIENCE)
    assert isinstance(error, VersionError), error
    assert f"wire version {VERSION} reached a worker of version {VERSION + step}" in str(error)
    assert asked(aws) == (1, 1) and not trace.exists()


def test_releases_of_one_wire_version_work_together(
    aws: LocalAws, there: Deployed, release: Callable[..., Release], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = release(VERSION, "99.1")
    Deployed(aws, there.where, there.file, later.zip()).function(OTHER, variables=PACKAGES)
    with Executor("lambda", memory=OTHER, max_workers=2) as ex:
        assert ex.map(lambda x: x * x, range(5)).results() == [0, 1, 4, 9, 16]
    assert json.loads(later.run(CLIENT)) == ["done", [0, 1, 4, 9, 16]]
    file = there.rewritten(tmp_path, release="99.1")
    file.write_text(file.read_text() + 'something_new = "that this release does not know"\n')
    monkeypatch.setenv("PYWREN_NG_DEPLOYMENT", str(file))
    with Executor("lambda", max_workers=2) as ex:
        assert ex.submit(abs, -1).result(PATIENCE) == 1


def test_what_is_unknown_in_a_file_of_this_release_is_a_mistake(there: Deployed, tmp_path: Path) -> None:
    file = there.rewritten(tmp_path)
    file.write_text(file.read_text() + "memroy = 512\n")
    with pytest.raises(ConfigError, match="unknown: memroy"):
        deployment.load(str(file))


def test_who_changes_the_wire_counts_its_version_up() -> None:
    """A frame of each kind, byte for byte. If this fails, `VERSION` goes up by one, and so does what stands here."""
    packages = Ref("packages/1", 3, bytes(32))
    environment = Environment(512, (("A", "b"),), b"\0initializer", (Unit("local", "00" * 32),), packages)
    head = Head("job-1", b"\0function", environment.encode(), 2.5)
    call = Call(head.encode(), (TaskCall(3, 1, 2, b"\0arguments"), TaskCall(4, 0, 1, b"")))
    outcome = Outcome("job-1", 3, 1, 2, Status.VALUE, b"\0payload", b"printed", bytes(57))
    frames = [Signer(bytes(32)).seal(b"call", call.encode()), Signer(bytes(32)).seal(b"outcome", outcome.encode())]
    shown = (VERSION, *(hashlib.sha256(frame).hexdigest()[:16] for frame in frames))
    assert shown == (1, "94bfc1cb63719261", "f1be9c76be7d15b6")
