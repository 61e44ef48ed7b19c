"""What goes through a worker's pipes is signed a batch at a time.

    u32 size, body, signature │ u32 size, body, signature │ …

A signature is HMAC-SHA256 over all that has gone that way before it, with a key that one worker and its owner have for
themselves. So it fixes the place of a batch as well as its bytes: what was changed, left out, sent twice or meant for
another worker fits nowhere. And the last signature of what a reader finds in the pipe covers the others, so that it
checks as often as it reads, and not as often as tasks end.
"""

import struct
from hmac import compare_digest
from typing import Final

from pywren_runtime.errors import SignatureError
from pywren_runtime.wire import keyed

SIZE: Final = struct.Struct("<I")
SIGNATURE: Final = 32
CHUNK: Final = 1 << 16  # of a pipe, at a time; a larger buffer would be mapped and unmapped for each read
MOST: Final = 1 << 20  # what a pipe holds


class _Stream:
    """The signature of all that has gone one way so far."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes, kind: bytes) -> None:
        self._inner, self._outer = keyed(key)
        self._inner.update(kind)

    def _sign(self) -> bytes:
        outer = self._outer.copy()
        outer.update(self._inner.digest())
        return outer.digest()


class Sealer(_Stream):
    """Where batches go into a pipe."""

    __slots__ = ("_last",)

    def __init__(self, key: bytes, kind: bytes) -> None:
        super().__init__(key, kind)
        self._last = b""

    def seal(self, body: bytes) -> bytes:
        """The batch to be written next."""
        batch = SIZE.pack(len(body)) + body
        self._inner.update(self._last + batch)
        self._last = self._sign()
        return batch + self._last


class Opener(_Stream):
    """Where batches come out of a pipe."""

    __slots__ = ("_have", "_last", "_parts", "_want")

    def __init__(self, key: bytes, kind: bytes) -> None:
        super().__init__(key, kind)
        self._last = b""
        self._parts: list[bytes] = []  # of a batch that is not whole yet
        self._have = 0
        self._want = SIZE.size

    @property
    def wants(self) -> int:
        """How many bytes to read next."""
        return min(max(CHUNK, self._want - self._have), MOST)

    def open(self, data: bytes) -> list[memoryview]:
        """The bodies that have become whole by what was read; SignatureError if anybody else made or changed them."""
        self._have += len(data)
        if self._parts:
            self._parts.append(data)
            if self._have < self._want:
                return []
            data = b"".join(self._parts)
        view, at, bodies = memoryview(data), 0, []
        self._want = SIZE.size
        while self._have - at >= SIZE.size:
            (size,) = SIZE.unpack_from(data, at)
            end = at + SIZE.size + size + SIGNATURE
            if end > self._have:
                self._want = end - at
                break
            bodies.append(view[at + SIZE.size : end - SIGNATURE])
            at = end
        if bodies:
            self._check(view[: at - SIGNATURE], data[at - SIGNATURE : at])
        self._parts = [data[at:]] if at < self._have else []
        self._have -= at
        return bodies

    def _check(self, batches: memoryview, signature: bytes) -> None:
        self._inner.update(self._last)
        self._inner.update(batches)
        if not compare_digest(self._sign(), signature):
            raise SignatureError(
                f"{len(batches)} bytes in the pipe between a worker and its owner do not carry that pipe's signature, "
                "and were not loaded: a task, or a library that it uses, has written into a file descriptor that is "
                "not its own, or another process has; see what there closes, duplicates or inherits descriptors"
            )
        self._last = signature
