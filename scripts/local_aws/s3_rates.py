"""A store that is slow by a known measure: so many requests a second, so many bytes a second for each worker.

    request ─► its turn: puts or gets a second, none saved up, workers in turn ─► its bytes, at its worker's rate ─► on

A worker is who signs with an access key of its own. Writes and reads have each a rate of requests, and what a worker
sends and what it receives each a rate of bytes; neither knows of the other.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BadRates", "Rates", "rates_of"]

READS = ("GET", "HEAD")


class BadRates(ValueError):
    """Rates that make no sense; the text says which."""


class Turns:
    """So many a second; of those that wait, one of each worker at a time."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._next = 0.0
        self._serving: asyncio.Task[None] | None = None

    async def take(self, worker: str) -> None:
        """Returns when it is this request's turn."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(worker, deque()).append(turn)
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve())
        await turn

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._next = max(self._next, loop.time())  # but what a late wake-up costs a queue is made up for
        while self._waiting:
            await asyncio.sleep(self._next - loop.time())
            worker, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[worker] = turns  # behind all others that wait
            if not turn.done():  # or the client has left
                turn.set_result(None)
                self._next += 1 / self.rate
        self._serving = None


class Flow:
    """So many bytes a second for each worker, one request's behind another's."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._free: dict[str, float] = {}

    async def take(self, worker: str, size: int) -> None:
        """Returns when these bytes have passed."""
        now = asyncio.get_running_loop().time()
        self._free[worker] = max(self._free.get(worker, now), now) + size / self.rate
        await asyncio.sleep(self._free[worker] - now)


@dataclass(frozen=True, slots=True)
class Rates:
    """All that a store is held to."""

    puts: Turns
    gets: Turns
    sent: Flow
    received: Flow

    async def admit(self, method: str, worker: str, size: int) -> None:
        """Returns when a request with so many bytes has arrived."""
        await (self.gets if method in READS else self.puts).take(worker)
        if size:
            await self.sent.take(worker, size)

    async def paced(self, worker: str, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same bytes, as fast as the worker may receive them."""
        async for piece in body:
            await self.received.take(worker, len(piece))
            yield piece

    def shown(self) -> dict[str, float]:
        """As JSON has it."""
        return {"puts": self.puts.rate, "gets": self.gets.rate, "bandwidth": self.sent.rate}


def rates_of(wish: Mapping[str, Any]) -> Rates:
    """The rates that were wished for: `puts` and `gets` a second, `bandwidth` in bytes a second."""
    if wish.keys() != {"puts", "gets", "bandwidth"}:
        raise BadRates(f"{', '.join(sorted(wish))}: rates are puts, gets and bandwidth, all three")
    for name, rate in wish.items():
        if not isinstance(rate, int | float) or not rate > 0:
            raise BadRates(f"{name} {rate!r} is no rate: it is a number above 0")
    bandwidth = wish["bandwidth"]
    return Rates(Turns(wish["puts"]), Turns(wish["gets"]), Flow(bandwidth), Flow(bandwidth))
