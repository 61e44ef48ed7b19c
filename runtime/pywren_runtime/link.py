"""How a local worker and its backend talk: two pipes towards the worker, one back, and a board that both can see.

    backend ── a greeting, then signed batches of Calls ─────► worker
            ── tickets: u64 number of the next Call that may run ►
            ◄─ signed batches, of one Outcome each ──────────────
            ◄─ board: which task runs since when; what it printed last

A Call belongs to whoever reads its ticket. The worker reads one before it begins a Call; the backend may read
tickets back and give those Calls to another worker. The kernel hands each ticket to exactly one of them, so Calls can
be sent ahead to hide the round trip and yet none waits behind a long one, runs twice or is lost.

In a batch (see `pywren_runtime.batches`) each Call is its number, how many tasks it has, two sizes, its head and its
tasks. The head is left out where it is that of the Call before.
"""

import mmap
import os
import struct
from collections import deque
from collections.abc import Iterator

TYPE_CHECKING = False  # Lambda's initialisation waits for this module: `typing` and what checks signatures come later
if TYPE_CHECKING:
    from pywren_runtime.batches import Opener

TICKET = struct.Struct("<Q")
CALL = struct.Struct("<QIII")
GREETING = struct.Struct("<I")
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


def greeting(frames: int) -> bytes:
    """In a worker: what its owner says first, which brings the keys and so cannot be signed. b"" if that has gone."""
    size = read_exactly(frames, GREETING.size)
    return read_exactly(frames, *GREETING.unpack(size)) if len(size) == GREETING.size else b""


class Sent:
    """A Call as it has arrived: its number, its head, how many tasks it has, and these as bytes."""

    __slots__ = ("count", "head", "number", "tasks")

    def __init__(self, number: int, head: bytes, count: int, tasks: memoryview) -> None:
        self.number: int = number
        self.head: bytes = head
        self.count: int = count
        self.tasks: memoryview = tasks


def calls(frames: int, tickets: int, opener: "Opener") -> Iterator[Sent]:
    """In a worker: the Calls that it may run, until the backend goes away."""
    arrived: deque[Sent] = deque()
    head = b""
    while len(ticket := os.read(tickets, TICKET.size)) == TICKET.size:
        (allowed,) = TICKET.unpack(ticket)
        while True:
            while not arrived:
                data = os.read(frames, opener.wants)
                if not data:
                    return
                for batch in opener.open(data):
                    arrived.extend(_split(batch, head))
                    head = arrived[-1].head
            call = arrived.popleft()
            if call.number == allowed:  # those before it were given to others
                yield call
                break


def _split(batch: memoryview, head: bytes) -> Iterator[Sent]:
    at = 0
    while at < len(batch):
        number, count, head_size, size = CALL.unpack_from(batch, at)
        at += CALL.size
        if head_size:
            head = bytes(batch[at : at + head_size])
            at += head_size
        yield Sent(number, head, count, batch[at : at + size])
        at += size


class Running:
    """What the board says: this task of this Call runs since then (seconds of the monotonic clock)."""

    # No dataclass: to import that takes longer than to start a worker, which waits for this module.
    __slots__ = ("number", "position", "since")

    def __init__(self, number: int, position: int, since: float) -> None:
        self.number: int = number
        self.position: int = position
        self.since: float = since


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
