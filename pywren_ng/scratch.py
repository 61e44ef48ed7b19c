"""A private folder of an executor, which goes with it even where the process was killed."""

import contextlib
import fcntl
import os

from pywren_runtime.stores.file_store import FileStore

ROOM = 2 << 30  # bytes that memory's file system must have free to be used


def private_store(directory: str) -> FileStore:
    """The store in the folder of a Scratch: only this executor's processes write there."""
    return FileStore(os.path.join(directory, "store"), private=True)


def cache() -> str:
    """Where sets of packages are kept for this user, from executor to executor."""
    folder = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(folder):  # the XDG specification: a relative one is to be ignored
        folder = os.path.expanduser("~/.cache")
    return os.path.join(folder, "pywren-ng", "packages")


def laid_out() -> str:
    """Where workers of this machine lay sets out."""
    return os.path.join(cache(), "laid-out")


class Scratch:
    """A folder that only this user can enter, in memory where there is room.

    Its lock is held as long as this process lives; each new one first removes those whose lock nobody holds.
    """

    def __init__(self, base: str | None = None) -> None:
        self._base = base or _base()
        prefix = f"pywren-ng-{os.getuid()}-"
        _sweep(self._base, prefix)
        self.path: str = os.path.join(self._base, prefix + os.urandom(6).hex())
        being_made = os.path.join(self._base, f".{os.path.basename(self.path)}")  # nobody sweeps it before it is locked
        os.mkdir(being_made, 0o700)
        self._lock = os.open(os.path.join(being_made, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(being_made, self.path)
        os.mkdir(os.path.join(self.path, "store"))
        os.mkdir(os.path.join(self.path, "modules"))

    def has_results(self) -> bool:
        """Whether results of tasks lie in its store."""
        return os.path.isdir(os.path.join(self.path, "store", "jobs"))

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        _remove(self.path)
        os.close(self._lock)


def _base() -> str:
    memory = "/dev/shm"
    with contextlib.suppress(OSError):
        room = os.statvfs(memory)
        if room.f_bavail * room.f_frsize >= ROOM and os.access(memory, os.W_OK):
            return memory
    return os.environ.get("TMPDIR") or "/tmp"


def _sweep(base: str, prefix: str) -> None:
    with os.scandir(base) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(prefix)]
    for path in left:
        try:
            lock = os.open(os.path.join(path, "lock"), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            _remove(path)  # each comes with its lock: this is what a late worker made again, or is going
            continue
        except OSError:
            continue  # not ours
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        except BlockingIOError:
            pass  # somebody lives in it
        finally:
            os.close(lock)


def _remove(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
