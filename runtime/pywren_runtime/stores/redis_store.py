"""Objects as values of a Redis server or cluster, each of which goes by itself after a day or what `ttl` says.

    up to 64 MB   <prefix><key>                 a string
    more          <prefix>~<token>.0, .1, …     strings of 64 MB, in a cluster on several servers
                  <prefix><key>                 a hash that names them: written last, it makes them the object

There is no index: what is listed are the keys themselves (SCAN, sorted here), so that what the server has evicted or
let go is in no list either. A listing thus costs a walk over all keys of the database.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

from redis.exceptions import ResponseError

from pywren_runtime.errors import KeyMissing, StoreError
from pywren_runtime.stores import Buffer, Copy, Store, check_key, check_prefix, check_range, flat, is_segment
from pywren_runtime.stores.parts import Parts
from pywren_runtime.stores.redis_faults import Fault, Patience, explain, of_refusal
from pywren_runtime.stores.redis_lines import Command
from pywren_runtime.stores.redis_links import Links, Unit
from pywren_runtime.stores.redis_room import Room, room_of
from pywren_runtime.stores.redis_settings import parse, take_password

__all__ = ["PIECE", "RedisStore", "open_store"]

PIECE: Final = 64 << 20  # bytes of one value; a server takes 512 MB, and a cluster is filled evenly by smaller ones
_HEAD: Final = b"pieces"  # the field of an object's hash
_BATCH: Final = 1000
_SCANNED: Final = b"5000"  # keys that a server looks at before others have their turn
_LOOK_FIRST_FROM: Final = 64 << 10  # bytes that are not worth sending in vain
_FARTHEST: Final = (1 << 62) - 1
_TURNS: Final = 5  # at reading what is replaced meanwhile
_KNOWN: Final = 4096


@dataclass(frozen=True, slots=True)
class _Head:
    """An object in pieces."""

    token: str
    size: int
    piece: int

    def encode(self) -> bytes:
        return f"{self.token} {self.size} {self.piece}".encode()

    @property
    def count(self) -> int:
        return -(-self.size // self.piece)


class RedisStore:
    """Objects whose names begin with the URL's prefix; nothing is sent before the first use."""

    private = False

    def __init__(self, url: str, *, patience: Patience | None = None, piece: int = PIECE) -> None:
        self._settings = settings = parse(take_password(url))
        self.url = settings.url
        self._root = settings.prefix.encode()
        self._life = b"%d" % settings.ttl
        self._piece = piece
        self._links = Links(settings, patience or _patience(settings.patience))
        self._heads: dict[str, _Head] = {}  # as they were last seen: one that was replaced has lost its pieces

    def get(self, key: str) -> bytes:
        name = self._name(key)
        for _ in range(_TURNS):
            found = self._one(name, (b"GET", name), "read", key)
            if found is None:
                raise self._missing(key)
            if isinstance(found, bytes):
                return found
            head = self._head(name, "read", key)
            if head is not None and (data := self._pieced(head, 0, head.size, key)) is not None:
                return data
        raise self._lost(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        name = self._name(key)
        check_range(start, length)
        stop = min(start + length, _FARTHEST)
        for _ in range(_TURNS):
            head = self._heads.get(key)
            if head is not None and start < min(stop, head.size):
                data = self._pieced(head, start, min(stop, head.size), key)
                if data is not None:
                    return data
                self._heads.pop(key, None)  # another thread may have noticed it, too
            found: Any = b""
            if start < stop:
                found = self._one(name, (b"GETRANGE", name, b"%d" % start, b"%d" % (stop - 1)), "read", key)
            if not found:
                if not self._one(name, (b"EXISTS", name), "read", key):
                    raise self._missing(key)
                return b""
            if isinstance(found, bytes):
                return found
            head = self._head(name, "read", key)
            if head is not None:
                if start >= head.size:
                    return b""
                if len(self._heads) >= _KNOWN:
                    self._heads.clear()
                self._heads[key] = head
        raise self._lost(key)

    def put(self, key: str, data: Buffer) -> None:
        name, data = self._name(key), flat(data)
        if len(data) > self._piece:
            self.put_stream(key, (data,))
            return
        old, done = self._ask(name, [_get_head(name), (b"SET", name, data, b"EX", self._life)], "write", key)
        self._checked(done, "write", key)
        self._drop(old, key)

    def put_new(self, key: str | Callable[[Copy | None], str], data: Buffer) -> bool:
        """Put unless something lies there, and say whether this call did.

        Where an answer was lost, the next try may find what this call itself has put: it knows it by its bytes.
        """
        key = key if isinstance(key, str) else key(None)
        name, data = self._name(key), flat(data)
        if len(data) >= _LOOK_FIRST_FROM and self._one(name, (b"EXISTS", name), "write", key):
            return False
        met: list[Fault] = []
        if len(data) > self._piece:
            return self._put_new_pieces(key, data, met)
        if self._one(name, (b"SET", name, data, b"EX", self._life, b"NX"), "write", key, met) is not None:
            return True
        return any(fault.maybe_done for fault in met) and self._bears(key, data)

    def put_stream(self, key: str, chunks: Iterable[Buffer]) -> int:
        name = self._name(key)
        parts = Parts(chunks, self._piece)
        begin = list(islice(parts, 2))
        if len(begin) < 2:
            self.put(key, begin[0] if begin else b"")
            return parts.size
        head = self._put_pieces(key, chain(begin, parts))
        commit: list[Command] = [
            (b"MULTI",),
            _get_head(name),
            (b"DEL", name),
            (b"HSET", name, _HEAD, head.encode()),
            (b"EXPIRE", name, self._life),
            (b"EXEC",),
        ]
        old = self._committed(name, commit, head, key, [])[0]
        if old != head.encode():  # else an answer was lost, and this was done twice
            self._drop(old, key)
        return parts.size

    def keys(self, prefix: str = "", after: str = "") -> Iterator[tuple[str, int]]:
        check_prefix(prefix)
        return self._list(prefix, after)

    def delete_many(self, keys: Iterable[str]) -> None:
        left = iter(keys)
        while batch := list(dict.fromkeys(islice(left, _BATCH))):
            names = [self._name(key) for key in batch]
            units = [Unit([_get_head(name), (b"UNLINK", name)], name) for name in names]
            for key, (old, done) in zip(batch, self._links.ask(units, "delete", batch[0]), strict=True):
                self._checked(done, "delete", key)
                self._drop(old, key)

    def local_path(self, key: str) -> str | None:
        check_key(key)
        return None

    def close(self) -> None:
        """Let go of connections; the next use makes new ones."""
        self._links.close()

    def room(self) -> Room:
        """What the servers say of their memory and clients; see `Room` for what they may not say."""
        asked: list[Command] = [(b"INFO", b"memory"), (b"INFO", b"clients")]
        units = [Unit(asked, at=address) for address in self._links.masters("be asked for its memory")]
        replies = self._links.ask(units, "be asked for its memory")
        said = [b"".join(part for part in reply if isinstance(part, bytes)) for reply in replies]
        return room_of(said, self._settings.most)

    # ── reading ──

    def _name(self, key: str) -> bytes:
        check_key(key)
        return self._root + key.encode()

    def _head(self, name: bytes, action: str, key: str) -> _Head | None:
        found = self._one(name, _get_head(name), action, key)
        return _decoded(found)

    def _pieced(self, head: _Head, start: int, stop: int, key: str) -> bytes | None:
        """These bytes of an object in pieces, or None if a piece is gone.

        One by one: a server has what it is to send in its memory once more, where it counts as used.
        """
        found: list[bytes] = []
        for number in range(start // head.piece, -(-stop // head.piece)):
            first = max(start - number * head.piece, 0)
            end = min(stop - number * head.piece, head.piece)
            name = self._piece_name(head.token, number)
            part = self._one(name, (b"GETRANGE", name, b"%d" % first, b"%d" % (end - 1)), "read", key)
            if len(part) != end - first:
                return None
            found.append(part)
        return found[0] if len(found) == 1 else b"".join(found)

    def _list(self, prefix: str, after: str) -> Iterator[tuple[str, int]]:
        found = {name for address in self._links.masters("list") for name in self._scan(address, prefix)}
        skipped = len(self._root)
        keys = sorted(key for name in found if (key := name[skipped:].decode(errors="replace")) > after)
        left = (key for key in keys if all(map(is_segment, key.split("/"))))  # pieces are not, nor what others put
        while page := list(islice(left, _BATCH)):
            names = [self._name(key) for key in page]
            units = [Unit([(b"STRLEN", name), (b"EXISTS", name)], name) for name in names]
            for key, (size, exists) in zip(page, self._links.ask(units, "list", prefix), strict=True):
                if isinstance(self._of_type(size, "list", key), ResponseError):
                    head = self._head(self._name(key), "list", key)
                    size = head.size if head else 0
                    exists = head
                if size or exists:  # else it went meanwhile
                    yield key, size

    def _scan(self, address: tuple[str, int], prefix: str) -> Iterator[bytes]:
        pattern = self._root + prefix.encode() + b"*"
        cursor = b"0"
        while True:
            command = (b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCANNED)
            ((reply,),) = self._links.ask([Unit([command], at=address)], "list", prefix)
            cursor, names = self._checked(reply, "list", prefix)
            yield from names
            if cursor == b"0":
                return

    # ── writing ──

    def _piece_name(self, token: str, number: int) -> bytes:
        return self._root + f"~{token}.{number}".encode()

    def _put_pieces(self, key: str, parts: Iterable[bytes | memoryview]) -> _Head:
        """Write the pieces of an object that nobody sees yet; whatever is raised meanwhile, they go again."""
        token, size, number = os.urandom(9).hex(), 0, 0
        try:
            for number, part in enumerate(parts):
                name = self._piece_name(token, number)
                self._one(name, (b"SET", name, part, b"EX", self._life), "write", key)
                size += len(part)
            head = _Head(token, size, self._piece)
            names = [self._piece_name(token, number) for number in range(head.count)]
            # As fresh as the object that they are to be: the first may be hours old.
            replies = self._links.ask([Unit([(b"EXPIRE", name, self._life)], name) for name in names], "write", key)
            if [reply for (reply,) in replies] != [1] * len(names):
                raise StoreError(
                    f"the store {self.url} could not write {key!r}: a piece of it was gone before the last one was"
                    f" there. Give it a longer life than {self._settings.ttl} s (?ttl=), or look why keys are evicted."
                )
            return head
        except BaseException:
            self._drop(_Head(token, (number + 1) * self._piece, self._piece).encode(), key, quietly=True)
            raise

    def _put_new_pieces(self, key: str, data: bytes | memoryview, met: list[Fault]) -> bool:
        view, name = memoryview(data), self._name(key)
        head = self._put_pieces(key, (view[at : at + self._piece] for at in range(0, len(view), self._piece)))
        commit: list[Command] = [
            (b"MULTI",),
            (b"HSETNX", name, _HEAD, head.encode()),
            (b"EXPIRE", name, self._life),
            (b"EXEC",),
        ]
        if self._committed(name, commit, head, key, met)[0] == 1:
            return True
        if any(fault.maybe_done for fault in met) and self._head(name, "write", key) == head:
            return True
        self._drop(head.encode(), key)
        return False

    def _committed(self, name: bytes, commit: Sequence[Command], head: _Head, key: str, met: list[Fault]) -> list[Any]:
        """What a transaction gave that makes pieces an object; if it failed, they are gone.

        Where nobody knows whether it did (an answer was lost, or this thread is interrupted), they stay: an object
        without its pieces would be in everybody's way.
        """
        try:
            replies = self._ask(name, commit, "write", key, met)
            for reply in replies:
                self._checked(reply, "write", key)
        except StoreError:
            if not any(fault.maybe_done for fault in met):
                self._drop(head.encode(), key, quietly=True)
            raise
        done: list[Any] = replies[-1]
        return done

    def _drop(self, old: Any, key: str, *, quietly: bool = False) -> None:
        """Delete the pieces of what an object was before."""
        head = _decoded(old)
        if head is None:
            return
        names = [self._piece_name(head.token, number) for number in range(head.count)]
        try:
            self._links.ask([Unit([(b"UNLINK", name)], name) for name in names], "delete the pieces of", key)
        except StoreError:  # they go by themselves when their time has come
            if not quietly:
                raise

    def _bears(self, key: str, data: bytes | memoryview) -> bool:
        try:
            return self.get(key) == data
        except KeyMissing:  # somebody has read and deleted it: nothing is to be done any more
            return False

    # ── requests ──

    def _ask(
        self, name: bytes, commands: Sequence[Command], action: str, key: str, met: list[Fault] | None = None
    ) -> list[Any]:
        return self._links.ask([Unit(commands, name)], action, key, met)[0]

    def _one(self, name: bytes, command: Command, action: str, key: str, met: list[Fault] | None = None) -> Any:
        """The reply to one command; see `_of_type`."""
        return self._of_type(self._ask(name, [command], action, key, met)[0], action, key)

    def _of_type(self, reply: Any, action: str, key: str) -> Any:
        """A reply, or the refusal that tells a string from an object in pieces; StoreError for any other."""
        if isinstance(reply, ResponseError) and of_refusal(reply, "").code == "WRONGTYPE":
            return reply
        return self._checked(reply, action, key)

    def _checked(self, reply: Any, action: str, key: str) -> Any:
        if isinstance(reply, ResponseError):
            raise explain(of_refusal(reply, "the server"), self._settings, action, key)
        return reply

    def _missing(self, key: str) -> KeyMissing:
        return KeyMissing(
            f"nothing lies at {key!r} in {self.url}: it was never put there, or is deleted, or its time was over"
            f" ({self._settings.ttl} s), or the server has evicted it or was restarted."
        )

    def _lost(self, key: str) -> KeyMissing:
        return KeyMissing(
            f"a piece of {key!r} in {self.url} is gone: the server has evicted it, or was restarted. What lies there"
            " must be made again."
        )


def open_store(url: str) -> Store:
    """The store at that URL, with the password that this process's environment gives."""
    return RedisStore(url)


def _patience(seconds: float | None) -> Patience:
    usual = Patience()
    if seconds is None:
        return usual
    return Patience(connect=max(0.1, min(usual.connect, seconds)), total=seconds, unreachable=seconds)


def _get_head(name: bytes) -> Command:
    return (b"HGET", name, _HEAD)


def _decoded(found: Any) -> _Head | None:
    """An object's head; a string has none, and what is not there."""
    if not isinstance(found, bytes):
        return None
    token, size, piece = found.decode().split()
    return _Head(token, int(size), int(piece))
