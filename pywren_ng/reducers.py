"""A map whose results are reduced where they lie: the client moves what says where they are, and never themselves.

    map ──► tasks ── results ──► store ◄───────────── read ahead ── reducer ──► its result, like any task's
              └── Outcome: where it lies ─► Reduction ─► the reducer's Call ─┘
                                                └── notices: where those lie that land after it began

The maps are a job like any other whose results stay in the store, and a reducer is a task whose argument says where
they lie. What is new is when it goes out, and that is a rule which the engine asks in every turn.

**Who waits for whom.** A reducer begins when all its results are there; then it waits for nothing, and whatever dies is
tried again as any task is. A single reducer may begin before (`reduction.may_begin`): while it does, the rule looks
whether a task of its map waits for a worker again, as it does after a worker's death, and if so the reducer is stopped,
and begins anew later. So it never holds what a map needs, with one worker as with a thousand.

**What lies how long.** Results are deleted once the reducer that read them has its own result stored or brought home; a
reducer that is lost finds them there. However it ends, nothing is left.
"""

import contextlib
import functools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from pywren_ng.futures import Keeper, TaskFuture
from pywren_ng.reduction import Node, Sight, Tree, latest, may_begin, must_go
from pywren_ng.report import AttemptLog
from pywren_ng.shelf import Shelf
from pywren_ng.tracker import Cancelled, Ending, Forgotten, Heading, Lost, Task, Tasks, Watcher
from pywren_runtime.errors import StoreError
from pywren_runtime.pickling import dumps_plain, refs_of
from pywren_runtime.results import Landed
from pywren_runtime.wire import KEEP, STATS, Outcome, Status, notice_key, results_prefix

if TYPE_CHECKING:
    from pywren_ng.engine import Engine
    from pywren_ng.job import Job

__all__ = ["ReduceFuture", "Reducers", "Reduction"]

SELDOM: Final = 0.1  # seconds from one notice to the next at least


class ReduceFuture(TaskFuture):
    """The future of a reduced map, and a row for each attempt of the map's tasks, and of those that reduce."""

    def __init__(self, task: Task, engine: Keeper) -> None:
        super().__init__(task, engine)
        self.map_stats: AttemptLog = AttemptLog()
        self.reduce_stats: AttemptLog = AttemptLog()


@dataclass(frozen=True, slots=True)
class Reducers:
    """A job of calls of the function that reduces, and how they travel."""

    tasks: Tasks
    last: Heading
    others: Heading  # their results stay in the store
    shelf: Shelf
    watch: Callable[[Shelf], object]

    def end(self) -> None:
        """No more of them will go out."""
        self.shelf.over = True
        self.watch(self.shelf)


class Reduction:
    """One map and what reduces it, until its future is done. All but `abandon` and `begin` happens in turn."""

    def __init__(
        self,
        engine: "Engine",
        front: Task,
        make: Callable[[int], Reducers],
        *,
        fan_in: int | None,
        limit: float | None,
        held: Iterable[str],
    ) -> None:
        self._engine = engine
        self._front = front  # stands for the whole, and never goes out
        self._make = make
        self._fan_in = fan_in
        self._limit = limit  # seconds that a reducer may take
        self._held = held  # blobs that the reducers' function needs
        self._job: Job[Any] | None = None
        self._tree: Tree[Outcome] | None = None  # once it is known how many results there will be
        self._maps: Tasks | None = None
        self._reducers: Reducers | None = None
        self._nodes: dict[int, Node] = {}  # by the index of the reducer
        self._early: _Early | None = None
        self._news: deque[tuple[Tasks, int, Ending]] = deque()
        self._landed = 0  # of the map's results
        self._in_order = 0  # of these, how many come before the first gap
        self._size = 0  # bytes of those that landed
        self._longest = 0.0  # seconds of the longest task of the map
        self._notices: list[str] = []  # keys
        self._is_over = False
        future = front.future
        assert future is not None
        future.add_done_callback(self._done)
        engine.call(lambda: engine.follow(self.look))

    # from any thread

    def follow(self, maps: Tasks) -> None:
        """These will be the map's tasks; none is there yet."""
        self._maps = maps
        maps.role = KEEP
        maps.watcher = _Listener(maps.watcher, self._note)

    def begin(self, job: "Job[Any]") -> Future[Any]:
        """The map has all its tasks; the future of what becomes of them."""
        future = self._front.future
        assert isinstance(future, ReduceFuture)
        future.map_stats = job.stats
        self._engine.call(lambda: self._grow(job))
        return future

    def abandon(self) -> None:
        """There will be nothing to reduce, or nobody wants it."""
        self._engine.call(lambda: self._end(Cancelled()))

    def _done(self, future: Future[Any]) -> None:
        if future.cancelled():
            self.abandon()

    # in turn

    def _grow(self, job: "Job[Any]") -> None:
        self._job = job  # as long as it lives, its tasks can be asked for
        self._tree = Tree(len(job), self._fan_in)

    def _note(self, task: Task, ending: Ending) -> None:
        if _is_done(ending):
            task.ending = Forgotten()  # it is nobody's but ours
        self._news.append((task.tasks, task.index, ending))

    def look(self, now: float) -> float:
        """Do what follows from the news; when to look again at the latest. Asked in every turn."""
        tree, maps = self._tree, self._maps
        if tree is None or maps is None:
            return math.inf
        while self._news and not self._is_over:
            self._take(tree, *self._news.popleft())
        if self._is_over or not tree.is_single:
            return math.inf
        self._in_order += sum(1 for _ in tree.first(self._in_order))
        if self._early is not None:
            return self._look_after(tree, maps, self._early, now)
        if self._reducers is None:
            if self._landed == tree.sizes[0]:
                self._start(tree, tree.root, tree.inputs(tree.root), self._landed)
            elif may_begin(self._sight(tree, maps), self._limit):
                self._early = _Early(now, self._in_order)
                self._start(tree, tree.root, list(tree.first(0)), tree.sizes[0])
                return latest(now, self._limit)
        return math.inf

    def _take(self, tree: Tree[Outcome], tasks: Tasks, index: int, ending: Ending) -> None:
        if tasks is self._maps:
            node = Node(0, index)
        elif self._reducers is not None and tasks is self._reducers.tasks:
            node = self._nodes.pop(index)
        else:
            return  # a reducer that was stopped
        if not _is_done(ending) or node == tree.root:
            self._end(ending)
            return
        if node.level:
            self._delete(tree.drop(node))
        else:
            self._landed += 1
            self._size += sum(ref.size for ref in refs_of(ending.payload))
            started, stored = STATS.unpack(ending.stats)[:5:4]
            self._longest = max(self._longest, stored - started)
        ready = tree.land(node, ending)
        if ready is not None and not tree.is_single:
            inputs = tree.inputs(ready)
            self._start(tree, ready, inputs, len(inputs))

    def _start(self, tree: Tree[Outcome], node: Node, inputs: list[Outcome], total: int) -> None:
        """A reducer goes out, with what there is of its results."""
        if self._reducers is None:
            self._reducers = self._make(tree.number)
            self._reducers.tasks.watcher = _Listener(self._reducers.tasks.watcher, self._note)
            if isinstance(self._front.future, ReduceFuture):
                self._front.future.reduce_stats = self._reducers.shelf.attempts
        tasks = self._reducers.tasks
        landed = Landed(tasks.job, 0, total, tuple(outcome.payload for outcome in inputs))
        task = Task(
            tasks,
            len(tasks.all),
            self._reducers.last if node == tree.root else self._reducers.others,
            dumps_plain(((landed.encode(),), {})),
            (),
            time.time(),
        )
        tasks.all.append(task)
        self._nodes[task.index] = node
        self._engine.take_on(tasks, [task])

    def _sight(self, tree: Tree[Outcome], maps: Tasks) -> Sight:
        engine = self._engine
        waits = engine.has_ready or maps.waiting > 0
        free = 0 if waits or not self._landed else engine.free(maps.all[0].heading.environment)
        return Sight(tree.sizes[0], self._landed, self._in_order, self._size, self._longest, waits, free)

    # a reducer that began before all results were there

    def _look_after(self, tree: Tree[Outcome], maps: Tasks, early: "_Early", now: float) -> float:
        if early.told == tree.sizes[0]:
            return math.inf
        if early.has_failed or must_go(early.since, now, waits=bool(maps.ready), limit=self._limit):
            self._early, stopped, self._reducers = None, self._reducers, None
            if stopped is not None:
                self._engine.cancel(stopped.tasks, running=True)
            return now  # it begins anew when that is right
        if not early.is_telling and self._in_order > early.told:
            if now < early.next:
                return early.next
            self._tell(tree, early)
            early.next = now + SELDOM
        return latest(early.since, self._limit)

    def _tell(self, tree: Tree[Outcome], early: "_Early") -> None:
        """Put where it looks what has landed since it was last told."""
        assert self._reducers is not None
        job, new = self._reducers.tasks.job, tuple(outcome.payload for outcome in tree.first(early.told))
        landed = Landed(job, early.notices + 1, tree.sizes[0], new)
        key = notice_key(job, landed.number)
        frame = self._engine.signed(b"notice", landed.encode())
        self._notices.append(key)
        early.is_telling = True
        self._engine.aside(functools.partial(self._put, early, key, frame, len(new)))

    def _put(self, early: "_Early", key: str, frame: bytes, count: int) -> None:
        try:
            self._engine.store.put(key, frame)
        except StoreError:
            early.has_failed = True
        self._engine.call(lambda: early.was_told(count))

    # the end

    def _end(self, ending: Ending) -> None:
        if self._is_over:
            return
        self._is_over = True
        engine, future = self._engine, self._front.future
        engine.unfollow(self.look)
        left = self._tree.drop_all() if self._tree is not None else []
        is_wanted = future is not None and not future.cancelled()
        if isinstance(ending, Outcome) and not is_wanted:
            left.append(ending)
        for tasks in (self._maps, self._reducers.tasks if self._reducers is not None else None):
            if tasks is None:
                continue
            if tasks.unsettled:
                engine.cancel(tasks, running=True)
            if tasks is self._maps or not _is_done(ending):
                engine.aside(functools.partial(self._sweep, tasks.job))
        if self._reducers is not None:
            self._reducers.end()
        self._delete(left)
        engine.give_back(self._held)
        if future is not None and future.cancelled():
            future.set_running_or_notify_cancel()  # who waits for it is told
        else:
            engine.settle(self._front, ending)
        self._job = self._tree = None
        self._news.clear()

    def _delete(self, outcomes: list[Outcome]) -> None:
        keys = [ref.key for outcome in outcomes for ref in refs_of(outcome.payload)] + self._notices
        self._notices = []
        self._engine.aside(functools.partial(self._engine.delete, keys))

    def _sweep(self, job: str) -> None:
        """Delete what nobody told of: results of attempts that were given up, and went on."""
        with contextlib.suppress(StoreError):
            self._engine.delete([key for key, _ in self._engine.store.keys(results_prefix(job))])


@dataclass(slots=True)
class _Early:
    """A reducer that began before all results were there."""

    since: float
    told: int  # results
    notices: int = 0
    next: float = 0.0  # when it may be told more
    is_telling: bool = False
    has_failed: bool = False  # whether it could not be told

    def was_told(self, count: int) -> None:
        self.is_telling = False
        self.told += count
        self.notices += 1


def _is_done(ending: Ending) -> TypeGuard[Outcome]:
    """Whether a task has brought its value."""
    return isinstance(ending, Outcome) and ending.status <= Status.VALUE


class _Listener:
    """Watches a job for whoever does already, and hands on how its tasks end."""

    def __init__(self, watcher: Watcher, note: Callable[[Task, Ending], None]) -> None:
        self._note = note
        self.outcome: Callable[[Outcome], None] = watcher.outcome
        self.lost: Callable[[Lost], None] = watcher.lost
        self._settled = watcher.settled

    def settled(self, task: Task, ending: Ending) -> None:
        self._settled(task, ending)
        self._note(task, ending)
