"""What a join makes of the rows of one key, and how rows of two inputs pass through one shuffle.

Of a key's rows those of one side come first and are held; those of the other stream by. What is too much to hold goes
to a temporary file, and so do then the others, which are read again for each part of the first that fits.
"""

import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import IO, Any, Final, cast

from pywren_shuffle.objects.pairs import Pair, RecordPairs
from pywren_shuffle.records import Piece, Reader, Source
from pywren_shuffle.records.keyed import deep_size
from pywren_shuffle.records.rows_records import pickled

__all__ = ["HELD", "LEFT", "RIGHT", "Joining", "Row", "Sided", "SidedSource", "side_of"]

LEFT, RIGHT = 0, 1
HELD: Final = 0.2  # of a worker's memory, for rows of one side
LOOKED = 64  # rows, one of which has its size taken
Row = Any
Sides = Iterator[tuple[int, Iterator[tuple[int, Row]]]]


@dataclass(frozen=True, slots=True)
class SidedSource(Source):
    """An input object of one side; the same one may be on both."""

    side: int


@dataclass(frozen=True, slots=True)
class Sided:
    """The pairs of both sides, each value with the number of its side."""

    sides: tuple[RecordPairs, RecordPairs]

    @property
    def expansion(self) -> float:
        """See Pairs."""
        return max(side.expansion for side in self.sides)

    @property
    def record_size(self) -> int:
        """See Pairs."""
        return min(side.record_size for side in self.sides)

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Sided":
        """See Pairs."""
        of = [[source for source in sources if side_of(source) == side] for side in (LEFT, RIGHT)]
        return Sided((self.sides[LEFT].prepare(of[LEFT], reader), self.sides[RIGHT].prepare(of[RIGHT], reader)))

    def cut(self, source: Source, size: int, reader: Reader) -> Iterable[Piece]:
        """See Pairs."""
        return self.sides[side_of(source)].cut(source, size, reader)

    def read(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[Sequence[Pair]]:
        """See Pairs."""
        for side, some in groupby(pieces, key=lambda piece: side_of(piece.source)):
            for pairs in self.sides[side].read(list(some), reader):
                yield [(key, (side, row)) for key, row in pairs]


def side_of(source: Source) -> int:
    """Which side an object is of."""
    return cast(SidedSource, source).side


@dataclass(frozen=True, slots=True)
class Joining:
    """What becomes of the rows of one key, of which those of the side `first` come first."""

    kind: str
    function: Callable[[Row, Row], Row] | None
    first: int = RIGHT
    memory: int = 1 << 30

    def __call__(self, key: Any, values: Iterator[tuple[int, Row]]) -> Iterator[Row]:
        sides = groupby(values, key=itemgetter(0))
        side, run = next(sides)
        rows = (row for _, row in run)
        if side != self.first:
            yield from self.alone(side, rows)
        elif self.kind == "semi":
            yield from (row for _, run in sides for _, row in run)
        else:
            held = list(self._some(rows))
            more = list(islice(rows, 1))
            if more:
                yield from self._in_parts(held, chain(more, rows), sides)
            else:
                yield from self._at_once(held, sides)

    def _at_once(self, held: list[Row], sides: Sides) -> Iterator[Row]:
        others = next(sides, None)
        if others is None:
            yield from self.alone(self.first, held)
        else:
            yield from self.matched(held, (row for _, row in others[1]))

    def _in_parts(self, held: list[Row], more: Iterator[Row], sides: Sides) -> Iterator[Row]:
        """For each part of the rows of the first side, all of the others."""
        with tempfile.TemporaryFile() as beyond, tempfile.TemporaryFile() as beside:
            _put(more, beyond)
            more = _get(beyond)
            others = next(sides, None)
            if others is None:
                yield from self.alone(self.first, chain(held, more))
                return
            _put((row for _, row in others[1]), beside)
            while held:
                yield from self.matched(held, _get(beside))
                held = list(self._some(more))

    def alone(self, side: int, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows that have no equal on the other side."""
        if self.kind in ("outer", ("left", "right")[side]):
            yield from (self._pair(side, row, None) for row in rows)

    def matched(self, held: Sequence[Row], others: Iterable[Row]) -> Iterator[Row]:
        """Each of the others with all that are held."""
        return (self._pair(self.first, row, other) for other in others for row in held)

    def _pair(self, side: int, row: Row, other: Row) -> Row:
        one, two = (row, other) if side == LEFT else (other, row)
        return (one, two) if self.function is None else self.function(one, two)

    def _some(self, rows: Iterator[Row]) -> Iterator[Row]:
        """As many rows as may be held; at least one, if there is any."""
        room, number = HELD * self.memory, 1
        while room > 0 and (some := list(islice(rows, number))):
            room -= deep_size(some[-1]) * len(some)
            number = min(LOOKED, 2 * number)
            yield from some


def _put(rows: Iterable[Row], file: IO[bytes]) -> None:
    for data in pickled(rows):
        file.write(data)


def _get(file: IO[bytes]) -> Iterator[Row]:
    """All rows that were put there, from the first one on."""
    file.seek(0)
    while file.peek(1):  # type: ignore[attr-defined]
        yield pickle.load(file)
