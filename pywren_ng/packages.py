"""A set of packages on its way from a package index to the store: found, compiled, packed, put, each of them once.

    requirements, target ─► remembered? ──yes──────────────────────────────────────► PackageSet ─► store
                              └─no─► uv, pip ─► lock ─► packed? ──yes───────────────────┘
                                                         └─no─► compile ─► pieces, a manifest

All of it lies in the user's cache (`~/.cache/pywren-ng/packages`). What requirements come to is remembered for a day;
what lock has been packed, for as long as it is used. The same lock gives the same bytes, so that a second user's
pieces are those which lie in the store already.
"""

import contextlib
import csv
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from pywren_ng.requirements import Requirements, Target, fetch, fingerprint, interpreter
from pywren_ng.scratch import cache, laid_out
from pywren_runtime.errors import PackagesError
from pywren_runtime.packages import PIECE, Distribution, Manifest, Part, Piece, deflate, drop, place_of, sets
from pywren_runtime.pickling import Ref, digest_of
from pywren_runtime.replies import is_there
from pywren_runtime.stores import Store
from pywren_runtime.wire import package_key

__all__ = ["PackageSet", "prepare"]

Told = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
FRESH: Final = 86_400.0  # seconds for which an answer of uv or pip holds: the index may have newer versions then
KEPT: Final = 30 * 86_400.0  # seconds for which a set lies in the cache that nobody uses
FORMAT: Final = 1  # counts up when the same lock is packed another way
THREADS: Final = 4
_MADE_HERE: Final = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json"})


@dataclass(frozen=True, slots=True)
class PackageSet:
    """A set, packed in a folder of the cache."""

    manifest: Manifest
    ref: Ref
    folder: str

    def versions(self) -> dict[str, tuple[str, str]]:
        """Package and version by the top-level modules that they bring."""
        found = self.manifest.distributions
        return {top: (each.name, each.version) for each in found for top in each.imports}

    def put(self, store: Store, told: Told = lambda title, size: contextlib.nullcontext(int)) -> None:
        """Let the set lie in the store; the manifest comes last, so that where it lies, all lies.

        `told(title, size)` is entered while so many bytes are on their way, and gives what is told of each that came.
        """
        if store.private:
            place = os.path.join(laid_out(), place_of(self.ref))
            with contextlib.suppress(OSError):
                os.utime(place)  # it lies where workers will look, and is now the last that goes
                return
        elif is_there(store, self.ref.key):
            return
        refs = [piece.ref for piece in self.manifest.pieces]
        size = sum(ref.size for ref in refs)
        with told(f"packages to {store.url.partition('?')[0]}", size) as came, ThreadPoolExecutor(THREADS) as pool:
            for ref, done in zip(refs, [pool.submit(self._put, store, ref.key) for ref in refs], strict=True):
                done.result()
                came(ref.size)
        self._put(store, self.ref.key)

    def restore(self, store: Store, key: str) -> bool | None:
        """Put again what a worker did not find. Whether this call did; None if it is nothing of this set."""
        if key == self.ref.key or any(key == piece.ref.key for piece in self.manifest.pieces):
            return self._put(store, key)
        return None

    def _put(self, store: Store, key: str) -> bool:
        try:
            with open(os.path.join(self.folder, os.path.basename(key)), "rb") as file:
                return store.put_new(key, file.read())
        except FileNotFoundError as error:
            raise PackagesError(
                f"the packed packages have gone from {self.folder} while they were needed; make a new Executor, which "
                "packs them again"
            ) from error


def prepare(requirements: Requirements, target: Target) -> PackageSet:
    """The set for these requirements, found and packed unless that was done before. PackagesError if it cannot be."""
    root = cache()
    note = os.path.join(root, f"found-{fingerprint(requirements, target)}")
    known = _remembered(root, note) if requirements.is_whole else None
    if known is not None:
        return known
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".making-") as aside:
            return _make(requirements, target, root, aside, note)
    except OSError as error:
        raise PackagesError(
            f"{requirements} could not be packed in {root}: {error}. Free some room there, or let XDG_CACHE_HOME name "
            "another folder"
        ) from error


def _make(requirements: Requirements, target: Target, root: str, aside: str, note: str) -> PackageSet:
    _sweep(root)
    site = os.path.join(aside, "site")
    fetch(requirements, target, site)
    distributions, lock = _lock(site, target)
    place = os.path.join(root, lock)
    if not os.path.isdir(place):
        _compile(site, target)
        packed = os.path.join(aside, "packed")
        os.mkdir(packed)
        _pack(site, target, distributions, packed)
        with contextlib.suppress(OSError):  # another process was first
            os.rename(packed, place)
    found = _load(place)
    if found is None:
        raise PackagesError(f"what was packed in {place} cannot be read; remove that folder and try again")
    _write(note, lock.encode())
    return found


# ── what was found ──


def _remembered(root: str, note: str) -> PackageSet | None:
    try:
        if time.time() - os.stat(note).st_mtime > FRESH:
            return None
        with open(note, encoding="ascii") as file:
            return _load(os.path.join(root, file.read()))
    except (OSError, UnicodeDecodeError):
        return None


def _load(place: str) -> PackageSet | None:
    try:
        with open(os.path.join(place, "manifest"), "rb") as file:
            data = file.read()
        os.utime(place)  # the longest unused goes first
        manifest = Manifest.decode(data)
    except (OSError, ValueError, TypeError):
        return None
    digest = digest_of(memoryview(data))
    return PackageSet(manifest, Ref(package_key(digest), len(data), digest), place)


def _sweep(root: str) -> None:
    """Remove what nobody has used for a month."""
    until = time.time() - KEPT
    with os.scandir(root) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.name != "laid-out" and entry.stat().st_mtime < until:
                    shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
    for place in sets(laid_out()):
        with contextlib.suppress(OSError):
            if os.stat(place).st_mtime < until:
                drop(place)


def _write(path: str, data: bytes) -> None:
    aside = f"{path}.{os.getpid()}"
    with open(aside, "wb") as file:
        file.write(data)
    os.replace(aside, path)


# ── from a folder of wheels to pieces ──


def _lock(site: str, target: Target) -> tuple[tuple[Distribution, ...], str]:
    """The distributions that are installed there, and a hash of what they consist of."""
    from importlib import metadata

    found: dict[str, Distribution] = {}
    lines = [repr((FORMAT, target))]
    for distribution in metadata.distributions(path=[site]):
        name, files = distribution.metadata["Name"], []
        for path, digest, _ in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
            first = path.partition("/")[0]
            if digest and first != ".." and first != "bin" and os.path.basename(path) not in _MADE_HERE:
                files.append((path, digest))
        tops = {path.partition("/")[0].partition(".")[0] for path, _ in files if ".dist-info/" not in path}
        found[name] = Distribution(name, distribution.version, tuple(sorted(filter(str.isidentifier, tops))))
        lines.append(repr((name, distribution.version, sorted(files))))
    lines[1:] = sorted(lines[1:])
    return tuple(found[name] for name in sorted(found)), hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _compile(site: str, target: Target) -> None:
    """Write what a worker would compile at its first import; tests of packages aside, which hardly anybody imports.

    It takes a Python of the target's minor version. Where there is none, workers compile for themselves.
    """
    python = interpreter(target.python)
    if python is not None:
        command = [python, "-S", "-m", "compileall", "-qq", "-j", "0", "--invalidation-mode", "unchecked-hash"]
        subprocess.run(
            [*command, "-x", r"^\./(.*/)?tests?/", "."],  # what cannot be compiled is not for this Python: never mind
            cwd=site,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )


def _pack(site: str, target: Target, distributions: tuple[Distribution, ...], packed: str) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        pieces = tuple(pool.map(lambda parts: _pack_piece(site, parts, packed), _shares(site)))
    size = sum(piece.size for piece in pieces)
    manifest = Manifest(target.python, target.platform, distributions, size, pieces).encode()
    _write(os.path.join(packed, digest_of(memoryview(manifest)).hex()), manifest)
    _write(os.path.join(packed, "manifest"), manifest)


def _pack_piece(site: str, parts: list[Part], packed: str) -> Piece:
    contents = []
    for part in parts:
        with open(os.path.join(site, part.path), "rb") as file:
            file.seek(part.start)
            contents.append(file.read(part.size))
    data, size = deflate(parts, contents)
    digest = digest_of(memoryview(data))
    _write(os.path.join(packed, digest.hex()), data)
    return Piece(Ref(package_key(digest), len(data), digest), size)


def _shares(site: str) -> Iterator[list[Part]]:
    """All files in order, so many at a time as make a piece."""
    share: list[Part] = []
    room = PIECE
    for path, size, runnable in sorted(_files(site, "")):
        start = 0
        while True:
            part = Part(path, start, min(room, size - start), runnable)
            share.append(part)
            start, room = start + part.size, room - part.size
            if room <= 0:
                yield share
                share, room = [], PIECE
            if start >= size:
                break
    if share:
        yield share


def _files(site: str, above: str) -> Iterator[tuple[str, int, bool]]:
    """What a worker needs: path, size, and whether it can be run."""
    with os.scandir(os.path.join(site, above)) as entries:
        for entry in entries:
            path = f"{above}{entry.name}"
            if entry.is_dir():
                if path != "bin":
                    yield from _files(site, f"{path}/")
            elif entry.name not in _MADE_HERE or ".dist-info/" not in path:
                if path != ".lock":
                    status = entry.stat()
                    yield path, status.st_size, bool(status.st_mode & 0o100)
