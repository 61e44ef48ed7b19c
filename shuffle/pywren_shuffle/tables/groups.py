"""Groups of tables whose rows stay what they are: the first of each key, or all of them for a function of Python's.

    distinct    rows ──► the first of each key ──► spread by the hash of the key ──► the first of each key ──► Parquet
    group       rows ──────────────────────────► spread by the hash of the key ──► runs ──► fn(key, tables) ──► rows

Only tables need this module, and with it pyarrow and numpy.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pywren_runtime.errors import ShuffleError
from pywren_runtime.stores import Buffer
from pywren_shuffle.keys import edges
from pywren_shuffle.proof import NOTHING, Tally
from pywren_shuffle.records import Batch, Made, Piece, Reader, Source
from pywren_shuffle.records.columns import Column, stable_order
from pywren_shuffle.records.keyed import shown
from pywren_shuffle.records.rows_records import dump
from pywren_shuffle.records.table_records import Table
from pywren_shuffle.sizes import MEMORY
from pywren_shuffle.tables.aggregate import ROWS, Aggregated
from pywren_shuffle.tables.hashed import HASH, HashedBatch, alike, decoded, hashed, joined, seen

__all__ = ["FirstRows", "TableGroups"]

PLACE = "place of the row"


@dataclass(frozen=True, slots=True)
class FirstRows(Aggregated):
    """Of all rows of a key the first; without keys, of all rows that are alike."""

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "FirstRows":
        """See Format."""
        inner = self.inner.prepare(sources, reader)
        names = self.keys or tuple(inner.plain.names)
        return cast(FirstRows, Aggregated.prepare(replace(self, keys=names), sources, reader))

    def finished(self, table: Any) -> Any:
        """See Aggregated."""
        return self._again(table).select(self._wanted.names).cast(self.inner.schema)

    @property
    def _wanted(self) -> Any:
        return self.inner.plain

    def _grouped(self, table: Any) -> Any:
        return self._again(table.append_column(ROWS, pa.array(np.ones(len(table), np.int64))))

    def _again(self, table: Any) -> Any:
        names = [str(number) for number in range(len(self.keys))]
        plain = pa.table(
            [*(alike(table[name]) for name in self.keys), np.arange(len(table)), table[ROWS]], [*names, PLACE, ROWS]
        )
        found = plain.group_by(names, use_threads=False).aggregate([(PLACE, "min"), (ROWS, "sum")])
        taken = table.take(found[f"{PLACE}_min"])
        return taken.set_column(taken.schema.get_field_index(ROWS), ROWS, found[f"{ROWS}_sum"])


@dataclass(frozen=True, slots=True)
class TableGroups:
    """Rows of tables by the columns `keys`, and a function of each group."""

    inner: Table
    keys: tuple[str, ...]
    function: Callable[[Any, Iterator[Any]], Any]
    schema: Any = None  # of what lies between the phases
    memory: int = int(MEMORY) << 20
    expansion: float = 8.0
    decoded_expansion: float = 3.0
    record_size: int = 100
    suffix: str = ".rows"

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "TableGroups":
        """See Format."""
        inner = self.inner.prepare(sources, reader)
        if inner.schema is None:
            return self
        return replace(
            self,
            inner=inner,
            schema=pa.schema([pa.field(HASH, pa.uint64(), nullable=False), *inner.plain]),
            expansion=1.5 * inner.expansion,
            decoded_expansion=1.5 * inner.decoded_expansion,
            record_size=inner.record_size,
        )

    def cut(self, source: Source, size: int, reader: Reader) -> list[Piece]:
        """See Format."""
        return self.inner.cut(source, size, reader)

    def edges(self, partitions: int) -> list[bytes]:
        """See Spilling."""
        return edges(partitions)

    def spills(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[HashedBatch]:
        """See Spilling: a split fits into memory."""
        table = self.inner.load(pieces, reader).table
        if len(table):
            yield HashedBatch(hashed(table, self.keys).cast(self.schema))

    def decode(self, data: memoryview) -> tuple[HashedBatch, int]:
        """See Format."""
        return decoded(data, self.schema)

    def join(self, batches: Sequence[Batch]) -> HashedBatch:
        """See Format."""
        return joined(batches, self.schema)

    def writer(self) -> "TableGroupsWriter":
        """See Format."""
        return TableGroupsWriter(self)


class TableGroupsWriter:
    """A part is a file of rows, one for each key."""

    def __init__(self, format: TableGroups) -> None:
        self._format = format
        self._tally = NOTHING
        self._made = 0
        self._bytes = 0

    @property
    def tally(self) -> Tally:
        """See Reducer."""
        return self._tally

    @property
    def made(self) -> Made:
        """See Reducer."""
        return Made(self._made, self._bytes, self._tally.records)

    def reduce(self, batches: Iterator[Batch]) -> Iterator[Buffer]:
        """See Reducer."""
        for buffer in dump(self._rows(batches)):
            self._bytes += len(buffer)
            yield buffer

    def _rows(self, batches: Iterator[Batch]) -> Iterator[object]:
        for _, run in groupby(self._runs(batches), key=itemgetter(0)):
            key, first = _first(run)
            try:
                row = key, self._format.function(key, first)
            except Exception as error:
                error.add_note(f"That was the group of the key {shown(key)}.")
                raise
            self._made += 1
            yield row

    def _runs(self, batches: Iterator[Batch]) -> Iterator[tuple[Any, Any, Any]]:
        """Rows of one key that lie together: how keys are told apart, the key, the rows."""
        last: set[Any] = set()  # of the last hash, all keys so far
        hash = None
        while (batch := next(batches, None)) is not None:
            own = cast(HashedBatch, batch)
            self._tally = seen(self._tally, own)
            table, starts = runs(own, self._format.keys)
            hashes = table.column(0).to_numpy()
            columns = [table[name] for name in self._format.keys]
            table = table.remove_column(0)
            del batch, own
            for start, stop in zip(starts, [*starts[1:], len(table)], strict=True):
                key = tuple(column[start].as_py() for column in columns)
                same = tuple("nan" if value != value else (value,) for value in key)
                if hashes[start] != hash:
                    hash, last = hashes[start], set()
                elif same in last and len(last) > 1:
                    raise _collision(key)
                last.add(same)
                yield same, key[0] if len(key) == 1 else key, table.slice(start, stop - start)


def runs(batch: HashedBatch, keys: Sequence[str]) -> tuple[Any, list[int]]:
    """The rows of a sorted batch, those of equal keys together, and where each key begins."""
    table = batch.table
    new = batch.hashes[1:] != batch.hashes[:-1]
    other = _differ(table, keys)
    if (other & ~new).any():  # different keys of the same hash
        table = table.take(pa.array(stable_order(table, [Column(HASH), *map(Column, keys)])))
        other = _differ(table, keys)
    return table, [0, *(np.flatnonzero(new | other) + 1).tolist()]


def _differ(table: Any, keys: Sequence[str]) -> Any:
    """For each row but the first whether its key is another one than that of the row before it."""
    found = np.zeros(max(0, len(table) - 1), bool)
    for name in keys:
        values = alike(table[name])
        above, below = values.slice(0, max(0, len(values) - 1)), values.slice(1)
        equal = pc.equal(above, below)
        if pa.types.is_floating(values.type):
            equal = pc.or_kleene(equal, pc.and_(pc.is_nan(above), pc.is_nan(below)))
        both = pc.and_(pc.is_null(above), pc.is_null(below))
        found |= ~np.asarray(pc.or_(pc.fill_null(equal, False), both))
    return found


def _first(run: Iterable[tuple[Any, Any, Any]]) -> tuple[Any, Iterator[Any]]:
    """The key of some rows, and an iterator of the tables in which they come."""
    tables = iter(run)
    _, key, first = next(tables)

    def all_of() -> Iterator[Any]:
        yield first
        for _, _, table in tables:
            yield table

    return key, all_of()


def _collision(key: Any) -> ShuffleError:
    return ShuffleError(
        f"the key {shown(key)} and another one have the same hash of 64 bits, and more rows than fit into memory. Give"
        " workers more memory, or group by these columns in another order."
    )
