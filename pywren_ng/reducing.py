"""`map_reduce`, as an executor offers it; what follows from a call is in `reducers`."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pywren_ng.futures import TaskFuture
    from pywren_ng.job import Job
    from pywren_ng.reducers import Reduction

__all__ = ["Reducing"]

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class Reducing:
    """The face of map and reduce, mixed into an executor."""

    def _reduction(self, reduce_fn: Callable[..., object], fan_in: int | None) -> "Reduction | TaskFuture":
        raise NotImplementedError

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[object], ...],
        *,
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
        reduction: "Reduction | None" = None,
    ) -> "Job[Any]":
        raise NotImplementedError

    def map_reduce(
        self,
        fn: Callable[[A], B],
        items: Iterable[A],
        reduce_fn: Callable[[Iterator[B]], T],
        *,
        fan_in: int | None = None,
    ) -> Future[T]:
        """Run `fn` over the items and `reduce_fn` over an iterator of all results, in workers; the latter's future.

        The results come in input order, and are read from the store as `reduce_fn` asks for them: it needs memory for
        a few, and the client for none. `len()` of the iterator is how many there are. `sum`, `max`, `list` and the like
        will do; where there are no items, they get an iterator that is empty.

        With `fan_in=k` as many as k results are reduced at a time, side by side, then as many of these reductions, and
        so on: `reduce_fn` must not mind the grouping, as with `sum` or a merge.

        The store must have room for all results at a time. That of an executor on this machine lies in memory where it
        fits: for more, give it `store="file:///a/folder"`.

        A task that fails fails the whole, and stops the rest. `cancel()` of the future works until it is done, and
        stops everything, what runs included.
        """
        for name, given in (("a function", fn), ("a function that reduces", reduce_fn)):
            if not callable(given):
                raise TypeError(f"map_reduce takes {name}, not {type(given).__name__}")
        if fan_in is not None and (not isinstance(fan_in, int) or fan_in < 2):
            raise ValueError(f"fan_in must be None or an integer of at least 2, not {fan_in!r}")
        reduction = self._reduction(reduce_fn, fan_in)
        if isinstance(reduction, Future):  # the function that reduces cannot travel
            return reduction
        try:
            job = self._map(fn, (items,), timeout=None, chunksize=None, buffersize=None, reduction=reduction)
        except BaseException:  # the input raised
            reduction.abandon()
            raise
        return reduction.begin(job)
