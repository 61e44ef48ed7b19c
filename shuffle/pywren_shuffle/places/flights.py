"""Requests in flight: so many at a time, and a second one where one is late.

    start ──► queue ──► 16 threads ──► send ──► deliver, once
                              └ late? ──► one thread more, that sends the same again; who comes first delivers

What is late follows from how long requests took before: three times what 19 of 20 needed. At most one in fifty is sent
again, so that a store that is slow as a whole is not asked twice for everything; what a task leaves over of fifty, the
next one begins with, so that this holds for a whole sort, and yet its tasks may be short.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Final

__all__ = ["AT_ONCE", "ONE_IN", "Data", "Flight", "Flights"]

Data = bytes | bytearray

AT_ONCE: Final = 16
_REMEMBERED: Final = 256
_ENOUGH: Final = 20  # requests whose times say something
_AT_FIRST: Final = 0.25  # seconds, until they do
_SOONEST: Final = 0.05
_LATEST: Final = 2.0
ONE_IN: Final = 50  # requests may be sent again


class Flight:
    """One request; `result` waits for it."""

    def __init__(self, owner: "Flights", send: Callable[[], Data], deliver: Callable[[Data], None]) -> None:
        self.done: Future[None] = Future()
        self.send = send
        self.deliver = deliver
        self.lock = threading.Lock()
        self.tries: list[float] = []  # when each was sent
        self.failed = 0
        self._owner = owner

    def result(self) -> None:
        """Return once it is delivered; meanwhile send what is late again, this one or another."""
        self._owner.wait(self)


class Flights:
    """Threads that send requests; made as they are needed, and none is waited for at the end."""

    def __init__(self, *, hedging: bool, ahead: int = 0, at_once: int = AT_ONCE) -> None:
        self.hedges = 0
        self.sent = 0  # hedges are among them
        self._ahead = ahead  # requests of others that count for the first hedge
        self._hedging = hedging
        self._at_once = at_once
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Flight | None] = SimpleQueue()
        self._threads = 0
        self._open: set[Flight] = set()  # sent, and not there yet
        self._took: deque[float] = deque(maxlen=_REMEMBERED)

    def start(self, send: Callable[[], Data], deliver: Callable[[Data], None]) -> Flight:
        """Send it as soon as a thread is free; what `send` raises is the flight's result."""
        flight = Flight(self, send, deliver)
        self._queue.put(flight)
        if self._threads < self._at_once:
            self._threads += 1
            self._begin(self._serve)
        return flight

    def wait(self, flight: Flight) -> None:
        """Until that one is there."""
        while not flight.done.done():
            wait([flight.done], self._hedge(time.monotonic()) if self._hedging else None)
        flight.done.result()

    def close(self) -> None:
        """Let the threads end as they come back."""
        for _ in range(self._threads):
            self._queue.put(None)

    def _serve(self) -> None:
        while (flight := self._queue.get()) is not None:
            with self._lock:
                flight.tries.append(time.monotonic())
                self._open.add(flight)
                self.sent += 1
            self._send(flight)

    def _send(self, flight: Flight) -> None:
        try:
            begun = time.monotonic()
            data = flight.send()
            with self._lock:
                self._took.append(time.monotonic() - begun)
            with flight.lock:
                if not flight.done.done():
                    flight.deliver(data)
                    flight.done.set_result(None)
        except BaseException as error:
            with flight.lock:
                flight.failed += 1
                if flight.failed == len(flight.tries) and not flight.done.done():
                    flight.done.set_exception(error)
        finally:
            if flight.done.done():
                with self._lock:
                    self._open.discard(flight)

    def _hedge(self, now: float) -> float:
        """Send again what is late, as far as that is allowed; how long until it is worth another look."""
        with self._lock:
            patience = self._patience()
            soonest = now + patience
            late = []
            for flight in self._open:
                due = flight.tries[-1] + patience * len(flight.tries)
                if due > now:
                    soonest = min(soonest, due)
                elif self.hedges < (self._ahead + self.sent - self.hedges) // ONE_IN:
                    self.hedges += 1
                    self.sent += 1
                    flight.tries.append(now)
                    late.append(flight)
        for flight in late:
            self._begin(self._send, flight)
        return max(0.005, soonest - now)

    def _patience(self) -> float:
        if len(self._took) < _ENOUGH:
            return _AT_FIRST
        return min(_LATEST, max(_SOONEST, 3 * sorted(self._took)[len(self._took) * 19 // 20]))

    def _begin(self, run: Callable[..., None], *args: Flight) -> None:
        # A daemon: the interpreter does not wait for a request that nobody needs any more.
        threading.Thread(target=run, args=args, name="pywren-read", daemon=True).start()
