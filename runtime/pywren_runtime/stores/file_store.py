"""Objects as files below one folder, for every process that sees the folder.

    put       <root>/~partial/<unique>  ── os.replace ──►  <root>/<key>
    put_new   <root>/~partial/<unique>  ── os.link ─────►  <root>/<key>    fails if something lies there

What is being written lies in `~partial`, a name no key can have, so that nobody sees half an object. Nothing
is flushed to the disk: objects survive the death of any process, not a loss of power.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from stat import S_ISDIR
from time import time

from pywren_runtime.errors import ConfigError, KeyMissing, StoreError
from pywren_runtime.pages import Pages
from pywren_runtime.stores import Buffer, Copy, Store, check_key, check_prefix, check_range, flat, is_segment
from pywren_runtime.stores.file_faults import explain

__all__ = ["FileStore", "open_store"]

_PARTIAL = "~partial"
_WRITE_AT_MOST = 64 << 20  # one system call; the operating system's own limit is 2 GiB
_LOOK_FIRST_FROM = 64 << 10  # writing this much in vain costs more than a look whether the key is taken
_ABANDONED_AFTER = 86_400.0  # seconds
_READ_AT_MOST = 1 << 30
_NO_LINKS_HERE = frozenset({errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
_ATTEMPTS = 100  # at making folders that a concurrent delete_many takes away as empty


class FileStore:
    """Objects below `root`, which is made if it is not there, and is not made again if it is taken away."""

    def __init__(self, root: str, *, private: bool = False) -> None:
        if not isinstance(root, str) or not root.startswith("/"):
            raise ConfigError(f"a file store lies in an absolute folder (file:///a/folder), not in {root!r}.")
        self.private = private
        self._root = root.rstrip("/")
        self.url: str = _url_of(self._root)
        self._partial = f"{self._root}/{_PARTIAL}"
        self._token = os.urandom(6).hex()  # other machines may share the folder, and have our process id
        self._serial = count()
        self._pages = Pages(self._name)
        try:
            os.makedirs(self._partial, exist_ok=True)
            self._sweep()
        except OSError as error:
            raise self._failure("be opened", error) from error

    def get(self, key: str) -> bytes:
        return self._read(key, 0, None)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        return self._read(key, start, length)

    def put(self, key: str, data: Buffer) -> None:
        self.put_stream(key, (data,))

    def put_new(self, key: str | Callable[[Copy | None], str], data: Buffer) -> bool:
        data = flat(data)
        if isinstance(key, str):
            path = self._path(key)
            if len(data) >= _LOOK_FIRST_FROM and os.path.isfile(path):
                return False
            partial, _ = self._stage(key, (data,))
        else:
            key, partial = self._stage_named(key, data)
        try:
            path = self._path(key)
            self._settle(key, len(data), _link, partial, path)
            return True
        except FileExistsError as error:
            if os.path.isdir(path):  # the folder of other keys: nothing lies there, and nothing can
                raise self._failure("write", error, key, len(data)) from error
            return False
        finally:
            _remove(partial)

    def put_stream(self, key: str, chunks: Iterable[Buffer]) -> int:
        path = self._path(key)
        partial, size = self._stage(key, chunks)
        try:
            self._settle(key, size, os.replace, partial, path)
        except BaseException:
            _remove(partial)
            raise
        return size

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        check_prefix(prefix)
        return self._walk(prefix[: prefix.rfind("/") + 1], prefix, after)

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete, and take away the folders that are empty now."""
        folders = set()
        for key in keys:
            path = self._path(key)
            try:
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if os.path.isdir(path):  # EISDIR, or on macOS EPERM: a folder of keys is no key
                    continue
                raise self._failure("delete", error, key) from error
            folders.add(key.rpartition("/")[0])
        for folder in sorted(folders, reverse=True):  # the deeper before the ones that hold them
            self._remove_empty(folder)

    def local_path(self, key: str) -> str | None:
        return self._path(key)

    def close(self) -> None:
        """Give up what is set aside for a next object: no file stays open between calls."""
        self._pages.close()

    # ── reading ──

    def _path(self, key: str) -> str:
        check_key(key)
        return f"{self._root}/{key}"

    def _read(self, key: str, start: int, length: int | None) -> bytes:
        try:
            file = os.open(self._path(key), os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            raise self._missing(key) from None
        except OSError as error:
            raise self._failure("read", error, key) from error
        try:
            status = os.fstat(file)
            if S_ISDIR(status.st_mode):
                raise IsADirectoryError
            rest = max(0, status.st_size - start)
            return _read_at(file, start, rest if length is None else min(rest, length))
        except IsADirectoryError:
            raise self._missing(key) from None
        except OSError as error:
            raise self._failure("read", error, key) from error
        finally:
            os.close(file)

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[tuple[str, int]]:
        found = []
        try:
            with os.scandir(f"{self._root}/{folder}") as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    name = f"{folder}{entry.name}/" if is_folder else folder + entry.name
                    # A folder's name may come before `after` and the names in it behind.
                    ahead = name > after or (is_folder and after.startswith(name))
                    if ahead and name.startswith(prefix) and is_segment(entry.name):
                        found.append((name, entry))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._failure("list", error, folder) from error
        found.sort(key=lambda pair: pair[0])  # with the slash: "a-b" lies before "a/b"
        for name, entry in found:
            if name.endswith("/"):
                yield from self._walk(name, prefix, after)
                continue
            try:
                size = entry.stat().st_size
            except FileNotFoundError:  # deleted since
                continue
            yield name, size

    # ── writing ──

    def _name(self) -> str:
        return f"{self._partial}/{self._token}-{os.getpid()}-{next(self._serial)}"

    def _stage_named(self, name: Callable[[Copy | None], str], data: bytes | memoryview) -> tuple[str, str]:
        """Write to such a file while the key is worked out."""
        size = len(data)
        page = self._pages.take(size)
        if page is not None:
            try:
                key = name(page.copy)
                if size < page.size:
                    os.truncate(page.path, size)
            except BaseException:
                _remove(page.path)
                raise
            self._pages.prepare(size, page)
            return key, page.path
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            naming = pool.submit(name, None)
            partial, _ = self._stage("a new object", (data,))
            try:
                key = naming.result()
            except BaseException:
                _remove(partial)
                raise
        if self.private:
            self._pages.prepare(size)
        return key, partial

    def _stage(self, key: str, chunks: Iterable[Buffer]) -> tuple[str, int]:
        """Write the chunks to a file that no reader sees; whatever is raised meanwhile, it is removed."""
        partial = self._name()
        file = self._create(key, partial)
        size = 0
        try:
            try:
                for chunk in chunks:
                    size += self._append(file, key, flat(chunk))
            finally:
                self._close(file, key, size)
        except BaseException:
            _remove(partial)
            raise
        return partial, size

    def _create(self, key: str, partial: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            try:
                return os.open(partial, flags, 0o666)
            except FileNotFoundError:  # a clean-up of temporary files took the folder
                _make_folder(self._partial)
                return os.open(partial, flags, 0o666)
        except OSError as error:
            raise self._failure("write", error, key) from error

    def _append(self, file: int, key: str, data: bytes | memoryview) -> int:
        try:
            return _write(file, data)
        except OSError as error:
            raise self._failure("write", error, key, len(data)) from error

    def _close(self, file: int, key: str, size: int) -> None:
        try:
            os.close(file)
        except OSError as error:  # where a network's file system says that the disk or the quota is full
            raise self._failure("write", error, key, size) from error

    def _settle(self, key: str, size: int, move: Callable[[str, str], None], partial: str, path: str) -> None:
        """Move the complete file to its key; FileExistsError comes out as it is."""
        for attempt in range(_ATTEMPTS):
            try:
                if attempt:
                    self._make_folders(key)
                return move(partial, path)
            except FileExistsError:
                raise
            except OSError as error:
                if error.errno != errno.ENOENT or attempt == _ATTEMPTS - 1:
                    raise self._failure("write", error, key, size) from error

    def _make_folders(self, key: str) -> None:
        folder = self._root
        for name in key.split("/")[:-1]:
            folder = f"{folder}/{name}"
            _make_folder(folder)

    # ── tidying ──

    def _remove_empty(self, folder: str) -> None:
        while folder:
            try:
                os.rmdir(f"{self._root}/{folder}")
            except OSError:  # something lies there, or somebody else took it away
                return
            folder = folder.rpartition("/")[0]

    def _sweep(self) -> None:
        """Remove what killed writers left."""
        with os.scandir(self._partial) as leftovers:
            for leftover in leftovers:
                if self._is_abandoned(leftover):
                    _remove(leftover.path)

    def _is_abandoned(self, leftover: os.DirEntry[str]) -> bool:
        try:
            if leftover.stat().st_mtime < time() - _ABANDONED_AFTER:
                return True
            if self.private:  # then every writer is a process of this user on this machine
                os.kill(int(leftover.name.split("-")[1]), 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        except (PermissionError, ValueError, IndexError, OverflowError):  # not ours: name or process
            pass
        return False

    # ── what went wrong, in words ──

    def _missing(self, key: str) -> KeyMissing:
        return KeyMissing(
            f"nothing lies at {key!r} in {self.url}: it was never put there, or is deleted"
            " (together with its job, or when the executor that made it was shut down)."
        )

    def _failure(self, action: str, error: OSError, key: str = "", size: int | None = None) -> StoreError:
        return explain(action, error, url=self.url, root=self._root, key=key, size=size)


def open_store(url: str) -> Store:
    """The store in the folder that the URL names: `file:///a/folder`."""
    rest = url.partition(":")[2]
    path = rest.removeprefix("//")
    if not path.startswith("/"):
        raise ConfigError(f"store={url!r} names no absolute folder; write it as store='file:///a/folder'.")
    if "%" in path:
        from urllib.parse import unquote_to_bytes

        path = os.fsdecode(unquote_to_bytes(path))
    return FileStore(path)


def _url_of(root: str) -> str:
    if root.isascii() and not set(root) & set(' "#%<>?[]\\^`{|}'):
        return f"file://{root or '/'}"
    from urllib.parse import quote_from_bytes

    return f"file://{quote_from_bytes(os.fsencode(root))}"


def _read_at(file: int, start: int, size: int) -> bytes:
    if not size:
        return b""
    data = os.pread(file, min(size, _READ_AT_MOST), start)
    if len(data) == size:
        return data
    pieces = [data]
    while data:
        start += len(data)
        size -= len(data)
        data = os.pread(file, min(size, _READ_AT_MOST), start)
        pieces.append(data)
    return b"".join(pieces)


def _write(file: int, data: bytes | memoryview) -> int:
    size = len(data)
    done = os.write(file, data) if size <= _WRITE_AT_MOST else 0
    if done < size:  # a disk that is nearly full takes a part, and says so only when asked again
        view = memoryview(data)
        while done < size:
            done += os.write(file, view[done : done + _WRITE_AT_MOST])
    return size


def _link(partial: str, path: str) -> None:
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in _NO_LINKS_HERE:
            raise
        _rename_new(partial, path)


def _rename_new(partial: str, path: str) -> None:
    """For file systems without hard links: look and rename under a lock, which a killed writer lets go of."""
    from fcntl import LOCK_EX, flock

    lock = os.open(f"{os.path.dirname(partial)}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        flock(lock, LOCK_EX)
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        os.rename(partial, path)
    finally:
        os.close(lock)


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        pass


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # gone already, or not ours: nobody sees it in either case
        pass
