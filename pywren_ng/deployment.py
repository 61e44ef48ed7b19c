"""What `pywren-ng setup` made in an account: where the functions and the bucket are, and the key that signs.

It is a file of one user's: the key in it makes workers run code, so nobody else may read it, and the bucket has it not.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pywren_runtime.errors import ConfigError

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

    def function(self, memory: int | None, copy: int = 0) -> str:
        """The name of the function of that size for this Python."""
        python = f"py{sys.version_info[0]}{sys.version_info[1]}"
        name = f"{self.prefix}-{python}-{self.arch}-{memory or self.memory}"
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
}


def load(path: str | None) -> Deployment:
    """The deployment in this file, by default the user's own; ConfigError says what is wrong with it."""
    path = os.path.expanduser(path or "~/.config/pywren-ng/deployment.toml")
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
        if found or len(values["key"]) < 32:
            raise ValueError(f"unknown: {', '.join(found)}" if found else "its key is too short")
        return Deployment(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the deployment in {path} cannot be read: {error!r}; {SETUP}") from error


def dumps(deployment: Deployment) -> str:
    """The file's text."""
    values = {name: getattr(deployment, name) for name in _FIELDS}
    values["key"] = deployment.key.hex()
    return "".join(f"{name} = {_literal(value)}\n" for name, value in values.items())


def _literal(value: str | float) -> str:
    if isinstance(value, str):
        import json

        return json.dumps(value)  # TOML's basic strings are JSON's
    return str(value)
