"""Groups of tables whose rows stay what they are: the first of each key, or all of them for a function of Python's.

    distinct    rows ──► the first of each key ──► spread by the hash of the key ──► the first of each key ──► Parquet
    group       rows ──────────────────────────► spread by the hash of the key ──► runs ──► fn(key, tables) ──► rows
                                                        rows of another key of the same hash ──► a file ──┘

Only tables need this module, and with it pyarrow and numpy.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from operator import itemgetter
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pywren_runtime.stores import Buffer
from pywren_shuffle.keys import edges
from pywren_shuffle.proof import NOTHING, Tally
from pywren_shuffle.records import Batch, Made, Piece, Reader, Source
from pywren_shuffle.records.columns import are_true, array_of, by_keys, comparable
from pywren_shuffle.records.keyed import shown
from pywren_shuffle.records.rows_records import dump
from pywren_shuffle.records.table_records import Table
from pywren_shuffle.sizes import MEMORY
from pywren_shuffle.tables.aggregate import ROWS, Aggregated
from pywren_shuffle.tables.hashed import HASH, HashedBatch, alike, decoded, hashed, joined, put, seen, tables_in

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
        return self._again(table.append_column(ROWS, array_of(np.ones(len(table), np.int64))))

    def _again(self, table: Any) -> Any:
        names = [str(number) for number in range(len(self.keys))]
        plain = pa.table(
            [*(alike(table[name]) for name in self.keys), array_of(np.arange(len(table))), table[ROWS]],
            [*names, PLACE, ROWS],
        )
        found = by_keys(plain, names, [(PLACE, "min"), (ROWS, "sum")], [PLACE, ROWS])
        taken = table.take(found[PLACE])
        return taken.set_column(taken.schema.get_field_index(ROWS), ROWS, found[ROWS])


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
        aside = _Aside()
        for _, run in groupby(self._runs(batches), key=itemgetter(0)):
            rows: Iterator[_Rows] = run
            while (first := next(rows, None)) is not None:  # once, but for keys of one hash
                values = self._of_first(first, rows, aside)
                key = tuple([value.as_py() for value in first[2]])
                key = key[0] if len(key) == 1 else key
                try:
                    row = key, self._format.function(key, values)
                except Exception as error:
                    error.add_note(f"That was the group of the key {shown(key)}, whose tables come as an iterator.")
                    raise
                deque(values, 0)  # what the function has not looked at
                self._made += 1
                yield row
                rows = aside.taken(self._format.keys)

    def _runs(self, batches: Iterator[Batch]) -> Iterator["_Rows"]:
        """Rows of one hash that lie together."""
        while (batch := next(batches, None)) is not None:
            own = cast(HashedBatch, batch)
            self._tally = seen(self._tally, own)
            hashes, table = own.hashes, own.table.remove_column(0)
            del batch, own
            new = hashes[1:] != hashes[:-1]
            starts = [0, *(np.flatnonzero(new) + 1).tolist()]
            odd = ~new & differ(table.slice(0, len(table) - 1), table.slice(1), self._format.keys)  # most often none
            mixed = set((np.searchsorted(starts, np.flatnonzero(odd), "right") - 1).tolist())
            columns = [table[name] for name in self._format.keys]
            for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(table)], strict=True)):
                key = [column[start] for column in columns]
                yield hashes[start], number in mixed, key, table.slice(start, stop - start)

    def _of_first(self, first: "_Rows", more: Iterator["_Rows"], aside: "_Aside") -> Iterator[Any]:
        """Of rows of one hash those that have the key of the first one; the others are put aside, in their order."""
        keys, begin = self._format.keys, first[3]
        for number, (_, mixed, _, table) in enumerate(chain((first,), more)):
            if mixed:
                others = differ(table, begin.take(array_of(np.zeros(len(table), np.int64))), keys)
                aside.put(table.take(array_of(np.flatnonzero(others))))
                table = table.take(array_of(np.flatnonzero(~others)))
            elif number and differ(table.slice(0, 1), begin.slice(0, 1), keys)[0]:
                aside.put(table)
                continue
            if len(table):
                yield table


_Rows = tuple[Any, bool, list[Any], Any]
"""A hash, whether rows have several keys, the key of the first one, the rows."""


class _Aside:
    """Rows that wait for their turn in a temporary file, which is not made before there are any."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None

    def put(self, table: Any) -> None:
        """Behind all others."""
        if len(table):
            self._file = self._file or tempfile.TemporaryFile()
            put(table, self._file)

    def taken(self, keys: Sequence[str]) -> Iterator[_Rows]:
        """All of them, which may have several keys; what is put from now on is for the next time."""
        file, self._file = self._file, None
        if file is None:
            return iter(())
        return ((None, True, [table[name][0] for name in keys], table) for table in tables_in(file))


def differ(one: Any, other: Any, keys: Sequence[str]) -> Any:
    """For each row whether the keys of these two tables are not the same."""
    found = np.zeros(len(one), bool)
    for name in keys:
        left, right = comparable(alike(one[name])), comparable(alike(other[name]))
        equal = pc.equal(left, right)
        if pa.types.is_floating(left.type):
            equal = pc.or_kleene(equal, pc.and_(pc.is_nan(left), pc.is_nan(right)))
        both = pc.and_(pc.is_null(left), pc.is_null(right))
        found |= ~are_true(pc.or_kleene(equal, both))
    return found
