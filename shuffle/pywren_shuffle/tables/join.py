"""Joins of tables, in bounded memory: of each hash the rows of the first side come first, and then the others.

    batch   ▒▒▒▓▓▓▓▓▓▓░░░     ▒ goes on with the hash with which the last batch ended: it meets what is held of that
                              ▓ is complete: all of it at once         ░ may go on: held

Of one hash, the first side is held and the other streams by. What is too much to hold goes to a temporary file, and so
do then the others, which are read again for each part of the first that fits.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import Buffer
from pywren_shuffle.keys import edges
from pywren_shuffle.objects.joining import HELD, LEFT, RIGHT, side_of
from pywren_shuffle.proof import NOTHING, Tally
from pywren_shuffle.records import Batch, Made, Piece, Reader, Source
from pywren_shuffle.records.columns import array_of, scalar_of, values_of
from pywren_shuffle.records.parquet import GroupWriter
from pywren_shuffle.records.table_records import Table
from pywren_shuffle.sizes import MEMORY
from pywren_shuffle.tables.hashed import HashedBatch, decoded, joined, put, seen, tables_in
from pywren_shuffle.tables.pairs import ALONE, SIDE, Pairing, Some, pairing_of

__all__ = ["JoinWriter", "TableJoin", "beside_tables"]


@dataclass(frozen=True, slots=True)
class TableJoin:
    """Rows of two tables, by the key that both have."""

    kind: str
    first: int
    sides: tuple[Table, Table]
    pairing: Pairing | None = None  # known once `prepare` has seen both schemas
    memory: int = int(MEMORY) << 20
    suffix: str = ".parquet"

    @property
    def schema(self) -> Any:
        """What lies between the phases."""
        return None if self.pairing is None else self.pairing.between

    @property
    def expansion(self) -> float:
        """See Format: a row has room for the columns of the other side, too."""
        return 2.0 * max(side.expansion for side in self.sides)

    @property
    def decoded_expansion(self) -> float:
        """See Format."""
        return 1.5 * max(side.decoded_expansion for side in self.sides)

    @property
    def record_size(self) -> int:
        """See Format."""
        return min(side.record_size for side in self.sides)

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "TableJoin":
        """See Format."""
        of = [[source for source in sources if side_of(source) == side] for side in (LEFT, RIGHT)]
        sides = tuple(map(_prepared, ("left", "right"), self.sides, of, [reader] * 2))
        keys = [[column.name for column in side.columns] for side in sides]
        pairing = pairing_of(self.kind, self.first, keys, [side.plain for side in sides])
        return replace(self, sides=cast("tuple[Table, Table]", sides), pairing=pairing)

    def cut(self, source: Source, size: int, reader: Reader) -> list[Piece]:
        """See Format."""
        return self.sides[side_of(source)].cut(source, size, reader)

    def edges(self, partitions: int) -> list[bytes]:
        """See Spilling."""
        return edges(partitions)

    def spills(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[HashedBatch]:
        """See Spilling: a split fits into memory."""
        tables = [self.sent(side, [piece], reader) for piece in pieces for side in [side_of(piece.source)]]
        if any(map(len, tables)):
            yield HashedBatch(pa.concat_tables(tables))

    def sent(self, side: int, pieces: Sequence[Piece], reader: Reader) -> Any:
        """The rows of some pieces of one side, as they lie between the phases."""
        assert self.pairing is not None
        table = self.sides[side].load(pieces, reader).table
        return self.pairing.sent(table, side, pieces[0].start if pieces else 0)

    def decode(self, data: memoryview) -> tuple[HashedBatch, int]:
        """See Format."""
        return decoded(data, self.schema)

    def join(self, batches: Sequence[Batch]) -> HashedBatch:
        """See Format."""
        return joined(batches, self.schema)

    def writer(self) -> "JoinWriter":
        """See Format."""
        return JoinWriter(self)


def _prepared(name: str, side: Table, sources: Sequence[Source], reader: Reader) -> Table:
    """One side of a join, with what was learned of its files."""
    try:
        found = side.prepare(sources, reader)
    except ConfigError as error:
        keys = ", ".join(repr(column.name) for column in side.columns)
        error.add_note(
            f"That is the {name} side, whose key is {keys}. Where sides differ: key=(left, right); several columns of a"
            " side are a list."
        )
        raise
    if found.schema is None:
        raise ConfigError(f"the {name} side has no files, so nobody knows its columns: correct its place.")
    return found


class JoinWriter:
    """A part is a Parquet file of joined rows."""

    def __init__(self, format: TableJoin) -> None:
        assert format.pairing is not None
        self._pairing = format.pairing
        self._room = int(HELD * format.memory)
        self._file = GroupWriter(self._pairing.schema, format.sides[LEFT].codec)
        self._tally = NOTHING
        self._rows = self._bytes = 0
        self.read = 0  # rows of a join that goes without a shuffle

    @property
    def tally(self) -> Tally:
        """See Reducer."""
        return self._tally

    @property
    def made(self) -> Made:
        """See Reducer."""
        return Made(self._rows, self._bytes, self.read or self._tally.records)

    def reduce(self, batches: Iterator[Batch]) -> Iterator[Buffer]:
        """See Reducer."""
        return self.written(self._joined(batches))

    def written(self, tables: Iterator[Any]) -> Iterator[Buffer]:
        """The bytes of a file of these."""
        while (table := next(tables, None)) is not None:
            self._rows += len(table)
            yield from self._counted(self._file.write(table))
            del table
        yield from self._counted(self._file.close())

    def beside(self, held: HashedBatch, tables: Iterator[Any]) -> Iterator[Any]:
        """What tables of the other side give with all of the first."""
        self.read = len(held)
        first = self._of(held.table, self._pairing.first)
        for table in tables:
            self.read += len(table)
            yield from self._without_key(table)
            others = self._of(table, 1 - self._pairing.first)
            yield from self._pairing.matched(first, others)
            yield from self._pairing.alone(1 - self._pairing.first, others)

    def _counted(self, buffers: Iterator[Buffer]) -> Iterator[Buffer]:
        for buffer in buffers:
            self._bytes += len(buffer)
            yield buffer

    def _joined(self, batches: Iterator[Batch]) -> Iterator[Any]:
        run: _Run | None = None
        while (batch := next(batches, None)) is not None:
            own = cast(HashedBatch, batch)
            self._tally = seen(self._tally, own)
            table = own.table
            del batch, own
            yield from self._without_key(table)
            table = table.filter(pc.less(table[SIDE], scalar_of(ALONE, "i1")))
            if not len(table):
                continue
            hashes = values_of(table.column(0), np.uint64)
            begin = 0
            if run is not None:
                begin = int(np.searchsorted(hashes, run.hash, "right"))
                yield from run.more(table.slice(0, begin))
                if begin == len(table):
                    continue
                yield from run.close()
            stop = max(begin, int(np.searchsorted(hashes, hashes[-1], "left")))
            yield from self._complete(table.slice(begin, stop - begin))
            run = _Run(self._pairing, hashes[-1], self._room)
            yield from run.more(table.slice(stop))
        if run is not None:
            yield from run.close()

    def _without_key(self, table: Any) -> Iterator[Any]:
        for side in (LEFT, RIGHT):
            some = _of_side(table, side + ALONE)
            if len(some):
                yield from self._pairing.alone(side, self._pairing.of(some, side))

    def _complete(self, table: Any) -> Iterator[Any]:
        first = self._pairing.first
        held, others = (self._of(table, side) for side in (first, 1 - first))
        yield from self._pairing.matched(held, others)
        yield from self._pairing.alone(first, held)
        yield from self._pairing.alone(1 - first, others)

    def _of(self, table: Any, side: int) -> Some:
        return self._pairing.of(_of_side(table, side), side)


def beside_tables(
    format: TableJoin, small: Sequence[Piece], pieces: Sequence[Piece], reader: Reader, writer: JoinWriter
) -> Iterator[Buffer]:
    """The bytes of a part: some pieces of one side, with all of the side that comes first."""
    assert format.pairing is not None
    held = HashedBatch(pa.concat_tables([format.sent(format.first, [piece], reader) for piece in small])).sort()
    return writer.written(writer.beside(held, (format.sent(1 - format.first, [piece], reader) for piece in pieces)))


class _Run:
    """All rows of one hash, as they come: first those of the first side, then the others."""

    def __init__(self, pairing: Pairing, hash: Any, room: int) -> None:
        self.hash = hash
        self._pairing = pairing
        self._room = room
        self._tables: list[Any] = []
        self._held: Some | None = None
        self._beyond: IO[bytes] | None = None  # rows of the first side that are too much to hold
        self._beside: IO[bytes] | None = None  # and then all others

    def more(self, table: Any) -> Iterator[Any]:
        """The next rows; what is already known of the output."""
        first = self._pairing.first
        for held in self._cut(_of_side(table, first)):
            if not self._tables or sum(some.nbytes for some in self._tables) + held.nbytes <= self._room:
                self._tables.append(held)
            else:
                self._beyond = self._beyond or tempfile.TemporaryFile()
                put(held, self._beyond)
        others = _of_side(table, 1 - first)
        if len(others) and self._beyond is None:
            found = self._pairing.of(others, 1 - first)
            yield from self._pairing.matched(self._all_held(), found)
            yield from self._pairing.alone(1 - first, found)
        elif len(others):
            self._beside = self._beside or tempfile.TemporaryFile()
            put(others, self._beside)

    def close(self) -> Iterator[Any]:
        """The rest of the output."""
        if self._beyond is not None and self._beside is not None:
            yield from self._again(self._beyond, self._beside)
            return
        yield from self._pairing.alone(self._pairing.first, self._all_held())
        for table in tables_in(self._beyond):
            yield from self._pairing.alone(self._pairing.first, self._pairing.of(table, self._pairing.first))

    def _cut(self, table: Any) -> Iterator[Any]:
        """The table in some that fit into the room, each with memory of its own."""
        if table.nbytes <= self._room:
            if len(table):
                yield table
            return
        step = max(1, len(table) * self._room // table.nbytes)
        for start in range(0, len(table), step):
            yield table.take(array_of(np.arange(start, min(start + step, len(table)))))

    def _all_held(self) -> Some:
        if self._held is None:
            tables = self._tables or [pa.Table.from_batches([], self._pairing.between)]
            self._held = self._pairing.of(pa.concat_tables(tables), self._pairing.first)
        return self._held

    def _again(self, beyond: IO[bytes], beside: IO[bytes]) -> Iterator[Any]:
        """For each part of the first side, all of the others, whose marks stay from part to part."""
        first = self._pairing.first
        marks: list[Any] = []
        for part in self._parts(beyond):
            for number, table in enumerate(tables_in(beside)):
                others = self._pairing.of(table, 1 - first)
                if number == len(marks):
                    marks.append(others.matched)
                others = replace(others, matched=marks[number])
                yield from self._pairing.matched(part, others)
            yield from self._pairing.alone(first, part)
        for number, table in enumerate(tables_in(beside)):
            yield from self._pairing.alone(
                1 - first, replace(self._pairing.of(table, 1 - first), matched=marks[number])
            )

    def _parts(self, beyond: IO[bytes]) -> Iterator[Some]:
        yield self._all_held()
        self._held, self._tables = None, []
        tables: list[Any] = []
        for table in tables_in(beyond):
            if tables and sum(some.nbytes for some in tables) + table.nbytes > self._room:
                yield self._pairing.of(pa.concat_tables(tables), self._pairing.first)
                tables = []
            tables.append(table)
        if tables:
            yield self._pairing.of(pa.concat_tables(tables), self._pairing.first)


def _of_side(table: Any, side: int) -> Any:
    return table.filter(pc.equal(table[SIDE], scalar_of(side, "i1")))
