"""Objects in a bucket of S3, AWS's own or a compatible server's.

    get · get_range · put · put_new · delete_many ─┐
    keys, page by page                            ─┼─► _ask: one request, again while its faults pass ─► obstore
    put_stream, part by part ──────────────────────┘

Tries are counted here and not in the client library: it signs once for all its tries, takes a 409 for a 412, and
does not say whether an answer was lost, on which it depends who was first (see `put_new`).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice
from threading import Lock
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

from pywren_runtime.errors import KeyMissing, PywrenError, StoreError
from pywren_runtime.stores import Buffer, Copy, Store, check_key, check_prefix, check_range, flat, is_segment
from pywren_runtime.stores.parts import Parts
from pywren_runtime.stores.s3_client import Login, make_client, race
from pywren_runtime.stores.s3_faults import Fault, Patience, Verdict, explain, pause, read
from pywren_runtime.stores.s3_listing import Pages, first_possible, start_after
from pywren_runtime.stores.s3_settings import parse, told_credentials
from pywren_runtime.stores.s3_upload import PART, put_parts

if TYPE_CHECKING:
    from pywren_runtime.aws import Credentials

__all__ = ["S3Store", "open_store"]

_T = TypeVar("_T")
_WHOLE_UP_TO = 4 * PART
_BATCH = 1000  # S3 deletes no more in one request
_FARTHEST = (1 << 63) - 1
_MARK = "pywren-put"  # the metadata by which a writer knows its own object
_PATIENCE = Patience()


class S3Store:
    """Objects below `s3://bucket/prefix`; nothing is sent before the first use.

    `credentials` is asked again and again and gives what is valid now; without it the standard environment
    variables decide, or what a container or an instance offers.
    """

    private = False

    def __init__(
        self,
        url: str,
        *,
        credentials: "Callable[[], Credentials] | None" = None,
        patience: Patience = _PATIENCE,
    ) -> None:
        self._settings = parse(url, os.environ)
        self.url = self._settings.url
        credentials = credentials or told_credentials(self._settings, os.environ)
        self._login = Login(credentials) if credentials else None
        self._patience = patience
        self._checked = self._settings.is_aws or self._settings.trusted
        self._checking = Lock()
        # By process too: a forked child can neither use its parent's clients nor let go of them.
        self._clients: dict[tuple[int, int, bool], tuple[Any, Any, Patience]] = {}
        self._client()

    def get(self, key: str) -> bytes:
        path = self._path(key)

        def send(library: Any, client: Any) -> bytes:
            found: bytes = library.get(client, path).bytes().to_bytes()
            return found

        return self._read(key, send)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        path = self._path(key)
        check_range(start, length)
        if not length or start >= _FARTHEST:
            self._read(key, lambda library, client: library.head(client, path))
            return b""
        end = min(start + length, _FARTHEST)

        def send(library: Any, client: Any) -> bytes:
            found: bytes = library.get_range(client, path, start=start, end=end).to_bytes()
            return found

        return self._read(key, send, beyond=b"")

    def put(self, key: str, data: Buffer) -> None:
        """Put or replace; a large object goes in parts, of which nobody sees any before all are there."""
        path, data = self._path(key), flat(data)
        size = len(data)
        if size <= _WHOLE_UP_TO:
            self._write(key, lambda library, client: library.put(client, path, data, use_multipart=False), size)
        else:
            self._write(key, lambda library, client: put_parts(library, client, path, data), PART, bulk=True)

    def put_new(self, key: str | Callable[[Copy | None], str], data: Buffer) -> bool:
        """Put unless something lies there, and say whether this call did; 5 GiB at most.

        Where an answer was lost, the next try may find what this call itself has put: it knows it by a mark,
        a random number in the object's metadata.
        """
        key = key if isinstance(key, str) else key(None)
        check_key(key)
        if not self._checked:
            self.check()
        return self._put_new(key, data)

    def put_stream(self, key: str, chunks: Iterable[Buffer]) -> int:
        path = self._path(key)
        parts = Parts(chunks, PART)
        begin = list(islice(parts, 2))
        if len(begin) < 2:
            self.put(key, begin[0] if begin else b"")
            return parts.size
        mark = os.urandom(12).hex()
        begun = monotonic()
        library, client, _ = self._client(PART, bulk=True)
        try:
            put_parts(library, client, path, chain(begin, parts), {_MARK: mark})
        except (library.exceptions.BaseError, FileNotFoundError) as error:
            if error is parts.error:
                raise
            fault = read(str(error))
            if not (fault.maybe_done or fault.code == "NoSuchUpload") or not self._bears(key, mark):
                raise self._failure(fault, "write", key, 1, monotonic() - begun) from None
        return parts.size

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        check_prefix(prefix)
        return self._list(prefix, after)

    def delete_many(self, keys: Iterable[str]) -> None:
        left = iter(keys)
        while batch := list(dict.fromkeys(islice(left, _BATCH))):
            paths = [self._path(key) for key in batch]

            def send(library: Any, client: Any, paths: list[str] = paths) -> None:
                library.delete(client, paths)

            try:
                self._ask("delete", batch[0], send)
            except _Answer as answer:
                if answer.fault.verdict is not Verdict.MISSING:
                    raise self._failure(answer.fault, "delete", batch[0]) from None

    def local_path(self, key: str) -> str | None:
        check_key(key)
        return None

    def close(self) -> None:
        """Let go of connections; the next use makes new ones."""
        own = os.getpid()
        for which in list(self._clients):
            if which[0] == own:
                self._clients.pop(which, None)

    def check(self) -> None:
        """Find out, by two writers that race for a key nobody uses, whether the server lets only one be first.

        StoreError if it does not. It costs two PUTs and a DELETE, once, and nothing on AWS; `url` then says so
        to other processes, which need not find out again.
        """
        with self._checking:
            if self._checked:
                return
            key = f"checks/{os.urandom(12).hex()}"
            won = race(lambda: self._put_new(key, b"who is first?"))
            self.delete_many([key])
            if won != 1:
                raise StoreError(
                    f"the store {self.url} cannot be used: of two writers that raced for one key {won} were first"
                    f" at {self._settings.endpoint}. The server ignores If-None-Match, so that a task could settle"
                    " twice. Use one that honours it: AWS, or a present-day MinIO or Ceph."
                )
            self._checked = True
            self.url = self._settings.url_with(trusted=True)

    # ── requests ──

    def _path(self, key: str) -> str:
        check_key(key)
        return self._settings.prefix + key

    def _read(self, key: str, send: Callable[[Any, Any], _T], *, beyond: _T | None = None) -> _T:
        try:
            return self._ask("read", key, send)
        except _Answer as answer:
            if answer.fault.verdict is Verdict.BEYOND and beyond is not None:
                return beyond
            if answer.fault.verdict is not Verdict.MISSING:
                raise self._failure(answer.fault, "read", key) from None
            raise KeyMissing(
                f"nothing lies at {key!r} in {self.url}: it was never put there, or is deleted (with its job, or by a"
                " life-cycle rule of the bucket)."
            ) from None

    def _write(self, key: str, send: Callable[[Any, Any], object], size: int, *, bulk: bool = False) -> None:
        try:
            self._ask("write", key, send, size, bulk=bulk)
        except _Answer as answer:
            raise self._failure(answer.fault, "write", key) from None

    def _put_new(self, key: str, data: Buffer) -> bool:
        path, data = self._path(key), flat(data)
        mark = os.urandom(12).hex()
        met: list[Fault] = []

        def send(library: Any, client: Any) -> None:
            library.put(client, path, data, mode="create", use_multipart=False, attributes={_MARK: mark})

        try:
            self._ask("write", key, send, len(data), met=met)
            return True
        except _Answer as answer:
            if answer.fault.verdict is not Verdict.TAKEN:
                raise self._failure(answer.fault, "write", key) from None
        return any(fault.maybe_done for fault in met) and self._bears(key, mark, data)

    def _bears(self, key: str, mark: str, data: bytes | memoryview | None = None) -> bool:
        """Whether what lies there has this mark; of a server that keeps no marks, whether it is these bytes."""
        path = self._settings.prefix + key
        try:
            found = self._read(key, lambda library, client: dict(library.get(client, path, options=_HEAD).attributes))
            if _MARK in found or data is None:
                return bool(found.get(_MARK) == mark)
            return self.get(key) == data
        except KeyMissing:  # somebody has read and deleted it: nothing is to be done any more
            return False

    def _list(self, prefix: str, after: str) -> Iterator[tuple[str, int]]:
        root = self._settings.prefix
        pages = Pages(root + prefix[: prefix.rfind("/") + 1], start_after(root, max(after, first_possible(prefix))))
        last = ""
        while True:
            try:
                page = self._ask("list", prefix, pages.turn)
            except _Answer as answer:
                raise self._failure(answer.fault, "list", prefix) from None
            for item in page:
                key = item["path"][len(root) :]
                if key <= after or not key.startswith(prefix):
                    if key > after and key > prefix:
                        return
                    continue
                if key <= last:
                    raise StoreError(
                        f"the store {self.url} could not list {prefix!r}: {self._settings.place} gave {key!r} after"
                        f" {last!r}, so keys could be missed. Use a server that lists keys in the order of their bytes."
                    )
                last = key
                if all(map(is_segment, key.split("/"))):
                    yield key, item["size"]
                elif self._settings.strict:
                    raise StoreError(
                        f"s3://{self._settings.bucket} holds {key!r}, a name that cannot be read here: copy it to"
                        " one of letters, digits and . _ = - between slashes."
                    )
            if not page:
                return

    def _ask(
        self,
        action: str,
        key: str,
        send: Callable[[Any, Any], _T],
        size: int = 0,
        *,
        bulk: bool = False,
        met: list[Fault] | None = None,
    ) -> _T:
        """What `send` gives, tried again while its faults pass; _Answer if the server gave one that is awaited."""
        begun, renewed = monotonic(), False
        for tries in count(1):
            library, client, patience = self._client(size, bulk=bulk)
            try:
                return send(library, client)
            except (library.exceptions.BaseError, FileNotFoundError) as error:
                fault = read(str(error))
                if met is not None:
                    met.append(fault)
                if fault.verdict in (Verdict.MISSING, Verdict.TAKEN, Verdict.BEYOND):
                    raise _Answer(fault) from error
                if fault.is_expiry and self._login is not None and not renewed:
                    renewed = True
                    self.close()
                    continue
                elapsed = monotonic() - begun
                seconds = _pause(fault, tries, elapsed, patience)
                if seconds is None:
                    raise self._failure(fault, action, key, tries, elapsed) from None
            sleep(seconds)
        raise AssertionError

    def _failure(self, fault: Fault, action: str, key: str, tries: int = 1, elapsed: float = 0.0) -> PywrenError:
        if fault.lacks_credentials and self._login is not None and isinstance(self._login.refusal, PywrenError):
            return self._login.refusal
        if fault.is_bare_redirect:
            from pywren_runtime.stores.s3_region import with_region

            fault = with_region(fault, self._settings)
        return explain(fault, self._settings, action, key, tries, elapsed)

    # ── clients ──

    def _client(self, size: int = 0, *, bulk: bool = False) -> tuple[Any, Any, Patience]:
        """The library, and a client that is patient enough for an object of that size."""
        grade = (size >> 20).bit_length()
        which = (os.getpid(), grade, bulk)
        found = self._clients.get(which)
        if found is None:
            library = _library()
            patience = self._patience.for_size(1 << grade + 20 if grade else 0)
            client = make_client(library, self._settings, patience, bulk=bulk, login=self._login)
            found = self._clients.setdefault(which, (library, client, patience))
        return found


def open_store(url: str) -> Store:
    """The store below `s3://bucket/prefix`, with the credentials that this process's environment gives."""
    return S3Store(url)


def _pause(fault: Fault, tries: int, elapsed: float, patience: Patience) -> float | None:
    if fault.verdict is not Verdict.PASSING:
        return None
    from random import random  # costs a cold worker more than a request, and most meet no fault

    return pause(fault, tries, elapsed, random(), patience)


class _Answer(Exception):
    """The server said something that the caller awaits, and that is no failure yet."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


_HEAD = {"head": True}


# One library for each process: what a child inherits by a fork has lost its threads, and would wait for them forever.
_libraries: dict[int, Any] = {}
_loading: dict[int, Lock] = {}


def _library() -> Any:
    own = os.getpid()
    with _loading.setdefault(own, Lock()):
        library = _libraries.get(own)
        if library is None:
            if _libraries:
                from pywren_runtime.stores.s3_fork import load_again

                library = load_again("obstore", "_obstore")
            else:
                import obstore as library
            _libraries[own] = library
        return library
