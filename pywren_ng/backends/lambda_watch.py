"""What of one job is looked for in the store: outcomes, and heartbeats of what has been silent for long."""

import math

from pywren_ng.backends import lambda_bills
from pywren_ng.backends.lambda_finder import Fetched, Finder, Heard, Listed
from pywren_ng.backends.lambda_flights import Flight, Limits

COARSE = 2e-5  # seconds, for each job, between two times at which all are gone through
Key = tuple[int, int]  # a task and its round


class Watch:
    """One job's. It is told what was found and when, and says what to look for next."""

    def __init__(self, job: str, limits: Limits) -> None:
        self.job = job
        self._limits = limits
        self._wanted: dict[Key, Flight] = {}
        self._fetching: set[Key] = set()
        self._now_or_never: dict[int, set[Key]] = {}  # by flight: what lies there by now, or never will
        self._listing = False
        self._list_at = math.inf
        self._pause = limits.fresh
        self._heeded: dict[Key, Flight] = {}  # by first task and attempt
        self._hearing = False
        self._hear_at = math.inf
        self._heard = -math.inf  # when the last look for heartbeats that ended well began
        self._unlisted = self._unfetched = math.inf  # since when every look has failed

    def add(self, flight: Flight, now: float) -> None:
        """Look for the outcomes of a flight until they are there."""
        if not self._wanted:
            self._pause, self._list_at = self._limits.fresh, math.inf
        for position in flight.open:
            task = flight.order.call.tasks[position]
            self._wanted[task.index, task.round] = flight
        self._list_at = min(self._list_at, now + self._pause)

    def ask(self, flight: Flight, finder: Finder) -> None:
        """Get the outcomes of a flight that are there; what is not will not come."""
        keys = {(task.index, task.round) for task in map(flight.order.call.tasks.__getitem__, flight.open)}
        self._now_or_never[flight.number] = set(keys)
        self._wanted.update(dict.fromkeys(keys, flight))
        self._fetching |= keys
        finder.fetch(self.job, keys)

    def heed(self, flight: Flight, now: float) -> None:
        """Listen for the heartbeats of a flight."""
        if flight.first not in self._heeded:
            self._heeded[flight.first] = flight
            self._hear_at = min(self._hear_at, now)

    def drop(self, flight: Flight) -> bool:
        """A flight is over; whether nothing is left to look for."""
        self._now_or_never.pop(flight.number, None)
        self._heeded.pop(flight.first, None)
        for task in flight.order.call.tasks:
            if self._wanted.get((task.index, task.round)) is flight:
                del self._wanted[task.index, task.round]
        return not (self._wanted or self._heeded)

    def next(self) -> float:
        """When there is something to look for."""
        lists = math.inf if self._listing or not self._wanted else self._list_at
        hears = math.inf if self._hearing or not self._heeded else self._hear_at
        return min(lists, hears)

    def look(self, finder: Finder, now: float) -> None:
        """Look for what is due."""
        if self._wanted and not self._listing and now >= self._list_at:
            self._listing = True
            lambda_bills.listed(self._wanted.values())
            finder.list(self.job, min(self._wanted)[0])
        if self._heeded and not self._hearing and now >= self._hear_at:
            self._hearing = True
            lambda_bills.listed(self._heeded.values())
            finder.listen(self.job, now)

    def listed(self, found: Listed, finder: Finder, now: float) -> None:
        """Fetch what has appeared; the next look comes soon if something did."""
        self._listing = False
        self._unlisted = min(self._unlisted, now) if found.fault else math.inf
        new = [key for key in found.keys if key in self._wanted and key not in self._fetching]
        self._pause = self._limits.fresh if new else min(2 * self._pause, self._limits.idle)
        self._list_at = now + self._pause
        self._fetching.update(new)
        finder.fetch(self.job, new)

    def heard(self, found: Heard, now: float) -> None:
        """Note who is alive."""
        self._hearing = False
        self._hear_at = now + self._limits.pulse
        if found.fault:
            return
        self._heard = found.begun
        for first, flight in self._heeded.items():
            beats = found.beats.get(first, 0)
            if beats not in (0, flight.beats):  # fewer are those of a second delivery, or of one that was sent again
                flight.beats, flight.alive = beats, found.begun

    def is_sure(self, then: float) -> bool:
        """Whether heartbeats up to that time have been looked for, and no outcome lies there that cannot be read."""
        return self._heard >= then and self._unfetched == math.inf

    def unread(self, now: float) -> list[Flight]:
        """Whose outcomes could not be looked for or read for longer than is borne."""
        if now - min(self._unlisted, self._unfetched) <= self._limits.away:
            return []
        return list(dict.fromkeys(self._wanted.values()))

    def fetched(self, found: Fetched, now: float) -> tuple[Flight | None, bool]:
        """Whose outcome this is, and whether what is still open of that flight will not come."""
        key = (found.task, found.round)
        self._fetching.discard(key)
        self._unfetched = min(self._unfetched, now) if found.fault else math.inf
        flight = self._wanted.get(key)
        if flight is None:
            return None, False
        if found.frame is not None:
            del self._wanted[key]
        last = self._now_or_never.get(flight.number)
        if found.fault:  # a list will show it again
            self._now_or_never.pop(flight.number, None)
            self._list_at = min(self._list_at, now + self._limits.idle)
        if found.fault or last is None:
            return flight, False
        last.discard(key)
        return flight, not last


class Watches:
    """Those of all jobs. There may be thousands, for each `submit` is a job: they are gone through only when something
    is due, and then for all that is due."""

    def __init__(self, finder: Finder, limits: Limits) -> None:
        self.due: float = math.inf  # when to look next; any thread may read it
        self._finder = finder
        self._limits = limits
        self._all: dict[str, Watch] = {}
        self._touched: list[Watch] = []
        self._not_before = 0.0

    def of(self, job: str) -> Watch:
        """A job's; `look` is to follow."""
        if job not in self._all:
            self._all[job] = Watch(job, self._limits)
        self._touched.append(self._all[job])
        return self._all[job]

    def get(self, job: str) -> Watch | None:
        """A job's, if anything is looked for; `look` is to follow."""
        return self.of(job) if job in self._all else None

    def drop(self, flight: Flight) -> None:
        """A flight is over."""
        watch = self._all.get(flight.job)
        if watch is not None and watch.drop(flight):
            del self._all[flight.job]

    def look(self, now: float) -> None:
        """Look for what is due."""
        soonest = min((watch.next() for watch in self._touched), default=math.inf)
        self._touched.clear()
        self.due = max(min(self.due, soonest), self._not_before)
        if now >= self.due:
            self.due = math.inf
            for watch in self._all.values():
                watch.look(self._finder, now)
                self.due = min(self.due, watch.next())
            self._not_before = now + COARSE * len(self._all)
            self.due = max(self.due, self._not_before)
