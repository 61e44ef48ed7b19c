"""One connection to an endpoint, from the first packet to the last answer. It never blocks.

    connecting ─► (tunnelling, by a proxy) ─► (shaking hands, for TLS) ─► open: one exchange after the other

TLS runs in memory and not on the socket: an answer then costs one system call to read, where OpenSSL makes three.
"""

import os
import socket
from typing import TYPE_CHECKING, Final

from pywren_runtime.http1 import LONGEST_HEAD, Reply
from pywren_runtime.route import Address, Route

if TYPE_CHECKING:
    import ssl

CONNECTING: Final = 0
TUNNELLING: Final = 1
SHAKING: Final = 2
OPEN: Final = 3
CLOSED: Final = 4
SLICE: Final = 1 << 17  # bytes of a body encrypted at a time: what the kernel takes at once, about
# Seconds, and milliseconds for what was sent and not acknowledged, which where it is known also overrides the count of
# probes: less than the sum of the others, and a single lost probe would end an Invoke that runs for minutes.
ALIVE: Final = (
    ("TCP_KEEPIDLE", 30),
    ("TCP_KEEPALIVE", 30),  # the same on macOS
    ("TCP_KEEPINTVL", 15),
    ("TCP_KEEPCNT", 4),
    ("TCP_USER_TIMEOUT", 90_000),
)


class ProxyError(OSError):
    """The proxy did not make a tunnel."""


class HangUp(ConnectionError):
    """The peer closed the connection before its answer was complete."""


class Connection:
    """A socket, its TLS, and the exchange under way. Every method may raise OSError; nothing is left to do then but
    to close it."""

    def __init__(self, route: Route, address: Address, scratch: bytearray, session: "ssl.SSLSession | None") -> None:
        self.address = address
        self.state = CONNECTING
        self.reply: Reply | None = None  # the answer that is awaited
        self.written = 0  # bytes of this request that are on their way
        self.served = 0  # exchanges completed
        self.wants_write = True  # whether it goes on when the socket takes more
        self._route = route
        self._scratch = scratch  # to receive into; shared by all
        self._view = memoryview(scratch)
        self._session = session
        self._tls: ssl.SSLObject | None = None
        self._plain: list[memoryview] = []  # of the request, not encrypted yet
        self._out = memoryview(b"")  # to be sent as it is
        self._mute: OSError | None = None  # why no more can be sent; there may yet be something to read
        self.socket = socket.socket(address[0], socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            tune(self.socket)
            self.socket.connect(address[1])
        except BlockingIOError:
            pass
        except OSError:
            self.socket.close()
            raise

    @property
    def session(self) -> "ssl.SSLSession | None":
        """What lets the next connection shake hands for less, once an answer has come."""
        return self._tls.session if self._tls is not None else None

    @property
    def pending(self) -> bool:
        """Whether part of the request has yet to be sent."""
        return bool(self._plain or self._out)

    def close(self) -> None:
        """At once, and more than once if need be."""
        self.state = CLOSED
        self._plain, self._out = [], memoryview(b"")
        self.socket.close()

    # -- opening

    def advance(self) -> bool:
        """Go on with opening it, as far as that goes now; True once it is open."""
        if self.state == CONNECTING:
            try:
                self.socket.getpeername()
            except OSError as error:
                code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, os.strerror(code)) from error
                return False
            self.wants_write = False
            if self._route.tunnel:
                self.state = TUNNELLING
                self._out = memoryview(self._route.tunnel)
            else:
                self._shake()
        if self.state == TUNNELLING:
            self._flush()
            self._tunnel()
        if self.state == SHAKING:
            self._step()
        return self.state == OPEN

    def _tunnel(self) -> None:
        """Read the proxy's answer to CONNECT, and nothing behind it: that belongs to the tunnel."""
        try:
            head = self.socket.recv(LONGEST_HEAD, socket.MSG_PEEK)
        except BlockingIOError:
            return
        if not head:
            raise ProxyError("the proxy closed the connection")
        end = head.find(b"\r\n\r\n")
        first = head.partition(b"\r\n")[0].decode("latin-1")
        version, _, status = first.partition(" ")
        if not version.startswith("HTTP/1."[: len(version)]) or (end < 0 and len(head) == LONGEST_HEAD):
            raise ProxyError(f"the proxy's answer begins with {first[:60]!r}")
        if end < 0:
            return
        self.socket.recv(end + 4)
        if not status.startswith("2"):
            raise ProxyError(f"the proxy answered {status!r}")
        self._shake()

    def _shake(self) -> None:
        if self._route.tls is None:
            self.state = OPEN
            return
        import ssl

        self.state = SHAKING
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._route.tls.wrap_bio(
            self._incoming, self._outgoing, server_hostname=self._route.host, session=self._session
        )
        self._wanting = (ssl.SSLWantReadError, ssl.SSLWantWriteError)

    def _step(self) -> None:
        """As many steps of the handshake as can be made with what has arrived."""
        assert self._tls is not None
        while True:
            try:
                self._tls.do_handshake()
                self.state = OPEN
            except self._wanting:
                pass
            finally:  # also what tells the peer why we refuse
                self._out = memoryview(bytes(self._out) + self._outgoing.read())
                self._flush()
            if self._mute is not None:
                raise self._mute
            if self.state == OPEN or not self._receive():
                return

    # -- an exchange

    def begin(self, head: bytes, body: bytes) -> None:
        """Send a request, as much of it as goes now."""
        self.reply = Reply()
        self.written = 0
        if len(body) <= SLICE:
            self._plain = [memoryview(head + body)]
        else:
            view = memoryview(body)
            self._plain = [memoryview(head), *(view[at : at + SLICE] for at in range(0, len(body), SLICE))][::-1]
        self._flush()

    def go_on(self) -> Reply | None:
        """Send what can be sent, read what can be read; the answer if it is complete.

        A peer may answer and close before it has taken the whole request: its answer counts. Between exchanges,
        None means that all is well.
        """
        if self.pending:
            self._flush()
        reply = self.reply
        first = reply is None or not reply.begun
        more = self._read_tls(reply) if self._tls is not None else self._read_plain(reply)
        if reply is None:
            if more is None:
                raise HangUp("the peer closed the connection")
            return None
        if more is None and not reply.close():
            begun = "before" if first and not reply.begun else "in the middle of"
            raise HangUp(f"the peer closed the connection {begun} its answer")
        if reply.complete:
            reply.keep = reply.keep and not self.pending and self._mute is None
            self.reply = None
            self.served += 1
            return reply
        if self._mute is not None:
            raise self._mute
        return None

    def _read_plain(self, reply: Reply | None) -> bool | None:
        """Feed the reply with what has arrived; None at the end of it, and of the connection."""
        while True:
            try:
                size = self.socket.recv_into(self._scratch)
            except BlockingIOError:
                return False
            if not size:
                return None
            if reply is None:
                raise HangUp("the peer sent what nobody asked for")
            reply.feed(bytes(self._view[:size]))
            if reply.complete or size < len(self._scratch):
                return True

    def _read_tls(self, reply: Reply | None) -> bool | None:
        assert self._tls is not None
        arrived = self._receive()
        while True:
            try:
                data = self._tls.read(SLICE)
            except self._wanting:
                if self._outgoing.pending:  # the peer wants new keys
                    self._out = memoryview(bytes(self._out) + self._outgoing.read())
                    self._flush()
                if not arrived or not self._receive():
                    return False
                continue
            except OSError as error:
                if self._incoming.eof:
                    raise HangUp(
                        "the peer closed the connection without a farewell, before its answer ended"
                    ) from error
                raise
            if not data:
                return None
            if reply is None:
                raise HangUp("the peer sent what nobody asked for")
            reply.feed(data)
            if reply.complete and not self._incoming.pending:
                return True

    def _receive(self) -> bool:
        """Hand TLS what has arrived; whether anything has, if only the end."""
        try:
            size = self.socket.recv_into(self._scratch)
        except BlockingIOError:
            return False
        if size:
            self._incoming.write(self._view[:size])
            return True
        ended = self._incoming.eof
        self._incoming.write_eof()
        return not ended

    def _flush(self) -> None:
        """Send until nothing is left or the socket takes no more."""
        self.wants_write = False
        try:
            while True:
                while self._out:
                    size = self.socket.send(self._out)
                    if self.state == OPEN:
                        self.written += size
                    self._out = self._out[size:]
                if not self._plain:
                    return
                if self._tls is None:
                    self._out = self._plain.pop()
                else:
                    self._tls.write(self._plain.pop())
                    self._out = memoryview(self._outgoing.read())
        except BlockingIOError:
            self.wants_write = True
        except OSError as error:
            self._mute, self._plain, self._out = error, [], memoryview(b"")


def tune(made: socket.socket) -> None:
    """Send at once, and notice a peer that is gone: a NAT forgets what was idle for 350 s, and does not say so."""
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in ALIVE:
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
