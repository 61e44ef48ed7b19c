"""Futures whose results are unpacked by whoever asks for them first."""

import functools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol, TypeVar

from pywren_ng.tracker import Cancelled, Ending, Opened, Task, Tasks
from pywren_runtime.wire import Outcome, Status

T = TypeVar("T")


class Keeper(Protocol):
    """What a future needs of the engine that settles it."""

    def open(self, task: Task) -> Opened:
        """A settled task's value or error."""

    def help(self, is_over: Callable[[], bool], deadline: float | None = None) -> None:
        """Wait in the caller's thread, as long as that is of use."""

    def ask(self, question: Callable[[], T]) -> T:
        """Have something done in turn."""

    def withdraw(self, task: Task) -> bool:
        """Cancel a task that has not begun. In turn."""

    def deliver(self, callback: Callable[[], object]) -> None:
        """Run a user's callback, where it holds up nobody."""

    def drop(self, outcome: Outcome) -> None:
        """Nobody can ask for this any more. Safe in finalizers."""


def is_cancelled(ending: Ending | None) -> bool:
    """Whether a task ended by being cancelled."""
    return isinstance(ending, Cancelled) or (isinstance(ending, Opened) and isinstance(ending.error, CancelledError))


def finish(future: Future[Any], ending: Ending | None) -> None:
    """Tell who waits that a task is over, and whether it failed, which `wait` asks; what it is, is opened later."""
    failed = isinstance(ending, BaseException | Cancelled) or (
        ending.status > Status.VALUE
        if isinstance(ending, Outcome)
        else isinstance(ending, Opened) and ending.error is not None
    )
    if failed:
        future.set_exception(_Unopened())
    else:
        future.set_result(None)


class _Unopened(Exception):
    """Stands in a future for the error that its task's ending holds."""


class TaskFuture(Future[Any]):
    """A future whose result is unpacked by whoever asks for it first, and whose callbacks never hold up the engine."""

    def __init__(self, task: Task, engine: Keeper) -> None:
        super().__init__()
        self._task = task
        self._engine = engine

    def result(self, timeout: float | None = None) -> Any:
        """The value, or the error raised; waits for it."""
        self._wait(timeout)
        opened = self._engine.open(self._task)
        if opened.error is not None:
            try:
                raise opened.error
            finally:
                self = None  # type: ignore[assignment]  # break the cycle of error, traceback and frame
        return opened.value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, or None; waits for it."""
        self._wait(timeout)
        return self._engine.open(self._task).error

    def cancel(self) -> bool:
        """As the standard library's; what was sent to a worker but has not begun there can still be cancelled."""
        if super().cancel():
            return True
        return self.running() and self._engine.ask(lambda: self._engine.withdraw(self._task))

    @property
    def tasks(self) -> Tasks:
        """The job to which it belongs."""
        return self._task.tasks

    def set_pending(self) -> None:
        """Its task was sent ahead, has not begun and came back. In turn."""
        with self._condition:
            if self.running():
                self._state = "PENDING"

    def keep(self, task: Task) -> None:
        """Stay with how the task has ended, for it is to run again and its next end is another future's."""
        self._task = Task(task.tasks, task.index, task.heading, b"", (), task.queued)
        self._task.state, self._task.ending = task.state, task.ending

    def __del__(self) -> None:
        # Its task goes with it: what was not asked for would lie in the store as long as the executor lives.
        ending = self._task.ending
        if isinstance(ending, Outcome) and ending.payload[:1] == b"\1":
            self._engine.drop(ending)

    def _wait(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        self._engine.help(self.done, deadline)
        super().exception(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """As the standard library's, but that a callback never runs in a thread that other tasks wait for."""
        deliver = self._engine.deliver  # not `self`, which keeps the callback
        super().add_done_callback(lambda future: deliver(functools.partial(fn, future)))

    def __repr__(self) -> str:
        state = (
            "cancelled" if self.cancelled() else "done" if self.done() else "running" if self.running() else "pending"
        )
        return f"<TaskFuture of task {self._task.index} of job {self._task.tasks.job}: {state}>"


class Callbacks:
    """A thread that runs what it is given in order; it begins with the first one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, callback: Callable[[], object]) -> None:
        self._queue.put(callback)
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return  # the interpreter ends and starts no threads any more: `join` runs what waits here
            self._thread = thread

    def close(self) -> None:
        """Nothing is put after this."""
        self._queue.put(None)

    def join(self) -> None:
        """After `close`: return when all callbacks have run."""
        if self._thread is None:
            self._run()
        elif self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while (callback := self._queue.get()) is not None:
            try:
                callback()
            except Exception:
                logging.getLogger("concurrent.futures").exception("exception calling callback %r", callback)
            del callback  # until the next one comes, it would keep what it refers to
        self._queue.put(None)  # for the next who joins
