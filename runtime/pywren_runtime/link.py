"""How a local worker and its backend talk: two pipes towards the worker, one back, and a board that both can see.

    backend ── frames: u64 number, u32 length, a signed Call ──────► worker
            ── tickets: u64 number of the next Call that may run ──►
            ◄─ frames: u32 length, a signed Outcome ────────────────
            ◄─ board: which task runs since when; what it printed last

A Call belongs to whoever reads its ticket. The worker reads one before it begins a Call; the backend may read
tickets back and give those Calls to another worker. The kernel hands each ticket to exactly one of them, so Calls can
be sent ahead to hide the round trip and yet none waits behind a long one, runs twice or is lost.
"""

import mmap
import os
import struct
from collections.abc import Iterator

TICKET = struct.Struct("<Q")
CALL = struct.Struct("<QI")
OUTCOME = struct.Struct("<I")
TAIL = 4096


def read_exactly(fd: int, size: int) -> bytes:
    """`size` bytes of a pipe, waiting for them; fewer only at its end."""
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    """Write to a pipe, waiting for room."""
    done = os.write(fd, data)
    if done < len(data):
        view = memoryview(data)
        while done < len(data):
            done += os.write(fd, view[done:])


def calls(frames: int, tickets: int) -> Iterator[tuple[int, bytes]]:
    """In a worker: the Calls that it may run, each with its number, until the backend goes away.

    The first frame, its greeting, has number 0 and needs no ticket, for nobody else could use it.
    """
    buffer, at, ticket = b"", 0, TICKET.pack(0)
    while len(ticket) == TICKET.size:
        (allowed,) = TICKET.unpack(ticket)
        while True:
            if len(buffer) - at < CALL.size:
                arrived = os.read(frames, 1 << 16)
                if not arrived:
                    return
                buffer, at = buffer[at:] + arrived, 0
                continue
            number, size = CALL.unpack_from(buffer, at)
            at += CALL.size
            frame = buffer[at : at + size]
            at += size
            if len(frame) < size:
                frame += read_exactly(frames, size - len(frame))
                buffer, at = b"", 0
            if number == allowed:  # those before it were given to others
                yield number, frame
                break
        ticket = os.read(tickets, TICKET.size)


class Running:
    """What the board says: this task of this Call runs since then (seconds of the monotonic clock)."""

    # No dataclass: to import that takes longer than to start a worker, which waits for this module.
    __slots__ = ("number", "position", "since")

    def __init__(self, number: int, position: int, since: float) -> None:
        self.number = number
        self.position = position
        self.since = since


class Board:
    """A page shared by a worker, which writes, and its backend, which reads; it outlives the worker.

    It costs no system call, so a task can be announced before it runs without waking anybody.
    """

    _RUNNING = struct.Struct("<QId")
    _SIZE = struct.Struct("<I")
    _IDLE = 0xFFFFFFFF
    SIZE = 8192

    def __init__(self, fd: int) -> None:
        self._page = mmap.mmap(fd, self.SIZE)

    def announce(self, number: int, position: int, now: float) -> None:
        self._RUNNING.pack_into(self._page, 0, number, position, now)

    def rest(self) -> None:
        self._RUNNING.pack_into(self._page, 0, 0, self._IDLE, 0.0)

    def running(self) -> Running | None:
        """What runs now; None between tasks. A reader in the middle of a write looks again."""
        while True:
            seen = self._RUNNING.unpack_from(self._page)
            if seen == self._RUNNING.unpack_from(self._page):
                return None if seen[1] == self._IDLE else Running(*seen)

    def echo(self, data: bytes) -> None:
        """Keep the last 4 KiB of what the worker printed."""
        (size,) = self._SIZE.unpack_from(self._page, 32)
        tail = (self._page[64 : 64 + size] + data)[-TAIL:]
        self._page[64 : 64 + len(tail)] = tail
        self._SIZE.pack_into(self._page, 32, len(tail))

    def tail(self) -> bytes:
        (size,) = self._SIZE.unpack_from(self._page, 32)
        return self._page[64 : 64 + min(size, TAIL)]

    def close(self) -> None:
        self._page.close()
