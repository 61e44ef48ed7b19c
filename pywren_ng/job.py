"""What `map` returns: the results as an iterator, as futures, or all at once; what failed; what it cost."""

import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pywren_ng.completed import Completed, settled
from pywren_ng.report import AttemptLog, Failures, group
from pywren_ng.shelf import Shelf
from pywren_ng.tracker import Forgotten, Task, Tasks
from pywren_runtime.wire import Outcome, Status

if TYPE_CHECKING:
    from pandas import DataFrame

    from pywren_ng.engine import Engine
    from pywren_ng.pricing import Cost

T = TypeVar("T")


class Job(Generic[T]):
    """The results of one `map`, in input order, and everything that can be asked about its tasks.

    Iterating hands each result out and forgets it, so that a map may be longer than memory. Ask for `futures` or
    `results()` first and they are kept.
    """

    def __init__(
        self,
        engine: "Engine",
        tasks: Tasks,
        shelf: Shelf,
        more: Callable[[int | None], bool],
        *,
        watch: Callable[[Shelf], object],
        deadline: float | None,
    ) -> None:
        self._engine = engine
        self._tasks = tasks
        self._shelf = shelf
        self._more = more  # packs that many further tasks (all if None); whether there may be more after these
        self._watch = watch
        self._deadline = deadline
        self._next = 0
        self._keeps = False
        self._finalizer = weakref.finalize(self, engine.later, _forgetter(engine, tasks))
        self._finalizer.atexit = False

    @property
    def id(self) -> str:
        """The job's name, as errors and logs have it."""
        return self._tasks.job

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """The next result. An error of its task is raised here, cancels what has not started and ends the iteration."""
        task = self._upcoming()
        if task is None:
            raise StopIteration
        try:
            if task.ending is None:
                self._wait(lambda: task.ending is not None)
        except BaseException as error:
            self._stop(error)
            raise
        return self._take(task)

    def __aiter__(self) -> "Job[T]":
        return self

    async def __anext__(self) -> T:
        """As `next`, for `async for`. Cancelling who waits here cancels no task: it may be asked again."""
        task = self._upcoming()
        if task is None:
            raise StopAsyncIteration
        if task.ending is None:
            future = self._engine.ask(lambda: self._engine.adopt(task))
            try:
                await settled(future, self._deadline, lambda: self._engine.open(task))
            except TimeoutError as error:
                self._stop(error)
                raise
            if not self._keeps:
                task.future = None
        return self._take(task)

    def _upcoming(self) -> Task | None:
        """The task whose result is the next; None at the end, of which is told who watches."""
        if self._shelf.over:
            return None
        if self._next >= len(self._tasks.all) and not self._fill(self._next + 1):
            self._shelf.over = True
            self._watch(self._shelf)
            return None
        return self._tasks.all[self._next]

    def _take(self, task: Task) -> T:
        """Hand out a result and forget it; or end the iteration with the error."""
        try:
            opened = self._engine.open(task)
            if opened.error is not None:
                raise opened.error
        except BaseException as error:
            self._stop(error)
            raise
        self._next += 1
        if not self._keeps:
            task.ending = Forgotten()
        self._fill(self._next)
        value: T = opened.value
        return value

    def _wait(self, is_over: Callable[[], bool]) -> None:
        self._engine.help(is_over, self._deadline)
        self._shelf.wait(is_over, self._deadline)

    def _fill(self, wanted: int) -> bool:
        """Take from the input what iterating needs; whether there are so many tasks."""
        self._more(1)
        return len(self._tasks.all) >= wanted

    def _stop(self, error: BaseException) -> None:
        """After a failure or Ctrl-C: the iteration is over, and what has not started is cancelled, or all."""
        self._shelf.over = True
        if isinstance(error, KeyboardInterrupt):
            self.cancel()
        else:
            self._engine.ask(lambda: self._engine.cancel(self._tasks, running=False))
        self._watch(self._shelf)

    def __len__(self) -> int:
        if self._shelf.length is None:
            raise TypeError("the length of this map is not known: its input has none and is read as results are taken")
        return self._shelf.length

    def __length_hint__(self) -> int:
        return self._shelf.length or len(self._tasks.all)

    def __del__(self) -> None:
        # As a generator would when it is left half-way: nobody can ask for the rest.
        if getattr(self, "_next", 0) and not self._shelf.over and not self._keeps:
            engine, tasks = self._engine, self._tasks
            engine.later(lambda: engine.cancel(tasks, running=False))
        self._shelf.over |= not self._keeps

    @property
    def futures(self) -> list[Future[T]]:
        """A standard future for each task, in input order; from now on results are kept."""
        self._keep()
        return self._engine.ask(lambda: [self._engine.adopt(task) for task in self._tasks.all])

    def _keep(self) -> None:
        self._keeps = True
        self._more(None)
        self._shelf.length = len(self._tasks.all)

    def results(self, return_exceptions: bool = False) -> list[T]:
        """All results, in input order. The first failure cancels what has not started, and is raised.

        With `return_exceptions` nothing is cancelled, and errors stand in their tasks' places.
        """
        self._keep()
        tasks, shelf = self._tasks, self._shelf
        try:
            self._wait(lambda: shelf.done >= len(tasks.all) or (shelf.failed > 0 and not return_exceptions))
            if shelf.failed and not return_exceptions:
                errors = list(self._errors().values())
                raise next((error for error in errors if not isinstance(error, CancelledError)), errors[0])
        except BaseException as error:
            self._stop(error)
            raise
        self._watch(shelf)
        found: list[Any] = []
        for task in tasks.all:
            opened = self._engine.open(task)
            if opened.error is not None and not return_exceptions:
                raise opened.error
            found.append(opened.value if opened.error is None else opened.error)
        return found

    def as_completed(self, timeout: float | None = None) -> Completed[T]:
        """The futures, as their tasks settle; for `for` and `async for`."""
        return Completed(self.futures, timeout)

    def _errors(self) -> dict[int, BaseException]:
        """The errors of the tasks that have failed so far. Waits for nothing."""
        errors = {}
        for task in self._tasks.all:
            ending = task.ending
            if ending is None or isinstance(ending, Forgotten):
                continue
            if isinstance(ending, Outcome) and ending.status <= Status.VALUE:
                continue
            error = self._engine.open(task).error
            if error is not None:
                errors[task.index] = error
        return errors

    def errors(self) -> list[Failures]:
        """What has failed so far, grouped by cause; cancelled tasks are not among them."""
        return group({i: error for i, error in self._errors().items() if not isinstance(error, CancelledError)})

    def retry_failed(self) -> "Job[T]":
        """Run the failed and the cancelled tasks again, in this job, which is returned.

        What succeeded stays as it is; `futures` has new ones in the places of those that are run again.
        """
        failed = [self._tasks.all[index] for index in self._errors()]
        self._shelf.over = False
        if failed:
            self._engine.ask(lambda: self._reopen(failed))
            self._watch(self._shelf)
        return self

    def _reopen(self, failed: list[Task]) -> None:
        self._shelf.done -= len(failed)
        self._shelf.failed -= len(failed)
        self._shelf.cancelled = 0
        self._engine.reopen(self._tasks, failed)

    def cancel(self) -> None:
        """Cancel what has not settled, what runs included; finished results stay."""
        self._engine.ask(lambda: self._engine.cancel(self._tasks, running=True))

    def logs(self, task: int) -> str:
        """What a task printed, its last 64 KiB."""
        known = len(self._tasks.all)
        if not -known <= task < known:
            raise IndexError(f"job {self.id} has {known} tasks, of which none is number {task}")
        return self._shelf.logs.get(task % known, b"").decode("utf-8", "replace")

    @property
    def stats(self) -> AttemptLog:
        """One row for each attempt that has ended: when, how long, how much memory, where."""
        return self._shelf.attempts

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many tasks are known, settled, and failed or cancelled."""
        return len(self._tasks.all), self._shelf.done, self._shelf.failed

    def to_pandas(self) -> "DataFrame":
        """`stats` as a table, a row for each attempt; needs pandas."""
        return self._shelf.attempts.to_pandas()

    @property
    def cost(self) -> "Cost | None":
        """What it has cost so far on Lambda, by what was counted and the prices of a date; None where nothing is paid
        for. What is counted, and what is not, stands in `pywren_ng.pricing`."""
        from pywren_ng.pricing import cost_of

        usage = self._shelf.usage
        return None if usage is None else cost_of(usage)

    def __repr__(self) -> str:
        known, done, failed = self.counts
        return f"<Job {self.id}: {done} of {known} tasks done, {failed} failed>"

    def _repr_html_(self) -> str:
        from pywren_ng.page import page

        counts = self._shelf.counts()
        return page(counts, self._shelf.ended(), self.stats.slowest(5), self.errors())


def _forgetter(engine: "Engine", tasks: Tasks) -> Callable[[], None]:
    return lambda: engine.forget(tasks)
