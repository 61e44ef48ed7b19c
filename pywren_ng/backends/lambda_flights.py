"""Calls that are out on Lambda: how long to wait for which sign of life, and how to go on. Pure: `now` is handed in.

sent ──► answered ─────────────────────────────────────────────► over
  │ 202, or the connection broke after the worker began to store
  └────► watched ── outcomes appear in the store ──────────────► over
              └── neither an outcome nor a heartbeat in time ──► lost, and sent again, waiting for the answer
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pywren_ng.backends import Order

Mode = Literal["sync", "async"]
MOST: Mapping[Mode, int] = {"sync": 6_000_000, "async": 1_000_000}  # bytes of a request; Lambda takes a little more


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds, and how many at a time."""

    begins: float = 25.0  # from Invoke to the first sign of life
    beats: float = 30.0  # between two
    listens: float = 12.0  # after which heartbeats are looked for
    stores: float = 30.0  # a Call that ran so long has stored its outcomes before it answered
    busy: float = 1800.0  # how long refusals for want of concurrency are borne
    away: float = 90.0  # how long the service may be unreachable
    patient: float = 300.0  # a time limit from which on no connection is kept for the answer
    back: float = 0.2  # the first pause after a refusal; doubles up to
    back_most: float = 20.0
    fresh: float = 0.05  # from one look for outcomes to the next while some come in; while none do, it doubles
    idle: float = 1.5  # up to this: with the looks for heartbeats it makes one a second
    pulse: float = 3.0  # from one look for heartbeats to the next
    gap: float = 10.0  # a silence of our own: this machine slept
    synchronous: int = 1000  # connections that wait for an answer
    tries: int = 8  # of a request that gets a server's error or loses its connection

    def scaled(self, factor: float) -> "Limits":
        """The same with all times multiplied: tests wait less."""
        times = ("begins", "beats", "listens", "stores", "busy", "away", "patient", "back_most", "pulse", "gap")
        return replace(self, **{name: getattr(self, name) * factor for name in times})


@dataclass(slots=True, eq=False)
class Flight:
    """A Call that is out."""

    number: int
    order: Order
    mode: Mode
    function: str
    sent: float  # when it was first sent
    open: set[int] = field(default_factory=set)  # positions of tasks whose outcome has not come
    tries: int = 0
    size: int = 0
    watched: bool = False  # whether its outcomes are looked for in the store
    alive: float = 0.0  # when it last gave a sign of life
    beats: int = 0
    unsent: bool = True  # whether it waits here to be sent
    unsure: bool = False  # whether it may have been run all the same, and its outcomes stored
    due: float = 0.0  # when to look at it next
    memory: int = 0  # MB of its function
    unbilled: int = 0  # Invokes of which nobody has said yet what they are billed
    began: float = math.inf  # by its worker's clock, of what was brought
    ended: float = -math.inf

    @property
    def job(self) -> str:
        return self.order.heading.head.job

    @property
    def first(self) -> tuple[int, int]:
        """What its heartbeats are named by: the first task, and its attempt."""
        task = self.order.call.tasks[0]
        return task.index, task.attempt


def choose(setting: str, order: Order, *, out: int, seconds: float | None, limits: Limits) -> Mode:
    """Whether to keep a connection for the answer.

    A task that was lost before is asked synchronously: only that answer says why.
    """
    if setting != "auto" and not (setting == "async" and order.call.tasks[0].attempt > 1):
        return "sync" if setting == "sync" else "async"
    if order.call.tasks[0].attempt > 1:
        return "sync"
    limit = order.heading.head.time_limit
    long = max(limit or 0.0, (seconds or 0.0) * len(order.call.tasks)) >= limits.patient
    return "async" if long or out >= limits.synchronous else "sync"


def event_of(kind: bytes, value: bytes, flight: Flight) -> bytes:
    """The body of an Invoke: the Call, or where it lies."""
    reply = b',"reply":"store"' if flight.mode == "async" else b""
    return b'{"%b":"%b"%b}' % (kind, value, reply)


def after_refusal(
    flight: Flight, *, busy_since: float | None, unknown: bool, seconds: float, now: float, limits: Limits
) -> Literal["again", "watch", "give up"]:
    """How to go on after an Invoke that brought nothing: `busy_since` all are refused, `unknown` whether it runs."""
    if busy_since is not None:
        return "again" if now - busy_since <= limits.busy else "give up"
    if unknown:
        if flight.mode == "sync" and seconds >= limits.stores:
            return "watch"  # it runs, or has stored what it did
        return "again" if flight.tries < limits.tries else "give up"
    return "again" if now - flight.sent < limits.away else "give up"


def pause(tries: int, limits: Limits) -> float:
    """How long to wait before a request is sent again; no two wait alike."""
    return float(min(limits.back * 2.0 ** min(tries - 1, 20), limits.back_most) * random.uniform(0.5, 1.0))


def overdue(flight: Flight, limits: Limits) -> float:
    """When a flight that stays silent is lost."""
    return flight.alive + (limits.beats if flight.beats else limits.begins)
