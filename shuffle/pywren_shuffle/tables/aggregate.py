"""Groups of tables: `{"total": ("amount", "sum")}` by some columns, with pyarrow's own grouping in both phases.

    row groups ──► group_by ──► partial aggregates ──► spread by the hash of the key ──► group_by ──► Parquet

Each function is one that partial results of can be aggregated again, so what a key has passes on as one row of each
split. Only tables need this module, and with it pyarrow and numpy.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import Buffer
from pywren_shuffle.keys import edges
from pywren_shuffle.proof import NOTHING, Tally
from pywren_shuffle.records import Batch, Made, Piece, Reader, Source, open_format
from pywren_shuffle.records.columns import by_keys
from pywren_shuffle.records.parquet import GroupWriter
from pywren_shuffle.records.table_records import Table
from pywren_shuffle.sizes import MEMORY
from pywren_shuffle.tables.hashed import HashedBatch, alike, decoded, hashed, joined, seen, some_columns

__all__ = ["AGAIN", "ROWS", "Aggregate", "Aggregated", "aggregates_of", "names_of", "table_format"]

AGAIN = {
    "sum": "sum",
    "product": "product",
    "min": "min",
    "max": "max",
    "any": "any",
    "all": "all",
    "count": "sum",
    "rows": "sum",
}
"""By which function the partial results of one are put together; `mean` is a sum and a count."""
ROWS = "rows of the group"
AT_ONCE = 32 << 20  # bytes of rows that are grouped together
SHARE = 0.25  # of a worker's memory that groups may take before they leave


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One column of the output."""

    name: str
    column: str
    function: str

    @property
    def parts(self) -> list[tuple[str, str]]:
        """The functions of which it is made, and what their results are called between the phases."""
        if self.function == "rows":
            return [(ROWS, "rows")]
        functions = ("sum", "count") if self.function == "mean" else (self.function,)
        return [(f"{function} of {self.column}", function) for function in functions]


@dataclass(frozen=True, slots=True)
class Aggregated:
    """Rows of tables by the columns `keys`."""

    inner: Table
    keys: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    schema: Any = None  # of what lies between the phases
    memory: int = int(MEMORY) << 20
    expansion: float = 2.0  # a split is grouped as it is read, and leaves as often as memory makes it
    decoded_expansion: float = 2.5
    record_size: int = 100
    suffix: str = ".parquet"

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Aggregated":
        """See Format."""
        inner = self.inner.prepare(sources, reader)
        if inner.schema is None:  # there is nothing to read
            return self
        known = replace(self, inner=inner, record_size=inner.record_size)
        for one in self.aggregates:
            if one.name in self.keys:
                raise ConfigError(
                    f"two columns of the output would be called {one.name!r}, one of them the key: name the other, as"
                    f" in {{'its_{one.function}': ({one.column!r}, {one.function!r})}}."
                )
            if one.function != "rows" and one.column not in inner.plain.names:
                there = ", ".join(map(repr, inner.plain.names))
                raise ConfigError(f"the column {one.column!r} that is to be aggregated is none of {there}.")
        try:
            schema = hashed(known._grouped(pa.Table.from_batches([], known._wanted)), self.keys).schema
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise known._refusal(error) from error
        return replace(known, schema=schema)

    def _refusal(self, error: Exception) -> ConfigError:
        """What names the first column that cannot be aggregated so."""
        for one in self.aggregates:
            alone = replace(self, aggregates=(one,))
            try:
                alone._grouped(pa.Table.from_batches([], alone._wanted))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                kind = self.inner.plain.field(one.column).type
                return ConfigError(
                    f"there is no {one.function!r} of the column {one.column!r}, which is of type {kind}. Take another"
                    " function, or group with one of your own."
                )
        return ConfigError(f"these columns cannot be aggregated so: {error}.")

    def cut(self, source: Source, size: int, reader: Reader) -> list[Piece]:
        """See Format."""
        return self.inner.cut(source, size, reader)

    def edges(self, partitions: int) -> list[bytes]:
        """See Spilling."""
        return edges(partitions)

    def spills(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[HashedBatch]:
        """See Spilling: partial aggregates, one row for each key."""
        done: list[Any] = []
        size = 0
        for table in self._tables(pieces, reader):
            done.append(self._grouped(table))
            size += done[-1].nbytes
            if size > SHARE * self.memory and len(done) > 1:
                done = [self._again(pa.concat_tables(done))]
                size = done[0].nbytes
            if size > SHARE * self.memory / 2:
                yield self._batch(done)
                done, size = [], 0
        if done:
            yield self._batch(done)

    def decode(self, data: memoryview) -> tuple[HashedBatch, int]:
        """See Format."""
        return decoded(data, self.schema)

    def join(self, batches: Sequence[Batch]) -> HashedBatch:
        """See Format."""
        return joined(batches, self.schema)

    def writer(self) -> "AggregateWriter":
        """See Format."""
        return AggregateWriter(self)

    def finished(self, table: Any) -> Any:
        """The rows of the output, of rows of which no more will come."""
        table = self._again(table)
        columns = [table[name] for name in self.keys]
        for one in self.aggregates:
            values = [table[name] for name, _ in one.parts]
            columns.append(values[0] if len(values) == 1 else pc.divide(values[0].cast(pa.float64()), values[1]))
        return pa.table(columns, [*self.keys, *(one.name for one in self.aggregates)])

    @property
    def _wanted(self) -> Any:
        plain = self.inner.plain
        names = [*self.keys, *(one.column for one in self.aggregates if one.function != "rows")]
        return pa.schema([plain.field(name) for name in dict.fromkeys(names)])

    @property
    def _parts(self) -> dict[str, tuple[str, str]]:
        """What lies between the phases: of which column, by which function."""
        found = {name: (one.column, function) for one in self.aggregates for name, function in one.parts}
        return found | {ROWS: ("", "rows")}

    def _tables(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[Any]:
        held: list[Any] = []
        size = 0
        for batch in some_columns(pieces, reader, self._wanted):
            held.append(batch)
            size += batch.nbytes
            if size > min(AT_ONCE, SHARE * self.memory):
                yield pa.Table.from_batches(held)
                held, size = [], 0
        if held:
            yield pa.Table.from_batches(held)

    def _grouped(self, table: Any) -> Any:
        """Rows of the input as partial aggregates."""
        for name in self.keys:
            place = table.schema.get_field_index(name)
            table = table.set_column(place, table.schema.field(place), alike(table[name]))
        calls = [
            ([], "count_all") if function == "rows" else (column, function) for column, function in self._parts.values()
        ]
        return by_keys(table, self.keys, calls, list(self._parts))

    def _again(self, table: Any) -> Any:
        """Partial aggregates as fewer of them."""
        calls = [(name, AGAIN[function]) for name, (_, function) in self._parts.items()]
        return by_keys(table, self.keys, calls, list(self._parts))

    def again(self, table: Any) -> Any:
        """Partial aggregates, with their hashes, as fewer of them."""
        return hashed(self._again(table.remove_column(0)), self.keys).cast(self.schema)

    def _batch(self, tables: list[Any]) -> HashedBatch:
        table = tables[0] if len(tables) == 1 else self._again(pa.concat_tables(tables))
        return HashedBatch(hashed(table, self.keys).cast(self.schema))


class AggregateWriter:
    """A part is a Parquet file."""

    def __init__(self, format: Aggregated) -> None:
        self._format = format
        self._tally = NOTHING
        self._made = Made(0, 0, 0)

    @property
    def tally(self) -> Tally:
        """See Reducer."""
        return self._tally

    @property
    def made(self) -> Made:
        """See Reducer."""
        return self._made

    def reduce(self, batches: Iterator[Batch]) -> Iterator[Buffer]:
        """See Reducer. The last hash of a batch waits for the next batch, which may have more of it."""
        file: GroupWriter | None = None
        for table in self._complete(batches):
            rows = self._format.finished(table)
            file = file or GroupWriter(rows.schema, self._format.inner.codec)
            self._made = replace(self._made, records=self._made.records + len(rows))
            yield from self._counted(file.write(rows))
        if file is None and self._format.schema is None:
            return
        if file is None:
            file = GroupWriter(self._format.finished(pa.Table.from_batches([], self._format.schema)).schema, "snappy")
        yield from self._counted(file.close())

    def _complete(self, batches: Iterator[Batch]) -> Iterator[Any]:
        """Rows of hashes of which no more will come."""
        left: Any = None
        while (batch := next(batches, None)) is not None:
            own = cast(HashedBatch, batch)
            self._tally = seen(self._tally, own)
            self._made = replace(self._made, of=self._made.of + pc.sum(own.table[ROWS]).as_py())
            both = own if left is None else HashedBatch(pa.concat_tables([left, own.table]))
            stop = both.bound(both.key(len(both) - 1), after=False)
            left = self._format.again(both.table.slice(stop))
            if stop:
                yield both.table.slice(0, stop)
            del batch, own, both
        if left is not None:
            yield left

    def _counted(self, buffers: Iterator[Buffer]) -> Iterator[Buffer]:
        for buffer in buffers:
            self._made = replace(self._made, bytes=self._made.bytes + len(buffer))
            yield buffer


def aggregates_of(columns: object) -> tuple[Aggregate, ...]:
    """`{"amount": "sum"}`, or `{"total": ("amount", "sum")}` to name the column of the output."""
    found = []
    for name, what in columns.items() if isinstance(columns, Mapping) else ():
        column, function = what if isinstance(what, tuple) and len(what) == 2 else (name, what)
        if not isinstance(function, str) or function not in (*AGAIN, "mean"):
            raise ConfigError(
                f"{{{name!r}: {what!r}}}: there is no such function; there are {', '.join([*AGAIN, 'mean'])}. For any"
                " other one use group."
            )
        found.append(Aggregate(str(name), str(column), function))
    if not found:
        raise ConfigError(
            f"{columns!r} does not say what to aggregate: for a table write {{'amount': 'sum'}}, or"
            " {'total': ('amount', 'sum'), 'n': ('', 'rows')} to name the columns of the output."
        )
    return tuple(found)


def table_format(records: str, key: object) -> Table:
    """The format whose columns are the key: `table:country,city`, or `table` and these in `key`."""
    if callable(key) or (key is None and not records.partition(":")[2]):
        raise ConfigError(
            f"records={records!r}, key={key!r} does not say which columns are the key: write key='country', or"
            " key=['country', 'city'] for several."
        )
    format = cast(Table, open_format(records, key=key))
    if odd := [column.name for column in format.columns if column.descending or column.nulls_first]:
        raise ConfigError(f"{odd[0]!r} is a key here, and has no direction: leave out what says one.")
    return format


def names_of(format: Table) -> tuple[str, ...]:
    """The columns that are the key."""
    return tuple(column.name for column in format.columns)
