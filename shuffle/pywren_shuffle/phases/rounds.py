"""A merge in bounded memory: of each slice a block at a time, and of all blocks what is safe.

slice 0   ▓▓▓▓▓▓░░ …      ▓ is below the smallest last key of the blocks of slices that go on, and so below all that
slice 1   ▓▓▓▓▓▓▓▓ …      is still to come: it is sorted, and is the next of the output. Of records with that very
slice 2   ▓▓▓░░░░░ …      key, those of slices up to the first that ends its block with it are safe, too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pywren_runtime.errors import ShuffleCorrupt
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.places.flights import Flight
from pywren_shuffle.proof import ADVICE, MASK
from pywren_shuffle.records import Batch, Format, Piece
from pywren_shuffle.sizes import round_block

__all__ = ["Slice", "rounds"]

Check = Callable[[int, int, int], None]


@dataclass(slots=True)
class Slice:
    """One slice as it is read; it owns a batch, of which the first `taken` records have gone."""

    number: int
    piece: Piece
    batch: Batch | None = None
    taken: int = 0
    records: int = 0
    sum: int = 0
    at: int = 0  # how far the piece is asked for
    room: memoryview = field(default_factory=lambda: memoryview(b""))
    flights: list[Flight] = field(default_factory=list)

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.piece.stop - self.piece.start

    @property
    def goes_on(self) -> bool:
        """Whether there is more than the batch."""
        return len(self.room) > 0

    @property
    def left(self) -> int:
        """How many records of the batch have not gone yet."""
        return 0 if self.batch is None else len(self.batch) - self.taken

    def ask(self, exchange: Exchange, block: int, before: memoryview) -> None:
        """Begin to read the next block behind the bytes that no record could be made of yet."""
        size = min(block, self.size - self.at)
        if not size:
            if len(before):
                raise ShuffleCorrupt(f"the last {len(before)} bytes of {self.piece} are no record. {ADVICE}")
            self.room = before
            return
        self.room = memoryview(bytearray(len(before) + size))
        self.room[: len(before)] = before
        start = self.piece.start + self.at
        self.flights = exchange.fill(Piece(self.piece.source, start, start + size), self.room[len(before) :])
        self.at += size

    def take_in(self, exchange: Exchange, format: Format, block: int, check: Check) -> None:
        """Put the next block behind what is left, and begin to read the one after it."""
        for flight in self.flights:
            flight.result()
        self.flights = []
        found, used = format.decode(self.room.toreadonly())
        self.records += len(found)
        self.sum = (self.sum + found.sums([0, len(found)])[0]) & MASK
        # A record longer than a block takes more of it.
        self.ask(exchange, block if used else len(self.room), self.room[used:])
        if self.batch is not None and self.left:
            found = format.join([self.batch.part(self.taken, len(self.batch)), found])
        self.batch, self.taken = found, 0
        if not self.goes_on:
            check(self.number, self.records, self.sum)

    def take(self, stop: int) -> Batch | None:
        """The records before `stop` that have not gone yet."""
        if self.batch is None or stop <= self.taken:
            return None
        gone, self.taken = self.batch.part(self.taken, stop), stop
        return gone


def rounds(
    slices: Sequence[Slice], format: Format, exchange: Exchange, *, memory: int, check: Check
) -> Iterator[Batch]:
    """All records of the slices in sorted batches; `check` is told of each slice once it was read to its end."""
    block = round_block(len(slices), memory, format.decoded_expansion)
    for slice in slices:
        slice.ask(exchange, block, memoryview(b""))
    while True:
        for slice in slices:
            # Half a block is enough to go on with; with less, a round would be short.
            while slice.goes_on and 2 * _bytes_left(slice) <= block:
                slice.take_in(exchange, format, block, check)
        batch = _merged(slices, format)
        if batch is None:
            return
        yield batch
        del batch  # before the next blocks are read


def _bytes_left(slice: Slice) -> int:
    return 0 if slice.batch is None or not slice.left else slice.batch.nbytes * slice.left // len(slice.batch)


def _merged(slices: Sequence[Slice], format: Format) -> Batch | None:
    """What is safe, sorted; None where nothing is left."""
    ready = [gone for gone in _safe(slices) if gone is not None]
    return format.join(ready).sort() if ready else None


def _safe(slices: Sequence[Slice]) -> list[Batch | None]:
    """Of each slice what nothing that is still to come lies before; at least one slice gives all that it has."""
    limit, owner = None, -1
    for slice in slices:
        if slice.goes_on:
            assert slice.batch is not None
            last = slice.batch.key(len(slice.batch) - 1)
            if owner < 0 or last < limit:
                limit, owner = last, slice.number
    if owner < 0:
        return [slice.take(len(slice.batch)) for slice in slices if slice.batch is not None]
    return [
        slice.take(slice.batch.bound(limit, after=slice.number <= owner)) for slice in slices if slice.batch is not None
    ]
