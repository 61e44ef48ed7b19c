"""What an observer is told: one frozen value for each thing that happens to a job. Pure values.

    with Executor(progress=print) as ex: ...  # any callable of one argument

    JobStarted ─► AttemptEnded, … ─► TaskSettled, … ─► JobEnded      (again from AttemptEnded after `retry_failed`)

Events of one job come in the order in which they happen, one at a time, and hold up no task; those of different jobs
may overlap. The last have come when the executor has shut down. An observer that raises is logged once, and no task is
worse for it. Executors inside tasks tell nobody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pywren_ng.pricing import Cost

__all__ = ["Attempt", "AttemptEnded", "Event", "JobEnded", "JobStarted", "Observer", "TaskSettled"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of one task. Times are seconds since the epoch, not-a-number where it did not get that far."""

    task: int
    round: int
    attempt: int
    ended: str  # "ok", "raised", "failed" or "lost"
    queued: float
    started: float
    function_loaded: float
    arguments_loaded: float
    ran: float
    stored: float
    cpu: float  # processor seconds of this task
    peak: int  # bytes resident at most while this task ran
    worker: int
    cold: bool  # the worker's first task

    @property
    def seconds(self) -> float:
        """How long the worker was busy with it."""
        return self.stored - self.started


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job begins. `tasks` is None while nobody knows how many there will be."""

    job: str
    name: str
    tasks: int | None


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt brought an outcome or was lost; whether another follows, the task's end will tell."""

    job: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class TaskSettled:
    """A task has ended, and nothing more comes of it."""

    job: str
    task: int
    ending: Literal["ok", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Nothing more comes of a job; its text is the line that ends a bar. Times are not-a-number where none is known."""

    job: str
    name: str
    tasks: int  # that ended, cancelled ones apart
    failed: int
    cancelled: int
    retried: int  # attempts that were followed by another
    p50: float  # seconds of the attempts that succeeded
    p99: float
    cold: int  # attempts that were their worker's first
    seconds: float  # from the first task queued to the last one done
    cost: Cost | None  # None where nothing is paid for

    def __str__(self) -> str:
        parts = [f"{self.name}: {_many(self.tasks, 'task')} in {duration(self.seconds)}", f"{self.failed} failed"]
        parts += [
            f"{count} {word}" for count, word in ((self.cancelled, "cancelled"), (self.retried, "retried")) if count
        ]
        parts += [f"p50 {duration(self.p50)}", f"p99 {duration(self.p99)}"] if self.p50 == self.p50 else []
        parts += [_many(self.cold, "cold start")]
        parts += [str(self.cost)] if self.cost is not None else []
        return ", ".join([*parts, f"job {self.job}"])


Event = JobStarted | AttemptEnded | TaskSettled | JobEnded
Observer = Callable[[Event], object]


def duration(seconds: float) -> str:
    """A time as people say it."""
    if not seconds < float("inf"):
        return "–"
    if seconds < 0.0009995:
        return f"{1e6 * seconds:.3g} µs"
    if seconds < 0.9995:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
