"""Futures as they end, for a loop of either kind.

    for future in job.as_completed(): ...
    async for future in job.as_completed(): ...

asyncio is imported by who uses it. Nothing here blocks its loop: news come by `call_soon_threadsafe`.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import asyncio

__all__ = ["Completed", "settled"]

T = TypeVar("T")


class Completed(Generic[T]):
    """The futures of a job, each as its task has settled. TimeoutError that long after the first was asked for."""

    def __init__(self, futures: Sequence[Future[T]], timeout: float | None) -> None:
        self._futures = futures
        self._timeout = timeout
        self._found: Iterator[Future[T]] | None = None
        self._queue: asyncio.Queue[Future[T]] | None = None
        self._left = len(futures)
        self._deadline: float | None = None

    def __iter__(self) -> Iterator[Future[T]]:
        return self

    def __next__(self) -> Future[T]:
        if self._found is None:
            self._found = as_completed(self._futures, self._timeout)
        return next(self._found)

    def __aiter__(self) -> "Completed[T]":
        return self

    async def __anext__(self) -> Future[T]:
        import asyncio

        if self._queue is None:
            self._queue = asyncio.Queue()
            self._deadline = None if self._timeout is None else time.monotonic() + self._timeout
            tell = _teller(asyncio.get_running_loop(), self._queue.put_nowait)
            for future in self._futures:
                future.add_done_callback(tell)
        if not self._left:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(_left(self._deadline)):
                future = await self._queue.get()
        except TimeoutError:
            raise TimeoutError(f"{self._left} (of {len(self._futures)}) futures unfinished") from None
        self._left -= 1
        return future


async def settled(future: Future[T], deadline: float | None, first: Callable[[], object]) -> None:
    """Wait until a future is done and `first`, which may take long, was called in another thread.

    Cancelling the wait does not cancel the future, as it would that of `asyncio.wrap_future`.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def tell(future: Future[T]) -> None:
        first()
        _teller(loop, lambda future: done.set())(future)

    future.add_done_callback(tell)
    async with asyncio.timeout(_left(deadline)):
        await done.wait()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _teller(loop: "asyncio.AbstractEventLoop", tell: Callable[[Any], object]) -> Callable[[Any], None]:
    def told(future: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, future)

    return told
