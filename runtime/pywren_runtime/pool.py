"""Connections to one endpoint, and who waits for one.

    put ─► Lanes ─► a connection that is idle, or a new one ─► written ─► … ─► done

Each connection has one entry in a heap of times at which to look at it; it is moved on when it comes up and something
has happened since.
"""

import heapq
import itertools
import selectors
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pywren_runtime.connection import CLOSED, CONNECTING, OPEN, Connection
from pywren_runtime.faults import STARVED, Fault, fault_of, silence
from pywren_runtime.http1 import GarbageError, Reply
from pywren_runtime.lanes import Answer, Asked, Lanes, Limits
from pywren_runtime.route import NEVER, Addresses, Route

if TYPE_CHECKING:
    import ssl

READ: Final = selectors.EVENT_READ
BOTH: Final = selectors.EVENT_READ | selectors.EVENT_WRITE
HANDSHAKES: Final = 0.005  # seconds in a row for connections that open, while answers may wait
SCARCE: Final = 0.5  # seconds before another connection is tried when descriptors have run out
RESUMED: Final = 60.0  # seconds for which one TLS session is resumed


@dataclass(slots=True, eq=False)
class Line:
    """A connection, and what the pool knows of it."""

    link: Connection
    began: float
    tries: int  # addresses to try, this one included
    asked: Asked | None
    heard: float = 0.0  # when anything last happened on it
    patience: float = 0.0  # for how long nothing may happen
    due: float = NEVER  # its time in the heap
    listens: int = BOTH


class Pool:
    """Gives requests to connections. `sign` makes the head of a request, when it is about to be sent."""

    def __init__(
        self, route: Route, addresses: Addresses, sign: Callable[[Asked], bytes], most: int, limits: Limits
    ) -> None:
        self.selector = selectors.DefaultSelector()
        self.lanes = Lanes(most)
        self._route = route
        self._addresses = addresses
        self._sign = sign
        self._limits = limits
        self._most = most
        self._lines: dict[Line, None] = {}
        self._idle: list[Line] = []
        self._opening = 0
        self._scarce = 0.0  # until when there are no descriptors; 0 if there are
        self._dues: list[tuple[float, int, Line]] = []
        self._numbers = itertools.count()
        self._scratch = bytearray(1 << 17)
        self._session: ssl.SSLSession | None = None
        self._session_until = 0.0

    # -- what is asked

    def put(self, asked: Asked) -> None:
        """One more; what can be sent of it now is."""
        self.lanes.put(asked)
        self.fill()

    def forget(self, tag: object) -> bool:
        """Drop a request: it gets no answer. True if it certainly was not sent."""
        asked = self.lanes.asked.pop(tag, None)
        if asked is None:
            return False
        asked.dropped = True
        unsent = not asked.tried
        if asked.line is not None:
            unsent = unsent and not asked.line.link.written
            self._drop(asked.line)
        return unsent

    def close(self) -> None:
        """Drop everything."""
        for line in list(self._lines):
            self._drop(line)
        self.lanes.clear()
        self._dues.clear()
        self.selector.close()

    def soonest(self) -> float:
        """When something has to be looked at without an event."""
        soonest = self._dues[0][0] if self._dues else NEVER
        if self.lanes:
            if self._addresses.sought:
                soonest = min(soonest, self._addresses.sought + self._limits.connect)
            if self._scarce:
                soonest = min(soonest, self._scarce)
        return soonest

    # -- from the queues to connections

    def fill(self) -> None:
        """Give idle connections to those who wait, and open more."""
        while self._idle and (asked := self.lanes.next()) is not None:
            self._begin(self._idle.pop(), asked)
        if self._scarce and time.monotonic() >= self._scarce:
            self._scarce = 0.0
        while len(self._lines) < self._most and not self._scarce:
            if self._opening >= min(self.lanes.wanted(), self._limits.opening) or not self._open(None):
                return

    def _begin(self, line: Line, asked: Asked | None) -> None:
        """Send a request on a connection that is open, or the next whose head can be made; if there is none, rest."""
        while asked is not None:
            try:
                head = self._sign(asked)
                break
            except Exception as error:  # whatever stands behind `credentials`
                self._release(line)
                self.lanes.fail(asked, Fault("credentials", f"{type(error).__name__}: {error}"), sent=False)
                asked = self.lanes.next()
        if asked is None:
            self._idle.append(line)
            self._expect(line, self._limits.idle)
            return
        if line.asked is None:
            self._bind(line, asked)
        asked.since = time.monotonic()
        line.link.begin(head, asked.body)
        self._expect(line, asked.silence)
        self._listen(line)

    def _bind(self, line: Line, asked: Asked) -> None:
        line.asked, asked.line = asked, line
        self.lanes.held += asked.held

    def _release(self, line: Line) -> Asked | None:
        asked, line.asked = line.asked, None
        if asked is not None:
            asked.line = None
            self.lanes.held -= asked.held
        return asked

    def _open(self, asked: Asked | None, tries: int = 0) -> bool:
        """Begin to open a connection, for somebody or for whoever waits. False if that cannot be now; somebody is
        then the first of those who wait, or has been told."""
        now = time.monotonic()
        known = self._addresses.known()
        if not known:
            self._put_back(asked)
            reason = self._addresses.take_failure()
            if not reason and self._addresses.sought and now >= self._addresses.sought + self._limits.connect:
                reason = f"no answer for {self._limits.connect:g} s"
            if reason:
                self.lanes.fail_all(Fault("unresolved", f"the name {self._route.peer[0]} leads nowhere: {reason}"), now)
            return False
        tries = tries or len(known)
        try:
            link = Connection(self._route, known[0], self._scratch, self._session)
        except OSError as error:
            if error.errno in STARVED:
                self._put_back(asked)
                self._starve(error, now)
                return False
            return self._elsewhere(known[0], asked, tries, fault_of(error, CONNECTING, self._route), now)
        line = Line(link, now, tries, None)
        if asked is not None:
            self._bind(line, asked)
        self._lines[line] = None
        self._opening += 1
        self.selector.register(link.socket, BOTH, line)
        self._expect(line, self._limits.connect / min(len(known), 4))
        return True

    def _elsewhere(
        self, address: tuple[int, object], asked: Asked | None, tries: int, fault: Fault, began: float
    ) -> bool:
        """An address leads nowhere: try the next, or tell those who wait."""
        self._addresses.demote(address)
        if tries > 1:
            return self._open(asked, tries - 1)
        self._fail_waiting(asked, fault, began)
        return False

    def _starve(self, error: OSError, now: float) -> None:
        """Descriptors have run out: those who wait get the connections there are, if there are any."""
        self._scarce = now + SCARCE
        if not self._lines:
            self.lanes.fail_all(Fault("refused", f"this process has no descriptor left for a connection: {error}"), now)

    # -- what happens

    def handle(self, events: Sequence[tuple[selectors.SelectorKey, int]], seconds: float = HANDSHAKES) -> None:
        """What the selector has named: answers first, then what opens, for so long."""
        opening: list[Line] = []
        for key, _ in events:
            line = key.data
            if line.link.state == OPEN:
                self._serve(line)
            else:
                opening.append(line)
        until = time.monotonic() + seconds
        for line in opening:
            if line.link.state not in (OPEN, CLOSED):
                self._advance(line)
            if time.monotonic() > until:
                break  # the selector will name the others again

    def expire(self, now: float) -> None:
        """Give up where nothing has happened for too long, by the time at which events were last asked for."""
        while self._dues and self._dues[0][0] <= now:
            due, _, line = heapq.heappop(self._dues)
            if due != line.due or line.link.state == CLOSED:
                continue
            line.due = NEVER
            if line.heard + line.patience > now:
                self._expect(line, line.patience, line.heard)
            else:
                self._break(line, silence(line.link.state, line.patience))

    def _advance(self, line: Line) -> None:
        try:
            opened = line.link.advance()
        except OSError as error:
            self._break(line, error)
            return
        line.heard = time.monotonic()
        if not opened:
            line.patience = self._limits.connect
            self._listen(line)
            return
        self._opening -= 1
        self._listen(line)
        self._begin(line, line.asked or self.lanes.next())

    def _serve(self, line: Line) -> None:
        try:
            reply = line.link.go_on()
        except (OSError, GarbageError) as error:
            self._break(line, error)
            return
        line.heard = time.monotonic()
        if reply is None:
            self._listen(line)
            return
        self._answer(line, reply)
        if not reply.keep:
            self._drop(line)
            return
        if line.link.served == 1 and self._route.tls is not None and line.heard > self._session_until:
            self._session, self._session_until = line.link.session, line.heard + RESUMED
        self._begin(line, self.lanes.next())

    def _answer(self, line: Line, reply: Reply) -> None:
        asked = self._release(line)
        if asked is not None:
            self.lanes.asked.pop(asked.tag, None)
            seconds = line.heard - asked.since
            self.lanes.done.append(Answer(asked.tag, reply.status, reply.headers, reply.body, "", "", True, seconds))

    def _break(self, line: Line, error: Exception) -> None:
        """Nothing more will come on this connection."""
        link, asked, state = line.link, line.asked, line.link.state
        fault = fault_of(error, state, self._route)
        sent = state == OPEN and link.written > 0
        unread = link.reply is not None and not link.reply.begun
        late = asked is not None and time.monotonic() - asked.since > self._limits.stale
        self._drop(line)
        if state == CONNECTING:
            self._elsewhere(link.address, asked, line.tries, fault, line.began)
        elif state != OPEN:
            self._fail_waiting(asked, fault, line.began)
        elif asked is None:
            pass  # it was idle
        elif link.served and unread and fault.word == "reset" and not (late or asked.tried or asked.held):
            asked.tried = sent
            self._open(asked)
        else:
            self.lanes.fail(asked, fault, sent=sent)

    def _put_back(self, asked: Asked | None) -> None:
        if asked is not None:
            self.lanes.put_back(asked)

    def _drop(self, line: Line) -> None:
        if line.link.state not in (OPEN, CLOSED):
            self._opening -= 1
        self._release(line)
        if self._lines.pop(line, line) is None:
            self.selector.unregister(line.link.socket)
            line.link.close()
        if line in self._idle:
            self._idle.remove(line)

    def _fail_waiting(self, asked: Asked | None, fault: Fault, began: float) -> None:
        """A connection could not be opened: tell whom it was for, or one of those who wait, or, if there is no other
        connection, all who have waited since before it was tried."""
        if asked is not None:
            self.lanes.fail(asked, fault, sent=False)
        elif all(line.link.state != OPEN for line in self._lines):
            self.lanes.fail_all(fault, began)
        elif (first := self.lanes.next()) is not None:
            self.lanes.fail(first, fault, sent=False)

    def _expect(self, line: Line, patience: float, heard: float | None = None) -> None:
        """From now on, nothing may happen for so long."""
        line.heard = time.monotonic() if heard is None else heard
        line.patience = patience
        due = line.heard + patience
        if due < line.due:
            line.due = due
            heapq.heappush(self._dues, (due, next(self._numbers), line))

    def _listen(self, line: Line) -> None:
        listens = BOTH if line.link.wants_write else READ
        if listens != line.listens and line.link.state != CLOSED:
            line.listens = listens
            self.selector.modify(line.link.socket, listens, line)
