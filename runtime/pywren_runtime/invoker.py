"""Thousands of Lambda Invokes in flight, from one thread.

    send ─► Pool ─► Connection ─► signed, written ─► … ─► read ─► Answer ─► collect

`wait` waits in a selector, and `send` may be called meanwhile; everything but `wait` and `wake` is one call at a time.
Nothing is sent twice but for one case: a connection that was kept alive, and that the peer closed before it took the
request. Even so no synchronous Invoke is: its function may have run, and have stored what came of it.
"""

import os
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, cast

from pywren_runtime.aws import Credentials, Signer, quote
from pywren_runtime.http1 import ask
from pywren_runtime.lanes import Answer, Asked, Limits
from pywren_runtime.pool import HANDSHAKES, Pool
from pywren_runtime.route import NEVER, Addresses, plan_route, spare_descriptors

__all__ = ["Answer", "Invoker", "Limits"]

LONGEST_WAIT: Final = 3600.0
Ready = list[tuple[selectors.SelectorKey, int]]


class Invoker:
    """Sends requests to one endpoint of Lambda's.

    `credentials` is asked before each request and must not take long. `proxy` and `ca` are as in `plan_route`.
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        credentials: Callable[[], Credentials],
        *,
        connections: int = 1024,
        ca: str | None = None,
        proxy: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.connections: int = spare_descriptors(connections)  # at most
        self._route = plan_route(endpoint, proxy=proxy, ca=ca)
        self._credentials = credentials
        self._signer = Signer("lambda", region)
        self._limits = limits or Limits()
        self._until = -NEVER  # when the thread that waits will look by itself
        self._bell = threading.Lock()
        self._rung = False
        self._closed = False
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        addresses = Addresses(self._route.peer, self.wake)
        self._pool = Pool(self._route, addresses, self._sign, self.connections, self._limits)
        self._pool.selector.register(self._woken, selectors.EVENT_READ)

    # -- what is asked

    @property
    def in_flight(self) -> int:
        """Requests that have no answer yet, sent or not."""
        return len(self._pool.lanes.asked)

    def room(self) -> int:
        """How many more would go straight to a connection."""
        return max(0, self.connections - len(self._pool.lanes.asked))

    def send(self, tag: object, function: str, body: bytes, *, event: bool, silence: float) -> None:
        """Invoke a function, by its name or ARN. It never blocks, and what goes wrong on the way is an answer.

        Tags are hashable, and none is in flight twice. `silence`: seconds without a byte from the server after which
        it is given up, once it has been sent.
        """
        headers = {"host": self._route.authority, "x-amz-invocation-type": "Event"}
        if not event:
            headers["x-amz-invocation-type"] = "RequestResponse"
            headers["x-amz-log-type"] = "Tail"
        target = f"{self._route.prefix}/2015-03-31/functions/{quote(function)}/invocations"
        self._put(Asked(tag, "POST", target, headers, body, silence, not event, time.monotonic()))

    def request(
        self, tag: object, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Ask anything else of Lambda; `path` is quoted already, and may carry a query."""
        given = {name.lower(): value for name, value in (headers or {}).items()}
        given["host"] = self._route.authority
        target = self._route.prefix + path
        self._put(Asked(tag, method, target, given, body, self._limits.silence, False, time.monotonic()))

    def forget(self, tag: object) -> bool:
        """Drop a request: it gets no answer, and its connection is closed. True if it certainly was not sent."""
        unsent = self._pool.forget(tag)
        if self._pool.lanes:
            self.wake()  # others may go, in `collect`: not before the caller has forgotten all that it wants to
        return unsent

    def _put(self, asked: Asked) -> None:
        self._pool.put(asked)
        if self._until > -NEVER and (self._pool.lanes.done or self._pool.soonest() < self._until):
            self.wake()

    def _sign(self, asked: Asked) -> bytes:
        credentials = self._credentials()
        headers = self._signer.sign(credentials, asked.method, asked.target, asked.headers, asked.body, time.time())
        return ask(asked.method, asked.target, headers, asked.body)

    # -- what happens

    def wait(self, timeout: float) -> object:
        """Until something has happened, `wake` was called or the time is over; what it returns goes to `collect`."""
        if self._closed:
            return []
        self._until = NEVER  # before looking: who puts something in between rings
        try:
            now = time.monotonic()
            until = min(now + min(timeout, LONGEST_WAIT), self._pool.soonest())
            if self._pool.lanes.done:
                until = now
            self._until = until
            return self._pool.selector.select(max(0.0, until - now))
        finally:
            self._until = -NEVER

    def collect(self, waited: object) -> list[Answer]:
        """The answers that are there now."""
        self._handle(cast(Ready, waited))
        now = time.monotonic()
        if self._pool.soonest() <= now:
            # This process may have slept, and what came meanwhile lies there unread.
            self._handle(self._pool.selector.select(0), NEVER)
            self._pool.expire(now)
        self._pool.fill()
        lanes = self._pool.lanes
        done, lanes.done = lanes.done, []
        return done

    def _handle(self, ready: Ready, seconds: float = HANDSHAKES) -> None:
        for at, (key, _) in enumerate(ready):
            if key.data is None:
                with self._bell:
                    self._rung = False
                    if not self._closed:
                        os.read(self._woken, 64)
                del ready[at]
                break
        self._pool.handle(ready, seconds)

    def wake(self) -> None:
        """Let `wait` return. Any thread may call it."""
        with self._bell:
            if not self._rung and not self._closed:
                self._rung = True
                os.write(self._wake, b"!")

    def close(self) -> None:
        """Drop everything; what is in flight gets no answer."""
        with self._bell:
            if self._closed:
                return
            self._closed = True
            os.close(self._wake)
            self._pool.close()
            os.close(self._woken)
