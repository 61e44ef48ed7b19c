"""A store that workers reach and the driver perhaps does not, as a Redis in their network: it asks through one of them.

driver ── room(), keys(), delete_many() ──► a task ──► the store, with what the worker's environment has of a password
       ◄──────────── what that gave, or its StoreError ◄──────┘
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass
from typing import Any, cast

from pywren_runtime.errors import ConfigError, PywrenError, StoreError
from pywren_runtime.stores import Buffer, Copy, open_store
from pywren_shuffle.places.spare import Room

__all__ = ["Afar"]


class Afar:
    """Each method is a task, which waits for its turn behind all others of the executor."""

    private = False

    def __init__(self, url: str, executor: Executor) -> None:
        self.url = url
        self._executor = executor

    def room(self) -> Room:
        """See `spare.Roomy`; so it shows before anything is planned whether workers reach the store."""
        return cast(Room, self._ask("room"))

    def get(self, key: str) -> bytes:
        return cast(bytes, self._ask("get", key))

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return bytes(self._ask("get_range", key, start, length))

    def put(self, key: str, data: Buffer) -> None:
        self._ask("put", key, bytes(data))

    def put_new(self, key: str | Callable[[Copy | None], str], data: Buffer) -> bool:
        return bool(self._ask("put_new", key if isinstance(key, str) else key(None), bytes(data)))

    def put_stream(self, key: str, chunks: Iterable[Buffer]) -> int:
        whole = b"".join(chunks)
        self.put(key, whole)
        return len(whole)

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        return iter(self._ask("keys", prefix, after))

    def delete_many(self, keys: Iterable[str]) -> None:
        self._ask("delete_many", list(keys))

    def local_path(self, key: str) -> str | None:
        return None

    def close(self) -> None:
        """There is nothing to let go of."""

    def _ask(self, method: str, *args: object) -> Any:
        try:
            return self._executor.submit(_asked, _Question(self.url, method, args)).result()
        except (StoreError, ConfigError):
            raise
        except (PywrenError, CancelledError, RuntimeError) as error:  # the executor may have ended
            raise StoreError(
                f"the store {self.url} could not be asked, for no worker could do that: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class _Question:
    url: str
    method: str
    args: tuple[object, ...]


def _asked(question: _Question) -> Any:
    """In a worker: what the store says."""
    store = open_store(question.url)
    try:
        found = getattr(store, question.method)(*question.args)
        return list(found) if question.method == "keys" else found
    finally:
        store.close()
