"""What uses joblib, scikit-learn above all, on the workers of an executor.

    Parallel ── batch ─► submit ─► its turn ─► Executor ─► a worker: batch()
       ▲                              └─► large arrays: stored once, known by their place while the call lasts
       └── callback(future) ◄──────────────────┘

Importing this module tells joblib the name; joblib has no other way to find a backend that is not its own.

    with joblib.parallel_config(backend="pywren_ng"): ...  # an executor of its own, by the user's settings
    with joblib.parallel_config(backend="pywren_ng", executor=ex): ...  # one whose workers stay afterwards
"""

import functools
import operator
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import joblib
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from pywren_ng.executor import Executor
from pywren_ng.futures import TaskFuture
from pywren_ng.packing import Memory
from pywren_runtime.errors import ConfigError

__all__ = ["PywrenBackend"]

Results = list[object]
Batch = Callable[[], Results]
Callback = Callable[[Future[Results]], object]
_NO_CALL: Final = SimpleNamespace(verbose=0)  # stands for the call that has ended


if TYPE_CHECKING:

    class _Base:
        """What is used of joblib's, which ships no types."""

        MAX_NUM_THREADS_VARS: tuple[str, ...]
        inner_max_num_threads: int | None

        def __init__(self, *, nesting_level: int | None, inner_max_num_threads: int | None) -> None: ...
        def reset_batch_stats(self) -> None: ...

else:

    class _Base(AutoBatchingMixin, ParallelBackendBase):
        """Sizes batches."""


class PywrenBackend(_Base):
    """A joblib backend: batches of tasks are one executor's tasks, sized by how long they take.

    Without an executor it makes one by the user's settings, which ends with it. As any of joblib's backends it serves
    one call of Parallel at a time; threads that call at the same time take one each, and may share the executor.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
    ) -> None:
        if executor is not None and not isinstance(executor, Executor):
            raise ConfigError(f"executor takes a pywren_ng.Executor, such as executor=Executor(...), not {executor!r}")
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._given = executor
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Batch, Callback]] = deque()
        self._out: set[Future[Results]] = set()
        self._most = 0  # batches that may be out
        self._memory: Memory = {}

    @functools.cached_property
    def executor(self) -> Executor:
        """Where the batches go; one of its own is made when it is first needed."""
        return self._given if self._given is not None else Executor()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches may run at a time: -1 is all workers, -2 all but one; more than there are is all."""
        if n_jobs == 0:
            raise ValueError("n_jobs=0 has no meaning: -1 is all workers, 1 is none, for joblib runs that here")
        if n_jobs == 1:
            return 1
        workers = self.executor._max_workers
        wanted = self.default_n_jobs if n_jobs is None else n_jobs
        return min(wanted, workers) if wanted > 0 else max(1, workers + 1 + wanted)

    def configure(self, n_jobs: int = 1, parallel: object = None, **options: object) -> int:
        """Get ready for a call. joblib's options say how to map arrays into its own workers; ours always are."""
        self.parallel: object = parallel
        most = self.effective_n_jobs(n_jobs)
        if most > 1:
            # All workers may also be sent their next batch ahead.
            self._most = most if most < self.executor._max_workers else 1 << 30
            self._view = self.executor
            if self.inner_max_num_threads is not None:
                threads = dict.fromkeys(self.MAX_NUM_THREADS_VARS, str(self.inner_max_num_threads))
                self._view = self.executor.options(env=threads)
        return most

    def submit(self, func: Batch, callback: Callback) -> None:
        """Run a batch as soon as fewer than n_jobs do. joblib is told of its end, and needs no future."""
        self._waiting.append((func, callback))
        self._fill()

    def _fill(self) -> None:
        while (started := self._next()) is not None:
            future, callback = started
            future.add_done_callback(functools.partial(self._done, callback))

    def _next(self) -> tuple[Future[Results], Callback] | None:
        with self._lock:
            if not self._waiting or len(self._out) >= self._most:
                return None
            batch, callback = self._waiting.popleft()
            future = self._send(batch)
            self._out.add(future)
            return future, callback

    def _send(self, batch: Batch) -> Future[Results]:
        """Submit a batch, of whose large pieces those that the last one had too are known by where they lie.

        They cannot have changed: joblib reads tasks ahead and sends them when it likes, so nobody who changes an
        argument while his call lasts is promised anything. Those of older batches are not kept alive.
        """
        self._drop_filters(batch)
        try:
            future = self._view._submit(operator.call, (batch,), {}, self._memory)
        except Exception as error:  # this may be joblib's callback, where nobody would see it and the call would hang
            failed: Future[Results] = Future()
            failed.set_exception(error)
            return failed
        held = future._task.held
        self._memory = {where: piece for where, piece in self._memory.items() if piece[0].key in held}
        return future

    def _drop_filters(self, batch: Batch) -> None:
        """Take out of a batch the warnings that workers cannot know.

        scikit-learn sends the filters of the caller's warnings along with each task. In a notebook some name classes of
        IPython, without which a worker could not load the task; and nothing there raises such a warning.
        """
        lacks = self.executor._assembly.packer.lacks
        for function, *_ in getattr(batch, "items", ()):
            filters = getattr(function, "warning_filters", None)
            if filters:
                known = [given for given in filters if not lacks(given[2].__module__.partition(".")[0])]
                function.warning_filters = known

    def _done(self, callback: Callback, future: Future[Results]) -> None:
        with self._lock:
            self._out.discard(future)
        callback(future)
        if not future.cancelled() and future.exception() is None:  # else joblib gives up
            self._fill()

    def retrieve_result_callback(self, out: Future[Results]) -> Results:
        """The results of a batch, or its error raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what waits and stop what runs; the executor gets new workers for those that this takes."""
        with self._lock:
            self._waiting.clear()
            out = [future._task.tasks for future in self._out if isinstance(future, TaskFuture)]
            self._out.clear()
        engine = self.executor._assembly.engine

        def stop() -> None:
            for tasks in out:
                engine.cancel(tasks, running=True)

        engine.ask(stop)

    def stop_call(self) -> None:
        """From now on the caller may change his arrays."""
        self._memory = {}

    def terminate(self) -> None:
        """The call is over; workers stay for the next."""
        self.reset_batch_stats()
        self.parallel = _NO_CALL  # it refers to this backend, whose executor ends with the last reference


joblib.register_parallel_backend("pywren_ng", PywrenBackend)
