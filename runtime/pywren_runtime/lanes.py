"""What is asked, what is answered, and who waits for a connection."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pywren_runtime.faults import Fault

RESERVE: Final = 16  # connections that are never held


@dataclass(frozen=True, slots=True)
class Limits:
    """How long what may take, in seconds."""

    connect: float = 10.0  # without progress, until a connection is open
    silence: float = 30.0  # without an answer to `request`
    idle: float = 60.0  # that a connection is kept for nothing
    stale: float = 1.0  # within which a connection that was closed while it was idle shows it
    opening: int = 64  # connections that open at the same time


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request: an answer, or the fault that stood in its way."""

    tag: object
    status: int  # 0 if there is none
    headers: Mapping[str, str]  # names in lower case
    body: bytes
    fault: str  # "" | "refused" | "unresolved" | "tls" | "reset" | "silence" | "proxy" | "credentials"
    reason: str
    sent: bool  # whether it may have reached the server; if not, it is safe to repeat
    seconds: float  # since it was given to a connection, or else queued


@dataclass(slots=True, eq=False)
class Asked:
    """A request, from `put` to its answer."""

    tag: object
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    silence: float  # seconds for which nothing may happen
    held: bool
    since: float  # when it was queued, then when it was given to a connection
    tried: bool = False  # whether an earlier connection may have carried it
    dropped: bool = False
    line: Any = None  # the pool's name for the connection that it is on


class Lanes:
    """Two queues: requests that are short, and those that hold a connection until a function has ended. A few
    connections are never held, so that the short ones pass."""

    def __init__(self, connections: int) -> None:
        self.asked: dict[object, Asked] = {}  # those without an answer, by their tags, waiting or not
        self.done: list[Answer] = []
        self.held = 0  # connections that held requests are on
        self._most_held = max(1, connections - min(RESERVE, connections // 4))
        self._quick: deque[Asked] = deque()
        self._slow: deque[Asked] = deque()

    def __bool__(self) -> bool:
        return bool(self._quick or self._slow)

    def put(self, asked: Asked) -> None:
        """At the end of its queue."""
        self.asked[asked.tag] = asked
        (self._slow if asked.held else self._quick).append(asked)

    def put_back(self, asked: Asked) -> None:
        """At the front of its queue."""
        (self._slow if asked.held else self._quick).appendleft(asked)

    def wanted(self) -> int:
        """How many connections those who wait could use, about."""
        return len(self._quick) + min(len(self._slow), self._most_held - self.held)

    def next(self) -> Asked | None:
        """Who has waited longest, and may have a connection."""
        while True:
            slow = self._slow if self.held < self._most_held else None
            if self._quick and not (slow and slow[0].since < self._quick[0].since):
                asked = self._quick.popleft()
            elif slow:
                asked = slow.popleft()
            else:
                return None
            if not asked.dropped:
                return asked

    def clear(self) -> None:
        """Drop everything."""
        self._quick.clear()
        self._slow.clear()
        self.asked.clear()

    def fail(self, asked: Asked, fault: Fault, *, sent: bool) -> None:
        """It gets no answer but this."""
        if not asked.dropped:
            self.asked.pop(asked.tag, None)
            seconds = time.monotonic() - asked.since
            sent = sent or asked.tried
            self.done.append(Answer(asked.tag, 0, {}, b"", fault.word, fault.reason, sent, seconds))

    def fail_all(self, fault: Fault, until: float) -> None:
        """Fail all who have waited since before that time."""
        for queue in (self._quick, self._slow):
            while queue and queue[0].since <= until:
                self.fail(queue.popleft(), fault, sent=False)
