"""Calls as Invokes of one shared function on AWS Lambda.

    start ─► Flight ─► Invoker ── synchronous ──► answer: outcomes ─────────────┐
                          └────── asynchronous ─► accepted                      ├─► collect
    store ◄── outcomes ── worker                     └─► Finder: LIST, GET ─────┘
          ◄── heartbeats of what runs long ─────────────► lost, if there are none

Every Call that goes out comes back as an outcome or a Lost for each of its tasks. What is known not to have run is sent
again here and costs its tasks nothing; what may have run is lost, and the tracker decides.
"""

import base64
import heapq
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from pywren_ng.backends import Event, Order, lambda_answers, lambda_bills, lambda_trees
from pywren_ng.backends.lambda_answers import Again, Asked, Died, Done, Hopeless, Stored, Verdict
from pywren_ng.backends.lambda_finder import Fetched, Finder, Found, Heard, Kept, Listed
from pywren_ng.backends.lambda_flights import MOST, Flight, Limits, after_refusal, choose, event_of, overdue, pause
from pywren_ng.backends.lambda_place import billed, deployed, invoker, own_store, setting, target
from pywren_ng.backends.lambda_watch import Watch, Watches
from pywren_ng.credentials import Access
from pywren_ng.deployment import Deployment
from pywren_ng.tracker import Lost
from pywren_runtime.errors import LambdaError, PywrenError, Throttled
from pywren_runtime.invoker import Answer, Invoker
from pywren_runtime.stores import Store
from pywren_runtime.wire import Environment, Outcome, Signer, call_key, outcome_key

__all__ = ["LambdaBackend", "billed", "make", "own_store", "target"]

CONCURRENCY = 1000  # what an account may run at once, unless it says otherwise
_LOG = logging.getLogger(__name__)


class LambdaBackend:
    """Workers on Lambda, `workers` of them at most, whatever their environments."""

    threaded = True

    def __init__(
        self, invoker: Invoker, store: Store, where: Deployment, *, workers: int | None, invoke: str, limits: Limits
    ) -> None:
        self._wanted = workers
        self.workers: int = workers or CONCURRENCY
        self._invoker = invoker
        self._where = where
        self._invoke = invoke
        self.longest: float | None = where.timeout
        self._limits = limits
        self.signer: Signer = Signer(where.key)
        self._finder = Finder(store, invoker.wake)
        self._flights: dict[int, Flight] = {}
        self._starters: dict[int, list[lambda_trees.Load]] = {}
        self._watches = Watches(self._finder, limits)
        self._absent: dict[int, tuple[BaseException, bool]] = {}  # why a flight's outcomes may be missing
        self._due: list[tuple[float, int]] = []  # when to look at which flight
        self._events: list[Event] = []
        self._number = 0
        self._asked = False  # for the account's limit
        self._told = False  # that Lambda cannot be reached
        self._busy_since = math.inf  # since when every answer is that there is no room
        self._turned = time.monotonic()
        self._planned = 0.0  # seconds for which the last wait was meant to last at most
        self._wakes = -math.inf  # when the thread that waits will look by itself

    def prepare(self, environment: Environment) -> None:
        if not self._asked:
            self._asked = True
            self._invoker.request(0, "GET", "/2016-08-19/account-settings/")

    def room(self, environment: Environment, seconds: float | None) -> int:
        return max(0, self.workers - len(self._flights))

    def start(self, orders: Sequence[Order]) -> None:
        now, new = time.monotonic(), []
        if not self._flights:  # what was before is of no importance: neither refusals nor having had nothing to do
            self._turned, self._busy_since = now, math.inf
        for order in orders:
            self._number += 1
            memory = order.heading.environment.memory or self._where.memory
            mode = choose(self._invoke, order, out=len(self._flights), seconds=None, limits=self._limits)
            name = self._where.function(memory, self._number % self._where.copies)
            new.append(Flight(self._number, order, mode, name, now, set(range(len(order.call.tasks))), memory=memory))
            self._flights[self._number] = new[-1]
        later = [flight for flight in new if flight.mode == "async"]
        if len(later) >= lambda_trees.LEAST:
            self._plant(later, now)
            new = [flight for flight in new if flight.mode == "sync"]
        for flight in new:
            self._send(flight, now)

    def wait(self, timeout: float) -> object:
        self._wakes = math.inf  # before looking: who puts something in between rings
        try:
            now = time.monotonic()
            until = min(now + timeout, self._due[0][0] if self._due else math.inf, self._watches.due)
            self._wakes = until = now if self._finder.found or self._events else max(now, until)
            self._planned = until - now
            return self._invoker.wait(self._planned)
        finally:
            self._wakes = -math.inf

    def collect(self, waited: object) -> list[Event]:
        now = time.monotonic()
        slept = now - self._turned - self._planned
        if slept > self._limits.gap:
            self._excuse(slept, now)
        self._turned, self._planned = now, 0.0
        for answer in self._invoker.collect(waited):
            self._answered(answer, now)
        while self._finder.found:
            self._take(self._finder.found.popleft(), now)
        while self._due and self._due[0][0] <= now:
            when, number = heapq.heappop(self._due)
            flight = self._flights.get(number)
            if flight is not None and flight.due == when:
                self._looked_at(flight, now)
        self._watches.look(now)
        events, self._events = self._events, []
        return events

    def balance(self) -> None:
        pass  # each Call has a worker of its own

    def wake(self) -> None:
        self._invoker.wake()

    def recall(self, job: str) -> list[Order]:
        waiting = [flight for flight in self._flights.values() if flight.job == job and flight.unsent]
        for flight in waiting:
            self._end(flight)
        return sorted((flight.order for flight in waiting), key=lambda order: order.call.tasks[0].index)

    def stop(self, job: str) -> None:
        mine = [flight for flight in self._flights.values() if flight.job == job]
        for flight in mine:
            self._invoker.forget(flight.number)
            self._end(flight)
        if any(not flight.unsent for flight in mine):
            self._finder.stop(job)

    def close(self) -> None:
        self._finder.close()
        self._invoker.close()
        self._flights.clear()

    # out

    def _send(self, flight: Flight, now: float) -> None:
        body = self._body(flight)
        if body:
            self._post(flight, body, now)

    def _body(self, flight: Flight) -> bytes:
        """What its Invoke carries; nothing if the Call is too large, which is then put into the store."""
        flight.unsent = False
        frame = self.signer.seal(b"call", flight.order.call.encode())
        if 4 * len(frame) // 3 + 100 <= MOST[flight.mode]:
            return event_of(b"call", base64.b64encode(frame), flight)
        self._finder.keep(flight.number, call_key(flight.job, *flight.first), frame)
        return b""

    def _plant(self, flights: list[Flight], now: float) -> None:
        """Let workers start these."""
        loads = [(flight, body) for flight in flights if (body := self._body(flight))]
        for group in lambda_trees.share(loads):
            self._number += 1
            self._starters[self._number] = group
            body = lambda_trees.starter(group)
            self._invoker.send(self._number, group[0][0].function, body, event=False, silence=self._limits.begins)

    def _planted(self, group: list[lambda_trees.Load], answer: Answer, now: float) -> None:
        """What a starter has started is watched; what not, or not for certain, is sent from here."""
        left = lambda_trees.failed(answer, len(group))
        lambda_bills.planted([flight for flight, _ in group], answer, left)
        for place, (flight, body) in enumerate(group):
            if flight.number not in self._flights:
                continue  # cancelled meanwhile
            if place in left:
                self._post(flight, body, now)
            else:
                self._watch(flight, now)

    def _post(self, flight: Flight, body: bytes, now: float) -> None:
        later, flight.size, flight.alive = flight.mode == "async", len(body), now
        lambda_bills.posted(flight)
        silence = self._limits.begins if later else self._where.timeout + self._limits.begins
        self._invoker.send(flight.number, flight.function, body, event=later, silence=silence)
        self._look_at(flight, now + self._limits.listens)

    # back

    def _answered(self, answer: Answer, now: float) -> None:
        if answer.tag == 0:
            self._settle_workers(answer)
            return
        group = self._starters.pop(cast(int, answer.tag), None)
        if group is not None:
            self._planted(group, answer, now)
            return
        flight = self._flights.get(cast(int, answer.tag))
        if flight is None or flight.watched:
            return
        lambda_bills.answered(flight, answer)
        asked = Asked(flight.function, self._where.region, self._invoker.endpoint, flight.memory, flight.size)
        try:
            self._judged(flight, lambda_answers.judge(answer, asked), answer, now)
        except PywrenError as error:  # a frame that does not carry our signature
            self._lose(flight, error, final=True)

    def _judged(self, flight: Flight, verdict: Verdict, answer: Answer, now: float) -> None:
        if not (isinstance(verdict, Again) and verdict.busy):
            self._busy_since = math.inf
        if isinstance(verdict, Done):
            for frame in verdict.frames:
                self._bring(flight, lambda_answers.opened(frame, self.signer))
            self._lose(flight, LambdaError("its worker did not get to it"), charged=False)
        elif isinstance(verdict, Stored):
            self._watch(flight, now)
            if flight.mode == "sync":
                self._ask(flight, LambdaError("its worker did not get to it"), charged=False)
        elif isinstance(verdict, Again):
            self._refused(flight, verdict, answer, now)
        elif isinstance(verdict, Died) and now - flight.sent >= self._limits.stores:
            self._watch(flight, now)
            self._ask(flight, verdict.error, charged=True)
        else:
            self._lose(flight, verdict.error, final=isinstance(verdict, Hopeless))

    def _refused(self, flight: Flight, verdict: Again, answer: Answer, now: float) -> None:
        flight.tries += 1
        if verdict.busy:
            self._busy_since = min(self._busy_since, now)
        step = after_refusal(
            flight,
            busy_since=self._busy_since if verdict.busy else None,
            unknown=verdict.unknown,
            seconds=answer.seconds,
            now=now,
            limits=self._limits,
        )
        if step == "again":
            if not (self._told or verdict.busy or verdict.unknown):
                self._told = True
                _LOG.warning("%s; it is tried again for %.0f s", verdict.why, self._limits.away)
            flight.unsent = True
            flight.unsure |= verdict.unknown and flight.mode == "sync"
            self._look_at(flight, now + pause(flight.tries, self._limits))
        elif step == "watch":
            self._watch(flight, now)
        else:
            kind = Throttled if verdict.busy else LambdaError
            error = kind(f"given up after {now - flight.sent:.0f} s and {flight.tries} times: {verdict.why}")
            self._lose(flight, error, final=not verdict.unknown)

    def _watch(self, flight: Flight, now: float) -> None:
        """From here on its outcomes are looked for in the store."""
        flight.watched = True
        flight.alive = now
        self._watches.of(flight.job).add(flight, now)
        self._look_at(flight, now + self._limits.listens)

    def _ask(self, flight: Flight, absent: BaseException, *, charged: bool) -> None:
        """Its worker has ended: what does not lie in the store by now is lost, for this reason."""
        self._absent[flight.number] = absent, charged
        self._watches.of(flight.job).ask(flight, self._finder)

    def _take(self, found: Found, now: float) -> None:
        if isinstance(found, Kept):
            flight = self._flights.get(found.number)
            if flight is not None and found.error is None:
                self._post(flight, event_of(b"call_key", call_key(flight.job, *flight.first).encode(), flight), now)
            elif flight is not None:
                self._lose(flight, cast(BaseException, found.error))
            return
        watch = self._watches.get(found.job)
        if watch is None:
            return
        if isinstance(found, Listed):
            watch.listed(found, self._finder, now)
        elif isinstance(found, Heard):
            watch.heard(found, now)
        elif isinstance(found, Fetched):
            self._fetched(watch, found, now)
        if found.fault is not None:
            for flight in watch.unread(now):  # for so long that it will not be better soon
                self._lose(flight, type(found.fault)(f"its outcome cannot be read: {found.fault}"), final=True)

    def _fetched(self, watch: Watch, found: Fetched, now: float) -> None:
        flight, over = watch.fetched(found, now)
        if flight is None:
            return
        try:
            if found.frame is not None:
                place = outcome_key(found.job, found.task, found.round)
                self._bring(flight, lambda_answers.opened(found.frame, self.signer, place))
        except PywrenError as error:
            self._lose(flight, error, final=True, one=found.task)
        if over and (lost := self._absent.get(flight.number)) is not None:
            self._lose(flight, lost[0], charged=lost[1])
        elif not flight.open:
            self._end(flight)
        elif over and flight.unsent:
            self._send(flight, now)

    def _bring(self, flight: Flight, outcome: Outcome) -> None:
        """An outcome of a flight. One of another brings nothing, and what is open stays open."""
        for position in flight.open:
            task = flight.order.call.tasks[position]
            if (task.index, task.round) == (outcome.task, outcome.round) and outcome.job == flight.job:
                flight.open.discard(position)
                lambda_bills.brought(flight, outcome)
                # An earlier attempt, given up too soon, may have committed this round: then that is how it ended.
                self._events.append(
                    replace(outcome, attempt=task.attempt) if outcome.attempt < task.attempt else outcome
                )
                return

    def _look_at(self, flight: Flight, when: float) -> None:
        """Look at a flight at that time, and not before."""
        flight.due = when
        heapq.heappush(self._due, (when, flight.number))
        if when < self._wakes:
            self._invoker.wake()

    def _looked_at(self, flight: Flight, now: float) -> None:
        """Its time has come: to be sent again, to be listened to, or to be given up."""
        if flight.unsent and flight.unsure:  # a long or a large one may have been run, and lies in the store then
            flight.unsure = False
            self._look_at(flight, now + self._limits.listens)
            self._watches.of(flight.job).ask(flight, self._finder)
            return
        if flight.unsent:
            self._send(flight, now)
            return
        watch = self._watches.of(flight.job)
        watch.heed(flight, now)
        late = overdue(flight, self._limits)
        if now < late or not watch.is_sure(late):
            self._look_at(flight, max(late, now + self._limits.pulse / 4))
            return
        charged = flight.mode == "sync" or flight.beats > 0 or flight.order.call.tasks[0].attempt > 1
        self._invoker.forget(flight.number)
        error = lambda_answers.silent(flight.function, self._where.store, now - flight.alive)
        self._lose(flight, error, charged=charged)

    def _lose(
        self, flight: Flight, error: BaseException, *, charged: bool = True, final: bool = False, one: int | None = None
    ) -> None:
        """What is still open of a flight, or of that one task, brings no outcome."""
        for position in sorted(flight.open):
            task = flight.order.call.tasks[position]
            if one not in (None, task.index):
                continue
            flight.open.discard(position)
            told = lambda_answers.told_of(error, f"task {task.index} of job {flight.job}")
            self._events.append(Lost(flight.job, task.index, task.attempt, charged, told, final))
        if not flight.open:
            self._end(flight)

    def _end(self, flight: Flight) -> None:
        lambda_bills.over(flight)
        self._flights.pop(flight.number, None)
        self._absent.pop(flight.number, None)
        self._watches.drop(flight)

    # around

    def _excuse(self, slept: float, now: float) -> None:
        """This process was asleep: what was silent meanwhile had nobody to tell."""
        for flight in self._flights.values():
            flight.alive = min(now, flight.alive + slept)
            flight.sent = min(now, flight.sent + slept)
        if self._busy_since != math.inf:
            self._busy_since += slept

    def _settle_workers(self, answer: Answer) -> None:
        """The account's concurrency: read once, kept to, and said once."""
        most = lambda_answers.concurrency(answer)
        if most is None:
            _LOG.info("the account's concurrency cannot be read; %d at a time it is", self.workers)
            return
        _LOG.info("Lambda in %s runs %d at once in this account", self._where.region, most)
        self.workers = min(self._wanted or most, most)


def make(store: Store, *, directory: str, max_workers: int | None, access: Access) -> LambdaBackend:
    """The backend for an executor; ConfigError where no deployment is known."""
    where = deployed(access)
    limits = Limits().scaled(float(os.environ.get("PYWREN_NG_INTERNAL_SCALE", "1")))
    made, invoke = invoker(where, access), setting("invoke")
    return LambdaBackend(made, store, where, workers=max_workers, invoke=invoke, limits=limits)
