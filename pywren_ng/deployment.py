"""What `pywren-ng setup` made in an account: where the functions and the bucket are, and the key that signs.

It is a file of one user's: the key in it makes workers run code, so nobody else may read it, and the bucket has it not.

Releases that do not understand each other have different wire versions (`pywren_runtime.wire`), and a function's name
has its runtime's. So a Call goes to a function that understands it, or Lambda answers that there is none, and nothing
was run. `setup` of another wire version makes functions beside those that are there: whose job runs on these, or who
has not upgraded yet, goes on with them.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pywren_runtime import __version__
from pywren_runtime.errors import ConfigError, VersionError
from pywren_runtime.wire import VERSION

SETUP = "run `pywren-ng setup`, which makes it and writes this file"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment; `copies` identical functions share the load of each memory size."""

    region: str
    store: str
    key: bytes = field(repr=False)
    prefix: str = "pywren-ng"
    arch: str = "x86_64"
    memory: int = 2048  # MB, of the function that runs tasks which ask for none
    timeout: float = 900.0  # seconds, of each function
    copies: int = 1
    wire: int = VERSION
    release: str = __version__  # of the client that set it up
    pythons: tuple[str, ...] = ()  # minor versions for which it has functions ("3.12"); none if that is not known

    def check(self) -> None:
        """VersionError if its workers do not understand this release, or run another Python."""
        if self.wire != VERSION:
            cure = (
                "Run `pywren-ng setup`: it adds functions for this release, and leaves the others to those who use them"
                if self.wire < VERSION
                else f"Upgrade: pip install 'pywren-ng>={self.release}'"
            )
            raise VersionError(
                f"the deployment in {self.region} was set up by pywren-ng {self.release}, and {__version__} does not "
                f"speak with its functions (their wire version is {self.wire}, and ours {VERSION}); nothing was sent. "
                + cure
            )

        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        if self.pythons and here not in self.pythons:
            there = ", ".join(self.pythons)
            raise VersionError(
                "functions travel between equal minor versions of Python only, and the workers have another; nothing "
                f"was sent:\n\n          local  runtime\n  Python  {here:<5}  {there}\n\nTo mend it: pywren-ng setup "
                f"--region {self.region} --python {here} (then, whoever else uses it: pywren-ng join); or run "
                f"this with Python {' or '.join(self.pythons)}"
            )

    def function(self, memory: int | None, copy: int = 0) -> str:
        """The name of the function of that size for this Python."""
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        return function_name(self.prefix, python, self.arch, memory or self.memory, copy)


def function_name(prefix: str, python: str, arch: str, memory: int, copy: int = 0, *, wire: int = VERSION) -> str:
    """Of the function for that Python ("3.12"), processor and size."""
    name = f"{prefix}-w{wire}-py{python.replace('.', '')}-{arch}-{memory}"
    return f"{name}-{copy + 1}" if copy else name


_FIELDS: Mapping[str, type] = {
    "region": str,
    "store": str,
    "key": str,
    "prefix": str,
    "arch": str,
    "memory": int,
    "timeout": float,
    "copies": int,
    "wire": int,
    "release": str,
    "pythons": tuple,
}


def load(path: str | None, region: str | None = None) -> Deployment:
    """The deployment in this file, by default the user's own; ConfigError says what is wrong with it.

    Where that is in another region than the one that is asked for, it is the one in the file beside it (`write`).
    """
    file = Path(path or default_file()).expanduser()
    found = _read(str(file))
    if region is None or region == found.region:
        return found
    beside = file.with_name(f"{found.prefix}-{region}.toml")
    if beside.exists():
        return _read(str(beside))
    raise ConfigError(
        f"no deployment in {region} is known here: {file} is about {found.region}; run `pywren-ng setup"
        f" --region {region}`, or leave region= out"
    )


def _read(path: str) -> Deployment:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except OSError as error:
        raise ConfigError(f"no deployment on AWS Lambda is known here: {path}: {error.strerror}; {SETUP}") from error
    if mode & 0o077:
        raise ConfigError(f"others may read {path}, and the key in it lets them run code; run: chmod 600 {path}")
    import tomllib

    try:
        found: dict[str, Any] = tomllib.loads(text.decode())
        values = {name: kind(found.pop(name)) for name, kind in _FIELDS.items() if name in found}
        values["key"] = bytes.fromhex(values["key"])
        unknown = found if values.get("release", __version__) == __version__ else {}  # another may know more
        if unknown or len(values["key"]) < 32:
            raise ValueError(f"unknown: {', '.join(unknown)}" if unknown else "its key is too short")
        return Deployment(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the deployment in {path} cannot be read: {error!r}; {SETUP}") from error


def dumps(deployment: Deployment) -> str:
    """The file's text."""
    values = {name: getattr(deployment, name) for name in _FIELDS}
    values["key"] = deployment.key.hex()
    return "".join(f"{name} = {_literal(value)}\n" for name, value in values.items())


def _literal(value: str | float | tuple[str, ...]) -> str:
    if isinstance(value, str | tuple):
        import json

        return json.dumps(value)  # TOML's basic strings and lists are JSON's
    return str(value)


def default_file() -> str:
    """Where the deployment's file lies unless a setting names another."""
    folder = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(folder):
        folder = os.path.expanduser("~/.config")
    return f"{folder}/pywren-ng/deployment.toml"


def write(deployment: Deployment, path: str, *, over: bool) -> Path:
    """Write the file, whole or not at all, so that only its owner can read it; where it lies.

    One about another deployment stays, unless it is to be written `over`: then the new one lies beside it.
    """
    file = Path(path).expanduser()
    if not over and _is_of_another(file, deployment):
        file = file.with_name(f"{deployment.prefix}-{deployment.region}.toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(dumps(deployment))
    os.replace(partial, file)
    return file


def _is_of_another(file: Path, deployment: Deployment) -> bool:
    try:
        there = load(str(file))
    except ConfigError:  # none, or one that is of no use to anybody
        return False
    return (there.prefix, there.region) != (deployment.prefix, deployment.region)
