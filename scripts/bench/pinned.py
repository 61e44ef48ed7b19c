"""The environment of a benchmark: pinned rivals, and the project as it is now."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

__all__ = ["enter", "environment_of"]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOT_COPIED = (".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")


def environment_of(name: str) -> Path:
    """Where it lies unless said otherwise: one for each version of Python, kept between runs."""
    version = ".".join(platform.python_version_tuple()[:2])
    return Path.home() / ".cache" / "pywren-ng" / f"{name}-{version}"


def enter(folder: Path, requirements: str) -> NoReturn:
    """Starts the script over, with `--here`, in an environment that has what is pinned; does not return.

    The environment is made if it is not there, and the project installed afresh each time.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        _must([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    _must([*pip, "-r", str(HERE / requirements)])
    _install_project(pip)
    os.execv(python, [str(python), sys.argv[0], *sys.argv[1:], "--here"])


def _install_project(pip: list[str]) -> None:
    """From a copy: a build inside the checkout would find, and leave, files of older builds."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "source"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        _must([*pip, str(copy)])  # with what it needs
        _must([*pip, "--no-deps", "--force-reinstall", str(copy)])  # also where the version is the same


def _must(command: list[str]) -> None:
    print(f"+ {' '.join(command)}", file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)
