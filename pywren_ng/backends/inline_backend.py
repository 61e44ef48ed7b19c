"""Tasks in the thread that submits them: for `pdb`, for tests, and where no process may be started.

The same worker code runs, so arguments and results are pickled as they would be elsewhere. Time and memory limits
are not enforced, and what a task prints is not kept.
"""

import os
from collections import deque
from collections.abc import Sequence

from pywren_ng.backends import Event, Order
from pywren_ng.credentials import Access
from pywren_ng.scratch import private_store
from pywren_runtime.stores import Store
from pywren_runtime.wire import Environment, Signer
from pywren_runtime.worker import Worker


class InlineBackend:
    """Runs one Call at each `collect`."""

    workers = 1
    longest: float | None = None
    threaded = False

    def __init__(self, store: Store, *, root: str) -> None:
        self.signer: Signer = Signer(os.urandom(32))
        self._worker = Worker(store, root=root, take_output=bytes, signer=self.signer)
        self._orders: deque[Order] = deque()

    def prepare(self, environment: Environment) -> None:
        pass  # this thread is there

    def room(self, environment: Environment, seconds: float | None) -> int:
        return 0 if self._orders else 1

    def start(self, orders: Sequence[Order]) -> None:
        self._orders.extend(orders)

    def wait(self, timeout: float) -> object:
        return ()

    def collect(self, waited: object) -> list[Event]:
        return list(self._worker.run(self._orders.popleft().call)) if self._orders else []

    def balance(self) -> None:
        pass  # there is one worker

    def wake(self) -> None:
        pass  # nobody else waits

    def recall(self, job: str) -> list[Order]:
        mine = [order for order in self._orders if order.heading.head.job == job]
        self.stop(job)
        return mine

    def stop(self, job: str) -> None:
        self._orders = deque(order for order in self._orders if order.heading.head.job != job)

    def close(self) -> None:
        self._orders.clear()


def own_store(directory: str, access: Access) -> Store:
    """Where the executor's data lies if the user names no store."""
    return private_store(directory)


def make(store: Store, *, directory: str, max_workers: int | None, access: Access) -> InlineBackend:
    """The backend for an executor whose private folder is `directory`."""
    return InlineBackend(store, root=directory)
