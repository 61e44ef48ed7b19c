"""A small HTTP/1.1 server over asyncio: what the gateway and each environment's Runtime API listen with.

A request is read whole; an answer may be streamed. The task that answers is cancelled when its client hangs up, so
whatever must outlive the client runs in a task of its own.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from local_aws.s3_requests import Cut

LONGEST_HEAD = 65_536
LONGEST_BODY = 1 << 30


class Malformed(Exception):
    """What came is not HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: header names in lower case, the last of repeated ones joined by commas."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query, as it was sent."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query as it was sent."""
        return self.target.partition("?")[2]


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; a streamed body must come with its own Content-Length, or is sent in chunks."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | AsyncIterator[bytes] = b""


Serve = Callable[[Request], Awaitable[Response]]


class Body:
    """Collects a request's body from the connection's buffer; chunked ones may carry trailers, which are dropped."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._missing = 0 if self._chunked else int(headers.get("content-length") or 0)
        self._part = "size" if self._chunked else "data"
        self._data = bytearray()
        if self._missing > LONGEST_BODY:
            raise Malformed("body too long")

    def feed(self, buffer: bytearray) -> bytes | None:
        """Take what belongs to the body; the whole of it once it is there."""
        while True:
            if self._part == "data":
                self._take(buffer)
                if self._missing:
                    return None
                if not self._chunked:
                    return bytes(self._data)
                self._part = "end"
            line, found, _ = buffer.partition(b"\r\n")
            if not found:
                return None
            del buffer[: len(line) + 2]
            if self._part == "trailers":
                if not line:
                    return bytes(self._data)
            elif self._part == "end":
                self._part = "size"
            else:
                self._missing = int(line.partition(b";")[0], 16)
                self._part = "data" if self._missing else "trailers"

    def _take(self, buffer: bytearray) -> None:
        piece = buffer[: self._missing]
        self._data += piece
        self._missing -= len(piece)
        del buffer[: len(piece)]


def parse_head(head: bytes) -> Request:
    """Request line and headers."""
    lines = head.decode("latin-1").split("\r\n")
    try:
        method, target, _ = lines[0].split(" ")
    except ValueError:
        raise Malformed(lines[0][:100]) from None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return Request(method, target, headers)


class Connection(asyncio.Protocol):
    """One client's connection: its requests are answered one after the other."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._buffer = bytearray()
        self._request: Request | None = None
        self._body: Body | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 20)

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None:
            self._advance()

    def _advance(self) -> None:
        try:
            self._parse()
        except (Malformed, ValueError) as error:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            self._transport.close()
            print(f"local-aws: malformed request: {error}")

    def _parse(self) -> None:
        if self._request is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > LONGEST_HEAD:
                    raise Malformed("head too long")
                return
            self._request = parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            self._body = Body(self._request.headers)
            if self._request.headers.get("expect", "").lower() == "100-continue":
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._body.feed(self._buffer)
        if body is not None:
            head, self._request = self._request, None
            request = Request(head.method, head.target, head.headers, body)
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        try:
            response = await self._serve(request)
            await self._send(request, response)
        except (Cut, OSError, EOFError):
            while self._transport.get_write_buffer_size() and not self._transport.is_closing():
                await asyncio.sleep(0.001)  # what was promised to arrive leaves before the end does
            self._reset()
            return
        except BaseException:
            self._reset()
            raise
        self._task = None
        if request.headers.get("connection", "").lower() == "close":
            self._transport.close()
        elif self._buffer:
            self._advance()

    def _reset(self) -> None:
        """End as a server that died does: with RST."""
        connection = self._transport.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def _send(self, request: Request, response: Response) -> None:
        whole = isinstance(response.body, bytes)
        names = {name.lower() for name, _ in response.headers}
        headers = list(response.headers)
        bare = request.method == "HEAD" or response.status in (204, 304)
        chunked = not whole and not bare and "content-length" not in names
        if chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        elif whole and "content-length" not in names and response.status != 204:
            headers.append(("Content-Length", str(len(response.body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        start = f"HTTP/1.1 {response.status} {phrase(response.status)}\r\n{head}\r\n".encode("latin-1")
        if whole:
            self._transport.write(start if bare else start + response.body)
            return
        self._transport.write(start)
        async for piece in response.body:
            if not bare:
                self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await self._writable.wait()
        if chunked:
            self._transport.write(b"0\r\n\r\n")


def phrase(status: int) -> str:
    """The words that go with a status, if it is a known one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


async def listen(serve: Serve, *, port: int = 0, tls: object = None) -> tuple[asyncio.Server, int]:
    """Listen on loopback, and nowhere else: there is no way to ask for another address."""
    loop = asyncio.get_running_loop()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    server = await loop.create_server(lambda: Connection(serve), sock=listener, ssl=tls, backlog=4096)
    return server, listener.getsockname()[1]
