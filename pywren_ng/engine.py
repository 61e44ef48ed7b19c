"""Owns task state, and moves Calls out and Outcomes in.

    any thread ── call(action) ─► inbox ─┐
                                         ▼
                     one turn ┌─► tracker.take ─► Order ─► backend.start
                              └── tracker.outcome ◄─ Outcome, Lost ◄─ backend.collect ◄─ backend.wait
                                         └─► watcher.settled, Future

Who holds the turn owns the state. The engine's thread lets go of it only while it waits for the backend; a caller who
finds it free takes it and starts its own tasks, which saves a switch of threads for each submit.

No user's code runs in a turn: results are unpacked where they are asked for, callbacks run on a thread of their own.
"""

import functools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from pywren_ng.backends import Backend, Event, Order
from pywren_ng.packing import Blobs
from pywren_ng.tracker import Cancelled, Ending, Forgotten, Lost, Opened, State, Task, Tasks, Tracker, chunk
from pywren_runtime import blobs as pieces
from pywren_runtime import failures
from pywren_runtime.errors import InitializerError, PywrenError
from pywren_runtime.pickling import Bytes, Ref, loads, refs_of
from pywren_runtime.stores import Store
from pywren_runtime.wire import STATS, Call, Outcome, Status, TaskCall

T = TypeVar("T")
_FOREVER = 3600.0
_LOG = logging.getLogger("concurrent.futures")


class Engine:
    """Runs jobs on a backend until it is closed. What is said to be "in turn" is reached through `call` or `ask` only."""

    def __init__(self, backend: Backend, store: Store, blobs: Blobs) -> None:
        self.workers = backend.workers
        self.broken: BaseException | None = None
        self.closing = False  # whether it takes no more; what it has taken it finishes
        self._backend = backend
        self._store = store
        self._blobs = blobs
        self._tracker = Tracker()
        self._inbox: deque[Callable[[], object]] = deque()
        self._closed = threading.Event()
        self._callbacks = _Callbacks()
        self._opening = threading.RLock()  # a stored result can be unpacked only once
        self._turns = threading.RLock()
        self._thread: threading.Thread | None = None
        if backend.threaded:
            self._thread = threading.Thread(target=self._run, name="pywren-engine", daemon=True)
            self._thread.start()

    # from any thread

    def call(self, action: Callable[[], object]) -> None:
        """Have something done in turn: here and now if nobody has the turn, else by whoever has it."""
        self._inbox.append(action)
        # Looked at again after each turn: what arrived too late for its holder to see must not lie there.
        while self._inbox and self._turns.acquire(blocking=False):
            try:
                if self._thread is None:
                    while self._guarded_turn(self._backend.wait(0)) is not None and self._tracker.jobs:
                        pass
                else:
                    self._guarded_turn(None)
            finally:
                self._turns.release()

    def ask(self, question: Callable[[], T]) -> T:
        """Have the engine do something and wait for what it returns."""
        answer: Future[T] = Future()
        self.call(lambda: answer.set_result(question()))
        return answer.result()

    def add(self, tasks: Tasks, new: list[Task]) -> None:
        """Take on tasks of a job."""
        self.call(functools.partial(self._add, tasks, new))

    def close(self, *, wait: bool = True, cancel: bool = False, kill: bool = False) -> None:
        """Take no more; end when all is done, or with `cancel` when what runs is done, or with `kill` at once."""
        self.closing = True
        self.call(functools.partial(self._close, cancel, kill))
        if self._thread is None:
            if not self._closed.is_set():
                self._end()
        elif wait and self._thread is not threading.current_thread():
            self._thread.join()

    def future_of(self, task: Task) -> "TaskFuture":
        """A new future for a task that has not gone out yet."""
        return TaskFuture(task, self.open, self._calls_back)

    # in turn

    def _run(self) -> None:
        timeout: float | None = 0.0
        while timeout is not None:
            waited = self._backend.wait(0.0 if self._inbox else timeout)
            with self._turns:
                timeout = self._guarded_turn(waited)
        with self._turns:
            self._end()

    def _guarded_turn(self, waited: object | None) -> float | None:
        try:
            return self._turn(waited)
        except BaseException as error:
            self._break(PywrenError(f"the engine stopped, which is a fault of pywren_ng's own: {error!r}"), error)
            self.closing = True
            self._backend.wake()
            return None

    def _turn(self, waited: object | None) -> float | None:
        """One turn: what was asked, what has happened, what can start. How long to wait then; None at the end."""
        while self._inbox:
            self._inbox.popleft()()
        if waited is not None:
            now = time.monotonic()
            for event in self._backend.collect(waited):
                self._handle(event, now)
        due = self._tracker.due(time.monotonic())
        if self._tracker.ready:
            self._dispatch()
        if not self._tracker.ready:
            self._backend.balance()
        if self.closing and not self._tracker.jobs:
            return None
        return _FOREVER if due is None else max(0.0, due - time.monotonic())

    def _end(self) -> None:
        self._backend.close()
        self._callbacks.close()
        self._closed.set()

    def _dispatch(self) -> None:
        tracker, backend = self._tracker, self._backend
        while (first := tracker.first()) is not None:
            environment = first.heading.environment
            room = backend.room(environment, first.tasks.pace.seconds)
            orders: list[Order] = []
            while len(orders) < room and first is not None and first.heading.environment == environment:
                taken = [task for task in tracker.take(chunk(first.tasks, self.workers)) if self._goes(task)]
                if taken:
                    calls = tuple(
                        TaskCall(task.index, task.round, task.attempt, task.arguments) for task in taken
                    )
                    orders.append(Order(Call(taken[0].heading.encoded, calls), taken[0].heading))
                first = tracker.first()
            if orders:
                backend.start(orders)
            elif room <= 0:
                return

    def _goes(self, task: Task) -> bool:
        """Whether a task may go out: its future may have been cancelled."""
        future = task.future
        if future is None or future.running() or future.set_running_or_notify_cancel():
            return True
        self._tracker.settle(task, Cancelled())
        self._settled(task)
        return False

    def _handle(self, event: Event, now: float) -> None:
        tasks = self._tracker.jobs.get(event.job)
        if tasks is None:
            settled = None
        elif isinstance(event, Lost):
            tasks.watcher.lost(event)
            settled = self._tracker.lost(event, now)
        else:
            started, stored = STATS.unpack(event.stats)[:5:4]
            tasks.pace.note(stored - started)
            tasks.watcher.outcome(event)
            settled = self._tracker.outcome(event, now)
        if settled is not None:
            self._settled(settled)
        elif isinstance(event, Outcome):
            self._discard(event)
        if isinstance(event, Outcome) and event.status is Status.BROKEN and self.broken is None:
            error = self._rebuild(event)
            self._break(error if isinstance(error, InitializerError) else InitializerError(str(error)), error)

    def _settled(self, task: Task) -> None:
        tasks, future = task.tasks, task.future
        done = isinstance(task.ending, Outcome) and task.ending.status <= Status.VALUE
        if done or not tasks.kept:
            self._release(task)
        if not tasks.unsettled and not tasks.kept:
            self._blobs.release(tasks.held)
            tasks.held = ()
        tasks.watcher.settled(task)
        if future is not None and not future.done():
            if not future.running() and _is_cancelled(task.ending):
                future.cancel()
            if future.running() or future.set_running_or_notify_cancel():
                future.set_result(None)

    def _release(self, task: Task) -> None:
        task.arguments = b""
        if task.held:
            self._blobs.release(task.held)
            task.held = ()

    def _discard(self, outcome: Outcome) -> None:
        """Delete what a late or superseded outcome has stored."""
        if outcome.payload[:1] == b"\1":
            self._store.delete_many([ref.key for ref in refs_of(outcome.payload)])

    def _add(self, tasks: Tasks, new: list[Task]) -> None:
        if self.broken is not None or self._closed.is_set():
            error = self.broken or CancelledError()
            tasks.unsettled += len(new)
            for task in new:
                task.state = State.OUT
                self._tracker.settle(task, error)
                self._settled(task)
        else:
            self._tracker.add(tasks, new)

    def settle(self, task: Task, error: BaseException) -> None:
        """Settle a task that never goes out, because it could not be packed. In turn."""
        task.tasks.unsettled += 1
        task.state = State.OUT
        self._tracker.settle(task, error)
        self._settled(task)

    def adopt(self, task: Task) -> "TaskFuture":
        """The future of a task, made now if it had none. In turn."""
        if isinstance(task.future, TaskFuture):
            return task.future
        future = task.future = self.future_of(task)
        if task.state is State.SETTLED and _is_cancelled(task.ending):
            future.cancel()
        if (
            task.state is not State.READY
            and future.set_running_or_notify_cancel()
            and task.state is State.SETTLED
        ):
            future.set_result(None)
        return future

    def reopen(self, tasks: Tasks, again: list[Task]) -> None:
        """Run settled tasks once more. In turn."""
        for task in again:
            task.future = None if task.future is None else self.future_of(task)
        self._tracker.reopen(tasks, again)

    def cancel(self, tasks: Tasks, *, running: bool) -> None:
        """Cancel what of a job has not started, or with `running` what has not settled. In turn."""
        unsettled = [task for task in tasks.all if task.ending is None]
        for task in unsettled:
            if self._tracker.cancel(task, running=running) is not None:
                self._settled(task)
        if running and unsettled:
            self._backend.stop(tasks.job)

    def forget(self, tasks: Tasks) -> None:
        """Nobody can ask for a job's arguments and endings any more. In turn."""
        tasks.kept = False
        for task in tasks.all:
            if task.ending is not None:
                self._release(task)
                if isinstance(task.ending, Outcome) and task.future is None:
                    self._discard(task.ending)
        if not tasks.unsettled:
            self._blobs.release(tasks.held)
            tasks.held = ()

    def _close(self, cancel: bool, kill: bool) -> None:
        self._backend.wake()
        if cancel or kill:
            for tasks in list(self._tracker.jobs.values()):
                self.cancel(tasks, running=kill)

    def _break(self, error: BaseException, cause: BaseException) -> None:
        """Nothing can run any more: everything that has not settled ends with this error."""
        if error is not cause:
            error.__cause__ = cause
        self.broken = error
        for tasks in list(self._tracker.jobs.values()):
            for task in tasks.all:
                if task.ending is None:
                    self._tracker.settle(task, error)
                    self._settled(task)

    # unpacking, in the thread that asks

    def open(self, task: Task) -> Opened:
        """A settled task's value or error, unpacked once."""
        ending = task.ending
        if isinstance(ending, Opened):
            return ending
        with self._opening:
            ending = task.ending
            if isinstance(ending, Outcome):
                opened = self._unpack(ending)
            elif isinstance(ending, BaseException):
                opened = Opened(None, ending)
            elif isinstance(ending, Opened):
                return ending
            elif isinstance(ending, Forgotten):
                raise LookupError(
                    f"the result of task {task.index} of job {task.tasks.job} was handed out by the iteration and is not kept; "
                    "ask for futures or results() before iterating"
                )
            elif isinstance(ending, Cancelled):
                opened = Opened(None, CancelledError())
            else:
                raise RuntimeError(f"task {task.index} of job {task.tasks.job} has not settled")
            task.ending = opened
        return opened

    def _unpack(self, outcome: Outcome) -> Opened:
        try:
            if outcome.status <= Status.VALUE:
                return Opened(loads(outcome.payload, self._fetch), None)
            return Opened(None, self._rebuild(outcome))
        except Exception as error:
            error.add_note(
                f"raised here, while the result of task {outcome.task} of job {outcome.job} was unpacked"
            )
            return Opened(None, error)
        finally:
            self._discard(outcome)

    def _rebuild(self, outcome: Outcome) -> BaseException:
        return failures.rebuild(outcome, lambda packed: loads(packed, self._fetch))

    def _fetch(self, ref: Ref) -> Bytes:
        return pieces.fetch(self._store, ref)

    def _calls_back(self, callback: Callable[[], object]) -> None:
        if self._turns._is_owned():  # type: ignore[attr-defined]  # ours to take, so it may be ours to look at
            self._callbacks.put(callback)
        else:
            callback()


def _is_cancelled(ending: Ending | None) -> bool:
    return isinstance(ending, Cancelled) or (
        isinstance(ending, Opened) and isinstance(ending.error, CancelledError)
    )


class TaskFuture(Future[Any]):
    """A future whose result is unpacked by whoever asks for it first, and whose callbacks never hold up the engine."""

    def __init__(
        self,
        task: Task,
        opener: Callable[[Task], Opened],
        deliver: Callable[[Callable[[], object]], None],
    ) -> None:
        super().__init__()
        self._task = task
        self._opener = opener
        self._deliver = deliver

    def result(self, timeout: float | None = None) -> Any:
        super().result(timeout)
        opened = self._opener(self._task)
        if opened.error is not None:
            try:
                raise opened.error
            finally:
                self = None  # type: ignore[assignment]  # break the cycle of error, traceback and frame
        return opened.value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        super().exception(timeout)
        return self._opener(self._task).error

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        super().add_done_callback(lambda future: self._deliver(functools.partial(fn, future)))

    def __repr__(self) -> str:
        state = (
            "cancelled"
            if self.cancelled()
            else "done"
            if self.done()
            else "running"
            if self.running()
            else "pending"
        )
        return f"<TaskFuture of task {self._task.index} of job {self._task.tasks.job}: {state}>"


class _Callbacks:
    """A thread that runs users' callbacks in order; it begins with the first one."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._begun = False

    def put(self, callback: Callable[[], object]) -> None:
        self._queue.put(callback)
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._run, name="pywren-callbacks", daemon=True).start()

    def close(self) -> None:
        self._queue.put(None)

    def _run(self) -> None:
        while (callback := self._queue.get()) is not None:
            try:
                callback()
            except Exception:
                _LOG.exception("exception calling callback %r", callback)
