"""Long-lived worker processes on this machine, started as they are needed.

                    ┌─ frames, tickets ─► python -m pywren_runtime ─┐
    start ─► _Fleet ┼─ frames, tickets ─► python -m pywren_runtime ─┼─ outcomes ─► wait
                    └─ …                                            ┘
               └── boards: who runs what since when; read for time limits and after a death

A worker is a fresh interpreter: nothing of this process's modules, files, locks or threads gets into it. Calls of short
tasks are sent ahead (see `pywren_runtime.link`); what waits behind a long task is taken back for an idle worker.
"""

import contextlib
import heapq
import os
import selectors
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import cast

from pywren_ng.backends import Event, Order
from pywren_ng.backends.local_process import LocalProcess
from pywren_ng.credentials import Access
from pywren_ng.requirements import HERE, Target
from pywren_ng.scratch import laid_out, private_store
from pywren_ng.tracker import Lost
from pywren_runtime.errors import ConfigError, SignatureError
from pywren_runtime.process import Doom, too_long
from pywren_runtime.spawn import Surroundings
from pywren_runtime.stores import Store
from pywren_runtime.wire import Environment, Signer

AHEAD = 0.004  # seconds of work that may wait in a worker's pipe
DEEPEST = 64
PATIENCE = 0.002  # how long a task must run before what waits behind it is taken back
REAP = 0.5  # how often to look for dead workers whose pipe somebody else keeps open


class LocalBackend:
    """Worker processes of this machine, `workers` of them at most, whatever their environments."""

    longest: float | None = None
    threaded = True

    def __init__(self, surroundings: Surroundings, *, workers: int) -> None:
        self.workers = workers
        self.signer: Signer = Signer(surroundings.key)
        self._surroundings = surroundings
        self._processes: list[LocalProcess] = []
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._events: list[Event] = []
        self._number = 0
        self._refusal = ""  # why the last worker could not be started
        # Where that is for want of descriptors, the error that says so has yet to be imported, from files.
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._look = 0.0  # when to look at the boards next

    def prepare(self, environment: Environment) -> None:
        if not self._processes:
            self._hire(environment)

    def room(self, environment: Environment, seconds: float | None) -> int:
        depth = depth_for(seconds)
        free = self.workers - len(self._processes)
        for process in self._processes:
            if not process.fits(environment):
                free += not process.sent  # it would be replaced
            elif len(process.sent) * 2 <= depth:  # in batches, not one by one
                free += depth - len(process.sent)
        return max(free, 0)

    def start(self, orders: Sequence[Order]) -> None:
        environment = orders[0].heading.environment
        fitting = [process for process in self._processes if process.fits(environment)]
        loads = [(len(process.sent), index, process) for index, process in enumerate(fitting)]
        heapq.heapify(loads)
        hiring = True
        for order in orders:
            if hiring and (not loads or loads[0][0] > 0):
                fresh = self._hire(environment)
                hiring = fresh is not None
                if fresh is not None:
                    heapq.heappush(loads, (0, -len(loads), fresh))
            if not loads:
                self._lose(order)
                continue
            load, index, process = loads[0]
            self._number += 1
            process.send(self._number, order)
            heapq.heapreplace(loads, (load + 1, index, process))
        for _, _, process in loads:
            self._flush(process)
        if self._events or orders[0].heading.head.time_limit is not None:
            self._look = 0.0
            self.wake()

    def wait(self, timeout: float) -> object:
        return self._selector.select(min(timeout, max(0.0, self._look - time.monotonic())))

    def collect(self, waited: object) -> list[Event]:
        for key, mask in cast("list[tuple[selectors.SelectorKey, int]]", waited):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
            elif key.data not in self._processes:
                pass  # buried since
            elif mask & selectors.EVENT_READ:
                self._read(key.data)
            else:
                self._flush(key.data)
        now = time.monotonic()
        if now >= self._look:
            self._look = now + self._look_around(now)
        events, self._events = self._events, []
        return events

    def balance(self) -> None:
        now = time.monotonic()
        if self._steal(now):
            self._look = min(self._look, now + PATIENCE)

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full: it will wake; closed: nobody waits
            os.write(self._wake, b"!")

    def recall(self, job: str) -> list[Order]:
        recalled = []
        for process in self._processes:
            if process.doom is None and any(order.heading.head.job == job for order in process.sent.values()):
                taken = process.take_back(len(process.sent))
                others = [number for number, order in taken if order.heading.head.job != job]
                process.allow_again(others, dict(taken))
                recalled += [order for _, order in taken if order.heading.head.job == job]
        return sorted(recalled, key=lambda order: order.call.tasks[0].index)

    def stop(self, job: str) -> None:
        self.recall(job)
        for process in self._processes:
            running = next(iter(process.sent.values()), None)
            if running is not None and running.heading.head.job == job:
                process.doom = process.doom or Doom(CancelledError, "it was cancelled")
                process.kill()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.reap()
        self._processes.clear()
        self._selector.close()
        self._give_up_spare()
        os.close(self._woken)
        wake, self._wake = self._wake, -1  # its number may become another file's, into which nobody must write
        os.close(wake)

    # what happens inside `wait`

    def _read(self, process: LocalProcess) -> None:
        try:
            self._events.extend(process.receive())
        except EOFError:
            self._bury(process)
        except SignatureError as error:
            process.doom = Doom(SignatureError, str(error))
            self._bury(process)

    def _flush(self, process: LocalProcess) -> None:
        if process.doom is not None:
            return
        done = process.flush()
        events = selectors.EVENT_READ if done else selectors.EVENT_READ | selectors.EVENT_WRITE
        if self._selector.get_key(process.outcomes).events != events:
            self._selector.modify(process.outcomes, events, process)

    def _look_around(self, now: float) -> float:
        """Kill what runs too long, bury what died; how long until the next look."""
        soonest = REAP
        for process in list(self._processes):
            if process.is_dead():
                with contextlib.suppress(EOFError, SignatureError):
                    while arrived := process.receive():
                        self._events.extend(arrived)
                self._bury(process)
                continue
            limit = process.time_limit()
            if limit is None or process.doom is not None:
                continue
            running = process.board.running()
            if running is None:
                soonest = min(soonest, limit)
                continue
            left = running.since + limit - now
            if left <= 0:
                process.doom = too_long(now - running.since, limit)
                process.kill()
            else:
                soonest = min(soonest, left)
        return soonest

    def _steal(self, now: float) -> bool:
        """Give an idle worker half of what waits behind a long task, or for a worker that is still starting.

        Whether any might be had soon.
        """
        idle = [process for process in self._processes if not process.sent and process.doom is None]
        if not idle:
            return False
        behind = [p for p in self._processes if p.doom is None and len(p.sent) + p.is_starting() > 1]
        for victim in sorted(behind, key=lambda process: -len(process.sent)):
            thief = next((process for process in idle if process.fits(victim.environment)), None)
            if thief is None or now - victim.begun() < PATIENCE:
                continue
            idle.remove(thief)
            for _, order in victim.take_back((len(victim.sent) + victim.is_starting()) // 2):
                self._number += 1
                thief.send(self._number, order)
            self._flush(thief)
        return bool(behind and idle)

    def _hire(self, environment: Environment) -> LocalProcess | None:
        """A new worker for an environment, in the place of an idle one of another if need be."""
        if len(self._processes) >= self.workers:
            other = next((p for p in self._processes if not p.sent and not p.fits(environment)), None)
            if other is None:
                return None
            self._dismiss(other)
        try:
            process = LocalProcess(self._surroundings, environment)
        except OSError as error:
            self._refusal = (
                f"no worker process could be started: {error}; close files or processes, or use fewer workers"
            )
            return None
        self._processes.append(process)
        self._selector.register(process.outcomes, selectors.EVENT_READ, process)
        return process

    def _dismiss(self, process: LocalProcess) -> None:
        self._selector.unregister(process.outcomes)
        self._processes.remove(process)
        process.kill()
        process.reap()

    def _bury(self, process: LocalProcess) -> None:
        """A worker is dead: its running task is charged, those it had not begun are not."""
        self._dismiss(process)
        first = next(iter(process.sent), 0)
        number, position, doom = process.post_mortem(first)
        if doom.kind is SignatureError:  # whoever wrote there: the task whose outcome was to come is charged
            number, position = first, process.done_of(first)
        stopped = doom.kind is CancelledError
        for sent, order in process.sent.items():
            done = process.done_of(sent)
            for at, task in enumerate(order.call.tasks[done:], done):
                charged = sent == number and at == position and not stopped
                job = order.heading.head.job
                self._events.append(Lost(job, task.index, task.attempt, charged, doom.error(job, task.index)))

    def _lose(self, order: Order) -> None:
        self._give_up_spare()
        from pywren_runtime.errors import WorkerLost

        for task in order.call.tasks:
            doom = Doom(WorkerLost, self._refusal)
            job = order.heading.head.job
            self._events.append(Lost(job, task.index, task.attempt, True, doom.error(job, task.index)))

    def _give_up_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


def depth_for(seconds: float | None) -> int:
    """How many Calls one worker may have at a time: one, and what it can do in a few milliseconds."""
    if seconds is None:
        return 1
    return 1 + min(DEEPEST, int(AHEAD / max(seconds, 1e-6)))


def own_store(directory: str, access: Access) -> Store:
    """Where the executor's data lies if the user names no store."""
    return private_store(directory)


def target(access: Access) -> Target:
    """The packages that its workers can be given."""
    return Target(HERE)


def make(store: Store, *, directory: str, max_workers: int | None, access: Access) -> LocalBackend:
    """The backend for an executor whose private folder is `directory`."""
    if store.url.startswith("memory:"):
        raise ConfigError("workers are other processes and cannot see store='memory:…'; use a file:// store, or none")
    processors = usable_processors()
    workers = max_workers or processors
    surroundings = Surroundings(
        directory=directory,
        store=store.url,
        private=store.private,
        key=os.urandom(32),
        threads=max(1, processors // workers),
        packages=laid_out(),
    )
    return LocalBackend(surroundings, workers=workers)


def usable_processors() -> int:
    """How many processors this process may use, by its affinity and its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/cpu.max") as file:
        quota, period = map(int, file.read().split())  # "max 100000" where there is none
        count = min(count, max(1, -(-quota // period)))
    return count
