"""The zip that runs on Lambda: the worker's half of this package, and what it imports.

    pywren_runtime, pywren_shuffle ──┐
    cloudpickle, obstore, redis, … ──┴─► sources ─► compiled in a fresh interpreter ─► zip

The bytes are the same whenever the sources are: names are sorted, dates fixed, and what is compiled carries no date.
A cold start reads compiled files only, for to compile takes two or three times as long as to import.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from pywren_runtime.errors import ConfigError

OWN = ("pywren_runtime", "pywren_shuffle")
OTHERS = ("cloudpickle", "hiredis", "obstore", "redis", "tblib")  # Lambda brings its own client (awslambdaric)
LIMIT = 250 << 20  # bytes unpacked that Lambda takes
_DATE = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = frozenset({".pyi", ".pyc", ".pyx", ".c", ".h"})
_KEPT_OF_METADATA = ("METADATA", "entry_points.txt")
# In a process of its own: what else is loaded there, and the seed of its hashes, would show in the bytes.
_COMPILE = """
import py_compile, sys
for line in sys.stdin:
    source, compiled, name = line.rstrip("\\n").split("\\t")
    py_compile.compile(source, compiled, dfile=name, doraise=True,
                       invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A zip that was built."""

    path: Path
    size: int
    unpacked: int
    sha256: str


def build(path: Path, *, packages: Path | None = None, python: str | None = sys.executable, top: str = "") -> Bundle:
    """Write the zip, for the Python minor and the platform of `python` and of the distributions in `packages`.

    `packages` is a folder that pip or uv has installed into for that platform; without it, what is installed here is
    taken. Without `python`, nothing is compiled. All names begin with `top`: a layer's must with `python/`. The zip
    appears whole or not at all.
    """
    sources = sorted({**dict(_own()), **dict(_distributions(packages))}.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        entries = sorted(sources + (_compiled(sources, Path(folder), python) if python else []))
        unpacked = sum(os.path.getsize(source) for _, source in entries)
        if unpacked > LIMIT:
            raise ConfigError(f"the bundle would be {unpacked:,} bytes unpacked; Lambda takes {LIMIT:,}")
        partial = Path(folder) / "bundle.zip"
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, source in entries:
                entry = zipfile.ZipInfo(top + name, _DATE)
                entry.create_system = 3
                entry.external_attr = 0o644 << 16
                bundle.writestr(entry, source.read_bytes(), zipfile.ZIP_DEFLATED)
        data = partial.read_bytes()
        os.replace(partial, path)
    return Bundle(path, len(data), unpacked, hashlib.sha256(data).hexdigest())


def _own() -> Iterator[tuple[str, Path]]:
    for package in OWN:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"the package {package} is not installed here: install pywren-ng again")
        top = Path(spec.submodule_search_locations[0])
        for source in top.rglob("*"):
            if source.is_file() and source.suffix in (".py", ".typed", ".json"):
                yield str(PurePosixPath(package, *source.relative_to(top).parts)), source


def _distributions(packages: Path | None) -> Iterator[tuple[str, Path]]:
    path = sys.path if packages is None else [str(packages)]
    for name in OTHERS:
        distribution = next(iter(metadata.distributions(name=name, path=path)), None)
        if distribution is None or distribution.files is None:
            where = "here" if packages is None else f"in {packages}"
            raise ConfigError(f"the package {name} is not installed {where}, and a worker needs it: pip install {name}")
        for file in distribution.files:
            if _is_wanted(file):
                yield file.as_posix(), Path(str(distribution.locate_file(file)))


def _is_wanted(file: PurePosixPath) -> bool:
    """Whether a worker, or a licence, needs a file of a distribution."""
    if ".." in file.parts or file.suffix in _LEFT_OUT:
        return False
    if file.parts[0].endswith(".dist-info"):
        return file.name in _KEPT_OF_METADATA or "LICEN" in file.name.upper()
    return len(file.parts) > 1


def _compiled(sources: list[tuple[str, Path]], folder: Path, python: str) -> list[tuple[str, Path]]:
    tag = subprocess.run(
        [python, "-c", "import sys; print(sys.implementation.cache_tag)"], check=True, capture_output=True, text=True
    ).stdout.strip()
    compiled, lines = [], []
    for name, source in sources:
        if source.suffix == ".py":
            place = PurePosixPath(name)
            entry = str(place.parent / "__pycache__" / f"{place.stem}.{tag}.pyc")
            compiled.append((entry, folder / entry))
            lines.append(f"{source}\t{folder / entry}\t{name}\n")
    variables = {"PYTHONHASHSEED": "0", "PATH": os.environ.get("PATH", "")}
    subprocess.run([python, "-S", "-P", "-c", _COMPILE], input="".join(lines), text=True, check=True, env=variables)
    return compiled
