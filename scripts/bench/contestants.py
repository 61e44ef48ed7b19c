"""Who takes part in overhead.py, each with the settings that serve it best, behind the same four verbs.

    ENTRANTS[name].open(workers) ──► Contestant: call · map · share · close        warm rows
    ENTRANTS[name].first_script  ──► a script of a few lines, run from cold        first result

"Best" was tried out, setting by setting; each class says which it was. A new rival is one class and one Entrant.
"""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from textwrap import dedent
from typing import Any, Protocol

from rows import OURS

__all__ = ["ENTRANTS", "Contestant", "Entrant", "Ours"]

LARGE = 1_000_000
WORKERS = "WORKERS"

Function = Callable[..., Any]


class Contestant(Protocol):
    """A pool of warm processes; every verb waits for its results."""

    def call(self, fn: Function, *args: Any) -> Any:
        """One task, and its result."""

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        """One task for each item: never several in one message because we asked for it."""

    def share(self, fn: Function, array: Any, items: Sequence[Any]) -> list[Any]:
        """fn(array, item) for each item, the array handed over once if there is a way."""

    def close(self) -> None:
        """Ends every process."""


class StandardPool:
    """Whatever is a concurrent.futures.Executor."""

    def __init__(self, executor: futures.Executor) -> None:
        self.executor = executor

    def call(self, fn: Function, *args: Any) -> Any:
        return self.executor.submit(fn, *args).result()

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return list(self.executor.map(fn, items))

    def share(self, fn: Function, array: Any, items: Sequence[Any]) -> list[Any]:
        return list(self.executor.map(fn, [array] * len(items), items))

    def close(self) -> None:
        self.executor.shutdown()


class Ours(StandardPool):
    """The executor as a user makes it."""

    def __init__(self, workers: int) -> None:
        from pywren_ng import Executor

        self._ours = Executor("local", max_workers=workers)
        self._last: object = None
        super().__init__(self._ours)

    def share(self, fn: Function, array: Any, items: Sequence[Any]) -> list[Any]:
        self._last = job = self.executor.map(fn, [array] * len(items), items)  # kept, and its blobs with it
        return list(job)

    def blobs(self) -> dict[str, int]:
        """What lies in the store by content, with sizes."""
        return dict(self._ours.store.keys("blobs/"))


def process_pool(workers: int) -> StandardPool:
    """Forked workers, Linux's default up to 3.13: the quickest start, modules there already."""
    fork = multiprocessing.get_context("fork")
    return StandardPool(futures.ProcessPoolExecutor(workers, mp_context=fork))


def loky(workers: int) -> StandardPool:
    """The reusable executor, as joblib uses it, whose workers do not leave in between.

    Its pickler stays cloudpickle: with plain pickle its workers do not find functions of `__main__`.
    """
    from loky import get_reusable_executor

    return StandardPool(get_reusable_executor(max_workers=workers, timeout=None))


class Dask:
    """One single-threaded process per core, no dashboard; tasks impure, so that none is answered twice."""

    def __init__(self, workers: int) -> None:
        import distributed

        module: Any = distributed  # its types are incomplete
        self.cluster = module.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        self.client = module.Client(self.cluster, set_as_default=False)

    def call(self, fn: Function, *args: Any) -> Any:
        # It warns of a large array inside the graph; scattered it is a little quicker, and more so unhashed.
        sent = [self._scatter(arg) if getattr(arg, "nbytes", 0) >= LARGE else arg for arg in args]
        return self.client.submit(fn, *sent, pure=False).result()

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        return self._gather(self.client.map(fn, items, pure=False))

    def share(self, fn: Function, array: Any, items: Sequence[Any]) -> list[Any]:
        # Not broadcast: workers fetch it from each other three times as fast as the client sends it to all.
        return self._gather(self.client.map(fn, [self._scatter(array)] * len(items), items, pure=False))

    def close(self) -> None:
        self.client.close()
        self.cluster.close()

    def _scatter(self, array: Any) -> Any:
        return self.client.scatter(array, hash=False)

    def _gather(self, sent: list[Any]) -> list[Any]:
        return list(self.client.gather(sent, direct=True))  # from the workers, not by way of the scheduler


class Ray:
    """No dashboard, no forwarding of logs; the object store has its default size, 30 % of the memory."""

    def __init__(self, workers: int) -> None:
        import ray

        self._ray: Any = ray
        self._remote: dict[Function, Any] = {}
        self._ray.init(num_cpus=workers, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

    def call(self, fn: Function, *args: Any) -> Any:
        return self._ray.get(self._of(fn).remote(*args))  # a large argument is put into the object store here

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        remote = self._of(fn)
        return list(self._ray.get([remote.remote(item) for item in items]))

    def share(self, fn: Function, array: Any, items: Sequence[Any]) -> list[Any]:
        remote, reference = self._of(fn), self._ray.put(array)
        return list(self._ray.get([remote.remote(reference, item) for item in items]))

    def close(self) -> None:
        self._ray.shutdown()

    def _of(self, fn: Function) -> Any:
        if fn not in self._remote:
            self._remote[fn] = self._ray.remote(fn)
        return self._remote[fn]


class Lithops:
    """Its localhost backend in both versions, each where it is the quicker one.

    Neither keeps a worker. Version 2 starts an interpreter per task, and one task is soonest back from it
    (polled every 5 ms, not every second); version 1 starts one per job, which forks, and does 200 tasks a
    second where version 2 does seven. The limit of 4 MB on data is lifted.
    """

    def __init__(self, workers: int) -> None:
        self._single, self._job = self._executor(2, workers), self._executor(1, workers)

    def call(self, fn: Function, *args: Any) -> Any:
        return self._single.call_async(fn, args).result(wait_dur_sec=0.005)

    def map(self, fn: Function, items: Sequence[Any]) -> list[Any]:
        sent = self._job.map(fn, [(item,) for item in items])
        return list(self._job.get_result(sent, show_progressbar=False))

    def share(self, fn: Function, array: Any, items: Sequence[Any]) -> list[Any]:
        raise NotImplementedError("Lithops writes the array once for every task")

    def close(self) -> None:
        self._single.clean()
        self._job.clean()

    def _executor(self, version: int, workers: int) -> Any:
        from lithops import FunctionExecutor

        common = {"backend": "localhost", "storage": "localhost", "log_level": None, "data_limit": 0}
        local = {"version": version, "runtime": sys.executable, "worker_processes": workers}
        return FunctionExecutor(config={"lithops": common, "localhost": local})


@dataclass(frozen=True, slots=True)
class Entrant:
    """How one takes part: its distribution, how it is opened, its first script, how much of each row it does.

    `round_trips` and `noops` are fewer for who would take minutes; figures are per call and per second. Who
    sends a shared array once per task (10 GB, half a minute) does not take part in that row.
    """

    distribution: str
    open: Callable[[int], Contestant]
    first_script: str
    round_trips: int = 300
    noops: int = 5_000
    is_sharing: bool = True

    def script(self, workers: int) -> str:
        return dedent(self.first_script).lstrip().replace(WORKERS, str(workers))


OUR_SCRIPT = """
    from pywren_ng import Executor

    def increment(number):
        return number + 1

    if __name__ == "__main__":
        with Executor("local", max_workers=WORKERS) as executor:
            print(executor.submit(increment, 41).result(), flush=True)
    """

PROCESS_POOL_SCRIPT = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    def increment(number):
        return number + 1

    if __name__ == "__main__":
        with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("fork")) as executor:
            print(executor.submit(increment, 41).result(), flush=True)
    """

LOKY_SCRIPT = """
    from loky import get_reusable_executor

    def increment(number):
        return number + 1

    if __name__ == "__main__":
        print(get_reusable_executor(max_workers=WORKERS).submit(increment, 41).result(), flush=True)
    """

DASK_SCRIPT = """
    from distributed import Client

    def increment(number):
        return number + 1

    if __name__ == "__main__":
        with Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as client:
            print(client.submit(increment, 41).result(), flush=True)
    """

RAY_SCRIPT = """
    import ray

    def increment(number):
        return number + 1

    if __name__ == "__main__":
        ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        print(ray.get(ray.remote(increment).remote(41)), flush=True)
    """

LITHOPS_SCRIPT = """
    import sys
    from lithops import FunctionExecutor

    def increment(number):
        return number + 1

    if __name__ == "__main__":
        common = {"backend": "localhost", "storage": "localhost", "log_level": None}
        local = {"version": 2, "runtime": sys.executable, "worker_processes": WORKERS}
        executor = FunctionExecutor(config={"lithops": common, "localhost": local})
        print(executor.call_async(increment, 41).result(wait_dur_sec=0.005), flush=True)
    """

ENTRANTS = {
    OURS: Entrant("pywren-ng", Ours, OUR_SCRIPT),
    "processpool": Entrant("", process_pool, PROCESS_POOL_SCRIPT, is_sharing=False),
    "loky": Entrant("loky", loky, LOKY_SCRIPT, is_sharing=False),
    "dask": Entrant("distributed", Dask, DASK_SCRIPT, round_trips=50),
    "ray": Entrant("ray", Ray, RAY_SCRIPT),
    "lithops": Entrant("lithops", Lithops, LITHOPS_SCRIPT, round_trips=5, noops=200, is_sharing=False),
}
