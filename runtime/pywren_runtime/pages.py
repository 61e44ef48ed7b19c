"""A file in memory whose pages are there before somebody has something to write.

To make the pages of a file in memory takes the kernel as long as to fill them twice over, and it does so under a lock,
one after the other. Who has just stored something large may soon store as much again: its pages are made meanwhile.
"""

import os
import threading
from collections.abc import Callable

LEAST = 8 << 20  # bytes; smaller files are as quickly made as looked for
MOST = 256 << 20
SHARE = 8  # of what is free, one in so many bytes may be set aside


class Pages:
    """At most one file, set aside by a thread of its own; whoever takes it has it alone."""

    def __init__(self, name: Callable[[], str]) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._ready: tuple[str, int] | None = None  # a file and its size
        self._making: threading.Thread | None = None
        self._closed = False

    def take(self, size: int) -> tuple[str, int] | None:
        """The file that is set aside and its size, if one is that is worth its while for so many bytes."""
        if size < LEAST:
            return None
        with self._lock:
            ready, self._ready = self._ready, None
        return ready

    def give_back(self, path: str, size: int) -> None:
        """A file that was not needed after all: it is kept for the next, or removed."""
        with self._lock:
            if LEAST <= size <= MOST and self._ready is None and not self._closed:
                self._ready = path, size
                return
        _remove(path)

    def prepare(self, size: int) -> None:
        """Set as much aside for the next one; it returns at once."""
        if not LEAST <= size <= MOST or not hasattr(os, "posix_fallocate"):
            return
        with self._lock:
            if self._making is not None or self._closed or self._ready is not None:
                return
            self._making = threading.Thread(target=self._make, args=(size,), name="pywren-pages", daemon=True)
            self._making.start()

    def _make(self, size: int) -> None:
        path = self._name()
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                room = os.fstatvfs(file)
                if room.f_bavail * room.f_frsize >= SHARE * size:
                    os.posix_fallocate(file, 0, size)
                else:
                    size = 0
            finally:
                os.close(file)
        except OSError:  # full, or the folder has gone: then there is nothing to set aside
            size = 0
        with self._lock:
            self._making = None
        self.give_back(path, size)

    def close(self) -> None:
        """Give up what is set aside; nothing is made any more when it returns."""
        with self._lock:
            self._closed = True
            making = self._making
            ready, self._ready = self._ready, None
        if making is not None:
            making.join()
        if ready is not None:
            _remove(ready[0])


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # gone already, or never made
        pass
