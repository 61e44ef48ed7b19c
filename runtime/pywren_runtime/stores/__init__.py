"""Where bytes lie between client and workers: one small Protocol, one file for each kind of store.

    open_store("memory:<name>")      memory_store.MemoryStore    this process only
    open_store("file:///a/folder")   file_store.FileStore        every process that sees the folder
    open_store("s3://bucket/prefix") s3_store.S3Store            whoever may read and write the bucket
    open_store("redis://host/0/a")   redis_store.RedisStore      whoever can reach the server, for a day
    open_store("<scheme>:…")         <scheme>_store.open_store, else the entry point in `pywren_ng.stores`

A new store is one new file here, found by its name; the contract suite globs this folder.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, cast

from pywren_runtime.errors import ConfigError

__all__ = [
    "Buffer",
    "Copy",
    "Store",
    "check_key",
    "check_prefix",
    "check_range",
    "flat",
    "is_segment",
    "open_store",
    "without_password",
]

Buffer = bytes | bytearray | memoryview
Copy = Callable[[int, memoryview], None]  # takes a piece to its place; many threads may call it

_SEGMENT = r"(?!\.\.?(?:/|\Z))[A-Za-z0-9._=-]+"
_KEY = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_ONE_SEGMENT = re.compile(_SEGMENT)
_PREFIX = re.compile(rf"(?:{_SEGMENT}/)*[A-Za-z0-9._=-]*")
_SCHEME = re.compile(r"([a-z][a-z0-9]*)(?:\+[a-z0-9+.-]*)?:")
_PASSWORD = re.compile(r"(://[^:@/?]*):(?!\d+(?:[/?,]|\Z)).*@")


class Store(Protocol):
    """Named objects of bytes; every method may be called from many threads, and from many processes at once.

    Keys are segments of `[A-Za-z0-9._=-]` joined by `/`; none is empty, `.` or `..` (ConfigError). A key is
    never also the folder of another: a store may refuse `a/b` beside `a` (StoreError). What cannot be done
    raises StoreError, and StoreFull where room is lacking; a failed write changes nothing.
    """

    url: str
    """`open_store(url)` in another process gives the same objects, where other processes can reach them."""

    private: bool
    """True if only this executor's own processes write here: contents need no check of their hashes."""

    def get(self, key: str) -> bytes:
        """All bytes of one complete write; KeyMissing if nothing lies there."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes | bytearray:
        """The bytes from `start`, fewer than `length` or none where the object ends; KeyMissing if absent."""
        ...

    def put(self, key: str, data: Buffer) -> None:
        """Put or replace. Atomic: a reader sees the whole old object or the whole new one."""
        ...

    def put_new(self, key: str | Callable[[Copy | None], str], data: Buffer) -> bool:
        """Put unless something lies there, and say whether this call did.

        A key that is made of the content may be a callable: a store can then write while it works out the key, or
        hand it a function that takes over each piece once it has been looked at, while it is in the cache.

        Of writers that race exactly one gets True, and what it wrote stays. A half-written object is never
        seen, nor does a writer that was killed keep the key from others.
        """
        ...

    def put_stream(self, key: str, chunks: Iterable[Buffer]) -> int:
        """Put or replace by what the iterable yields, and return the number of bytes.

        The object appears only when complete. If the iterable raises, its exception comes out and nothing is
        left. A chunk is done with before the next is asked for: the iterable may fill one buffer repeatedly.
        """
        ...

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        """Keys (and sizes) that begin with `prefix` and are greater than `after`, ordered by their bytes.

        A key that lies there from the first to the last step of the iteration is seen exactly once; one put
        or deleted meanwhile may be seen or not.
        """
        ...

    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete; keys at which nothing lies are no error."""
        ...

    def local_path(self, key: str) -> str | None:
        """The file in which that key lies if it lies anywhere, or None for a store without files.

        For reading and mapping only. A mapping keeps its bytes when the key is replaced or deleted.
        """
        ...

    def close(self) -> None:
        """Let go of connections; the objects stay. Closing twice is fine."""
        ...


def open_store(url: str) -> Store:
    """The store at a URL; ConfigError if no store goes by its scheme."""
    found = _SCHEME.match(url) if isinstance(url, str) else None
    if found is None:
        folder = url if isinstance(url, str) and url.startswith("/") else "/a/folder"
        raise ConfigError(
            f"store={_shown(url)} is not a store's URL: it begins with none of {_known_schemes()}."
            f" For a folder write store='file://{folder}'."
        )
    opener = _opener(found[1], url)
    if opener is None:
        raise ConfigError(
            f"store={_shown(url)}: no store goes by {found[1]!r}; there are {_known_schemes()}."
            " Correct the URL, or install the package that brings this store."
        )
    return opener(url)


def check_key(key: str) -> None:
    """ConfigError unless this can be a key in every store."""
    if _KEY.fullmatch(key) is None:
        raise ConfigError(
            f"{key!r} cannot be a key: keys are letters, digits and any of . _ = - in segments joined by '/',"
            " and no segment is empty, '.' or '..'."
        )


def check_prefix(prefix: str) -> None:
    """ConfigError unless some key could begin so."""
    if _PREFIX.fullmatch(prefix) is None:
        raise ConfigError(f"{prefix!r} cannot be the beginning of a key, so nothing can be listed under it.")


def is_segment(name: str) -> bool:
    """Whether a key can have this between two slashes."""
    return _ONE_SEGMENT.fullmatch(name) is not None


def check_range(start: int, length: int) -> None:
    """ConfigError unless both are 0 or more: a slice counts from the end, what a network serves does not."""
    if start < 0 or length < 0:
        raise ConfigError(f"a range begins and is as long as 0 or more, not start={start}, length={length}.")


def without_password(url: str) -> str:
    """The URL as it may be shown and sent: `redis://user:password@host` is `redis://user@host`."""
    bare = _PASSWORD.sub(r"\1@", url)
    return bare.replace("://@", "://", 1)


def flat(data: Buffer) -> bytes | memoryview:
    """The same bytes without a copy, in a shape of which len() is the number of bytes."""
    if type(data) is bytes:
        return data
    view = memoryview(data)
    return view.cast("B") if view.nbytes else b""  # an empty view with shape (0, 3) cannot be cast


def _opener(scheme: str, url: str) -> Callable[[str], Store] | None:
    from importlib import import_module

    module = f"{__name__}.{scheme}_store"
    try:
        return cast(Callable[[str], Store], import_module(module).open_store)
    except ModuleNotFoundError as error:
        if error.name != module:  # the store is there, and what it imports is not
            raise ConfigError(
                f"store={_shown(url)} needs the package {error.name!r}, which is not installed here: install it."
            ) from error
    from importlib.metadata import entry_points

    for entry_point in entry_points(group="pywren_ng.stores", name=scheme):
        return cast(Callable[[str], Store], entry_point.load())
    return None


def _shown(url: object) -> str:
    return repr(without_password(url) if isinstance(url, str) else url)


def _known_schemes() -> str:
    from importlib.metadata import entry_points
    from pkgutil import iter_modules

    files = {module.name for module in iter_modules(__path__)}
    ours = {name.removesuffix("_store") for name in files if name.endswith("_store")}
    return ", ".join(f"'{scheme}:'" for scheme in sorted(ours | entry_points(group="pywren_ng.stores").names))
