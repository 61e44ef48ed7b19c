"""Wheels and source archives, made in a moment, and a package index that is a folder of them."""

import base64
import hashlib
import io
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest


def wheel(
    folder: Path,
    name: str,
    version: str,
    files: dict[str, bytes],
    *,
    tag: str = "py3-none-any",
    needs: Iterable[str] = (),
) -> Path:
    """A wheel with these files, for that tag, that requires those packages."""
    own = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    contents = {
        **files,
        f"{own}/METADATA": metadata.encode(),
        f"{own}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = "".join(f"{path},sha256={_hash(data)},{len(data)}\n" for path, data in contents.items())
    contents[f"{own}/RECORD"] = f"{record}{own}/RECORD,,\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in contents.items():
            archive.writestr(member, data)
    return path


def module(folder: Path, name: str, version: str, **options: object) -> Path:
    """A wheel of one module that knows its version."""
    return wheel(folder, name, version, {f"{name}.py": f"version = {version!r}\n".encode()}, **options)  # type: ignore[arg-type]


def source(folder: Path, name: str, version: str) -> Path:
    """A source archive, which would have to be built."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        files = {
            "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            "setup.py": "raise SystemExit('built after all')\n",
        }
        for member, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{member}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def only_index(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let uv and pip know this folder and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        patch.delenv(name)
    empty = folder.parent / "empty"
    empty.mkdir()
    for name, value in {
        "UV_DEFAULT_INDEX": empty.as_uri(),  # it has no variable for none at all
        "UV_NO_CONFIG": "1",
        "UV_FIND_LINKS": str(folder),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": str(folder),
    }.items():
        patch.setenv(name, value)


def without(patch: pytest.MonkeyPatch, *names: str) -> None:
    """These tools are neither installed nor on PATH."""
    patch.setenv("PATH", "/nowhere")
    for name in names:
        patch.setitem(sys.modules, name, None)


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
