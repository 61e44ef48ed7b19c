"""A map's input on its way to the engine.

iterables ─► packed, item by item ─► Task ─► engine      as far ahead as it is wanted
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from pywren_ng.packing import Memory, Packed, Packer
from pywren_ng.tracker import Heading, Task, Tasks
from pywren_runtime.errors import PywrenError
from pywren_runtime.modules import Unit
from pywren_runtime.wire import Environment, Head

if TYPE_CHECKING:
    from pywren_ng.engine import Engine

BATCH: Final = 1024  # tasks that are given to the engine at a time
WAIT: Final = 0.004  # seconds for which a packed task may wait for others
NO_HEADING: Final = Heading(Head("", b"", b""), Environment(), b"")  # of tasks that cannot be packed
_SETTLED = frozenset({list, tuple, set, frozenset, dict, range, type({}.values()), itertools.repeat})


class Feed:
    """Reads a map's input, packs it and gives it to the engine, as far as it is wanted."""

    def __init__(
        self,
        engine: "Engine",
        packer: Packer,
        tasks: Tasks,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        make_heading: Callable[[Packed, tuple[Unit, ...]], Heading],
        remembers: bool,
    ) -> None:
        self._engine = engine
        self._packer = packer
        self._make_heading = make_heading
        self._fn = fn
        self._tasks = tasks
        self._input: Iterator[tuple[Any, ...]] | None = zip(*iterables, strict=False)
        # A generator may change and yield one array again and again, and so may a data set's own kind of sequence:
        # only what is there as a whole is known by its place.
        settled = all(type(it) in _SETTLED for it in iterables)
        self._memory: Memory | None = {} if remembers and settled else None
        self._function: Packed | PywrenError | None = None
        self._headings: dict[tuple[Unit, ...], Heading] = {}

    def more(self, count: int | None) -> bool:
        """Take so many further items, or all; whether there may be more."""
        if self._input is None:
            return False
        engine, tasks = self._engine, self._tasks
        wanted = itertools.islice(self._input, count) if count is not None else self._input
        while True:
            made = self._batch(itertools.islice(wanted, BATCH))
            if not made:
                break
            tasks.all.extend(task for task, _ in made)
            ready = [task for task, error in made if error is None]
            if ready:
                engine.add(tasks, ready)
            for task, error in made:
                if error is not None:
                    engine.call(lambda task=task, error=error: engine.settle(task, error))  # type: ignore[misc]
            if count is not None:
                count -= len(made)
                if count <= 0:
                    return True
        self._input = self._memory = None
        return False

    def _batch(self, items: Iterator[tuple[Any, ...]]) -> list[tuple[Task, PywrenError | None]]:
        """Pack items until somebody might wait for the first of them."""
        now, start, until = time.time(), len(self._tasks.all), time.monotonic() + WAIT
        made: list[tuple[Task, PywrenError | None]] = []
        for args in items:  # each is packed before the next is asked for, which may be the same object changed
            made.append(self._pack(start + len(made), args, now))
            if time.monotonic() > until:
                break
        return made

    def _pack(self, index: int, args: tuple[Any, ...], now: float) -> tuple[Task, PywrenError | None]:
        try:
            function = self._packed_function()
            arguments = self._packer.arguments(args, {}, self._memory)
        except PywrenError as error:
            if error is not self._function:  # else it is every task's
                error.add_note(f"task {index} of job {self._tasks.job}, before it was sent")
            return Task(self._tasks, index, NO_HEADING, b"", (), now), error
        heading = self._headings.get(arguments.modules)
        if heading is None:
            heading = self._make_heading(function, arguments.modules)
            self._headings[arguments.modules] = heading
        return Task(self._tasks, index, heading, arguments.data, arguments.held, now), None

    def _packed_function(self) -> Packed:
        if self._function is None:
            try:
                retry_on = self._tasks.policy.retry_on
                self._function = self._packer.function(self._fn, retry_on, title_of(self._fn), self._tasks.role)
                self._tasks.held = self._function.held
            except PywrenError as error:
                self._function = error
        if isinstance(self._function, PywrenError):
            raise self._function
        return self._function


def title_of(fn: object) -> str:
    """What to call a function in an error."""
    name = getattr(fn, "__qualname__", None)  # never its repr: that is the user's code, and may be long or fail
    return f"the function {name}" if name else f"the callable {type(fn).__qualname__}"
