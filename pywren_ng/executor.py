"""What the user makes: an executor like those of the standard library, whose workers need not be on this machine.

submit, map ──► Packer ──► Engine ──► Backend ──► workers
   │               └─► Store ◄────────────────────────┘
   └──► Future, Job ◄── Engine
"""

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from pywren_ng import config
from pywren_ng.feed import NO_HEADING, Feed, title_of
from pywren_ng.grouping import Grouping
from pywren_ng.job import Job
from pywren_ng.maps import Maps
from pywren_ng.packing import Memory, Packed
from pywren_ng.reducing import Reducing
from pywren_ng.shelf import Shelf
from pywren_ng.sorting import Premises, Sorting
from pywren_ng.tracker import Ending, Heading, Lost, Policy, State, Task, Tasks
from pywren_runtime.errors import ConfigError, PywrenError
from pywren_runtime.modules import Unit
from pywren_runtime.wire import KEEP, REDUCE, Environment, Head, Outcome

if TYPE_CHECKING:
    from pywren_ng.futures import TaskFuture
    from pywren_ng.observers import Observer
    from pywren_ng.pricing import Usage
    from pywren_ng.reducers import Reduction
    from pywren_runtime.stores import Store

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What can differ from job to job of one executor."""

    memory: int | None
    policy: Policy
    env: tuple[tuple[str, str], ...]
    name: str | None


class Executor(Maps, Reducing, Grouping, Sorting, futures.Executor):  # type: ignore[misc]  # the types of `map` say more
    """Runs functions in worker processes of this machine, or wherever `backend` says.

    Anything that cloudpickle can pickle may be submitted, lambdas and functions of a notebook included; no
    `if __name__ == "__main__"` is needed. Settings that are not given come from `PYWREN_NG_*`, `./pywren-ng.toml` and
    the user's file, in that order.
    """

    def __init__(
        self,
        backend: str | None = None,
        *,
        store: str | None = None,
        max_workers: int | None = None,
        memory: int | None = None,
        time_limit: float | None = None,
        retries: int | None = None,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] = (),
        env: Mapping[str, str] | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[object, ...] = (),
        requirements: str | os.PathLike[str] | Iterable[str] | None = None,
        profile: str | None = None,
        region: str | None = None,
        progress: "bool | Observer | None" = None,
        name: str | None = None,
    ) -> None:
        if isinstance(backend, int):  # as ProcessPoolExecutor and ThreadPoolExecutor take it
            raise ConfigError(
                f"the first argument is the backend's name; for {backend} workers write max_workers={backend}"
            )
        given = {
            "backend": backend,
            "store": store,
            "max_workers": max_workers,
            "memory": memory,
            "time_limit": time_limit,
            "retries": retries,
            "requirements": requirements,
            "profile": profile,
            "region": region,
            "progress": None if callable(progress) else progress,
            "name": name,
        }
        settings = {key: setting.value for key, setting in config.load(given).items()}
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        policy = Policy(settings["retries"], _errors(retry_on), settings["time_limit"])
        self._options = Options(settings["memory"], policy, _variables(env), settings["name"])
        # With it come engine, packing and backends, of which `import pywren_ng` alone has no use.
        from pywren_ng.assembly import Assembly
        from pywren_ng.credentials import Access

        self._assembly = Assembly(
            settings["backend"],
            store=settings["store"],
            max_workers=settings["max_workers"],
            access=Access(settings["profile"], settings["region"]),
            requirements=settings["requirements"],
            compares=settings["check_packages"],
            progress=progress if callable(progress) else settings["progress"],
        )
        self._initializer = Packed(b"")
        if initializer is not None:
            self._initializer = self._assembly.packer.pack((initializer, initargs), "the initializer")
        self._environments: dict[tuple[Unit, ...], tuple[Environment, bytes]] = {}

    @property
    def store(self) -> "Store":
        """The store through which functions, large arguments and large results go."""
        return self._assembly.store

    @property
    def _max_workers(self) -> int:  # dask and others size their batches by it
        return self._assembly.engine.workers

    def options(
        self,
        *,
        memory: int | None = None,
        time_limit: float | None = None,
        retries: int | None = None,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] | None = None,
        env: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> "Executor":
        """The same executor with other options for what is submitted through it; what is not given stays as it is.

        It shares workers, store and life with this one: shutting down either shuts down both.
        """
        given = config.load({"memory": memory, "time_limit": time_limit, "retries": retries, "name": name})
        policy, options = self._options.policy, self._options
        policy = Policy(
            policy.retries if retries is None else given["retries"].value,
            policy.retry_on if retry_on is None else _errors(retry_on),
            policy.time_limit if time_limit is None else given["time_limit"].value,
        )
        view: Executor = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._environments = {}
        view._options = replace(
            options,
            memory=options.memory if memory is None else given["memory"].value,
            policy=policy,
            env=options.env if env is None else _variables({**dict(options.env), **env}),
            name=options.name if name is None else name,
        )
        return view

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `fn(*args, **kwargs)` in a worker; every keyword is the function's.

        What cannot be pickled does not raise here: it is the future's exception. The arguments are pickled before
        this returns, so changing them afterwards changes nothing.
        """
        return cast("Future[T]", self._submit(fn, args, kwargs))

    def _submit(
        self, fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any], memory: Memory | None = None
    ) -> "TaskFuture":
        """As `submit`; what `memory` knows of the arguments is neither hashed nor stored again."""
        assembly = self._assembly
        assembly.check_open()
        assembly.engine.prepare(self._environment(())[0])
        tasks = Tasks(
            self._new_job(), policy=self._options.policy, chunksize=1, pace=assembly.pace(fn), watcher=_NOBODY
        )
        watched = self._watched(tasks, fn) if assembly.audience.observer is not None else None
        now = time.time()
        try:
            packed = assembly.packer.function(fn, self._options.policy.retry_on, title_of(fn))
            tasks.held = packed.held
            arguments = assembly.packer.arguments(args, kwargs, memory)
        except PywrenError as error:
            return self._fail(tasks, error)
        usage = watched.usage if watched is not None else assembly.usage()
        heading = self._heading(tasks.job, usage, packed, arguments.modules)
        task = Task(tasks, 0, heading, arguments.data, arguments.held, now)
        tasks.all.append(task)
        future = task.future = assembly.engine.future_of(task)
        assembly.engine.add(tasks, [task])
        return future

    def _watched(self, tasks: Tasks, fn: Callable[..., object]) -> Shelf:
        """A single task is a job to an observer, and to nobody else."""
        assembly = self._assembly
        shelf = Shelf(str(self._options.name or getattr(fn, "__name__", "task")), assembly.usage())
        shelf.tasks, shelf.length = tasks, 1
        tasks.watcher = assembly.audience.attend(shelf, assembly.engine.deliver, assembly.engine.call)[0]
        return shelf

    def _fail(self, tasks: Tasks, error: PywrenError) -> "TaskFuture":
        engine = self._assembly.engine
        task = Task(tasks, 0, NO_HEADING, b"", (), time.time())
        tasks.all.append(task)
        future = task.future = engine.future_of(task)
        engine.ask(lambda: engine.settle(task, error))
        return future

    def _map(
        self,
        fn: Callable[..., T],
        iterables: tuple[Iterable[object], ...],
        *,
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        reduction: "Reduction | None" = None,
    ) -> Job[T]:
        assembly = self._assembly
        assembly.check_open()
        assembly.engine.prepare(self._environment(())[0])
        deadline = None if timeout is None else time.monotonic() + timeout
        tasks, shelf, watch = self._new_tasks(fn, chunksize, _length(iterables))
        if reduction is not None:
            reduction.follow(tasks)
        feed = Feed(
            assembly.engine,
            assembly.packer,
            tasks,
            fn,
            iterables,
            make_heading=functools.partial(self._heading, tasks.job, shelf.usage),
            remembers=buffersize is None,
        )
        watch(shelf)
        try:
            feed.more(buffersize)
        except BaseException:  # the input raised: there will be no Job
            assembly.engine.call(lambda: assembly.engine.forget(tasks))
            watch(shelf)
            raise
        if buffersize is None:
            shelf.length = len(tasks.all)
        return Job(assembly.engine, tasks, shelf, feed.more, watch=watch, deadline=deadline)

    def _new_tasks(
        self, fn: Callable[..., object], chunksize: int | None, length: int | None
    ) -> tuple[Tasks, Shelf, Callable[[Shelf], object]]:
        """A new job, what is known of it, and whom to tell whenever it may be over."""
        assembly = self._assembly
        shelf = Shelf(str(self._options.name or getattr(fn, "__name__", "tasks")), assembly.usage())
        tasks = Tasks(
            self._new_job(), policy=self._options.policy, chunksize=chunksize, pace=assembly.pace(fn), watcher=shelf
        )
        tasks.kept = True  # until nobody can ask for what becomes of it
        shelf.tasks, shelf.length = tasks, length
        tasks.watcher, watch = assembly.audience.attend(shelf, assembly.engine.deliver, assembly.engine.call)
        return tasks, shelf, watch

    def _reduction(self, reduce_fn: Callable[..., object], fan_in: int | None) -> "Reduction | TaskFuture":
        from pywren_ng.reducers import ReduceFuture, Reducers, Reduction

        assembly, policy = self._assembly, self._options.policy
        assembly.check_open()
        engine, packer, title = assembly.engine, assembly.packer, title_of(reduce_fn)
        whole = Tasks(self._new_job(), policy=policy, chunksize=1, pace=assembly.pace(reduce_fn), watcher=_NOBODY)
        try:
            last = packer.function(reduce_fn, policy.retry_on, title, REDUCE)
            others = packer.function(reduce_fn, policy.retry_on, title, REDUCE | KEEP) if fan_in else last
        except PywrenError as error:
            return self._fail(whole, error)

        def make(number: int) -> Reducers:
            tasks, shelf, watch = self._new_tasks(reduce_fn, 1, number)
            watch(shelf)
            heading = functools.partial(self._heading, tasks.job, shelf.usage)
            return Reducers(tasks, heading(last, ()), heading(others, ()), shelf, watch)

        front = Task(whole, 0, NO_HEADING, b"", (), time.time())
        front.state, front.future = State.OUT, ReduceFuture(front, engine)
        limit = min((limit for limit in (policy.time_limit, engine.longest) if limit is not None), default=None)
        held = last.held if others is last else last.held + others.held
        return Reduction(engine, front, make, fan_in=fan_in, limit=limit, held=held)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more; with `wait`, return when all is done and no process or file of this executor is left."""
        self._assembly.close(wait=wait, cancel=cancel_futures)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Wait for what was submitted; when left by an exception or Ctrl-C, cancel what waits and kill what runs."""
        if kind is not None:
            self._assembly.close(wait=True, kill=True)
            return None
        try:
            self.shutdown(wait=True)
        except KeyboardInterrupt:
            self._assembly.close(wait=True, kill=True)
            raise
        return None

    def __repr__(self) -> str:
        return f"<Executor {self._assembly.name} of {self._max_workers} workers, store {self._assembly.store.url}>"

    def _premises(self) -> Premises:
        whole = self._assembly
        return Premises(
            backend=whole.backend,
            store=whole.store.url,
            memory=whole.memory if self._options.memory is None else self._options.memory,
            access=whole.access,
            stop=whole.engine.stop,
            workers=self._max_workers,
            arch=whole.arch,
            show=whole.audience.show,
        )

    def _new_job(self) -> str:
        return self._assembly.new_job(self._options.name)

    def _heading(self, job: str, usage: "Usage | None", function: Packed, more: tuple[Unit, ...]) -> Heading:
        options = self._options
        units = function.modules + more + self._initializer.modules
        if units:
            units = tuple(dict.fromkeys(units))
        environment, encoded = self._environment(units)
        head = Head(job, function.data, encoded, options.policy.time_limit)
        return Heading(head, environment, head.encode(), usage)

    def _environment(self, units: tuple[Unit, ...]) -> tuple[Environment, bytes]:
        known = self._environments.get(units)
        if known is None:
            environment = Environment(
                self._options.memory, self._options.env, self._initializer.data, units, self._assembly.packages
            )
            if len(self._environments) > 100:  # modules that are edited again and again
                self._environments.clear()
            known = self._environments[units] = environment, environment.encode()
        return known


class _Nobody:
    """The watcher of a single task: its future is told by the engine."""

    def outcome(self, outcome: Outcome) -> None:
        pass

    def lost(self, lost: Lost) -> None:
        pass

    def settled(self, task: Task, ending: Ending) -> None:
        pass


_NOBODY = _Nobody()


def _length(iterables: tuple[Iterable[Any], ...]) -> int | None:
    sizes = [len(it) for it in iterables if isinstance(it, Sized)]
    return min(sizes) if len(sizes) == len(iterables) and sizes else None


def _errors(
    retry_on: type[BaseException] | tuple[type[BaseException], ...],
) -> tuple[type[BaseException], ...]:
    kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise ConfigError(
                f"retry_on takes exception classes, such as retry_on=(OSError, TimeoutError), not {kind!r}"
            )
    return kinds


def _variables(env: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str) or "=" in name or "\0" in name + value:
            raise ConfigError(
                f"env takes names and values that are text, such as env={{'MODE': 'test'}}, not {name!r}: {value!r}"
            )
    return tuple(sorted((env or {}).items()))
