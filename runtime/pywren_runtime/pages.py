"""A file in memory whose pages are there before somebody has something to write.

To make the pages of a file in memory takes the kernel as long as to fill them twice over, and it does so under a lock,
one after the other. Who has just stored something large may soon store as much again: its pages are made meanwhile,
and mapped, so that many threads can fill them at once.
"""

import mmap
import os
import threading
from collections.abc import Callable

LEAST = 8 << 20  # bytes; smaller files are as quickly made as looked for
MOST = 256 << 20
SHARE = 8  # of what is free, one in so many bytes may be set aside
PAUSE = 0.05  # seconds, in which what was just written is sent and read by others


class Page:
    """One such file. Its bytes are there already, so a full disk cannot be met while they are written."""

    __slots__ = ("_map", "path", "size")

    def __init__(self, path: str, size: int, file: int) -> None:
        self.path = path
        self.size = size
        self._map: memoryview | None = memoryview(mmap.mmap(file, size))
        with open("/dev/zero", "rb", buffering=0) as zeros:  # touches every page, and needs no lock of Python's for it
            done = 0
            while done < size:
                done += zeros.readinto(self._map[done : done + LEAST])

    def copy(self, at: int, piece: memoryview) -> None:
        """Write a piece to its place; many threads may, each another piece."""
        assert self._map is not None
        self._map[at : at + len(piece)] = piece

    def unmap(self) -> None:
        """Let go of the memory; the file stays. It takes a while for a large one, and need not be waited for."""
        self._map = None


class Pages:
    """At most one file, set aside by a thread of its own; whoever takes it has it alone."""

    def __init__(self, name: Callable[[], str]) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._ready: Page | None = None
        self._making: threading.Thread | None = None
        self._closed = threading.Event()

    def take(self, size: int) -> Page | None:
        """The file that is set aside, if it holds so many bytes; one that is too short is given up."""
        if size < LEAST:
            return None
        with self._lock:
            ready, self._ready = self._ready, None
        if ready is None or (ready.size >= size and os.path.exists(ready.path)):  # a clean-up may have taken it
            return ready
        _remove(ready.path)
        return None

    def prepare(self, size: int, used: Page | None = None) -> None:
        """Set as much aside for the next one, and let go of the last one's memory; it returns at once."""
        if not LEAST <= size <= MOST or not hasattr(os, "posix_fallocate"):
            return
        with self._lock:
            if self._making is not None or self._closed.is_set() or self._ready is not None:
                return
            self._making = threading.Thread(target=self._make, args=(size, used), name="pywren-pages", daemon=True)
            self._making.start()

    def _make(self, size: int, used: Page | None) -> None:
        self._closed.wait(PAUSE)
        if used is not None:
            used.unmap()
        path = self._name()
        page = None
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                room = os.fstatvfs(file)
                if room.f_bavail * room.f_frsize >= SHARE * size:
                    os.posix_fallocate(file, 0, size)
                    page = Page(path, size, file)
            finally:
                os.close(file)
        except (OSError, ValueError):  # full, or the folder has gone: then there is nothing to set aside
            pass
        with self._lock:
            self._making = None
            if page is not None and not self._closed.is_set():
                self._ready = page
                return
        _remove(path)

    def close(self) -> None:
        """Give up what is set aside; nothing is made any more when it returns."""
        with self._lock:
            self._closed.set()
            making = self._making
            ready, self._ready = self._ready, None
        if making is not None:
            making.join()
        if ready is not None:
            _remove(ready.path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # gone already, or never made
        pass
