"""HTTP/1.1 as bytes: what is asked, and the answer put together from whatever pieces arrive. No I/O.

head ──► length ──► body ──────────────► complete
     ├─► chunked ─► size ─► data ─► … ─► trailer ─► complete
     └─► neither ─► whatever comes until the peer closes
"""

from collections.abc import Mapping
from typing import Final

LONGEST_HEAD: Final = 1 << 16
LARGEST_BODY: Final = 64 << 20  # no answer of Lambda's is longer than 6 MB


class GarbageError(ValueError):
    """What arrived is not an HTTP answer."""


def ask(method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The head of a request."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return f"{method} {target} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode("latin-1")


class Reply:
    """One answer in the making: feed it until it is complete."""

    __slots__ = ("_buffer", "_feed", "_left", "_parts", "_size", "begun", "complete", "headers", "keep", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = False  # whether any byte of it has come
        self.complete = False
        self.keep = True  # whether another request may follow on this connection
        self._buffer = b""  # of a line that has not come whole
        self._parts: list[bytes] = []
        self._size = 0
        self._left = 0  # bytes still to come, of the body or of this chunk
        self._feed = self._head

    @property
    def body(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def feed(self, data: bytes) -> None:
        """What has arrived; GarbageError if it is no answer."""
        self.begun = True
        while data and not self.complete:
            data = self._feed(data)
        if data:
            self.keep = False  # more than was asked for: nobody knows what it belongs to

    def close(self) -> bool:
        """The peer sends no more: whether the answer is complete."""
        self.keep = False
        if self._feed == self._rest:
            self.complete = True
        return self.complete

    def _line(self, data: bytes, mark: bytes) -> tuple[bytes, bytes] | None:
        """What stands before the mark, and what behind it, once it has come."""
        if self._buffer:
            data = self._buffer + data
        end = data.find(mark)
        if end < 0:
            if len(data) > LONGEST_HEAD:
                raise GarbageError(f"a head without end: {data[:60]!r}")
            self._buffer = data
            return None
        self._buffer = b""
        return data[:end], data[end + len(mark) :]

    def _head(self, data: bytes) -> bytes:
        if not (self._buffer + data[:5])[:5] == b"HTTP/"[: len(self._buffer) + len(data)]:
            raise GarbageError(f"it begins with {(self._buffer + data)[:60]!r}")
        found = self._line(data, b"\r\n\r\n")
        if found is None:
            return b""
        first, _, rest = found[0].decode("latin-1").partition("\r\n")
        version, _, status = first.partition(" ")
        code = status[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or not (code.isascii() and code.isdigit() and len(code) == 3):
            raise GarbageError(f"it begins with {first[:60]!r}")
        if code[0] == "1":
            return found[1]  # 100 Continue and the like; the answer follows
        headers = {}
        for line in rest.split("\r\n") if rest else ():
            name, colon, value = line.partition(":")
            if not colon:
                raise GarbageError(f"a header reads {line[:60]!r}")
            headers[name.strip().lower()] = value.strip()
        self.status, self.headers = int(code), headers
        if version == "HTTP/1.0" or headers.get("connection", "").lower() == "close":
            self.keep = False
        self._measure()
        return found[1]

    def _measure(self) -> None:
        """How long the body will be."""
        length = self.headers.get("content-length")
        if self.status in (204, 304):
            self.complete = True
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._feed = self._chunk_size
        elif length is None:
            self._feed, self.keep = self._rest, False
        elif not (length.isascii() and length.isdigit() and len(length) < 16):
            raise GarbageError(f"its length is {length[:60]!r}")
        else:
            self._left = self._counted(int(length))
            self._feed = self._whole
            self.complete = not self._left

    def _counted(self, size: int) -> int:
        self._size += size
        if self._size > LARGEST_BODY:
            raise GarbageError(f"its body is longer than {LARGEST_BODY} bytes")
        return size

    def _take(self, data: bytes) -> bytes:
        """As much of the data as is still to come; the rest is returned."""
        if len(data) <= self._left:
            self._parts.append(data)
            self._left -= len(data)
            return b""
        self._parts.append(data[: self._left])
        data, self._left = data[self._left :], 0
        return data

    def _whole(self, data: bytes) -> bytes:
        data = self._take(data)
        self.complete = not self._left
        return data

    def _rest(self, data: bytes) -> bytes:
        self._counted(len(data))
        self._parts.append(data)
        return b""

    def _chunk_size(self, data: bytes) -> bytes:
        found = self._line(data, b"\r\n")
        if found is None:
            return b""
        digits = found[0].partition(b";")[0].strip()
        try:
            self._left = self._counted(int(digits, 16))
        except ValueError:
            raise GarbageError(f"the size of a chunk reads {found[0][:60]!r}") from None
        if self._left < 0:
            raise GarbageError(f"the size of a chunk reads {found[0][:60]!r}")
        self._feed = self._chunk if self._left else self._trailer
        return found[1]

    def _chunk(self, data: bytes) -> bytes:
        data = self._take(data)
        if not self._left:
            self._feed = self._chunk_end
        return data

    def _chunk_end(self, data: bytes) -> bytes:
        found = self._line(data, b"\r\n")
        if found is None:
            return b""
        if found[0]:
            raise GarbageError(f"a chunk is longer than it said, by {found[0][:60]!r}")
        self._feed = self._chunk_size
        return found[1]

    def _trailer(self, data: bytes) -> bytes:
        found = self._line(data, b"\r\n")
        if found is None:
            return b""
        self.complete = not found[0]
        return found[1]
