"""Where a job's news comes in: the engine puts it here, the Job waits for it, a bar looks at it.

engine ── outcome, lost, settled ─► Shelf ◄── wait ── Job
                                      ▲────── counts, ended ── a bar, a table, the last line
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pywren_ng.progress import Counts
from pywren_ng.report import AttemptLog
from pywren_ng.tracker import Cancelled, Ending, Lost, Task, Tasks
from pywren_runtime.wire import Outcome, Status

if TYPE_CHECKING:  # a job needs neither before its end, and its first result waits for what is imported
    from pywren_ng.observers import JobEnded
    from pywren_ng.pricing import Usage

LOGS = 64 << 20  # bytes of tasks' output that a job keeps


class Shelf:
    """Where the engine puts what becomes of a job's tasks, and where its Job waits for them."""

    def __init__(self, title: str = "tasks", usage: "Usage | None" = None) -> None:
        self.title: str = title
        self.usage: Usage | None = usage  # what is paid for
        self.tasks: Tasks  # set by who makes them, for they point here
        self.attempts: AttemptLog = AttemptLog()
        self.logs: dict[int, bytes] = {}
        self.done: int = 0
        self.failed: int = 0  # of those done; among them
        self.cancelled: int = 0
        self.length: int | None = None  # how many tasks there will be, once that is known
        self.over: bool = False  # whether nobody takes any more results
        self._logged = 0
        self._changed = threading.Condition()
        self._awaited: list[Callable[[], bool]] = []

    # from the engine

    def outcome(self, outcome: Outcome) -> None:
        self.attempts.note(outcome, self.tasks.all[outcome.task].queued)
        if outcome.output:
            self._logged += len(outcome.output) - len(self.logs.pop(outcome.task, b""))
            self.logs[outcome.task] = outcome.output
            while self._logged > LOGS:
                self._logged -= len(self.logs.pop(next(iter(self.logs))))

    def lost(self, lost: Lost) -> None:
        if lost.charged:
            task = self.tasks.all[lost.task]
            self.attempts.note_lost(lost.task, task.round, lost.attempt, task.queued)

    def settled(self, task: Task, ending: Ending) -> None:
        with self._changed:
            self.done += 1
            if not (isinstance(ending, Outcome) and ending.status <= Status.VALUE):
                self.failed += 1
                self.cancelled += isinstance(ending, Cancelled)
            if self._awaited and any(is_over() for is_over in self._awaited):
                self._changed.notify_all()

    # for who looks

    def counts(self) -> Counts:
        """How far the job is."""
        tasks = self.tasks
        known, is_fed = len(tasks.all), len(tasks.all) == self.length
        is_over = self.over or (self.done >= known and (is_fed or not tasks.kept))
        return Counts(
            total=self.length,
            done=self.done - self.cancelled,
            running=max(0, tasks.unsettled - len(tasks.ready) - tasks.waiting),
            failed=self.failed - self.cancelled,
            cancelled=self.cancelled,
            retried=tasks.retried,
            is_over=is_over,
        )

    def ended(self) -> "JobEnded":
        """How it ended, or stands."""
        from pywren_ng.observers import JobEnded
        from pywren_ng.pricing import cost_of

        counts, digest = self.counts(), self.attempts.digest()
        return JobEnded(
            self.tasks.job,
            self.title,
            counts.done,
            counts.failed,
            counts.cancelled,
            counts.retried,
            digest.p50,
            digest.p99,
            digest.cold,
            digest.seconds,
            cost_of(self.usage) if self.usage is not None else None,
        )

    # from the Job

    def wait(self, is_over: Callable[[], bool], deadline: float | None = None) -> None:
        """Wait until `is_over()`. TimeoutError after the deadline (on the monotonic clock)."""
        if is_over():
            return
        with self._changed:
            self._awaited.append(is_over)
            try:
                while not is_over():
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        raise TimeoutError
                    self._changed.wait(left)
            finally:
                self._awaited.remove(is_over)
