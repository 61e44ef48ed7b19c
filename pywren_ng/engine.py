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

import contextlib
import functools
import logging
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from types import FrameType
from typing import Any, TypeVar

from pywren_ng.backends import Backend, Event, Order
from pywren_ng.packing import Blobs
from pywren_ng.tracker import Cancelled, Ending, Forgotten, Lost, Opened, State, Task, Tasks, Tracker, chunk
from pywren_runtime import blobs as pieces
from pywren_runtime import failures
from pywren_runtime.errors import InitializerError, PywrenError
from pywren_runtime.pickling import Bytes, Ref, loads, refs_of
from pywren_runtime.stores import Store
from pywren_runtime.wire import STATS, Call, Environment, Outcome, Status, TaskCall

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
        self._pid = os.getpid()
        self._undisturbed = _Undisturbed if backend.threaded else contextlib.nullcontext
        self._polling = threading.Lock()  # held by the thread that waits for the backend
        self._needed: queue.SimpleQueue[None] = queue.SimpleQueue()  # rings when somebody should
        self._until = 0.0  # the latest time at which the next turn is due
        self._settlements = 0
        self._prepared = False
        self._owner = 0  # the thread whose turn it is
        # Not to be entered twice by one thread: a collected Job may call from anywhere. Tasks that run inside a turn must.
        self._turns = threading.Lock() if backend.threaded else threading.RLock()
        self._thread: threading.Thread | None = None
        if backend.threaded:
            self._thread = threading.Thread(target=self._run, name="pywren-engine", daemon=True)
            self._thread.start()

    # from any thread

    def is_foreign(self) -> bool:
        """Whether this is a forked child of the engine's process: its threads are not here, its workers not ours."""
        return os.getpid() != self._pid

    def check_own(self) -> None:
        """RuntimeError in a forked child."""
        if self.is_foreign():
            raise RuntimeError(
                f"this executor belongs to process {self._pid}, which forked this one: its threads are not here; "
                "make an Executor of its own in each process"
            )

    def call(self, action: Callable[[], object]) -> None:
        """Have something done in turn: here and now if nobody has the turn, else by whoever has it."""
        if self.is_foreign():
            return
        with self._undisturbed():
            self._inbox.append(action)
            settlements = self._settlements
            # Looked at again after each turn: what arrived too late for its holder to see must not lie there.
            while self._inbox and self._turns.acquire(blocking=False):
                try:
                    if self._thread is not None:
                        self._take_turn(None)
                    else:
                        while not self._take_turn(self._backend.wait(0)) and self._tracker.jobs:
                            pass
                finally:
                    self._turns.release()
            if self._polling.locked():
                if self._settlements != settlements:
                    self._backend.wake()  # perhaps it was what the waiting thread waits for
            elif self._tracker.jobs or self._inbox:
                self._needed.put(None)

    def prepare(self, environment: Environment) -> None:
        """Let a first worker start while its first task is being packed."""
        if not self._prepared:
            self._prepared = True
            self.call(lambda: self._backend.prepare(environment))

    def later(self, action: Callable[[], object]) -> None:
        """Have something done by another thread: safe in finalizers, which may run in the middle of anything."""
        if not self.is_foreign():
            self._inbox.append(action)
            self._needed.put(None)
            self._backend.wake()

    def help(self, is_over: Callable[[], bool], deadline: float | None = None) -> None:
        """Wait for the backend in the caller's thread, unless somebody does, as long as it is of use.

        It saves the caller a switch of threads; afterwards the caller waits as if it had not helped.
        """
        if self._thread is None or is_over() or self.is_foreign():
            return
        mine = False
        try:
            with self._undisturbed():
                mine = self._polling.acquire(blocking=False)
            while mine and not is_over() and self._tracker.jobs and not self._closed.is_set():
                left = _FOREVER if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    break
                self._poll(left)
        finally:
            if mine:
                with self._undisturbed():
                    self._polling.release()
                    if self._tracker.jobs or self._inbox or self.closing:
                        self._needed.put(None)

    def ask(self, question: Callable[[], T]) -> T:
        """Have something done in turn and wait for what it returns."""
        answer: Future[T] = Future()

        def reply() -> None:
            try:
                answer.set_result(question())
            except Exception as error:
                answer.set_exception(error)

        self.check_own()
        self.call(reply)
        return answer.result()

    def add(self, tasks: Tasks, new: list[Task]) -> None:
        """Take on tasks of a job."""
        self.call(functools.partial(self._add, tasks, new))

    def close(self, *, wait: bool = True, cancel: bool = False, kill: bool = False) -> None:
        """Take no more; end when all is done, or with `cancel` when what runs is done, or with `kill` at once."""
        if self.is_foreign():
            return
        self.closing = True
        self.call(functools.partial(self._close, cancel, kill))
        self._needed.put(None)
        if self._thread is None:
            if not self._closed.is_set():
                self._end()
        elif wait and self._thread is not threading.current_thread():
            self._thread.join()

    def future_of(self, task: Task) -> "TaskFuture":
        """A new future for a task that has not gone out yet."""
        return TaskFuture(task, self)

    # in turn

    def _run(self) -> None:
        while not self._closed.is_set():
            self._needed.get()
            if not self._polling.acquire(blocking=False):
                continue  # a caller waits for the backend, and will ring
            try:
                while self._tracker.jobs or self._inbox:
                    self._poll(_FOREVER)
                if self.closing:
                    with self._turns:
                        self._end()
            finally:
                self._polling.release()
            if self._tracker.jobs or self._inbox:
                self._needed.put(None)

    def _poll(self, limit: float) -> None:
        """Wait for the backend, and take a turn. Only the thread that holds `_polling`."""
        left = 0.0 if self._inbox else self._until - time.monotonic()
        waited = self._backend.wait(max(0.0, min(left, limit)))
        with self._undisturbed(), self._turns:
            self._take_turn(waited)

    def _take_turn(self, waited: object | None) -> bool:
        self._owner = threading.get_ident()
        try:
            self._until = self._turn(waited)
        except BaseException as error:
            if self._thread is None and not isinstance(error, Exception):
                raise  # Ctrl-C in a task that runs here
            self._break(PywrenError(f"the engine stopped, which is a fault of pywren_ng's own: {error!r}"), error)
            self.closing = True
            self._needed.put(None)
            return True
        finally:
            self._owner = 0
        return False

    def _turn(self, waited: object | None) -> float:
        """One turn: what was asked, what has happened, what can start. When the next is due at the latest."""
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
        return time.monotonic() + _FOREVER if due is None else due

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
        self._settlements += 1
        done = isinstance(task.ending, Outcome) and task.ending.status <= Status.VALUE
        if done or not tasks.kept:
            self._release(task)
        if not tasks.unsettled and not tasks.kept:
            self._blobs.release(tasks.held)
            tasks.held = ()
        if isinstance(task.ending, Outcome) and not tasks.kept and future is None:  # nobody is left who could ask for it
            self._discard(task.ending)
        tasks.watcher.settled(task)
        if future is not None and not future.done():
            if not future.running() and _is_cancelled(task.ending):
                future.cancel()
            if future.running() or future.set_running_or_notify_cancel():
                _finish(future, task.ending)

    def _release(self, task: Task) -> None:
        task.arguments = b""
        if task.held:
            self._blobs.release(task.held)
            task.held = ()

    def _discard(self, outcome: Outcome) -> None:
        """Delete what a late or superseded outcome has stored."""
        if outcome.payload[:1] == b"\1" and not self.is_foreign():
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
            _finish(future, task.ending)
        return future

    def reopen(self, tasks: Tasks, again: list[Task]) -> None:
        """Run settled tasks once more. In turn."""
        for task in again:
            if isinstance(task.future, TaskFuture):
                task.future.keep(task)
                task.future = self.future_of(task)
        self._tracker.reopen(tasks, again)

    def cancel(self, tasks: Tasks, *, running: bool) -> None:
        """Cancel what of a job has not started, or with `running` what has not settled. In turn."""
        if not running:
            self._recall(tasks)
        unsettled = [task for task in tasks.all if task.ending is None]
        for task in unsettled:
            if self._tracker.cancel(task, running=running) is not None:
                self._settled(task)
        if running and unsettled:
            self._backend.stop(tasks.job)

    def withdraw(self, task: Task) -> bool:
        """Cancel a task that was sent ahead and has not begun; whether that could still be done. In turn."""
        self._recall(task.tasks)
        if self._tracker.cancel(task, running=False) is None:
            return False
        self._settled(task)
        return True

    def _recall(self, tasks: Tasks) -> None:
        """Make ready again what of a job was sent ahead and has not begun."""
        for order in reversed(self._backend.recall(tasks.job)):
            for sent in reversed(order.call.tasks):
                future = tasks.all[sent.index].future
                if isinstance(future, TaskFuture):
                    future.set_pending()
                self._tracker.lost(Lost(tasks.job, sent.index, sent.attempt, False, CancelledError()), 0.0)

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
                opened = task.ending = self._unpack(ending)
                self._discard(ending)  # now, and not where Ctrl-C broke the unpacking off: it can be asked for again
                return opened
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

    def _rebuild(self, outcome: Outcome) -> BaseException:
        return failures.rebuild(outcome, lambda packed: loads(packed, self._fetch))

    def _fetch(self, ref: Ref) -> Bytes:
        return pieces.fetch(self._store, ref)

    def deliver(self, callback: Callable[[], object]) -> None:
        if self._owner == threading.get_ident() and self._thread is not None:
            self._callbacks.put(callback)
        else:
            callback()


def _is_cancelled(ending: Ending | None) -> bool:
    return isinstance(ending, Cancelled) or (
        isinstance(ending, Opened) and isinstance(ending.error, CancelledError)
    )


def _finish(future: Future[Any], ending: Ending | None) -> None:
    """Tell who waits that a task is over, and whether it failed: `wait` returns for that. What it is, is opened later."""
    failed = isinstance(ending, BaseException | Cancelled) or (
        ending.status > Status.VALUE
        if isinstance(ending, Outcome)
        else isinstance(ending, Opened) and ending.error is not None
    )
    if failed:
        future.set_exception(_Unopened())
    else:
        future.set_result(None)


class _Undisturbed:
    """A stretch that Ctrl-C does not cut in two: the main thread hears of it when the stretch is over."""

    __slots__ = ("_before", "_came")

    def __enter__(self) -> None:
        self._before: Callable[[int, FrameType | None], object] | None = None
        self._came: list[tuple[int, FrameType | None]] = []
        if threading.get_ident() == threading.main_thread().ident:
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, lambda *arguments: self._came.append(arguments))

    def __exit__(self, *raised: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            if self._came:
                self._before(*self._came[0])


class _Unopened(Exception):
    """Stands in a future for the error that its task's ending holds."""


class TaskFuture(Future[Any]):
    """A future whose result is unpacked by whoever asks for it first, and whose callbacks never hold up the engine."""

    def __init__(self, task: Task, engine: Engine) -> None:
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

    def set_pending(self) -> None:
        """Its task was sent ahead, has not begun and came back. In turn."""
        with self._condition:
            if self.running():
                self._state = "PENDING"

    def keep(self, task: Task) -> None:
        """Stay with how the task has ended, for it is to run again and its next end is another future's."""
        self._task = Task(task.tasks, task.index, task.heading, b"", (), task.queued)
        self._task.state, self._task.ending = task.state, task.ending

    def _wait(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        self._engine.help(self.done, deadline)
        super().exception(None if deadline is None else max(0.0, deadline - time.monotonic()))

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """As the standard library's, but that a callback never runs in a thread that other tasks wait for."""
        super().add_done_callback(lambda future: self._engine.deliver(functools.partial(fn, future)))

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
