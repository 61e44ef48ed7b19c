"""What an executor offers for data by keys: groups, joins, distinct records, and MapReduce.

The work is done in `pywren_shuffle` (`group`, `join`, `even`), over the sort's own machinery. As with the sort, here is
decided what follows from which executor it is.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from pywren_ng.sorting import Place, Places, Sorting, all_seen, between, in_background, parted, seen, usable

if TYPE_CHECKING:
    from pyarrow import Table

    from pywren_shuffle.group import How, Reduced

__all__ = ["Grouping"]

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")
Function = Callable[..., object]


class Grouping(Sorting):
    """The faces of what goes by keys, mixed into an executor.

    Places, `partitions`, `memory`, `overwrite` and `intermediate` are as for `sort`. A key is None, a bool, int, float,
    str or bytes, or a tuple of these. `records` is `"rows"`, `"text"` or `"table"`, and of a table `key` names columns:
    `"country"`, or a list of several. What comes out is in the order of a hash, and proven as a sort is.
    """

    def group(
        self,
        source: Places,
        target: Place,
        fn: Callable[..., object],
        *,
        records: str = "rows",
        key: object = None,
        value: Function | None = None,
        partitions: int | None = None,
        memory: float | None = None,
        overwrite: bool = False,
        intermediate: str | None = None,
    ) -> "Reduced[None]":
        """A row `(key, fn(key, values))` for each key; `values` is an iterator in the order of the input.

        A record's key is `key(record)`, and what the function gets of it is `value(record)`, or all of it; without
        `key`, records are pairs of a key and a value. Of a table (`records="table"`) `key` names columns, and the
        function gets an iterator of pyarrow tables. The output is files of rows, in the order of a hash. A key is None,
        a bool, int, float, str or bytes, or a tuple of these. All other arguments are as for `sort`.
        """
        places = self._read(source, records)
        from pywren_shuffle.group import group

        place = self._place(target)
        how = self._how(place, partitions, memory, overwrite, intermediate)
        return self._told(target, group(self._own, places, place, fn, records=records, key=key, value=value, how=how))

    def reduce_by_key(
        self,
        source: Places,
        target: Place,
        fn: Callable[..., object] | Mapping[str, object],
        *,
        records: str = "rows",
        key: object = None,
        value: Function | None = None,
        partitions: int | None = None,
        memory: float | None = None,
        overwrite: bool = False,
        intermediate: str | None = None,
    ) -> "Reduced[None]":
        """A row `(key, fn(fn(a, b), c)…)` for each key, of its values; `fn` must be associative.

        Values are combined where they are read, and again where they meet. Of a table, `fn` says what becomes of
        columns: `{"amount": "sum"}`, or `{"total": ("amount", "sum")}`; the output is a table, too. There are sum,
        product, min, max, any, all, count, rows and mean. Keys and all other arguments are as for `group`.
        """
        places = self._read(source, records)
        from pywren_shuffle.group import reduce_by_key

        place = self._place(target)
        how = self._how(place, partitions, memory, overwrite, intermediate)
        return self._told(
            target,
            reduce_by_key(self._own, places, place, fn, records=records, key=key, value=value, how=how),
        )

    def distinct(
        self,
        source: Places,
        target: Place,
        *,
        records: str = "rows",
        key: object = None,
        partitions: int | None = None,
        memory: float | None = None,
        overwrite: bool = False,
        intermediate: str | None = None,
    ) -> "Reduced[None]":
        """Each record once; with `key`, the first record of each key.

        The output is files of rows, also of lines; of tables it is a table. Where records are no keys, as dicts are
        none, say `key`: `key=lambda row: tuple(sorted(row.items()))`. All other arguments are as for `group`.
        """
        places = self._read(source, records)
        from pywren_shuffle.group import distinct

        place = self._place(target)
        how = self._how(place, partitions, memory, overwrite, intermediate)
        return self._told(target, distinct(self._own, places, place, records=records, key=key, how=how))

    def join(
        self,
        left: Places,
        right: Places,
        target: Place,
        *,
        kind: Literal["inner", "left", "right", "outer", "semi"] = "inner",
        key: object = None,
        fn: Callable[..., object] | None = None,
        records: str = "rows",
        broadcast: bool | None = None,
        partitions: int | None = None,
        memory: float | None = None,
        overwrite: bool = False,
        intermediate: str | None = None,
    ) -> "Reduced[None]":
        """A row `fn(left, right)`, by default the pair of both, for each two rows whose keys are equal.

        `kind` is inner, left, right, outer or semi; a side that has no equal row is None. `key` is as for `group`, or a
        tuple of two, for left and right: `key=("id", "user_id")` of tables, `key=(left_key, right_key)` of functions.
        With `broadcast`, the smaller side goes to every worker: by default where it fits. Among rows, None is equal to
        None; in a table a null is equal to nothing, as in SQL. A join of tables has the columns of both, of which those
        of the right that the left has, too, end in `_right`.
        """
        places = self._read(left, records), self._read(right, records)
        from pywren_shuffle.join import join

        place = self._place(target)
        how = self._how(place, partitions, memory, overwrite, intermediate)
        joined = join(
            self._own,
            *places,
            place,
            kind=kind,
            key=key,
            fn=fn,
            records=records,
            broadcast=broadcast,
            how=how,
        )
        return self._told(target, joined)

    def repartition(
        self,
        source: Places,
        target: Place,
        partitions: int,
        *,
        records: str = "rows",
        memory: float | None = None,
        overwrite: bool = False,
        intermediate: str | None = None,
    ) -> "Reduced[None]":
        """The same records in the same order, in so many parts of about the same size; any format of `sort`."""
        places = self._read(source, records)
        from pywren_shuffle.even import repartition

        place = self._place(target)
        how = self._how(place, None, memory, overwrite, intermediate)
        return self._told(target, repartition(self._own, places, place, partitions, records=records, how=how))

    def top_k(
        self,
        source: Places,
        k: int,
        *,
        records: str = "rows",
        key: object = None,
        smallest: bool = False,
        memory: float | None = None,
    ) -> "list[object] | Table":
        """The k greatest records, or smallest, in that order: a list, or of a table a pyarrow.Table.

        By themselves, or by `key`, which is as for `sort`. They come here, so k should be small beside the input.
        """
        places = self._read(source, records)
        from pywren_shuffle.even import top_k
        from pywren_shuffle.group import How

        how = How(memory=usable(memory, self._premises()))
        found: list[object] = top_k(self._own, places, k, records=records, key=key, smallest=smallest, how=how)
        return found

    @overload
    def map_reduce_by_key(
        self,
        fn: Callable[[T], Iterable[tuple[K, V]]],
        items: Iterable[T],
        reduce_fn: Callable[[K, Iterator[V]], R],
        combine: Callable[[V, V], V] | None = None,
        partitions: int | None = None,
        output: None = None,
        *,
        memory: float | None = None,
        overwrite: bool = False,
        intermediate: str | None = None,
    ) -> "Future[dict[K, R]]": ...
    @overload
    def map_reduce_by_key(
        self,
        fn: Callable[[T], Iterable[tuple[K, V]]],
        items: Iterable[T],
        reduce_fn: Callable[[K, Iterator[V]], R],
        combine: Callable[[V, V], V] | None = None,
        partitions: int | None = None,
        *,
        output: Place,
        memory: float | None = None,
        overwrite: bool = False,
        intermediate: str | None = None,
    ) -> "Future[Reduced[None]]": ...
    def map_reduce_by_key(
        self,
        fn: Callable[[T], Iterable[tuple[K, V]]],
        items: Iterable[T],
        reduce_fn: Callable[[K, Iterator[V]], R],
        combine: Callable[[V, V], V] | None = None,
        partitions: int | None = None,
        output: Place | None = None,
        *,
        memory: float | None = None,
        overwrite: bool = False,
        intermediate: str | None = None,
    ) -> "Future[dict[K, R]] | Future[Reduced[None]]":
        """A future of the dict of `reduce_fn(key, values)` for each key that `fn(item)` yields, as `yield key, value`.

        With `output`, a place, these go there as rows `(key, value)`, and the future's result says what was done.
        `combine(a, b)`, which must be associative, makes one value of two before they travel. `values` is an iterator.
        """
        from pywren_shuffle.group import map_reduce_by_key

        place = None if output is None else self._place(output)
        how = self._how(place, partitions, memory, overwrite, intermediate)
        premises = self._premises()
        beside = premises.place if premises.place.startswith("s3:") else None
        kept = list(items)  # as they are now, and an error of the iterable is the caller's

        def run() -> Any:
            done = map_reduce_by_key(
                self._own, fn, kept, reduce_fn, target=place, beside=beside, combine=combine, how=how
            )
            return done.value if output is None else self._told(output, done)

        return in_background(run)

    @property
    def _own(self) -> Executor:
        return cast(Executor, self)

    def _place(self, target: Place) -> str:
        return seen(target, self._premises())

    def _read(self, source: Places, records: str) -> list[str]:
        """The places as workers can reach them, who begin where they can."""
        found = all_seen(source, self._premises())
        self._begin(records, found)
        return found

    def _how(
        self,
        place: str | None,
        partitions: int | None,
        memory: float | None,
        overwrite: bool,
        intermediate: str | None,
    ) -> "How":
        from pywren_shuffle.group import How

        premises = self._premises()
        apart = premises.place if premises.store.startswith("s3:") and (place or "").startswith("s3:") else None
        lies = None if intermediate is None else between(intermediate, premises)
        return How(partitions, usable(memory, premises), overwrite, lies, spare=apart)

    def _told(self, target: Place, done: "Reduced[T]") -> "Reduced[T]":
        """What was done, with parts under the names that the caller would use, and not those that workers need."""
        text = os.fspath(target)
        if not text.startswith("s3:"):
            return done
        return replace(done, parts=tuple(parted(part)[0] + parted(text)[1] for part in done.parts))
