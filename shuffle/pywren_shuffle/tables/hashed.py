"""Rows of tables, spread by a hash of some columns: what is grouped or joined by columns has their hash in front.

    row groups ──► columns ──► hash, columns ──► sorted by hash ──► slices ──► merge ──► runs of equal hashes

Only modules that work on tables import this one, and with it pyarrow and numpy. Equal values have equal hashes: 0.0 and
-0.0 become one, and every nan becomes the same, as every null is. That different values may have equal hashes is for
those to mind who look at a run.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
from pyarrow import types

from pywren_runtime.errors import RecordError
from pywren_runtime.stores import Buffer
from pywren_shuffle.proof import NOTHING, Tally
from pywren_shuffle.records import Batch, Piece, Reader
from pywren_shuffle.records.columns import array_of, row_hashes, scalar_of, size_of, sums_between, values_of, width_of
from pywren_shuffle.records.parquet import ParquetObject
from pywren_shuffle.records.table_records import BLOCK, HEAD, framed, unframed
from pywren_shuffle.records.vectors import stable_order

__all__ = ["HASH", "HashedBatch", "alike", "decoded", "hashed", "joined", "put", "seen", "some_columns", "tables_in"]

HASH = "hash of the key"
Table = Any


def hashed(table: Table, keys: Sequence[str]) -> Table:
    """The same table with the hash of its key columns in front."""
    plain = pa.table([alike(table[name]) for name in keys], [str(number) for number in range(len(keys))])
    return table.add_column(0, pa.field(HASH, pa.uint64(), nullable=False), array_of(row_hashes(plain)))


def alike(values: Any) -> Any:
    """The same values, of which equal ones are the same bytes."""
    if not types.is_floating(values.type):
        return values
    if types.is_float16(values.type):  # with which pyarrow does not calculate
        return alike(values.cast(pa.float32())).cast(values.type)
    dtype = f"f{width_of(values.type)}"
    values = pc.add(values, scalar_of(0.0, dtype))  # -0.0 + 0.0 is 0.0
    return pc.if_else(pc.is_nan(values), scalar_of(float("nan"), dtype), values)


def some_columns(pieces: Sequence[Piece], reader: Reader, schema: Any) -> Iterator[Any]:
    """Record batches of some pieces of Parquet files, of these columns only and of their types."""
    for piece in pieces:
        file = ParquetObject(piece.source, reader)
        if missing := [name for name in schema.names if name not in file.schema.names]:
            raise RecordError(f"{file.name} has no column {missing[0]!r}, and other inputs do. Leave that file out.")
        for group, start, stop in file.within(piece):
            for batch in file.batches(group, start, stop, schema.names):
                yield _of_types(batch, schema, file.name)


def _of_types(batch: Any, schema: Any, name: str) -> Any:
    try:
        return batch.select(schema.names).cast(schema)
    except pa.ArrowInvalid as error:
        raise RecordError(
            f"{name} has columns of other types than other inputs: {error}. Convert that file."
        ) from error


class HashedBatch:
    """Rows in an order, which is that of their hashes once they are sorted."""

    def __init__(self, table: Table, order: Any = None, known: Any = None) -> None:
        self.table = table
        self._order = order
        self._known = known
        self._hashes: Any = None

    def __len__(self) -> int:
        return len(self.table)

    @property
    def hashes(self) -> Any:
        """The first column, as numbers."""
        if self._hashes is None:
            self._hashes = values_of(self.table.column(0), np.uint64)
        return self._hashes

    @property
    def nbytes(self) -> int:
        """See Batch."""
        return sum(size_of(column) for column in self.table.columns)

    def sort(self) -> "HashedBatch":
        """See Batch."""
        found = self.hashes
        order = stable_order(lambda _, index: found.copy() if index is None else found[index], 64, len(self))
        known = None if self._known is None else self._known[order]
        return HashedBatch(self.table.take(array_of(order)), order, known)

    def key(self, index: int) -> bytes:
        """See Batch."""
        return int(self.hashes[index]).to_bytes(8, "big")

    def bound(self, key: bytes, *, after: bool) -> int:
        """See Batch."""
        return (bisect_right if after else bisect_left)(self.hashes, int.from_bytes(key, "big"))

    def origin(self, index: int) -> int:
        """See Batch."""
        return index if self._order is None else int(self._order[index])

    def part(self, start: int, stop: int) -> "HashedBatch":
        """See Batch."""
        order = None if self._order is None else self._order[start:stop]
        known = None if self._known is None else self._known[start:stop]
        return HashedBatch(self.table.slice(start, stop - start), order, known)

    def sums(self, cuts: Sequence[int]) -> list[int]:
        """See Batch."""
        if self._known is None:
            self._known = row_hashes(self.table)
        return sums_between(self._known, cuts)

    def encode(self) -> Iterator[Buffer]:
        """See Batch."""
        return framed(self.table, BLOCK)

    def in_order(self) -> bool:
        """Whether no hash is below the one before it."""
        return bool((self.hashes[1:] >= self.hashes[:-1]).all())


def decoded(data: memoryview, schema: Any) -> tuple[HashedBatch, int]:
    """See `Format.decode`."""
    table, size = unframed(data, schema)
    return HashedBatch(table), size


def joined(batches: Iterable[Batch], schema: Any) -> HashedBatch:
    """See `Format.join`."""
    tables = [cast(HashedBatch, batch).table for batch in batches]
    return HashedBatch(pa.concat_tables(tables) if tables else pa.Table.from_batches([], schema))


def seen(tally: Tally, batch: HashedBatch) -> Tally:
    """The tally with the records of the next batch."""
    if not len(batch):
        return tally
    last = len(batch) - 1
    checksum = int(row_hashes(batch.table).sum(dtype=np.uint64))
    return (tally or NOTHING).then(
        Tally(len(batch), batch.nbytes, checksum, batch.key(0), batch.key(last), batch.in_order())
    )


def put(table: Any, file: IO[bytes]) -> None:
    """Put a table behind what is there."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    data = sink.getvalue()
    file.write(HEAD.pack(data.size))
    file.write(data)


def tables_in(file: IO[bytes] | None) -> Iterator[Any]:
    """All tables that were put there, from the first on."""
    at = 0
    while file is not None:
        file.seek(at)
        head = file.read(HEAD.size)
        if not head:
            return
        (size,) = HEAD.unpack(head)
        with pa.ipc.open_stream(file.read(size)) as stream:
            yield stream.read_all()
        at += HEAD.size + size
