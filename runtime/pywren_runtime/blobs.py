"""Pieces of packed objects, fetched into memory that their reader may change.

A store whose objects are files of this machine is mapped. What comes over a network is kept where it arrived:

    ref ──► in memory?  ──► on disk? ──no──► store.get ──► verified once ──► memory (short) or a file (long)
            └─► a copy      └─► a private mapping, which its reader may change
"""

import contextlib
import hashlib
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from pywren_runtime.errors import SignatureError, StoreError
from pywren_runtime.pickling import PIECE, Bytes, Ref, digest_of
from pywren_runtime.stores import Store

MAPPED: Final = 512 * 1024  # shorter pieces are read: a mapping costs a file descriptor and faults
KEPT: Final = 32 << 20  # bytes of short pieces that a worker keeps in memory
WHOLE: Final = 128 << 20  # up to here a piece is fetched by one request, past it by several: it must fit into memory
STEP: Final = 16 * PIECE
SPARE: Final = 64 << 20  # bytes of the disk that are left to the tasks


def fetch(store: Store, ref: Ref, *, mapped: bool = True) -> Bytes:
    """The bytes that `ref` names, writable, and nobody else's: a private mapping of the file where there is one.

    SignatureError if they are not what their digest says, which came in a signed frame. A store that only the
    executor's own processes can write is believed.
    """
    path = store.local_path(ref.key) if mapped and store.private and ref.size >= MAPPED else None
    if path is not None:
        data = _map(path, ref.size)
        if data is not None:
            return data
    found = bytearray(store.get(ref.key))
    if not store.private and digest_of(memoryview(found)) != ref.digest:
        raise _changed(store, ref, len(found))
    return found


def is_remote(store: Store) -> bool:
    """Whether its objects are no files of this machine."""
    return store.local_path("blobs/any") is None


class Cache:
    """What one machine has fetched from a remote store. Only what is named by its content is kept.

    Short pieces are kept in this process's memory, long ones as files below `root`, which many processes may share:
    who comes while another fetches waits for that. The longest unused go first, and files as soon as the disk is
    nearly full.
    """

    def __init__(self, root: str, *, kept: int = KEPT, spare: int = SPARE) -> None:
        self._root = root
        self._most = kept
        self._spare = spare
        self._lock = threading.Lock()
        self._short: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0

    def fetch(self, store: Store, ref: Ref) -> Bytes:
        """As the function `fetch`, with one request to the store for each piece as long as it is kept."""
        if not ref.key.startswith("blobs/") or not any(ref.digest):
            return fetch(store, ref)
        if ref.size < MAPPED:
            return self._fetch_short(store, ref)
        path = os.path.join(self._root, ref.digest.hex())
        data = self._use(path, ref.size)
        if data is not None:
            return data
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        with _locked(path + ".lock"):
            return self._use(path, ref.size) or self._fetch_long(store, ref, path)

    def _fetch_short(self, store: Store, ref: Ref) -> Bytes:
        with self._lock:
            data = self._short.get(ref.digest)
            if data is not None:
                self._short.move_to_end(ref.digest)
        if data is None:
            data = store.get(ref.key)
            if digest_of(memoryview(data)) != ref.digest:
                raise _changed(store, ref, len(data))
            with self._lock:
                if ref.digest not in self._short:
                    self._short[ref.digest] = data
                    self._size += len(data)
                while self._size > self._most:
                    self._size -= len(self._short.popitem(last=False)[1])
        return bytearray(data)

    def _use(self, path: str, size: int) -> mmap.mmap | None:
        """A mapping of a file that lies here, which thereby is the last used."""
        data = _map(path, size)
        if data is not None:
            with contextlib.suppress(OSError):
                os.utime(path)
        return data

    def _fetch_long(self, store: Store, ref: Ref, path: str) -> Bytes:
        if not self._make_room(ref.size):
            return fetch(store, ref)
        partial = f"{path}.{os.getpid()}"
        try:
            with open(partial, "wb") as file:
                whole = hashlib.sha256()
                for part in _parts(store, ref):
                    for at in range(0, len(part), PIECE):
                        whole.update(hashlib.sha256(part[at : at + PIECE]).digest())
                    file.write(part)
                size = file.tell()
            if size != ref.size or whole.digest() != ref.digest:
                raise _changed(store, ref, size)
            data = _map(partial, ref.size)
            os.rename(partial, path)
        except OSError as error:
            if not isinstance(error, StoreError):
                return fetch(store, ref)  # no room on the disk after all, or no descriptor left
            raise
        finally:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        return data if data is not None else fetch(store, ref)

    def _make_room(self, size: int) -> bool:
        """Give up the longest unused files until so much more fits on the disk. Whether it does."""
        while (disk := os.statvfs(self._root)).f_bavail * disk.f_frsize < size + self._spare:
            files = [entry for entry in os.scandir(self._root) if "." not in entry.name]
            if not files:
                return False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(min(files, key=_last_used).path)
        return True


def _parts(store: Store, ref: Ref) -> Iterator[memoryview]:
    if ref.size <= WHOLE:
        yield memoryview(store.get(ref.key))
        return
    for start in range(0, ref.size, STEP):
        yield memoryview(store.get_range(ref.key, start, STEP))


def _last_used(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """One at a time on this machine; a process that dies lets go."""
    import fcntl

    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _changed(store: Store, ref: Ref, size: int) -> SignatureError:
    return SignatureError(
        f"{ref.key} in {store.url} is not what was stored there: its {size} bytes have another hash; "
        "somebody else wrote to the store, or it is damaged. It lies there still, and whatever needs these bytes meets "
        "it: remove that object, see who can write there, and run the job again"
    )


def _map(path: str, size: int) -> mmap.mmap | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # `get` says what is wrong with it; and reading is the way out of too many open files
    try:
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
