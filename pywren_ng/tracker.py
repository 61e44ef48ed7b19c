"""Which task is where: a state machine that is told what happened and when, and decides what follows.

            add                take                 outcome: a value
    ─────────────────► READY ────────► OUT ───────────────────────────────► SETTLED
                         ▲              │ lost, or raised what retry_on names
                         └── WAITING ◄──┘ (back-off; a new attempt, or a new round)

It does no I/O, reads no clock and holds no lock; one thread owns it. Whatever the order of events, every task settles
exactly once: an outcome counts only if its round is the task's round and its task has not settled.
"""

import enum
import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pywren_runtime.errors import TaskTimeout
from pywren_runtime.wire import Environment, Head, Outcome, Status

if TYPE_CHECKING:
    from pywren_ng.pricing import Usage

BACKOFF = 0.05  # seconds before the second attempt; doubles with each
BACKOFF_MOST = 20.0


class State(enum.IntEnum):
    """Where a task is."""

    READY = 0
    OUT = 1
    WAITING = 2
    SETTLED = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """What a job does about failures and time."""

    retries: int = 2
    retry_on: tuple[type[BaseException], ...] = ()
    time_limit: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Heading:
    """What the tasks of a job share, and how it travels: tasks of the same heading may share a Call."""

    head: Head
    environment: Environment
    encoded: bytes
    usage: "Usage | None" = None  # where a backend counts what is to be paid for


@dataclass(frozen=True, slots=True)
class Lost:
    """An event: an attempt will bring no outcome. It is charged to the task only if the task had begun."""

    job: str
    task: int
    attempt: int
    charged: bool
    error: BaseException
    final: bool = False  # another attempt would fare no better
    committed: bool = False  # an outcome of it lies in the store: the next attempt needs another round


class Cancelled:
    """How a task ended that was cancelled before it had an outcome."""


@dataclass(frozen=True, slots=True)
class Opened:
    """How a task ended, unpacked: a value, or an error."""

    value: Any
    error: BaseException | None


class Forgotten:
    """The ending of a task whose result was handed out and is not kept."""


Ending = Outcome | BaseException | Cancelled | Opened | Forgotten


class Watcher(Protocol):
    """Is told what happens to the tasks of one job, by the thread that owns the tracker."""

    def outcome(self, outcome: Outcome) -> None:
        """An attempt brought an outcome, whether or not that settles its task."""

    def lost(self, lost: Lost) -> None:
        """An attempt was lost."""

    def settled(self, task: "Task", ending: Ending) -> None:
        """A task has settled, with this ending."""


class Task:
    """One call of the user's function, and all that is known of it."""

    __slots__ = (
        "arguments",
        "attempt",
        "ending",
        "future",
        "heading",
        "held",
        "index",
        "losses",
        "queued",
        "raises",
        "round",
        "state",
        "tasks",
    )

    def __init__(
        self,
        tasks: "Tasks",
        index: int,
        heading: Heading,
        arguments: bytes,
        held: tuple[str, ...],
        queued: float,
    ) -> None:
        self.tasks: Tasks = tasks
        self.index: int = index
        self.heading: Heading = heading
        self.arguments: bytes = arguments
        self.held: tuple[str, ...] = held  # keys of the blobs that the arguments need
        self.state: State = State.READY
        self.round: int = 0
        self.attempt: int = 0  # of those begun so far; the first is 1
        self.losses: int = 0  # attempts that a worker took with it
        self.raises: int = 0  # attempts that raised what `retry_on` names
        self.queued: float = queued  # seconds since the epoch
        self.ending: Ending | None = None
        self.future: Future[Any] | None = None


class Pace:
    """How long a function's tasks take in a worker: a moving mean, shared by all jobs of that function."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def note(self, seconds: float) -> None:
        self.seconds = seconds if self.seconds is None else 0.8 * self.seconds + 0.2 * seconds


class Tasks:
    """The tasks of one job, in input order."""

    __slots__ = (
        "all",
        "chunksize",
        "held",
        "job",
        "kept",
        "pace",
        "policy",
        "ready",
        "retried",
        "role",
        "unsettled",
        "waiting",
        "watcher",
    )

    def __init__(
        self,
        job: str,
        *,
        policy: Policy,
        chunksize: int | None,
        pace: Pace,
        watcher: Watcher,
    ) -> None:
        self.job: str = job
        self.watcher: Watcher = watcher
        self.kept: bool = False  # whether somebody may still ask for arguments and endings of settled tasks
        self.held: tuple[str, ...] = ()  # keys of the blobs that the function needs
        self.role: int = 0  # what its tasks are besides calls of the function: see `wire`
        self.policy: Policy = policy
        self.chunksize: int | None = chunksize
        self.pace: Pace = pace
        self.all: list[Task] = []
        self.ready: deque[Task] = deque()
        self.unsettled: int = 0
        self.waiting: int = 0  # of those, how many wait for their next attempt
        self.retried: int = 0  # attempts that failed and were followed by another


class Tracker:
    """The tasks of all jobs that are not done."""

    def __init__(self) -> None:
        self.jobs: dict[str, Tasks] = {}
        self.ready: int = 0
        self._queue: deque[Tasks] = deque()
        self._waiting: list[tuple[float, int, Task]] = []
        self._order = itertools.count()

    def add(self, tasks: Tasks, new: Sequence[Task]) -> None:
        """Take on tasks of a job, in order, behind all that are ready already."""
        self.jobs[tasks.job] = tasks
        if not tasks.ready:
            self._queue.append(tasks)
        for task in new:
            task.state = State.READY
        tasks.ready.extend(new)
        tasks.unsettled += len(new)
        self.ready += len(new)

    def first(self) -> Task | None:
        """The task that is to go out next."""
        while self._queue and not self._queue[0].ready:
            self._queue.popleft()
        return self._queue[0].ready[0] if self._queue else None

    def take(self, most: int) -> list[Task]:
        """Up to `most` tasks of one job that share a Call; from now on they are out, in a new attempt."""
        first = self.first()
        if first is None:
            return []
        ready, heading = first.tasks.ready, first.heading
        taken: list[Task] = []
        while ready and len(taken) < most and ready[0].heading is heading:
            if taken and ready[0].losses:  # what may take its worker with it goes alone
                break
            task = ready.popleft()
            task.state = State.OUT
            task.attempt += 1
            taken.append(task)
            if task.losses:
                break
        self.ready -= len(taken)
        return taken

    def outcome(self, outcome: Outcome, now: float) -> Task | None:
        """An outcome has come in. The task if that settles it; None if it is late, twice, or to be tried again."""
        tasks = self.jobs.get(outcome.job)
        if tasks is None or outcome.task >= len(tasks.all):
            return None
        task = tasks.all[outcome.task]
        if task.state is State.SETTLED or outcome.round != task.round or outcome.attempt > task.attempt:
            return None
        if outcome.status <= Status.VALUE:
            return self.settle(task, outcome)
        if task.state is not State.OUT or outcome.attempt != task.attempt:
            return None  # a failure of an attempt that was given up: another is on its way
        retries = tasks.policy.retries
        if outcome.status is Status.RETRY and task.raises < retries:
            task.round += 1
            task.raises += 1
            self._wait(task, now, task.raises)
            return None
        if outcome.status is Status.LOST and task.losses < retries:
            task.round += 1  # the outcome may lie in the store, where it has committed this one
            task.losses += 1
            self._wait(task, now, task.losses)
            return None
        return self.settle(task, outcome)

    def lost(self, lost: Lost, now: float) -> Task | None:
        """An attempt will bring no outcome. The task if that settles it."""
        tasks = self.jobs.get(lost.job)
        task = tasks.all[lost.task] if tasks else None
        if tasks is None or task is None or task.state is not State.OUT or task.attempt != lost.attempt:
            return None
        task.round += lost.committed
        if not lost.charged:
            self._again(task)
            return None
        policy = tasks.policy
        stopped = lost.final or isinstance(lost.error, TaskTimeout)  # it would take as long again
        if task.losses < policy.retries and (not stopped or isinstance(lost.error, policy.retry_on)):
            task.losses += 1
            self._wait(task, now, task.losses)
            return None
        return self.settle(task, lost.error)

    def cancel(self, task: Task, *, running: bool) -> Task | None:
        """Settle a task as cancelled, one that is out only if `running`."""
        if task.state is State.SETTLED or (task.state is State.OUT and not running):
            return None
        return self.settle(task, Cancelled())

    def settle(self, task: Task, ending: Ending) -> Task:
        """The end of a task; nothing changes it from here on."""
        if task.state is State.READY:
            task.tasks.ready.remove(task)
            self.ready -= 1
        elif task.state is State.WAITING:
            task.tasks.waiting -= 1
        task.state = State.SETTLED
        task.ending = ending
        task.tasks.unsettled -= 1
        if not task.tasks.unsettled:
            self.jobs.pop(task.tasks.job, None)
        return task

    def reopen(self, tasks: Tasks, again: Iterable[Task]) -> None:
        """Run settled tasks once more, in a new round."""
        chosen = list(again)
        for task in chosen:
            task.ending = None
            task.round += 1
            task.losses = task.raises = 0
        self.add(tasks, chosen)

    def due(self, now: float) -> float | None:
        """Make ready what has waited long enough; when the next will have."""
        while self._waiting and self._waiting[0][0] <= now:
            task = heapq.heappop(self._waiting)[2]
            if task.state is State.WAITING:
                task.tasks.waiting -= 1
                self._again(task)
        return self._waiting[0][0] if self._waiting else None

    def _again(self, task: Task) -> None:
        task.state = State.READY
        if not task.tasks.ready:
            self._queue.appendleft(task.tasks)
        task.tasks.ready.appendleft(task)
        self.ready += 1

    def _wait(self, task: Task, now: float, times: int) -> None:
        task.state = State.WAITING
        task.tasks.retried += 1
        task.tasks.waiting += 1
        heapq.heappush(self._waiting, (now + backoff(times), next(self._order), task))


def backoff(times: int) -> float:
    """Seconds to wait before the next attempt after so many failures."""
    return min(BACKOFF * 2.0 ** (times - 1), BACKOFF_MOST)


def chunk(tasks: Tasks, workers: int) -> int:
    """How many tasks the next Call of a job carries.

    With no size given: as many as take about 50 ms, once that is known, but no more than leaves each worker four Calls.
    """
    if tasks.chunksize is not None:
        return tasks.chunksize
    seconds = tasks.pace.seconds
    if seconds is None:
        return 1
    share = -(-len(tasks.ready) // (4 * workers))
    return max(1, min(share, int(0.05 / max(seconds, 1e-6)), 1000))
