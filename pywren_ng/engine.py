"""Owns task state, and moves Calls out and Outcomes in.

    any thread ── call(action) ─► inbox ─┐
                                         ▼
                     one turn ┌─► tracker.take ─► Order ─► backend.start
                              └── tracker.outcome ◄─ Outcome, Lost ◄─ backend.collect ◄─ backend.wait
                                         └─► watcher.settled, Future

No user's code runs in a turn: results are unpacked where they are asked for, callbacks run on a thread of their own.
"""

import functools
import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any

from pywren_ng.backends import Backend, Event, Order
from pywren_ng.endings import Endings
from pywren_ng.futures import Callbacks, TaskFuture, finish, is_cancelled
from pywren_ng.packing import Packer
from pywren_ng.tracker import Cancelled, Ending, Lost, Opened, State, Task, Tasks, Tracker, chunk
from pywren_ng.turns import FOREVER, Turns
from pywren_runtime.errors import InitializerError, KeyMissing, PywrenError
from pywren_runtime.stores import Store
from pywren_runtime.wire import STATS, Call, Environment, Outcome, Status, TaskCall

RESTORES = 5  # attempts of a task whose blobs were gone before it is charged for that


class Engine(Turns):
    """Runs jobs on a backend until it is closed. What is said to be "in turn" is reached by `call` or `ask` only."""

    def __init__(self, backend: Backend, store: Store, packer: Packer) -> None:
        self.workers: int = backend.workers
        self.longest: float | None = backend.longest
        self.signed: Callable[[bytes, bytes], bytes] = backend.signer.seal
        self.store: Store = store
        self.broken: BaseException | None = None
        self._blobs = packer.blobs
        self._put_again = packer.restore
        self._tracker = Tracker()
        self._endings = Endings(store, self.is_foreign)
        self._callbacks = Callbacks("pywren-callbacks")
        self._aside = Callbacks("pywren-aside")
        self._rules: list[Callable[[float], float]] = []
        self._prepared = False
        super().__init__(backend)

    # from any thread

    def prepare(self, environment: Environment) -> None:
        """Let a first worker start while its first task is being packed."""
        if not self._prepared:
            self._prepared = True
            self.call(lambda: self._backend.prepare(environment))

    def add(self, tasks: Tasks, new: list[Task]) -> None:
        """Take on tasks of a job."""
        self.call(functools.partial(self.take_on, tasks, new))

    def close(self, *, wait: bool = True, cancel: bool = False, kill: bool = False) -> None:
        """Take no more; end when all is done, or with `cancel` when what runs is done, or with `kill` at once."""
        self.close_after(functools.partial(self._close, cancel, kill), wait=wait)
        if wait and self._closed.is_set():
            if not kill:
                self._callbacks.join()
            self._aside.join()

    def stop(self, futures: Iterable[Future[Any]]) -> None:
        """Cancel those of them that are ours, also where they run, each with all of its job."""
        own = [future.tasks for future in futures if isinstance(future, TaskFuture)]

        def cancel_all() -> None:
            for tasks in own:
                self.cancel(tasks, running=True)

        self.ask(cancel_all)

    def open(self, task: Task) -> Opened:
        """A settled task's value or error, unpacked once."""
        return self._endings.open(task)

    def deliver(self, callback: Callable[[], object]) -> None:
        """Run a user's callback: here, unless others wait for this thread."""
        if self.is_mine() and not self._closed.is_set():
            self._callbacks.put(callback)
        else:
            callback()

    def aside(self, action: Callable[[], object]) -> None:
        """Have something done that would hold up a turn: one after the other, and all before `close` returns."""
        self._aside.put(action)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete what nobody needs; what cannot be deleted stays."""
        self._endings.delete(keys)

    def future_of(self, task: Task) -> TaskFuture:
        """A new future for a task that has not gone out yet."""
        return TaskFuture(task, self)

    # in turn

    def _busy(self) -> bool:
        return bool(self._tracker.jobs)

    def _fail(self, error: BaseException) -> None:
        fault = PywrenError(f"the engine stopped, which is a fault of pywren_ng's own: {error!r}")
        self._break(fault, error)

    def _end(self) -> None:
        self._backend.close()
        self._callbacks.close()
        self._aside.close()
        self._closed.set()

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
        if self._rules:
            due = min(self._follow_rules(), due or math.inf)
        if not self._tracker.ready:
            self._backend.balance()
        return min(due or math.inf, time.monotonic() + FOREVER)

    def _follow_rules(self) -> float:
        now = time.monotonic()
        due = min(rule(now) for rule in self._rules.copy())
        if self._tracker.ready:
            self._dispatch()
        return due

    def _dispatch(self) -> None:
        tracker, backend = self._tracker, self._backend
        while (first := tracker.first()) is not None:
            environment = first.heading.environment
            room = backend.room(environment, first.tasks.pace.seconds)
            orders: list[Order] = []
            while len(orders) < room and first is not None and first.heading.environment == environment:
                taken = [task for task in tracker.take(chunk(first.tasks, self.workers)) if self._goes(task)]
                if taken:
                    calls = tuple(TaskCall(task.index, task.round, task.attempt, task.arguments) for task in taken)
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
        ending = Cancelled()
        self._settled(self._tracker.settle(task, ending), ending)
        return False

    def _handle(self, event: Event, now: float) -> None:
        if isinstance(event, Outcome) and event.status is Status.MISSING:
            # Not in turn: to put a large piece again takes long.
            try:
                threading.Thread(target=self._restore, args=(event,), name="pywren-restore", daemon=True).start()
            except RuntimeError:  # too many threads, or the interpreter ends
                self._restore(event)
            return
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
            self._settled(settled, event.error if isinstance(event, Lost) else event)
        elif isinstance(event, Outcome):
            self._endings.discard(event)
        if isinstance(event, Outcome) and event.status is Status.BROKEN and self.broken is None:
            error = self._endings.rebuild(event)
            self._break(error if isinstance(error, InitializerError) else InitializerError(str(error)), error)

    def _restore(self, outcome: Outcome) -> None:
        """A worker did not find a blob: put it again, and the task anew. Any thread."""
        job, task, attempt = outcome.job, outcome.task, outcome.attempt
        try:
            keys = outcome.payload.decode().split()
            again = [self._put_again(key) for key in keys]
            error: PywrenError = KeyMissing(f"task {task} of job {job}: its worker does not find {', '.join(keys)}")
            lost = Lost(job, task, attempt, attempt > RESTORES and not any(again), error, committed=True)
        except PywrenError as error:
            lost = Lost(job, task, attempt, True, error, final=True)
        self.call(lambda: self._handle(lost, time.monotonic()))

    def _settled(self, task: Task, ending: Ending) -> None:
        # `task.ending` itself may be opened and forgotten by now: who waits for it sees it before this is told.
        tasks, future = task.tasks, task.future
        self._changes += 1
        if isinstance(ending, Outcome) and not tasks.kept and future is None:  # nobody is left who could ask
            self._endings.discard(ending)
        tasks.watcher.settled(task, ending)
        if future is not None and not future.done():
            if not future.running() and is_cancelled(ending):
                future.cancel()
            if future.running() or future.set_running_or_notify_cancel():
                finish(future, ending)
        # Last, for to delete what is large takes long.
        done = isinstance(ending, Outcome) and ending.status <= Status.VALUE
        if done or not tasks.kept:
            self._release(task)
        if not tasks.kept:
            task.future = None  # nothing is asked of it any more, and they would keep each other
        if not tasks.unsettled and not tasks.kept:
            self._blobs.release(tasks.held)
            tasks.held = ()

    def _release(self, task: Task) -> None:
        task.arguments = b""
        if task.held:
            self._blobs.release(task.held)
            task.held = ()

    def follow(self, rule: Callable[[float], float]) -> None:
        """Ask a rule in every turn, after what could start has; it says when it wants to be asked at the latest."""
        self._rules.append(rule)

    def unfollow(self, rule: Callable[[float], float]) -> None:
        """Ask it no more."""
        self._rules = [other for other in self._rules if other != rule]

    @property
    def has_ready(self) -> bool:
        """Whether any task waits for a worker. In turn."""
        return self._tracker.ready > 0

    def free(self, environment: Environment) -> int:
        """How many workers of that environment have nothing to do, or could be started. In turn."""
        return self._backend.room(environment, None)

    def give_back(self, blobs: Iterable[str]) -> None:
        """Release holds on blobs."""
        self._blobs.release(blobs)

    def take_on(self, tasks: Tasks, new: list[Task]) -> None:
        """As `add`. In turn."""
        if self.broken is not None or self._closed.is_set():
            error = self.broken or CancelledError()
            tasks.unsettled += len(new)
            for task in new:
                task.state = State.OUT
                self._settled(self._tracker.settle(task, error), error)
        else:
            self._tracker.add(tasks, new)

    def settle(self, task: Task, ending: Ending) -> None:
        """Settle a task that never goes out: it could not be packed, or it stands for others. In turn."""
        task.tasks.unsettled += 1
        task.state = State.OUT
        self._settled(self._tracker.settle(task, ending), ending)

    def adopt(self, task: Task) -> TaskFuture:
        """The future of a task, made now if it had none. In turn."""
        if isinstance(task.future, TaskFuture):
            return task.future
        future = task.future = self.future_of(task)
        if task.state is State.SETTLED and is_cancelled(task.ending):
            future.cancel()
        if task.state is not State.READY and future.set_running_or_notify_cancel() and task.state is State.SETTLED:
            finish(future, task.ending)
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
                self._settled(task, Cancelled())
        if running and unsettled:
            self._backend.stop(tasks.job)

    def withdraw(self, task: Task) -> bool:
        """Cancel a task that was sent ahead and has not begun; whether that could still be done. In turn."""
        self._recall(task.tasks)
        if self._tracker.cancel(task, running=False) is None:
            return False
        self._settled(task, Cancelled())
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
            ending = task.ending
            if ending is not None:
                self._release(task)
                if isinstance(ending, Outcome) and task.future is None:
                    self._endings.discard(ending)
        if not tasks.unsettled:
            self._blobs.release(tasks.held)
            tasks.held = ()

    def drop(self, outcome: Outcome) -> None:
        """Nobody can ask for this any more. Safe in finalizers."""
        self.later(functools.partial(self._endings.discard, outcome))

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
                    self._settled(self._tracker.settle(task, error), error)
        if self._rules:  # there may be no further turn
            self._follow_rules()
