"""The user's own modules in a worker: fetched by digest, laid out once per machine, importable.

    Call.units ──► fits? ──no──► another process                    <root>/<digest>/helpers.py
                    └─yes──► install ──fetch, verify, unpack──► rename to <root>/<digest>/ ──► sys.path

A unit's directory is complete before it has its name and is never written again (but for Python's own
bytecode caches, which Python replaces atomically), so siblings may import from it at any moment. One
interpreter serves one version of a module: modules cannot be unimported, so another needs a fresh process.
"""

import importlib
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pywren_runtime.errors import ModulesError, SignatureError

__all__ = ["Installed", "Unit", "fits"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One top-level module or package that travels: its name and the SHA-256 of its archive."""

    name: str
    digest: str  # of the zip's bytes, in hex


def fits(installed: Mapping[str, str], wanted: Iterable[Unit]) -> bool:
    """Whether an interpreter with these modules (name: digest) can take the units: no name twice."""
    return all(installed.get(unit.name, unit.digest) == unit.digest for unit in wanted)


class Installed:
    """The user's modules that this interpreter has; one for the life of the process."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}

    def install(self, units: Sequence[Unit], fetch: Callable[[Unit], bytes], root: str) -> None:
        """Make the units importable; those that are already there cost nothing.

        Any number of processes may do this at once on one `root`. `fetch` is asked only for what does not lie
        under `root` yet, and what it returns is not unpacked unless its digest is the unit's. Each directory
        goes to the front of sys.path: it holds that one name only, and must win from a namesake in the worker
        as the module did in the client.
        """
        new = [unit for unit in units if self.digests.get(unit.name) != unit.digest]
        for unit in new:
            if unit.name in self.digests:
                raise ModulesError(
                    f"module {unit.name!r} was asked for in version {unit.digest[:12]}, but this worker has "
                    f"version {self.digests[unit.name][:12]}: a Python process can hold only one. Run this "
                    "in a fresh worker"
                )
        for unit in new:
            place = os.path.join(root, unit.digest)
            if not os.path.isdir(place):
                _unpack(unit, _verified(unit, fetch), place)
            _refuse_namesake(unit.name, place)
            sys.path.insert(0, place)
            self.digests[unit.name] = unit.digest
        if new:
            importlib.invalidate_caches()


def _verified(unit: Unit, fetch: Callable[[Unit], bytes]) -> bytes:
    import hashlib

    archive = fetch(unit)
    digest = hashlib.sha256(archive).hexdigest()
    if digest != unit.digest:
        raise SignatureError(
            f"the sources of module {unit.name!r} were changed on their way: their SHA-256 is "
            f"{digest[:12]}…, not {unit.digest[:12]}…; nothing was loaded. They lie there still, and whatever "
            f"needs that module meets them: remove modules/{unit.digest} from the store, see who can write there, and "
            "submit again"
        )
    return archive


def _unpack(unit: Unit, archive: bytes, place: str) -> None:
    """Write the archive beside `place` and rename it whole; the first to do so has done it for all."""
    import shutil

    aside = f"{place}.{os.getpid()}-{os.urandom(6).hex()}"
    try:
        os.makedirs(aside)
        _extract(unit, archive, aside)
        try:
            os.rename(aside, place)
        except OSError:
            if not os.path.isdir(place):
                raise
            # a sibling was first: its copy has the same digest, and someone may be importing from it
    except OSError as error:
        raise ModulesError(
            f"the sources of module {unit.name!r} could not be unpacked in {os.path.dirname(place)}: "
            f"{error}. Free some room there, or see who may write to it"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _extract(unit: Unit, archive: bytes, place: str) -> None:
    import io
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as bundle:
            for member in bundle.infolist():
                _refuse_escape(unit, member.filename)
                if member.is_dir():
                    continue
                path = os.path.join(place, *member.filename.split("/"))
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "xb") as file:
                    file.write(bundle.read(member))
                if (member.external_attr >> 16) & stat.S_IXUSR:
                    os.chmod(path, 0o755)
    except zipfile.BadZipFile as error:
        raise ModulesError(f"the sources of module {unit.name!r} are not a zip archive: {error}") from error


def _refuse_escape(unit: Unit, member: str) -> None:
    parts = member.removesuffix("/").split("/")
    if any(part in ("", ".", "..") or "\\" in part or ":" in part or "\0" in part for part in parts):
        raise ModulesError(
            f"the sources of module {unit.name!r} hold a file named {member!r}, which would lie outside "
            "their own directory; nothing of them was loaded. Rename that file"
        )


def _refuse_namesake(name: str, place: str) -> None:
    """A module of that name that is already imported from elsewhere would silently be used instead."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if module is None or (file is None and hasattr(module, "__path__")):
        return  # a namespace package finds its new part by itself
    if file is None or not os.path.realpath(file).startswith(os.path.realpath(place) + os.sep):
        raise ModulesError(
            f"module {name!r} of yours cannot be used in this worker: another module of that name is already "
            f"imported there ({file or 'built in'}). Rename yours, or do not import the other one in the "
            "initializer or a task"
        )
