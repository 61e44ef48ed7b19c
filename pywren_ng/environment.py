"""Which of the user's own modules a function needs, and their sources as archives that travel by digest.

    names in the pickle ─┐                                 ┌─► imports of its files ─┐
    imports in the code ─┴─► Places: local? where? ──► _bundle: walk, stat, zip ──► Unit
                               ▲                                                     │
                               └───────────────── and so on, recursively ◄───────────┘

Which those are, `places` knows. Nothing is imported to find out. What is not local costs one look into a set; what is
local is looked at on every call, so that an edited file goes out with the next job.
"""

import hashlib
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import CodeType

from pywren_ng.imports import imported_by_code, imported_by_source
from pywren_ng.places import SETTLED_NS, Place, Places
from pywren_runtime.errors import ModulesError
from pywren_runtime.modules import Unit

__all__ = ["LocalModules"]

_LARGEST = 64 << 20  # bytes of one package
_MOST = 20_000  # files of one package
_CODES = 4096  # code objects whose imports are remembered


class LocalModules:
    """Finds and packs local modules; one per executor, used from any number of threads."""

    def __init__(self, *, now: Callable[[], int] = time.time_ns) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._places = Places(now)
        self._bundles: dict[str, _Bundle] = {}
        self._replaced: dict[str, _Bundle] = {}  # one edit back: its units() may not have been sent yet
        self._codes: dict[int, tuple[CodeType, frozenset[str]]] = {}

    def units(self, modules: Iterable[str], codes: Iterable[CodeType] = ()) -> tuple[Unit, ...]:
        """The local modules behind these names and these functions' imports, with all that those import.

        `modules` are full names that a pickle refers to, `codes` the code of functions that it holds by
        value. Files are read again if they changed. ModulesError: too large a package, or its files are gone.
        """
        foreign = self._places.foreign()
        names = [name for name in modules if name not in foreign]
        for code in codes:
            known = self._codes.get(id(code))  # by identity: hashing a code object hashes its instructions
            found = self._remember(code) if known is None else known[1]
            names += found - foreign
        return self._closure(names) if names else ()

    def foreign(self, modules: Iterable[str]) -> set[str]:
        """The top-level names of what is imported when these are, and is not local; after `units` of the same."""
        found: set[str] = set()
        seen: set[str] = set()
        todo = list(modules)
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            top, _, rest = name.partition(".")
            bundle = self._bundles.get(top)
            if bundle is None:
                found.add(top)
                continue
            folder = top
            for step in ["", *rest.split(".")]:
                folder = f"{folder}/{step}" if step else folder
                for member in (f"{folder}.py", f"{folder}/__init__.py"):
                    todo += bundle.surely.get(member, ())
        return found

    def archive(self, unit: Unit) -> bytes:
        """The bytes of a unit that `units` gave out: a zip of its sources with the unit's SHA-256."""
        with self._lock:
            for bundles in (self._bundles, self._replaced):
                bundle = bundles.get(unit.name)
                if bundle is not None and bundle.unit == unit:
                    return bundle.archive
        raise ModulesError(
            f"the sources of module {unit.name!r} were edited more than once while a job that uses them was "
            "being sent, so the version it began with is gone. Submit it again"
        )

    def _remember(self, code: CodeType) -> frozenset[str]:
        if len(self._codes) >= _CODES:
            self._codes.clear()
        names = imported_by_code(code)
        self._codes[id(code)] = (code, names)  # holding the code keeps its id from being given to another
        return names

    def _closure(self, names: list[str]) -> tuple[Unit, ...]:
        found: dict[str, _Bundle] = {}
        with self._lock:
            todo = list(names)
            while todo:
                name = todo.pop()
                top = name.partition(".")[0]
                place = None if top in found else self._places.find(top, name)
                if place is not None:
                    found[top] = self._refresh(place)
                    todo += found[top].imports - self._places.foreign()
        return tuple(found[name].unit for name in sorted(found))

    def _refresh(self, place: "Place") -> "_Bundle":
        old = self._bundles.get(place.name)
        new = _bundle(place, old, self._now())
        if old is not None and new.unit != old.unit:
            self._replaced[place.name] = old
        self._bundles[place.name] = new
        return new


@dataclass(frozen=True, slots=True)
class _Leaf:
    """One file as it was when last looked at; equal leaves have equal content, unless they are very young."""

    path: str
    member: str  # its name in the archive
    mtime_ns: int
    ctime_ns: int
    size: int
    inode: int
    runnable: bool


@dataclass(frozen=True, slots=True)
class _Bundle:
    """One local module, packed."""

    place: Place
    leaves: tuple[_Leaf, ...]
    young: tuple[tuple[_Leaf, bytes], ...]  # those whose stat proves nothing yet, with the content's hash
    imported: dict[_Leaf, tuple[frozenset[str], frozenset[str]]]  # anywhere in the file, and surely
    imports: frozenset[str]  # top-level names, of all files
    surely: dict[str, frozenset[str]]  # full names, by file
    unit: Unit
    archive: bytes


def _bundle(place: Place, old: _Bundle | None, now: int) -> _Bundle:
    """The module as it lies on the disk at `now` or later: `old` itself where that is still true."""
    leaves = _leaves(place)
    if old is not None and old.place == place and old.leaves == leaves:
        if not old.young:
            return old
        if all(hashlib.sha256(_read(place, leaf)).digest() == seen for leaf, seen in old.young):
            return replace(old, young=tuple((leaf, seen) for leaf, seen in old.young if _is_young(leaf, now)))
    contents = {leaf: _read(place, leaf) for leaf in leaves}
    known = {} if old is None else old.imported
    doubtful = () if old is None else dict(old.young)
    imported = {
        leaf: known[leaf] if leaf in known and leaf not in doubtful else imported_by_source(content)
        for leaf, content in contents.items()
        if leaf.path.endswith(".py")
    }
    archive = _zip(contents)
    young = [leaf for leaf in leaves if _is_young(leaf, now)]
    return _Bundle(
        place=place,
        leaves=leaves,
        young=tuple((leaf, hashlib.sha256(contents[leaf]).digest()) for leaf in young),
        imported=imported,
        imports=frozenset().union(*(anywhere for anywhere, _ in imported.values())),
        surely={leaf.member: surely for leaf, (_, surely) in imported.items()},
        unit=Unit(place.name, hashlib.sha256(archive).hexdigest()),
        archive=archive,
    )


def _is_young(leaf: _Leaf, now: int) -> bool:
    return now - leaf.mtime_ns < SETTLED_NS


def _leaves(place: Place) -> tuple[_Leaf, ...]:
    if not place.is_package:
        path = place.roots[0]
        suffix = os.path.basename(path).partition(".")[2]
        try:
            return (_leaf(path, f"{place.name}.{suffix}", os.stat(path)),)
        except OSError as error:
            raise _gone(place, error) from error
    found: dict[str, _Leaf] = {}
    size = 0
    for root in place.roots:
        try:
            for leaf in _walk(root, place.name, ()):
                if leaf.member not in found:  # in a namespace package the first on sys.path wins
                    found[leaf.member] = leaf
                    size += leaf.size
                if size > _LARGEST or len(found) > _MOST:
                    raise _too_large(place)
        except OSError as error:
            raise _gone(place, error) from error
    return tuple(found[member] for member in sorted(found))


def _walk(directory: str, member: str, above: tuple[tuple[int, int], ...]) -> Iterator[_Leaf]:
    """All files below a directory but caches and hidden directories; follows links, never in a circle."""
    here = os.stat(directory)
    identity = (here.st_dev, here.st_ino)
    if identity in above:
        return
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{member}/{entry.name}"
            try:
                status = entry.stat()
            except OSError:  # a dangling or circular link, or an editor's file that is gone already
                continue
            if stat.S_ISDIR(status.st_mode):
                if entry.name != "__pycache__" and not entry.name.startswith("."):
                    yield from _walk(entry.path, name, (*above, identity))
            elif stat.S_ISREG(status.st_mode) and not entry.name.endswith(".pyc"):
                yield _leaf(entry.path, name, status)


def _leaf(path: str, member: str, status: os.stat_result) -> _Leaf:
    return _Leaf(
        path=path,
        member=member,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        size=status.st_size,
        inode=status.st_ino,
        runnable=bool(status.st_mode & stat.S_IXUSR),
    )


def _read(place: Place, leaf: _Leaf) -> bytes:
    try:
        with open(leaf.path, "rb") as file:
            return file.read()
    except OSError as error:
        raise _gone(place, error) from error


def _zip(contents: dict[_Leaf, bytes]) -> bytes:
    """The same files give the same bytes: members in order, no dates, no owners."""
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bundle:
        for leaf, content in contents.items():
            member = zipfile.ZipInfo(leaf.member)
            member.create_system = 3
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = (stat.S_IFREG | (0o755 if leaf.runnable else 0o644)) << 16
            bundle.writestr(member, content, compresslevel=1)
    return buffer.getvalue()


def _gone(place: Place, error: OSError) -> ModulesError:
    return ModulesError(
        f"local module {place.name!r} must travel with the function, but its files cannot be read: {error}. "
        "Put them back, or import the module again from where they are now"
    )


def _too_large(place: Place) -> ModulesError:
    walks = (_walk(root, place.name, ()) for root in place.roots)
    files = itertools.islice(itertools.chain.from_iterable(walks), 10 * _MOST)
    sizes = {leaf.member: leaf.size for leaf in files}
    biggest = max(sizes, key=sizes.__getitem__)
    return ModulesError(
        f"local package {place.name!r} ({', '.join(place.roots)}) must travel with the function but is too "
        f"large: {len(sizes):,} files, {sum(sizes.values()) / 2**20:,.1f} MiB (at most {_MOST:,} files and "
        f"{_LARGEST >> 20} MiB); the biggest file is {biggest} with {sizes[biggest] / 2**20:,.1f} MiB. Move "
        "data out of the package and pass it as an argument, do not import the package there, or install it"
    )
