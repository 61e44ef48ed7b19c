"""A join with a side that fits into memory: every worker reads all of it, and passes its split of the other side by.

the small side ──► dict by key ─┐
a split of the other side ──────┴─► rows ──► part          nothing is written between
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

from pywren_runtime.stores import Buffer
from pywren_shuffle.host import heed
from pywren_shuffle.keys import encode
from pywren_shuffle.objects.grouped import Grouped
from pywren_shuffle.objects.joining import Joining, Row, Sided
from pywren_shuffle.phases.merge import Part
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.proof import NOTHING
from pywren_shuffle.records import Made, Piece
from pywren_shuffle.records.keyed import shown
from pywren_shuffle.records.rows_records import dump

__all__ = ["Broadcast", "beside", "is_possible"]


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Make one part of one split of the larger side."""

    format: Any  # of rows, or of tables
    joining: Joining  # whose first side is the small one
    small: tuple[Piece, ...]
    pieces: tuple[Piece, ...]
    counts_small: bool  # one task does
    store: str
    target: str
    key: str
    block: int
    hedging: bool
    over: str = ""  # see `host.heed`

    @property
    def bytes(self) -> int:
        """How many it reads."""
        return sum(piece.stop - piece.start for piece in (*self.small, *self.pieces))


def is_possible(joining: Joining) -> bool:
    """Whether every row of the small side that has no equal may be forgotten: who has it does not know all others."""
    return joining.kind in ("inner", "semi", ("right", "left")[joining.first])


def beside(task: Broadcast) -> tuple[Part, Counter[str]]:
    """Read both, and write a part; if it is run again, the same part lies at the same key."""
    exchange = Exchange(hedging=task.hedging, block=task.block)
    try:
        making = _Making(task, exchange) if isinstance(task.format, Grouped) else _MakingTables(task, exchange)
        size = exchange.put_stream(task.target, task.key, making.buffers())
        heed(exchange, task.store, task.over, [(task.target, task.key)])
        return Part(task.key, size, NOTHING, Made(making.rows, size, making.read)), exchange.requests
    finally:
        exchange.close()


class _Making:
    """A part of rows, and what was counted on the way."""

    def __init__(self, task: Broadcast, exchange: Exchange) -> None:
        self._task = task
        self._sides = cast(Sided, task.format.pairs).sides
        self._exchange = exchange
        self.read = 0
        self.rows = 0

    def buffers(self) -> Iterator[Buffer]:
        return dump(self._counted())

    def _counted(self) -> Iterator[Row]:
        for row in self._joined():
            self.rows += 1
            yield row

    def _joined(self) -> Iterator[Row]:
        joining, first = self._task.joining, self._task.joining.first
        held: defaultdict[bytes, list[Row]] = defaultdict(list)
        for key, row in chain.from_iterable(self._sides[first].read(self._task.small, self._exchange)):
            held[encode(key)].append(row)
            self.read += self._task.counts_small
        for key, row in chain.from_iterable(self._sides[1 - first].read(self._task.pieces, self._exchange)):
            self.read += 1
            found = held.get(encode(key))
            try:
                if found is None:
                    yield from joining.alone(1 - first, (row,))
                elif joining.kind == "semi":
                    yield row
                else:
                    yield from joining.matched(found, (row,))
            except Exception as error:
                error.add_note(f"That was a row of the key {shown(key)}.")
                raise


class _MakingTables:
    """A part of a table, and what was counted on the way."""

    def __init__(self, task: Broadcast, exchange: Exchange) -> None:
        self._task = task
        self._exchange = exchange
        self._writer = task.format.writer()

    @property
    def rows(self) -> int:
        return cast(int, self._writer.made.records)

    @property
    def read(self) -> int:
        return cast(int, self._writer.read)

    def buffers(self) -> Iterator[Buffer]:
        from pywren_shuffle.tables.join import beside_tables

        task = self._task
        return beside_tables(task.format, task.small, task.pieces, self._exchange, self._writer)
