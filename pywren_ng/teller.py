"""Tells how a job goes: an observer by events, or where there is none the log by one line.

engine ── outcome, lost, settled ─► Teller ─┬─► Shelf
                                            └─► deliver ─► observer
"""

import functools
from collections.abc import Callable
from typing import Literal

from pywren_ng.observers import AttemptEnded, Event, Observer, TaskSettled
from pywren_ng.progress import LOG
from pywren_ng.shelf import Shelf
from pywren_ng.tracker import Cancelled, Ending, Lost, Task
from pywren_runtime.wire import Outcome, Status

__all__ = ["Guarded", "Teller"]

Deliver = Callable[[Callable[[], object]], None]


class Teller:
    """Watches a job beside the shelf that everything goes on, and tells an observer, or where there is none the log."""

    def __init__(self, shelf: Shelf, observer: Observer | None, deliver: Deliver) -> None:
        self._shelf = shelf
        self._observer = observer
        self._deliver = deliver
        self._was_over = False

    def outcome(self, outcome: Outcome) -> None:
        self._shelf.outcome(outcome)
        self._tell_attempt()

    def lost(self, lost: Lost) -> None:
        self._shelf.lost(lost)
        if lost.charged:
            self._tell_attempt()

    def settled(self, task: Task, ending: Ending) -> None:
        self._shelf.settled(task, ending)
        if self._observer is not None:
            self._tell(TaskSettled(task.tasks.job, task.index, _word_for(ending)))
        self._was_over &= self._shelf.over  # all had settled: this one was run again
        self.look()

    def look(self) -> None:
        """Tell the end, once, if it has come. In turn."""
        is_over = self._shelf.counts().is_over
        if is_over and not self._was_over:
            self._deliver(self._end)
        self._was_over = is_over

    def _tell_attempt(self) -> None:
        if self._observer is not None:
            self._tell(AttemptEnded(self._shelf.tasks.job, self._shelf.attempts[-1]))

    def _tell(self, event: Event) -> None:
        if self._observer is not None:
            self._deliver(functools.partial(self._observer, event))

    def _end(self) -> None:
        ended = self._shelf.ended()  # not in turn: of a million attempts it takes a while
        if self._observer is not None:
            self._observer(ended)
        else:
            LOG.info("%s", ended)


def _word_for(ending: Ending) -> Literal["ok", "failed", "cancelled"]:
    if isinstance(ending, Outcome) and ending.status <= Status.VALUE:
        return "ok"
    return "cancelled" if isinstance(ending, Cancelled) else "failed"


class Guarded:
    """An observer whose errors are logged once and hurt nobody."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._has_failed = False

    def __call__(self, event: Event) -> None:
        try:
            self._observer(event)
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                LOG.exception(
                    "the observer %r failed at %r; the job goes on, and this is said once", self._observer, event
                )
