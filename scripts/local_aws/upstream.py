"""Requests passed on to a server behind the gateway, over connections that are kept.

Nothing is tried twice: a connection that breaks ends the client's too.
"""

import asyncio
from collections.abc import AsyncIterator

from local_aws.http1 import Request, Response

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection", "expect"}
KEPT = 64
PIECE = 262_144


class Upstream:
    """One server on loopback."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def fetch(self, method: str, target: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
        """Status and whole body, for our own questions."""
        response = await self.forward(Request(method, target, headers, body))
        if isinstance(response.body, bytes):
            return response.status, response.body
        return response.status, b"".join([piece async for piece in response.body])

    async def forward(self, request: Request) -> Response:
        """Send a request on; the answer's body is streamed."""
        reader, writer = await self._connect()
        try:
            writer.write(head_of(request))
            writer.write(request.body)
            await writer.drain()
            status, headers = await read_head(reader)
        except BaseException:
            writer.transport.abort()
            raise
        names = {name.lower(): value for name, value in headers}
        kept = [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP]
        if request.method == "HEAD" or status in (204, 304) or names.get("content-length") == "0":
            self._release(reader, writer, names)
            return Response(status, kept)
        return Response(status, kept, self._stream(reader, writer, names))

    async def _stream(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: dict[str, str]
    ) -> AsyncIterator[bytes]:
        try:
            if "content-length" in names:
                missing = int(names["content-length"])
                while missing:
                    piece = await reader.read(min(missing, PIECE))
                    if not piece:
                        raise EOFError("the server behind the gateway hung up in the middle of a body")
                    missing -= len(piece)
                    if not missing:  # before it is handed on: whoever has all of it does not ask for more
                        self._release(reader, writer, names)
                    yield piece
            elif "chunked" in names.get("transfer-encoding", ""):
                while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                    piece = await reader.readexactly(size + 2)
                    yield piece[:-2]
                await reader.readuntil(b"\r\n")
                self._release(reader, writer, names)
            else:
                while piece := await reader.read(PIECE):
                    yield piece
                writer.close()
        except BaseException:
            writer.transport.abort()
            raise

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)

    def _release(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: dict[str, str]) -> None:
        if names.get("connection", "").lower() == "close" or len(self._idle) >= KEPT:
            writer.close()
        else:
            self._idle.append((reader, writer))

    def close(self) -> None:
        """Drop the connections that are kept."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def head_of(request: Request) -> bytes:
    """Request line and headers, with the length of what is sent."""
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    skipped = HOP_BY_HOP | {"content-length"}
    lines += [f"{name}: {value}" for name, value in request.headers.items() if name not in skipped]
    if request.body or request.method in ("PUT", "POST"):
        lines.append(f"content-length: {len(request.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def read_head(reader: asyncio.StreamReader) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers of an answer; interim ones are passed over."""
    while True:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        if status >= 200:
            pairs = (line.partition(":") for line in lines[1:] if line)
            return status, [(name, value.strip()) for name, _, value in pairs]
