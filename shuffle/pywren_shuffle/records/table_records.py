"""Tables in Parquet files: `table:country,-time` sorts by country, and within one the latest time first.

Row i of a row group lies, for the purpose of cutting, at that fraction of the group's bytes: so files can be cut
anywhere, as text can, and a group may be larger than memory. What is cut through a group decodes it from its beginning.
Categories (dictionaries) become their values on the way and are categories again in the output.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from struct import Struct
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from pywren_runtime.errors import ConfigError, RecordError
from pywren_runtime.stores import Buffer
from pywren_shuffle.proof import NOTHING, Tally
from pywren_shuffle.records import Batch, Format, Key, Piece, Reader, Source
from pywren_shuffle.records.columns import (
    Column,
    are_ordered,
    array_of,
    key_of,
    row_hashes,
    size_of,
    sortable,
    stable_order,
    sums_between,
)
from pywren_shuffle.records.keyed import evenly
from pywren_shuffle.records.parquet import GroupWriter, ParquetObject

__all__ = ["Table", "TableBatch", "framed", "open_format", "unframed"]

BLOCK = 32 << 10  # bytes of rows that are encoded together at least, and
LARGE = 128 << 10  # of a slice that is large enough to be read in many blocks
PROBED = 1000  # rows from which is learned what they take in memory
NEAR = 1 / 8  # of a piece that it may be longer or shorter
HELD = 40  # bytes of each row beside it: its hash, its place, and what sorting needs
HEAD = Struct("<Q")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of tables, sorted by columns."""

    columns: tuple[Column, ...]
    schema: Any = None  # pyarrow's, of the output; of the first input, and known once `prepare` has seen that
    codec: str = "snappy"
    expansion: float = 8.0
    decoded_expansion: float = 2.0
    record_size: int = 100
    suffix: str = ".parquet"

    @property
    def plain(self) -> Any:
        """The schema between input and output: values instead of categories and views."""
        return pa.schema([field.with_type(_plain(field.type)) for field in self.schema or ()])

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Table":
        """See Format: the schema, and whether the rows can be sorted so."""
        largest = max(sources, key=lambda source: source.size, default=None)
        if largest is None or not largest.size:
            return self
        file = ParquetObject(largest, reader)
        for column in self.columns:
            _check_column(column.name, file)
        fields = [pa.field(field.name, field.type, metadata=field.metadata) for field in file.schema]
        known = replace(self, schema=pa.schema(fields, file.schema.metadata), codec=file.codec)
        for group, start, stop in file.within(Piece(largest, 0, largest.size)):
            rows = next(file.batches(group, start, min(stop, PROBED)))
            loaded, stored = rows.nbytes / len(rows), largest.size / file.rows
            return replace(
                known,
                expansion=(2 * loaded + HELD) / stored,  # once more when they are sorted
                decoded_expansion=1 + HELD / loaded,
                record_size=max(1, int(stored)),
            )
        return known

    def cut(self, source: Source, size: int, reader: Reader) -> list[Piece]:
        """See Format: at any byte, but where a row group ends if one does near by, which need not be decoded twice."""
        ends = ParquetObject(source, reader).ends() if source.size > size else []
        pieces, start = [], 0
        while start < source.size:
            after = start + size
            near = [end for end in ends if abs(end - after) <= size * NEAR]
            stop = min(source.size, min(near, key=lambda end: abs(end - after), default=after))
            pieces.append(Piece(source, start, stop))
            start = stop
        return pieces

    def sample(self, pieces: Sequence[Piece], count: int, places: int, reader: Reader) -> "TableBatch":
        """See Format. A place is a row group, of which only the columns to sort by are read."""
        names = list(dict.fromkeys(column.name for column in self.columns))
        found = [
            (file, *rows) for piece in pieces for file in [self._open(piece, reader)] for rows in file.within(piece)
        ]
        looked = [found[place] for place in evenly(max(1, places), len(found))]
        total = sum(stop - start for _, _, start, stop in looked)
        schema = pa.schema([self.plain.field(name) for name in names])
        tables = []
        for file, group, start, stop in looked:
            table = _table(file.batches(group, start, stop, names), schema)
            some = evenly(-(-count * len(table) // total), len(table))
            tables.append(table.take(array_of(np.fromiter(some, np.int64))))
        return TableBatch(replace(self, schema=schema), _joined(tables, schema))

    def load(self, pieces: Sequence[Piece], reader: Reader) -> "TableBatch":
        """See Format."""
        return TableBatch(self, _table(self._batches(pieces, reader), self.plain))

    def decode(self, data: memoryview) -> tuple["TableBatch", int]:
        """See Format."""
        table, size = unframed(data, self.plain)
        return TableBatch(self, table.combine_chunks()), size

    def join(self, batches: Sequence[Batch]) -> "TableBatch":
        """See Format."""
        own = cast("Sequence[TableBatch]", batches)
        format = own[0].format if own else self
        return TableBatch(format, _joined([batch.table for batch in own], format.plain))

    def writer(self) -> "TableWriter":
        """See Format."""
        return TableWriter(self)

    def _batches(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[Any]:
        for piece in pieces:
            file = self._open(piece, reader)
            for group, start, stop in file.within(piece):
                yield from file.batches(group, start, stop)

    def _open(self, piece: Piece, reader: Reader) -> ParquetObject:
        file = ParquetObject(piece.source, reader)
        for one, own in zip(file.schema, self.schema, strict=False):
            if (one.name, one.type) != (own.name, own.type):
                raise _another(file.name, f"{one.name!r} of type {one.type}", f"{own.name!r} of type {own.type}")
        if len(file.schema) != len(self.schema):
            raise _another(file.name, f"{len(file.schema)} columns", str(len(self.schema)))
        return file


class TableBatch:
    """Rows in an order; a sorted batch knows where each one was."""

    def __init__(self, format: Table, table: Any, order: Any = None, hashes: Any = None) -> None:
        self.format = format
        self.table = table
        self._order = order
        self._known = hashes

    def __len__(self) -> int:
        return len(self.table)

    @property
    def nbytes(self) -> int:
        """See Batch."""
        return sum(size_of(column) for column in self.table.columns)

    def sort(self) -> "TableBatch":
        """See Batch."""
        order = stable_order(self.table, self.format.columns)
        known = None if self._known is None else self._known[order]
        return TableBatch(self.format, self.table.take(array_of(order)), order, known)

    def key(self, index: int) -> Key:
        """See Batch."""
        return key_of(self.table, index, self.format.columns)

    def bound(self, key: Key, *, after: bool) -> int:
        """See Batch."""
        return (bisect_right if after else bisect_left)(range(len(self)), key, key=self.key)

    def origin(self, index: int) -> int:
        """See Batch."""
        return index if self._order is None else int(self._order[index])

    def part(self, start: int, stop: int) -> "TableBatch":
        """See Batch."""
        order = None if self._order is None else self._order[start:stop]
        known = None if self._known is None else self._known[start:stop]
        return TableBatch(self.format, self.table.slice(start, stop - start), order, known)

    def sums(self, cuts: Sequence[int]) -> list[int]:
        """See Batch."""
        if self._known is None:
            self._known = row_hashes(self.table)
        return sums_between(self._known, cuts)

    def encode(self) -> Iterator[Buffer]:
        """See Batch."""
        return framed(self.table, min(LARGE, max(BLOCK, self.table.nbytes // 64)))

    def __reduce__(self) -> tuple[Any, ...]:
        return TableBatch, (self.format, self.table, self._order)


class TableWriter:
    """A part is a Parquet file."""

    def __init__(self, format: Table) -> None:
        self._format = format
        self._file = GroupWriter(pa.schema([]) if format.schema is None else format.schema, format.codec)
        self._tally = NOTHING

    @property
    def tally(self) -> Tally:
        """See Writer."""
        return self._tally

    def write(self, batch: Batch) -> Iterable[Buffer]:
        """See Writer."""
        own = cast(TableBatch, batch)
        if not len(own):
            return ()
        self._tally = self._tally.then(
            Tally(
                records=len(own),
                bytes=own.nbytes,
                checksum=int(row_hashes(own.table).sum(dtype=np.uint64)),
                first=own.key(0),
                last=own.key(len(own) - 1),
                in_order=are_ordered(own.table, self._format.columns),
            )
        )
        return self._file.write(own.table)

    def close(self) -> Iterable[Buffer]:
        """See Writer."""
        return self._file.close()


def open_format(rest: str, *, key: object = None, reverse: object = False) -> Format:
    """`COLUMN,-COLUMN,…,nulls=first`, or the columns in `key`: names, or pairs as `pyarrow.Table.sort_by` takes them.

    With `reverse` each column goes the other way; nulls stay where they are, last unless they are to come first.
    """
    names: list[Any] = [name for name in map(str.strip, rest.split(",")) if name]
    records = f"table:{rest}" if rest else "table"
    first = "nulls=first" in names
    names = [name for name in names if name not in ("nulls=first", "nulls=last")]
    if key is not None:
        if names:
            raise ConfigError(f"records={records!r} and key={key!r} both name columns: leave one of them out.")
        if callable(key) or not isinstance(key, str | Iterable):
            raise _wrong(f"records={records!r}, key={key!r}")
        names = [key] if isinstance(key, str) else list(key)
    columns = [_column(name, first, bool(reverse)) for name in names]
    if not columns:
        raise _wrong(f"records={records!r}")
    return Table(tuple(columns))


def _column(name: object, nulls_first: bool, reverse: bool) -> Column:
    if isinstance(name, str):
        return Column(name.removeprefix("-"), name.startswith("-") != reverse, nulls_first)
    if isinstance(name, tuple) and len(name) == 2 and name[1] in ("ascending", "descending"):
        return Column(str(name[0]), (name[1] == "descending") != reverse, nulls_first)
    raise _wrong(f"key={name!r}")


def _wrong(what: str) -> ConfigError:
    return ConfigError(
        f"{what} does not name the columns that are the key: write records='table:country,time', or records='table' and"
        " key=['country', 'time']. Where something is sorted, a minus ('table:country,-time') means the greatest first,"
        " and a last item nulls=first what it says."
    )


def framed(table: Any, block: int) -> Iterator[Buffer]:
    """A table in blocks of so many bytes, each of which is a message of Arrow's, aligned to 8 bytes."""
    for batch in table.to_batches(max_chunksize=max(1, len(table) * block // max(1, table.nbytes))):
        message = batch.serialize()
        yield HEAD.pack(message.size)
        yield memoryview(message)


def unframed(data: memoryview, schema: Any) -> tuple[Any, int]:
    """The table of all blocks that are there as a whole, and how many bytes they are."""
    batches = []
    at = 0
    while at + HEAD.size <= len(data):
        (length,) = HEAD.unpack_from(data, at)
        if at + HEAD.size + length > len(data):
            break
        at += HEAD.size
        batches.append(pa.ipc.read_record_batch(pa.py_buffer(data[at : at + length]), schema))
        at += length
    return pa.Table.from_batches(batches, schema), at


def _check_column(name: str, file: ParquetObject) -> None:
    found = file.schema.get_all_field_indices(name)
    if len(found) != 1:
        there = ", ".join(repr(field.name) for field in file.schema)
        how = "no column" if not found else f"{len(found)} columns"
        raise ConfigError(f"{file.name} has {how} {name!r}; it has {there}. Correct the names of columns.")
    kind = _plain(file.schema.field(name).type)
    if not sortable(kind):
        raise ConfigError(f"the column {name!r} of {file.name} is of type {kind}, which has no order: leave it out.")


def _plain(kind: Any) -> Any:
    """A type of the same values that can be taken, encoded and compared."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return {"string_view": pa.string(), "binary_view": pa.binary()}.get(str(kind), kind)


def _table(batches: Iterable[Any], schema: Any) -> Any:
    return _joined([pa.Table.from_batches([batch]).cast(schema) for batch in batches], schema)


def _joined(tables: Sequence[Any], schema: Any) -> Any:
    """One table in one piece: whatever is done with many small ones costs more than this copy."""
    return pa.concat_tables(tables).combine_chunks() if tables else pa.Table.from_batches([], schema)


def _another(name: str, what: str, instead: str) -> RecordError:
    return RecordError(
        f"{name} has {what} where another input has {instead}: tables that are sorted together have the same columns in"
        " the same order. Convert that file, or leave it out."
    )
