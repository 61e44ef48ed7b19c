"""The packages that a user asked for, in a worker: fetched in pieces, laid out once per machine, importable.

    Environment.packages ─► manifest ─► pieces ─┬─► fetch, verify, inflate, write ─┬─► <root>/<set>/ ─► sys.path
                                                └─► four at a time, each by itself ┘

zlib is what every Python can inflate, and it lets go of the GIL, as writing does: so a set comes in many pieces that
need nothing of each other, and threads share them. A file longer than a piece is written by several. What costs most
with `zipfile` and `tarfile`, a quarter of a millisecond for each small file, is here one open and one write.

A set's directory has its name only when it is complete, and Python's own caches are all that is written there later.
Whoever uses it holds a shared lock, so that what nobody uses can make room for another set. One interpreter serves one
set: packages cannot be unimported.
"""

import contextlib
import importlib
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pywren_runtime
from pywren_runtime.errors import PackagesError, StoreError
from pywren_runtime.pickling import Bytes, Ref

__all__ = ["PIECE", "Distribution", "Manifest", "Packages", "Part", "Piece", "deflate", "drop", "place_of", "sets"]

PIECE: Final = 8 << 20  # bytes of files in one piece: each thread has one in memory, packed and unpacked
THREADS: Final = 4
SPARE: Final = 32 << 20  # bytes of the disk that are left to the tasks


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one file; a long one has several."""

    path: str  # below the set's directory
    start: int
    size: int
    runnable: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a piece lies in the store, and its size when inflated."""

    ref: Ref
    size: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """One package, and the top-level modules that it brings."""

    name: str
    version: str
    imports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One set of packages: which, for which Python and platform, and the pieces in which it travels."""

    python: str
    platform: str
    distributions: tuple[Distribution, ...]
    size: int  # bytes of all files
    pieces: tuple[Piece, ...]

    def encode(self) -> bytes:
        pieces = [[piece.ref.key, piece.ref.size, piece.ref.digest.hex(), piece.size] for piece in self.pieces]
        each = [[found.name, found.version, found.imports] for found in self.distributions]
        return json.dumps([self.python, self.platform, each, self.size, pieces]).encode()

    @classmethod
    def decode(cls, data: Bytes) -> "Manifest":
        python, platform, each, size, pieces = json.loads(bytes(data))
        distributions = tuple(Distribution(name, version, tuple(imports)) for name, version, imports in each)
        refs = (Piece(Ref(key, packed, bytes.fromhex(digest)), inflated) for key, packed, digest, inflated in pieces)
        return cls(python, platform, distributions, size, tuple(refs))


def deflate(parts: Sequence[Part], contents: Sequence[bytes]) -> tuple[bytes, int]:
    """A piece of these parts, and its size when inflated. The same parts give the same bytes."""
    head = json.dumps([[part.path, part.start, part.size, part.runnable] for part in parts]).encode()
    data = b"".join((struct.pack("<I", len(head)), head, *contents))
    return zlib.compress(data, 6), len(data)


class Packages:
    """The set that this interpreter has; one for the life of the process."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._has: Ref | None = None

    def install(self, wanted: Ref, fetch: Callable[[Ref], Bytes]) -> None:
        """Make the set importable whose manifest this is; if it is that already, it costs nothing.

        Any number of processes may do so at once on one `root`: one of them lays it out, and the others wait for that.
        PackagesError if there is too little room, or if the interpreter has another set.
        """
        if wanted == self._has:
            return
        if self._has is not None:
            raise PackagesError(
                "this worker has another set of packages, and a Python process can hold only one; run this in a fresh "
                "worker"
            )
        place = os.path.join(self._root, place_of(wanted))
        try:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            self._lay_out(wanted, fetch, place)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise PackagesError(f"the packages could not be laid out in {self._root}: {error}. {_room()}") from error
        _make_importable(place)
        self._has = wanted

    def _lay_out(self, wanted: Ref, fetch: Callable[[Ref], Bytes], place: str) -> None:
        """Let the set lie at `place`, and not be removed from there as long as this process lives."""
        import fcntl

        lock = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if not os.path.isdir(place):
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not os.path.isdir(place):  # nobody was first meanwhile
                    self._unpack(Manifest.decode(fetch(wanted)), fetch, place)
                fcntl.flock(lock, fcntl.LOCK_SH)  # and not closed: the process's end lets go
        except BaseException:
            os.close(lock)
            raise
        with contextlib.suppress(OSError):
            os.utime(place)  # the longest unused goes first

    def _unpack(self, manifest: Manifest, fetch: Callable[[Ref], Bytes], place: str) -> None:
        import shutil
        from concurrent.futures import ThreadPoolExecutor

        if manifest.python != _PYTHON:
            raise PackagesError(
                f"the packages are for Python {manifest.python}, and this worker has {_PYTHON}; make the Executor with "
                f"Python {_PYTHON}"
            )
        self._make_room(manifest, place)
        aside = f"{place}.part"
        shutil.rmtree(aside, ignore_errors=True)  # of one who died over it: the lock is ours
        os.mkdir(aside, 0o700)
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                for done in [pool.submit(_write, piece, fetch, aside) for piece in manifest.pieces]:
                    done.result()
            os.rename(aside, place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _make_room(self, manifest: Manifest, place: str) -> None:
        """Give up sets that nobody uses, the longest unused first, until this one fits."""
        others = [other for other in sets(self._root) if other != place]
        for other in [*others, None]:
            disk = os.statvfs(self._root)
            free = disk.f_bavail * disk.f_frsize
            if free >= manifest.size + SPARE:
                return
            if other is not None:
                drop(other)
        named = ", ".join(f"{found.name} {found.version}" for found in manifest.distributions)
        raise PackagesError(
            f"the packages ({named}) take {manifest.size / 1e6:,.0f} MB on the disk, and only {free / 1e6:,.0f} MB are "
            f"free in {self._root}. {_room()}"
        )


def place_of(manifest: Ref) -> str:
    """What the directory of a set is called."""
    return manifest.digest.hex()[:32]


def drop(place: str) -> bool:
    """Remove a set, unless a process uses it; whether it was removed."""
    import fcntl
    import shutil

    lock = os.open(f"{place}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(place, ignore_errors=True)
        return True
    finally:
        os.close(lock)


def sets(root: str) -> list[str]:
    """Where complete sets lie, the longest unused first."""
    places = []
    with contextlib.suppress(FileNotFoundError), os.scandir(root) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if "." not in entry.name:
                    places.append((entry.stat().st_mtime, entry.path))
    return [place for _, place in sorted(places)]


def _write(piece: Piece, fetch: Callable[[Ref], Bytes], folder: str) -> None:
    data = memoryview(zlib.decompress(fetch(piece.ref), bufsize=piece.size))
    (size,) = struct.unpack_from("<I", data)
    at, made = 4 + size, set()
    for path, start, length, runnable in json.loads(bytes(data[4:at])):
        path = f"{folder}/{path}"
        above = path.rpartition("/")[0]
        if above not in made:
            os.makedirs(above, exist_ok=True)  # another thread may be making it
            made.add(above)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o755 if runnable else 0o644)
        try:
            done = 0
            while done < length:
                done += os.pwrite(file, data[at + done : at + length], start + done)
        finally:
            os.close(file)
        at += length


def _make_importable(place: str) -> None:
    """Behind Python's own library and this package, as in any installation, and before whatever else is there."""
    import site

    before = list(sys.path)
    site.addsitedir(place)  # with the folders that its .pth files name
    new = [entry for entry in sys.path if entry not in before]
    first = [entry for entry in before if _comes_first(entry)]
    sys.path[:] = first + new + [entry for entry in before if entry not in first]
    # For the processes that a task starts.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), place)))
    importlib.invalidate_caches()


def _comes_first(entry: str) -> bool:
    if entry.endswith("-packages"):
        return False
    own = os.path.dirname(os.path.dirname(os.path.abspath(pywren_runtime.__file__)))
    library = os.path.dirname(os.__file__)
    zipped = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    return entry in (own, library) or entry.startswith(library + os.sep) or entry.endswith(zipped)


def _room() -> str:
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        return "Ask for fewer packages, or give the functions a larger disk: pywren-ng setup --disk MB (10240 at most)"
    return "Ask for fewer packages, or free some room there"


_PYTHON: Final = f"{sys.version_info[0]}.{sys.version_info[1]}"
