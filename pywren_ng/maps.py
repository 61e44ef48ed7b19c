"""`map` as a type checker sees it: what the Job yields follows from the function, and the input must fit it.

Up to five iterables are checked against the function's parameters, as those of the built-in `map`.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar, overload

from pywren_ng.job import Job

__all__ = ["Maps"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
T = TypeVar("T")


class Maps:
    """The face of `map`, mixed into an executor."""

    @overload
    def map(
        self,
        fn: Callable[[A], T],
        it1: Iterable[A],
        /,
        *,
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Job[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B], T],
        it1: Iterable[A],
        it2: Iterable[B],
        /,
        *,
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Job[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B, C], T],
        it1: Iterable[A],
        it2: Iterable[B],
        it3: Iterable[C],
        /,
        *,
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Job[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B, C, D], T],
        it1: Iterable[A],
        it2: Iterable[B],
        it3: Iterable[C],
        it4: Iterable[D],
        /,
        *,
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Job[T]: ...
    @overload
    def map(
        self,
        fn: Callable[[A, B, C, D, E], T],
        it1: Iterable[A],
        it2: Iterable[B],
        it3: Iterable[C],
        it4: Iterable[D],
        it5: Iterable[E],
        /,
        *,
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Job[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        it1: Iterable[object],
        it2: Iterable[object],
        it3: Iterable[object],
        it4: Iterable[object],
        it5: Iterable[object],
        it6: Iterable[object],
        /,
        *iterables: Iterable[object],
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Job[T]: ...
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[object],
        timeout: float | None = None,
        chunksize: int | None = 1,
        buffersize: int | None = None,
    ) -> Job[T]:
        """Run `fn` over the iterables, as the built-in `map` would; the Job yields the results in input order.

        `chunksize` is how many tasks travel together; None lets it follow from how long they take. With
        `buffersize` the input is read only so far ahead of the results taken, and may be endless; without, it is
        read and pickled at once. `timeout` is how long, from now, the results may keep an iteration waiting.
        """
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if not callable(fn):
            raise TypeError(f"map takes a callable first, not {type(fn).__name__}")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        return self._map(fn, iterables, timeout=timeout, chunksize=chunksize, buffersize=buffersize)

    def _map(
        self,
        fn: Callable[..., T],
        iterables: tuple[Iterable[object], ...],
        *,
        timeout: float | None,
        chunksize: int | None,
        buffersize: int | None,
    ) -> Job[T]:
        raise NotImplementedError
