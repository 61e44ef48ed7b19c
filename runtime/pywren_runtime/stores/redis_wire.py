"""One connection to a Redis server, which many threads use at once: commands go out one behind the other.

    thread A ── GETRANGE ──►┐            ┌──► A reads its reply into memory of its own
    thread B ── GETRANGE ──►┴── socket ──┴──► and then B, for replies come in the order of the commands

So sixteen ranges are in flight on one connection without a thread of its own. A connection on which anything went
wrong is closed for all: nobody could tell whose reply would be next.
"""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Command", "Refusal", "Wire"]

Command = Sequence[bytes | bytearray | memoryview]
_APART = 64 << 10  # bytes that are sent from where they lie
_STRETCH = 1 << 20  # sent at a time: each has the whole patience
_ROOM = 64 << 10  # for what comes before it is taken apart
_SHORT = _ROOM // 2  # what is no longer comes as bytes; longer values as bytearrays


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error that the server gave as an answer; its first word is Redis's name for it."""

    text: str

    @property
    def code(self) -> str:
        return self.text.partition(" ")[0]


class Wire:
    """A connection; OSError from any method means that it is of no use any more."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        tls: "SSLContext | None",
        connect: float,
        silence: float,
        first: Sequence[Command],
    ) -> None:
        self.dead = False
        self._alone = tls is not None  # a TLS connection must not be read and written at once
        self._socket = socket.create_connection(address, connect)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=address[0])
            self._socket.settimeout(silence)
        except BaseException:
            self._socket.close()
            raise
        self._buffer = bytearray(_ROOM)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0  # what of the buffer has come and not been taken
        self._sending = Lock()
        self._turn = Lock()  # free once all replies asked for so far have been read
        self.greetings = self.ask(first)

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The reply to each: bytes (a long value is a bytearray), str, int, None, a list of these, or a Refusal."""
        if not commands:
            return []
        turn = Lock()
        turn.acquire()
        try:
            with self._sending:
                before, self._turn = self._turn, turn
                self._check()
                for data in _encoded(commands):
                    self._send(data)
                if self._alone:
                    return [self._reply() for _ in commands]
            before.acquire()
            self._check()
            return [self._reply() for _ in commands]
        except BaseException:
            self.close()
            raise
        finally:
            turn.release()

    def close(self) -> None:
        """Whoever waits for a reply gets ConnectionError."""
        self.dead = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes who waits; close alone would not
        except OSError:
            pass
        self._socket.close()

    def _check(self) -> None:
        if self.dead:
            raise ConnectionResetError("the connection was closed")

    def _send(self, data: "bytes | bytearray | memoryview") -> None:
        if len(data) <= _STRETCH:
            return self._socket.sendall(data)
        view = memoryview(data)
        for start in range(0, len(view), _STRETCH):
            self._socket.sendall(view[start : start + _STRETCH])

    # ── replies ──

    def _reply(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return None if rest == b"-1" else self._bulk(int(rest))
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"-":
            return Refusal(rest.decode(errors="replace"))
        if kind == b"*":
            return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]
        raise ConnectionError(f"the answer {line[:40]!r} is not Redis's")

    def _bulk(self, size: int) -> bytes | bytearray:
        if size <= _SHORT:
            while self._end - self._begin < size + 2:
                self._more()
            found = bytes(self._view[self._begin : self._begin + size])
            self._begin += size + 2
            return found
        # As it came, for to make bytes of it would be another pass over memory, which takes longer than the network.
        room = bytearray(size)
        view = memoryview(room)
        come = min(size, self._end - self._begin)
        view[:come] = self._view[self._begin : self._begin + come]
        self._begin += come
        while come < size:
            come += self._receive(view[come:])
        while self._end - self._begin < 2:
            self._more()
        self._begin += 2
        return room

    def _line(self) -> bytes:
        while (at := self._buffer.find(b"\r\n", self._begin, self._end)) < 0:
            self._more()
        line = bytes(self._view[self._begin : at])
        self._begin = at + 2
        return line

    def _more(self) -> None:
        """Read more into the buffer, behind what is left in it."""
        if self._begin:
            left = bytes(self._view[self._begin : self._end])
            self._view[: len(left)] = left
            self._begin, self._end = 0, len(left)
        if self._end == _ROOM:
            raise ConnectionError("the answer is not Redis's: a line of it has no end")
        self._end += self._receive(self._view[self._end :])

    def _receive(self, room: memoryview) -> int:
        come = self._socket.recv_into(room)
        if not come:
            raise ConnectionResetError("the server closed the connection")
        return come


def _encoded(commands: Sequence[Command]) -> Iterator[bytes | bytearray | memoryview]:
    """The commands as they are sent; long arguments are not copied."""
    head = bytearray()
    for command in commands:
        head += b"*%d\r\n" % len(command)
        for part in command:
            head += b"$%d\r\n" % len(part)
            if len(part) < _APART:
                head += part
            else:
                yield head
                yield part
                head = bytearray()
            head += b"\r\n"
    yield head
