"""Objects in this process's memory: for tests, and for the backend that runs everything in one process."""

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from weakref import WeakValueDictionary

from pywren_runtime.errors import KeyMissing
from pywren_runtime.stores import Buffer, Copy, Store, check_key, check_prefix, check_range

__all__ = ["MemoryStore", "open_store"]


class MemoryStore:
    """A dictionary with a lock. What is put is copied unless it is bytes already."""

    private = True

    def __init__(self, name: str) -> None:
        self.url = f"memory:{name}"
        self._objects: dict[str, bytes] = {}
        self._lock = Lock()

    def get(self, key: str) -> bytes:
        check_key(key)
        try:
            return self._objects[key]
        except KeyError:
            raise KeyMissing(
                f"nothing lies at {key!r} in {self.url}: it was never put, or is deleted. A memory store is"
                " seen by its own process only; other processes need store='file:///a/folder'."
            ) from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_range(start, length)
        return self.get(key)[start : start + length]

    def put(self, key: str, data: Buffer) -> None:
        check_key(key)
        copy = bytes(data)
        with self._lock:
            self._objects[key] = copy

    def put_new(self, key: str | Callable[[Copy | None], str], data: Buffer) -> bool:
        key = key if isinstance(key, str) else key(None)
        check_key(key)
        copy = bytes(data)
        with self._lock:
            if key in self._objects:
                return False
            self._objects[key] = copy
            return True

    def put_stream(self, key: str, chunks: Iterable[Buffer]) -> int:
        check_key(key)
        whole = b"".join(bytes(chunk) for chunk in chunks)  # join by itself would look at them all at the end
        self.put(key, whole)
        return len(whole)

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        check_prefix(prefix)
        with self._lock:
            sizes = [(key, len(data)) for key, data in self._objects.items() if key.startswith(prefix)]
        return iter(sorted(pair for pair in sizes if pair[0] > after))

    def delete_many(self, keys: Iterable[str]) -> None:
        for key in keys:
            check_key(key)
            with self._lock:
                self._objects.pop(key, None)

    def local_path(self, key: str) -> str | None:
        check_key(key)
        return None

    def close(self) -> None:
        """Nothing to let go of: the objects go with the last reference to the store."""


_named: WeakValueDictionary[str, MemoryStore] = WeakValueDictionary()  # one process, one name, one store
_naming = Lock()


def open_store(url: str) -> Store:
    """The store of that name in this process, made now if nobody holds one."""
    name = url.partition(":")[2]
    with _naming:
        store = _named.get(name)
        if store is None:
            store = _named[name] = MemoryStore(name)
        return store
