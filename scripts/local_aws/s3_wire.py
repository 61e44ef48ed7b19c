"""HTTP/1.1 for the S3 proxy: reads requests and answers, writes them, and keeps connections to upstream.

A request's body is bounded and kept whole, so that it can be sent again on a fresh connection; an answer's body
streams, whatever its size.
"""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from .s3_requests import Answer, Cut, Headers, Request, header_of

__all__ = ["BadRequest", "Upstreams", "read_request", "reset", "write_answer"]

PIECE = 256 * 1024
IDLE = 2.0  # upstream may close a connection that rested longer, just while we write to it
# These belong to one connection and are made anew on the next one.
OF_ONE_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "expect")
)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class BadRequest(Exception):
    """What came is no request that can be passed on; the first argument is the status of the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Body:
    """How the body that follows a head is framed."""

    size: int | None  # None: chunks, or all until the end of the connection
    is_chunked: bool


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int) -> Request | None:
    """The next request, or None at the end of the connection; `100 Continue` is sent where it is waited for."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as ended:
        if ended.partial:
            raise BadRequest(400, "the connection ended within a head") from None
        return None
    except asyncio.LimitOverrunError:
        raise BadRequest(431, "the head is too long") from None
    first, headers = _parted(head)
    try:
        method, target, _ = first.split(" ")
    except ValueError:
        raise BadRequest(400, f"no request line: {first[:80]!r}") from None
    frame = _frame(headers, Body(0, False))
    if frame.size is not None and frame.size > limit:
        raise BadRequest(413, f"a body of {frame.size} bytes; this proxy takes {limit}")
    if header_of(headers, "expect").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    pieces, size = [], 0
    async for piece in _pieces(reader, frame):
        size += len(piece)
        if size > limit:
            raise BadRequest(413, f"a body of more than {limit} bytes")
        pieces.append(piece)
    return Request(method, target, headers, b"".join(pieces))


async def write_answer(writer: asyncio.StreamWriter, request: Request, answer: Answer, *, keep: bool) -> bool:
    """Writes it; whether the connection can serve another request. After `Cut` it is gone."""
    has_body = request.method != "HEAD" and answer.status not in (204, 304)
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if answer.size is not None and answer.status != 204:
        lines.append(f"Content-Length: {answer.size}")
    elif has_body:
        lines.append("Transfer-Encoding: chunked")
    lines.append(f"Connection: {'keep-alive' if keep else 'close'}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    try:
        async with aclosing(answer.body) as body:  # an upstream whose answer nobody reads is let go at once
            async for piece in body:
                writer.write(head + _as_sent(piece, answer.size))
                head = b""
                await writer.drain()
        writer.write(head + (b"0\r\n\r\n" if has_body and answer.size is None else b""))
        await writer.drain()
    except Cut:
        writer.write(head)
        writer.transport.set_write_buffer_limits(0)
        await writer.drain()  # what was promised to arrive leaves before the end does
        writer.transport.abort()
        return False
    return keep


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection as a server that died does: with RST, and whatever lies unsent is gone."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _as_sent(piece: bytes, size: int | None) -> bytes:
    return piece if size is not None else b"%x\r\n%b\r\n" % (len(piece), piece)


class Upstreams:
    """Connections to servers, used again while they are fresh."""

    def __init__(self) -> None:
        self._resting: dict[tuple[str, int], list[tuple[float, Streams]]] = {}

    async def send(self, request: Request, upstream: tuple[str, int]) -> Answer:
        """Upstream's answer as soon as its head is here; OSError if there is none.

        The Host header goes on as the client sent it, for the client signed it. A connection that was used before
        may have been closed meanwhile: if it ends before the first byte of an answer, another one is tried.
        """
        while streams := self._rested(upstream):
            try:
                return await self._exchange(request, upstream, streams)
            except (ConnectionError, asyncio.IncompleteReadError):
                streams[1].transport.abort()
        streams = await asyncio.open_connection(*upstream, limit=PIECE)
        try:
            return await self._exchange(request, upstream, streams)
        except asyncio.IncompleteReadError as ended:
            raise ConnectionResetError("upstream closed the connection before it answered") from ended

    def close(self) -> None:
        """Ends all that rest."""
        for resting in self._resting.values():
            for _, (_, writer) in resting:
                writer.transport.abort()
        self._resting.clear()

    def _rested(self, upstream: tuple[str, int]) -> Streams | None:
        resting = self._resting.get(upstream, [])
        while resting:
            since, (reader, writer) = resting.pop()
            if time.monotonic() - since < IDLE and not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return None

    async def _exchange(self, request: Request, upstream: tuple[str, int], streams: Streams) -> Answer:
        reader, writer = streams
        headers = [(name, value) for name, value in request.headers if name.lower() not in OF_ONE_HOP]
        lines = [f"{request.method} {request.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        if request.body or request.method in ("PUT", "POST"):
            lines.append(f"Content-Length: {len(request.body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + request.body)
        await writer.drain()
        status, reason = 100, ""
        answered: Headers = []
        while status == 100:
            first, answered = _parted(await reader.readuntil(b"\r\n\r\n"))
            _, code, *rest = first.split(" ", 2)
            status, reason = int(code), rest[0] if rest else ""
        is_bare = request.method == "HEAD" or status in (204, 304)
        frame = _frame(answered, Body(None, False))
        keep = header_of(answered, "connection").lower() != "close" and (is_bare or frame != Body(None, False))
        body = self._body(upstream, streams, Body(0, False) if is_bare else frame, keep)
        passed = [(name, value) for name, value in answered if name.lower() not in OF_ONE_HOP]
        return Answer(status, reason, passed, body, frame.size)

    async def _body(
        self, upstream: tuple[str, int], streams: Streams, frame: Body, keep: bool
    ) -> AsyncGenerator[bytes, None]:
        """The answer's body; the connection rests again once it is all read."""
        is_whole = False
        try:
            async for piece in _pieces(streams[0], frame):
                yield piece
            is_whole = True
        except (asyncio.IncompleteReadError, ConnectionError) as ended:
            raise Cut("upstream ended within an answer") from ended
        finally:
            if is_whole and keep:
                self._resting.setdefault(upstream, []).append((time.monotonic(), streams))
            else:
                streams[1].transport.abort()


def _parted(head: bytes) -> tuple[str, Headers]:
    """First line and headers."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    parts = (line.partition(":") for line in lines)
    return first, [(name.strip(), value.strip()) for name, _, value in parts]


def _frame(headers: Headers, otherwise: Body) -> Body:
    if "chunked" in header_of(headers, "transfer-encoding").lower():
        return Body(None, True)
    length = header_of(headers, "content-length")
    if length and not length.isdecimal():
        raise BadRequest(400, f"a Content-Length of {length!r}")
    return Body(int(length), False) if length else otherwise


async def _pieces(reader: asyncio.StreamReader, frame: Body) -> AsyncGenerator[bytes, None]:
    if frame.is_chunked:
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailers of the transfer; those that S3 knows lie within aws-chunked
    elif frame.size is None:
        while piece := await reader.read(PIECE):
            yield piece
    else:
        left = frame.size
        while left:
            piece = await reader.read(min(left, PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece
