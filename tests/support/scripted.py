"""A server that does what a test says, byte by byte, and a proxy that only makes tunnels. Both count."""

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Peer", "Proxy", "Scripted", "answer", "listening"]

ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An answer with that body."""
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Peer:
    """The server's end of one connection: its number is its place in the order of arrival."""

    def __init__(self, link: socket.socket, number: int) -> None:
        self.link = link
        self.number = number
        self._rest = b""

    def head(self) -> str:
        """The head of the next request; "" if the client has gone."""
        while b"\r\n\r\n" not in self._rest:
            data = self.link.recv(1 << 16)
            if not data:
                return ""
            self._rest += data
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        return head.decode()

    def request(self) -> tuple[str, bytes] | None:
        """The next request, head and body; None if the client has gone."""
        head = self.head()
        if not head:
            return None
        found = re.search(r"content-length: (\d+)", head)
        size = int(found[1]) if found else 0
        parts, left = [self._rest[:size]], size - len(self._rest[:size])
        self._rest = self._rest[size:]
        while left:
            parts.append(self.link.recv(min(left, 1 << 20)))
            left -= len(parts[-1])
        return head, b"".join(parts)

    def say(self, data: bytes) -> None:
        self.link.sendall(data)

    def reset(self) -> None:
        """Close with RST and not with FIN."""
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw = socket.socket(fileno=self.link.detach())
        raw.close()


class Scripted:
    """Listens on 127.0.0.1 and runs a script for each connection, in a thread of its own."""

    def __init__(self, script: Callable[[Peer], object], tls: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.failures: list[Exception] = []  # of handshakes
        self._script = script
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._links: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def _listen(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self._links.add(link)
            thread = threading.Thread(target=self._run, args=(link, self.connections))
            self.connections += 1
            self._threads.append(thread)
            thread.start()

    def _run(self, link: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError, ValueError):  # the client goes when it likes
            try:
                if self._tls is not None:
                    before, link = link, self._tls.wrap_socket(link, server_side=True)
                    self._links.discard(before)
                    self._links.add(link)
            except OSError as error:
                self.failures.append(error)
                raise
            self._script(Peer(link, number))
        self._links.discard(link)
        link.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for link in list(self._links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


@contextmanager
def listening(script: Callable[[Peer], object], tls: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A scripted server, as long as it is needed."""
    server = Scripted(script, tls)
    try:
        yield server
    finally:
        server.close()


class Proxy(Scripted):
    """Makes tunnels to wherever it is asked, on 127.0.0.1, and answers nothing but CONNECT."""

    def __init__(self, refusal: bytes = b"") -> None:
        self.heads: list[str] = []
        self._refusal = refusal
        super().__init__(self._tunnel)

    def _tunnel(self, peer: Peer) -> None:
        head = peer.head()
        self.heads.append(head)
        if self._refusal or not head.startswith("CONNECT "):
            peer.say(self._refusal or b"HTTP/1.1 405 Method Not Allowed\r\n\r\n")
            return
        port = int(head.split()[1].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as out:
            peer.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=pump, args=(out, peer.link))
            back.start()
            pump(peer.link, out)
            back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry bytes until one of the two ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for link in (source, sink):
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)
