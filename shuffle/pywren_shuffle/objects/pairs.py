"""Where keys and values come from: records of files, or what a function yields for each of some items.

records of files ──► key(record), value(record) ─┐
items ──► one object ──► fn(item) yields pairs ──┴─► (key, value), (key, value), …
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, cast

from pywren_runtime.errors import ConfigError, RecordError
from pywren_shuffle.records import Format, Piece, Reader, Source, open_format
from pywren_shuffle.records.keyed import Keyed, deep_size, keys_by, shown
from pywren_shuffle.records.rows_records import Rows, objects

__all__ = ["ItemPairs", "Pair", "Pairs", "RecordPairs", "itself", "record_pairs"]

Pair = tuple[Any, Any]
Function = Callable[[Any], Any]
SOME = 4096  # pairs at a time, at most
LITTLE = 64 << 10  # bytes of them


class Pairs(Protocol):
    """A source of pairs. Frozen, and picklable."""

    @property
    def expansion(self) -> float:
        """How many bytes of memory the pairs of a byte of input take."""
        ...

    @property
    def record_size(self) -> int:
        """How many bytes of input a record has, about."""
        ...

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Pairs":
        """The same with what was learned of the inputs; see `Format.prepare`."""
        ...

    def cut(self, source: Source, size: int, reader: Reader) -> Iterable[Piece]:
        """Pieces of that size at most; see `Format.cut`."""
        ...

    def read(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[Sequence[Pair]]:
        """All pairs of some pieces, in order, as many at a time as take little memory."""
        ...


@dataclass(frozen=True, slots=True)
class RecordPairs:
    """Of each record a pair; without a function for the key, records are pairs themselves."""

    format: Format  # of rows, or of text whose keys are the lines
    key: Function | None
    value: Function | None

    @property
    def expansion(self) -> float:
        """See Pairs. Rows are loaded as they are read."""
        return 2.0 if isinstance(self.format, Rows) else self.format.expansion + 2.0

    @property
    def record_size(self) -> int:
        """See Pairs."""
        return self.format.record_size

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "RecordPairs":
        """See Pairs."""
        return replace(self, format=self.format.prepare(sources, reader))

    def cut(self, source: Source, size: int, reader: Reader) -> Iterable[Piece]:
        """See Pairs."""
        return self.format.cut(source, size, reader)

    def read(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[Sequence[Pair]]:
        """See Pairs."""
        for piece in pieces:
            where, count = f"{piece.source.key!r} from byte {piece.start:,}", 0
            for records in self._records(piece, reader):
                yield self._pairs(records, where, count)
                count += len(records)

    def _records(self, piece: Piece, reader: Reader) -> Iterator[Sequence[Any]]:
        if isinstance(self.format, Rows):
            return objects(piece, reader)
        found = cast(Keyed, self.format.load([piece], reader)).keys
        return (found[start : start + SOME] for start in range(0, len(found), SOME))

    def _pairs(self, records: Sequence[Any], where: str, count: int) -> Sequence[Pair]:
        if self.key is not None:
            keys, values = keys_by(self.key, records, where, begin=count), records
        elif set(map(type, records)) <= {tuple} and set(map(len, records)) <= {2}:
            if self.value is None:
                return records
            keys, values = [key for key, _ in records], records
        else:
            odd = next(record for record in records if type(record) is not tuple or len(record) != 2)
            more = "" if self.value else ", and with value= what goes to its group, if that is not the whole row"
            raise RecordError(
                f"{shown(odd)} is no pair of a key and a value. Say what its key is: key=lambda row: row['name']{more}."
            )
        if self.value is not None:
            values = keys_by(self.value, records, where, "value", begin=count)
        return list(zip(keys, values, strict=True))


def itself(record: Any) -> Any:
    """The key of records that are their own."""
    return record


@dataclass(frozen=True, slots=True)
class ItemPairs:
    """What a function yields for items, which travel in the tasks themselves."""

    function: Callable[[Any], Iterable[Pair]]
    items: Sequence[Any] = ()
    first: int = 0  # the number of the first one
    expansion: float = 1.0
    record_size: int = 100

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "ItemPairs":
        """See Pairs: of items nothing is known before the function has run."""
        return self

    def cut(self, source: Source, size: int, reader: Reader) -> Iterable[Piece]:
        """See Pairs: there is nothing to cut."""
        return []

    def read(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[Sequence[Pair]]:
        """See Pairs. An error says in a note which item it was."""
        for number, item in enumerate(self.items, self.first):
            try:
                yield from _some(_pairs(self.function(item), self.function))
            except Exception as error:
                error.add_note(f"That was item {number:,}: {shown(item)}.")
                raise


def record_pairs(records: str, key: object, value: object) -> RecordPairs:
    """Pairs of files of rows, or of text; ConfigError for any other records."""
    if records.partition(":")[0] not in ("rows", "text"):
        raise ConfigError(
            f"records={records!r}: here they are 'rows', 'text', or a 'table', of which columns are the key."
        )
    for name, given in (("key", key), ("value", value)):
        if given is not None and not callable(given):
            raise ConfigError(
                f"{name}={given!r} must be a function of one record, such as {name}=lambda row: row['name']."
            )
    format = open_format(records, key=None if records == "rows" else itself)
    return RecordPairs(format, cast("Function | None", key), cast("Function | None", value))


def _pairs(found: Any, function: object) -> Iterator[Pair]:
    try:
        each = iter(found)
    except TypeError:
        raise _no_pairs(function, f"returned {shown(found)}") from None
    for pair in each:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise _no_pairs(function, f"yielded {shown(pair)}")
        yield pair[0], pair[1]


def _some(pairs: Iterator[Pair]) -> Iterator[Sequence[Pair]]:
    """So many at a time that they take little: of unknown size, one, then two, …"""
    number = 1
    while some := list(islice(pairs, number)):
        yield some
        number = max(1, min(SOME, 2 * number, LITTLE // deep_size(some[-1])))


def _no_pairs(function: object, what: str) -> RecordError:
    name = getattr(function, "__name__", repr(function))
    return RecordError(
        f"{name} {what}, and should yield pairs of a key and a value: for word in text.split(): yield word, 1. What"
        " yields nothing for an item is a generator that ends, or returns []."
    )
