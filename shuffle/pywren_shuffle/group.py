"""Groups: what has the same key comes together, and a function makes one row of it.

    group, reduce_by_key, distinct       files ──► pairs ─┐
    map_reduce_by_key            items ──► fn ──► pairs ──┴─► spills ──► merge ──► finish ──► parts, or a dict

It is the sort's own machinery: partition p has the keys whose hashes lie from p/P to (p+1)/P, and within a partition
the order is that of hashes and keys. So all records of a key come to one partition, one behind the other; the merge
brings them in bounded memory, and each run proves that what was sent is what was reduced.

A key that has very many records: with a function that combines two values, a split sends one of them each time that its
memory is full, so that the work is spread over all workers, and what comes together is small. Without one, they pass
one worker, one after the other, and the function sees an iterator.
"""

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import pairwise
from typing import Any, Final, Generic, TypeVar, cast

from pywren_runtime.errors import ConfigError
from pywren_shuffle.driving.clean import new_id
from pywren_shuffle.driving.run import Place, Run
from pywren_shuffle.objects.grouped import Combine, Grouped
from pywren_shuffle.objects.pairs import ItemPairs, itself, record_pairs
from pywren_shuffle.objects.spill import Spilling, spill
from pywren_shuffle.phases.merge import Part
from pywren_shuffle.phases.partition import Block, PartitionTask
from pywren_shuffle.phases.sample import Boundary, Hot
from pywren_shuffle.places.inputs import store_url
from pywren_shuffle.places.spare import BlocksLost
from pywren_shuffle.planning.plan import Plan
from pywren_shuffle.planning.words import Written, bytes_in_words
from pywren_shuffle.proof import Tally, compare
from pywren_shuffle.records import Made, Piece, Source, is_table
from pywren_shuffle.records.rows_records import load
from pywren_shuffle.sizes import gather

__all__ = ["USUAL", "How", "Reduced", "distinct", "group", "map_reduce_by_key", "reduce_by_key"]

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
Function = Callable[[Any], Any]
Places = Place | Iterable[Place]
MORE = 4  # map tasks for each worker: items may take very different times


@dataclass(frozen=True, slots=True)
class How:
    """What can be chosen for each run, whatever it does; each as for `sort`."""

    partitions: int | None = None
    memory: float | None = None  # MB
    overwrite: bool = False
    intermediate: str | None = None
    hedging: bool = True
    spare: str | None = None


USUAL: Final = How()


@dataclass(frozen=True, slots=True)
class Reduced(Written, Generic[T]):
    """What was grouped, joined or spread anew, and proven: all that was read went into what was written."""

    id: str
    parts: tuple[str, ...]  # paths, or URLs
    records: int  # of the input
    rows: int  # of the output
    bytes: int  # of the output
    checksum: int = field(repr=False)  # of what lay between the phases
    splits: int
    requests: dict[str, int]
    seconds: float
    plan: Plan = field(repr=False)
    value: T  # what was made of the parts, where they were to be something else
    notices: tuple[str, ...] = ()  # what went otherwise than planned and was set right; also logged as warnings
    _repr_pretty_ = Written._repr_pretty_  # IPython looks for it where the __repr__ is

    def __str__(self) -> str:
        return self.told(f"{self.records:,} records became {self.rows:,}, {bytes_in_words(self.bytes)}")


def group(
    executor: Executor,
    source: Places,
    target: Place,
    fn: Callable[[Any, Iterator[Any]], Any],
    *,
    records: str = "rows",
    key: object = None,
    value: Function | None = None,
    how: How = USUAL,
) -> "Reduced[None]":
    """One row `(key, fn(key, values))` for each key; `values` is an iterator, in the order of the input.

    A record's key is `key(record)`, and what the function gets of it `value(record)`, or all of it. Without `key`,
    records are pairs of a key and a value. The function need not look at all values; there may be more than memory.
    Of a table, `key` names columns, and the values are tables.
    """
    _checked(fn, "a key and an iterator of its values")
    if is_table(records):
        from pywren_shuffle.tables.aggregate import names_of, table_format
        from pywren_shuffle.tables.groups import TableGroups

        _no_value(value)
        inner = table_format(records, key)
        return _from_files(executor, source, target, TableGroups(inner, names_of(inner), fn), how)
    pairs = record_pairs(records, key, value)
    return _from_files(executor, source, target, Grouped(pairs=pairs, finish=Apply(fn)), how)


def reduce_by_key(
    executor: Executor,
    source: Places,
    target: Place,
    fn: Combine | Mapping[str, Any],
    *,
    records: str = "rows",
    key: object = None,
    value: Function | None = None,
    how: How = USUAL,
) -> "Reduced[None]":
    """One row `(key, v)` for each key, v being `fn(fn(a, b), c)…` of its values; `fn` must be associative.

    Values are combined where they are read, and again where they meet: a key that all records have costs no more than
    others do. Of a table, `key` names columns, and `fn` says what becomes of others: `{"amount": "sum"}`, or
    `{"total": ("amount", "sum")}`; the functions are sum, product, min, max, any, all, count, rows and mean.
    """
    if is_table(records):
        from pywren_shuffle.tables.aggregate import Aggregated, aggregates_of, names_of, table_format

        _no_value(value)
        inner = table_format(records, key)
        return _from_files(executor, source, target, Aggregated(inner, names_of(inner), aggregates_of(fn)), how)
    both = _checked(fn, "two values, such as operator.add, that gives one of both; columns are for records='table'")
    pairs = record_pairs(records, key, value)
    return _from_files(executor, source, target, Grouped(pairs=pairs, finish=Fold(both), combine=both), how)


def distinct(
    executor: Executor,
    source: Places,
    target: Place,
    *,
    records: str = "rows",
    key: object = None,
    how: How = USUAL,
) -> "Reduced[None]":
    """Each record once; with `key`, the first record of each key, in the order of the input."""
    if is_table(records):
        from pywren_shuffle.records.table_records import Table
        from pywren_shuffle.tables.aggregate import names_of, table_format
        from pywren_shuffle.tables.groups import FirstRows

        inner = Table(()) if key is None and records == "table" else table_format(records, key)
        return _from_files(executor, source, target, FirstRows(inner, names_of(inner), ()), how)
    pairs = record_pairs(records, key or itself, itself)
    return _from_files(executor, source, target, Grouped(pairs=pairs, finish=first_of, combine=earlier), how)


def map_reduce_by_key(
    executor: Executor,
    fn: Callable[[T], Iterable[tuple[K, V]]],
    items: Iterable[T],
    reduce_fn: Callable[[K, Iterator[V]], Any],
    *,
    target: Place | None = None,
    beside: Place | None = None,
    combine: Callable[[V, V], V] | None = None,
    how: How = USUAL,
) -> "Reduced[dict[Any, Any] | None]":
    """For each key that `fn(item)` yields, `reduce_fn(key, values)`: as rows at `target`, or as the dict `value`.

    `combine(a, b)`, which must be associative, makes one value of two before they travel. Before they are a
    dict, rows lie in the store `beside`, by default in a folder of this machine's.
    """
    _checked(fn, "an item that yields pairs of a key and a value")
    _checked(reduce_fn, "a key and an iterator of its values")
    if combine is not None:
        _checked(combine, "two values, such as operator.add, that gives one of both")
    format = Grouped(pairs=ItemPairs(fn), finish=Apply(reduce_fn), combine=combine)
    if target is not None:
        return _Items(executor, format, target, how).run(items)
    if beside is not None:
        return _Items(executor, format, beside, how, is_dict=True).run(items)
    with tempfile.TemporaryDirectory(prefix="pywren-ng-") as folder:
        return _Items(executor, format, folder, how, is_dict=True).run(items)


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of key and values."""

    function: Callable[[Any, Iterator[Any]], Any]

    def __call__(self, key: Any, values: Iterator[Any]) -> Iterable[object]:
        return ((key, self.function(key, values)),)


@dataclass(frozen=True, slots=True)
class Fold:
    """A function of two values, over all of them."""

    function: Combine

    def __call__(self, key: Any, values: Iterator[Any]) -> Iterable[object]:
        return ((key, reduce(self.function, values)),)


def earlier(first: Any, second: Any) -> Any:
    """What remains of two records that are alike."""
    return first


def first_of(key: Any, values: Iterator[Any]) -> Iterable[object]:
    """What remains of all records that are alike."""
    return (next(values),)


def _checked(fn: Any, of: str) -> Any:
    if not callable(fn):
        raise ConfigError(f"{fn!r} must be a function of {of}.")
    return fn


def _no_value(value: object) -> None:
    if value is not None:
        raise ConfigError("value= is for rows and text: what a group of a table gets are tables of all columns.")


def _from_files(executor: Executor, source: Places, target: Place, format: Any, how: How) -> "Reduced[None]":
    return Spread(executor, format, target, how).run(source)


class Spread(Run):
    """One run of what is spread by a hash; `format` must be Spilling."""

    WHAT = "group"
    IS_SPREAD = True  # see `spill`

    def __init__(self, executor: Executor, format: Any, target: Place, how: How, id: str = "") -> None:
        super().__init__(executor, format, target, how.intermediate, how.hedging, id, spare=how.spare)
        self._how = how

    def run(self, source: Any) -> "Reduced[Any]":
        """All steps; when it returns, nothing is left but the output."""
        how = self._how
        try:
            sources = self.found(source, how.overwrite)
            plan = self.how_to(sources)
            splits = self.cut(sources, plan)
            try:
                parts, total = self.reduced(splits, plan)
            except BlocksLost as lost:  # what a function of the user's gives otherwise cannot be made again alone
                self.traces.leave_tier(lost)
                self._rows = []
                parts, total = self.reduced(splits, plan)
            value = self.published(parts, total)
        except BaseException as error:
            self.traces.give_up(error)
            raise
        self.output.remove_old()
        self.traces.clean()
        plan = self.done(plan)
        assert plan.actual is not None
        made = [part.made or Made(part.tally.records, part.tally.bytes, part.tally.records) for part in parts]
        return Reduced(
            id=self.id,
            parts=tuple(self.output.url_of(part.key) for part in parts) if value is None else (),
            records=sum(one.of for one in made),
            rows=sum(one.records for one in made),
            bytes=sum(one.bytes for one in made),
            checksum=total.checksum,
            splits=len(splits),
            requests=dict(self.requests + self.exchange.requests),
            seconds=plan.actual.seconds,
            plan=plan,
            value=value,
            notices=tuple(self.healing.notices),
        )

    def cut(self, sources: Sequence[Source], plan: Plan) -> list[tuple[Piece, ...]]:
        """The input in splits; a tenth more in one where none is left over then for a last round of its own."""
        splits = super().cut(sources, plan)
        wider = gather([piece for split in splits for piece in split], plan.split + plan.split // 10)
        return wider if len(splits) > plan.layers[0].groups else splits

    def how_to(self, sources: Sequence[Source]) -> Plan:
        """The plan."""
        return self.planned(sources, self._how.partitions, 1, self._how.memory)

    def reduced(self, splits: Sequence[tuple[Piece, ...]], plan: Plan) -> tuple[list[Part], Tally]:
        """The parts of the output, and the tally of what went into them, which is that of what was read."""
        self._format = replace(cast(Any, self._format), memory=plan.memory)
        blocks = self.partitioned(splits, self.sampled(splits, plan)[0], plan)
        parts = self.merged(blocks, plan)
        names = [part.key for part in parts]
        return parts, compare([block.tally for block in blocks], [part.tally for part in parts], names)

    def published(self, parts: Sequence[Part], total: Tally) -> Any:
        """The parts become the output."""
        self.output.publish(parts, total)

    def sampled(self, splits: Sequence[tuple[Piece, ...]], plan: Plan) -> tuple[list[Boundary], list[Hot]]:
        """The boundaries, for which nobody need look at keys: hashes are spread evenly."""
        return [Boundary(key, -1, 0.0) for key in cast(Spilling, self._format).edges(plan.partitions)], []

    def _partitioned(self, tasks: Sequence[PartitionTask]) -> list[Block]:
        return self._made("partition", spill, tasks)


class _Items(Spread):
    """A run over items."""

    def __init__(self, executor: Executor, format: Grouped, target: Place, how: How, *, is_dict: bool = False) -> None:
        self._is_dict, self._is_apart = is_dict, how.intermediate is not None
        id = new_id()
        if is_dict:  # where `clean` finds all of it
            place = store_url(target)
            how = replace(how, intermediate=how.intermediate or place)
            target = _below(place, f"shuffles/{id}/out")
        super().__init__(executor, format, target, how, id)
        self._items: Sequence[Any] = ()

    def found(self, source: Any, overwrite: bool) -> list[Source]:
        """The items, which lie nowhere."""
        self.output.claim(None, overwrite=overwrite)
        self._items = list(source)
        return []

    def how_to(self, sources: Sequence[Source]) -> Plan:
        """As many parts as workers, as nobody knows what will come of items, and some splits for each of them."""
        items, parts = len(self._items), self._how.partitions
        own = parts or max(1, min(items, self._workers))
        splits = min(items, MORE * self._workers)
        plan = self.planned([], own, 1, self._how.memory, splits=splits, items=items)
        if parts is None:
            plan = replace(plan, why="a partition for each worker, for nobody knows what comes of items")
        return plan

    def cut(self, sources: Sequence[Source], plan: Plan) -> list[tuple[Piece, ...]]:
        """What says nothing of items, which travel in the tasks themselves."""
        return [()] * min(len(self._items), plan.splits)

    def _partitioned(self, tasks: Sequence[PartitionTask]) -> list[Block]:
        format = cast(Grouped, self._format)
        ends = [len(self._items) * number // len(tasks) for number in range(len(tasks) + 1)] if tasks else []
        own = []
        for task, (start, stop) in zip(tasks, pairwise(ends), strict=True):
            pairs = replace(cast(ItemPairs, format.pairs), items=self._items[start:stop], first=start)
            own.append(replace(task, format=replace(format, pairs=pairs)))
        return super()._partitioned(own)

    def published(self, parts: Sequence[Part], total: Tally) -> Any:
        """The parts become the output, or a dict."""
        if not self._is_dict:
            return super().published(parts, total)
        found: dict[Any, Any] = {}
        for part in parts:
            data = self.exchange.read([Piece(Source(self._target, part.key, part.size), 0, part.size)])
            found.update(cast("Iterable[tuple[Any, Any]]", load(io.BytesIO(data))))
        if self._is_apart:  # else they go with the blocks
            self.output.abandon()
        return found


def _below(store: str, name: str) -> str:
    """The place of that name in a store."""
    place, mark, options = store.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"
