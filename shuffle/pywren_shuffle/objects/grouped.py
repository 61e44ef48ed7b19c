"""Pairs as a shuffle sees them: records of a key and some of its values, which come together in one partition.

    pairs ──► a dict of lists ──► full? ──► combined ──► still full? ──► a block ──┐   hash, key ──► order
                                                                                  ▼
    part ◄── one row for each key ◄── finish(key, an iterator of values) ◄── runs of equal keys ◄── merge

In a worker, values of one key lie together from the beginning: a record is a key and a list of values, of about CHUNK
bytes, so that what costs something for each record (order, checksums) is paid once for many values. A record begins
with its sort key, so nothing is loaded before a group is reduced.
"""

import pickle
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import chain, groupby, islice
from operator import itemgetter
from struct import Struct
from typing import Any, cast

from pywren_runtime.errors import PackingError, ShuffleCorrupt
from pywren_runtime.stores import Buffer
from pywren_shuffle.keys import check, edges, sort_key
from pywren_shuffle.objects.pairs import Pair, Pairs
from pywren_shuffle.proof import ADVICE, Tally
from pywren_shuffle.records import Batch, Made, Piece, Reader, Source
from pywren_shuffle.records.keyed import Keyed, KeyedWriter, Order, deep_size, shown
from pywren_shuffle.records.rows_records import Rows, dump, pickled
from pywren_shuffle.sizes import MEMORY

__all__ = ["Combine", "Finish", "Grouped"]

Combine = Callable[[Any, Any], Any]
Finish = Callable[[Any, Iterator[Any]], Iterable[object]]
"""`finish(key, values)` gives the rows that are made of a group."""

CHUNK = 16 << 10  # bytes of values in a record, about, and
LARGE = 4 * CHUNK  # at most, if they are several
HEAD = Struct("<II")  # how long the sort key is, and of how many pairs this is
LOOKED = 4  # values of some, whose size is taken for that of all
SLOT, OWN = 12, 230  # bytes that a value takes in its list, and a group beside its values
SHARE = 0.4  # of a worker's memory that pairs may take before they leave


@dataclass(frozen=True, slots=True)
class Grouped(Rows):
    """Pairs by their keys, and what becomes of each group."""

    pairs: Pairs = field(kw_only=True)
    finish: Finish = field(kw_only=True)
    combine: Combine | None = None
    memory: int = int(MEMORY) << 20  # bytes

    @property
    def decoded_expansion(self) -> float:
        """See Format: records and their keys as Python's bytes."""
        return 1.5 + 300 / (80 + self.record_size)

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Grouped":
        """See Format."""
        pairs = self.pairs.prepare(sources, reader)
        return replace(self, pairs=pairs, expansion=pairs.expansion, record_size=pairs.record_size)

    def cut(self, source: Source, size: int, reader: Reader) -> list[Piece]:
        """See Format."""
        return list(self.pairs.cut(source, size, reader))

    def edges(self, partitions: int) -> list[Order]:
        """The keys at which all partitions but the first begin."""
        return [Order(edge) for edge in edges(partitions)]

    def spills(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[Keyed]:
        """The records of a split, as many at a time as memory takes. With `combine`, each key has one value in each."""
        pairs = self.pairs.read(pieces, reader)
        while len(gathered := _Gathered(pairs, self.combine, int(SHARE * self.memory))):
            yield self._records(gathered)

    def load(self, pieces: Sequence[Piece], reader: Reader) -> Keyed:
        """See Format: all spills together."""
        return self.join(list(self.spills(pieces, reader)))

    def writer(self) -> "GroupWriter":  # type: ignore[override]
        """See Format."""
        return GroupWriter(self)

    def _records(self, gathered: "_Gathered") -> Keyed:
        keys: list[bytes] = []
        rows: list[bytes] = []
        total = 0
        for key, count, values in gathered.taken():
            begin = sort_key(key)
            data = _dump(key, values) if len(values) <= gathered.step else b""
            if data and (len(data) <= LARGE or len(values) == 1):
                keys.append(begin)
                rows.append(HEAD.pack(len(begin), count) + begin + data)
                total += count
                continue
            for number, data in _parts(key, values, gathered.step):
                keys.append(begin)
                rows.append(HEAD.pack(len(begin), number) + begin + data)
                total += number
        if total != gathered.pairs:
            raise ShuffleCorrupt(f"{gathered.pairs:,} pairs were read, and {total:,} are to be grouped. {ADVICE}")
        return Keyed(self, keys, rows)

    def _batch(self, rows: list[bytes], where: str) -> Keyed:
        begin = HEAD.size
        return Keyed(self, [row[begin : begin + HEAD.unpack_from(row)[0]] for row in rows], rows)


class GroupWriter:
    """A part is a file of rows, one for each group. It asks for its records as the groups are reduced."""

    def __init__(self, format: Grouped) -> None:
        self._format = format
        self._seen = KeyedWriter(format)
        self._rows_made = self._bytes_made = self._of = 0
        self._key: Any = None

    @property
    def tally(self) -> Tally:
        """What was reduced, to the last record, whether the function has looked at it or not."""
        return self._seen.tally

    @property
    def made(self) -> Made:
        """See Reducer."""
        return Made(self._rows_made, self._bytes_made, self._of)

    def reduce(self, batches: Iterator[Batch]) -> Iterator[Buffer]:
        """See Reducer."""
        try:
            for buffer in dump(self._rows(batches)):
                self._bytes_made += len(buffer)
                yield buffer
        except PackingError as error:
            error.add_note(f"That was made of the group of the key {shown(self._key)}; of an iterator make a list.")
            raise

    def _rows(self, batches: Iterator[Batch]) -> Iterator[object]:
        for _, run in groupby(self._records(batches), key=itemgetter(0)):
            key, values = _group(row for _, row in run)
            self._key = key
            try:
                for row in self._format.finish(key, values):
                    self._rows_made += 1
                    yield row
            except Exception as error:
                error.add_note(f"That was the group of the key {shown(key)}, whose values come as an iterator.")
                raise

    def _records(self, batches: Iterator[Batch]) -> Iterator[tuple[bytes, bytes]]:
        while (batch := next(batches, None)) is not None:
            self._seen.measure(batch)
            keys, rows = cast(Keyed, batch).keys, cast(Keyed, batch).rows
            self._of += sum(HEAD.unpack_from(row)[1] for row in rows)
            del batch
            yield from zip(keys, rows, strict=True)
            del keys, rows  # before the next ones are made


class _Gathered:
    """Pairs, by key, until they take the memory that they may, or none is left."""

    def __init__(self, pairs: Iterator[Sequence[Pair]], combine: Combine | None, budget: int) -> None:
        self._groups: defaultdict[Any, list[Any]] = defaultdict(list)
        self._folded: dict[Any, int] = {}  # of a key, how many values are in its first one, beside that itself
        self._combine = combine
        self.pairs = 0
        self.step = 1  # values that go together
        self._take(pairs, budget)
        if combine is not None:
            self._fold(combine)

    def __len__(self) -> int:
        return len(self._groups)

    def taken(self) -> Iterator[tuple[Any, int, list[Any]]]:
        """Each key with its values and of how many pairs they are; they are gone then."""
        for key in list(self._groups):
            values = self._groups.pop(key)
            yield key, self._folded.get(key, 0) + len(values), values

    def _take(self, pairs: Iterator[Sequence[Pair]], budget: int) -> None:
        taken = 0.0
        for some in pairs:
            before = len(self._groups)
            self._add(some)
            looked = some[:: -(-len(some) // LOOKED)]
            size = SLOT + sum(deep_size(value) for _, value in looked) / len(looked)
            self.step = max(1, int(CHUNK / size))
            taken += size * len(some) + OWN * (len(self._groups) - before)
            if taken >= budget and self._combine is not None:
                self._fold(self._combine)
                taken = self._size()
                if taken < budget / 2:
                    continue
            if taken >= budget:
                return

    def _add(self, some: Sequence[Pair]) -> None:
        check([key for key, _ in some])
        groups = self._groups
        for key, value in some:
            groups[key].append(value)
        self.pairs += len(some)

    def _fold(self, combine: Combine) -> None:
        for key, values in self._groups.items():
            if len(values) > 1:
                self._folded[key] = self._folded.get(key, 0) + len(values) - 1
                try:
                    values[:] = [reduce(combine, values)]
                except Exception as error:
                    error.add_note(f"That was when values of the key {shown(key)} were combined.")
                    raise

    def _size(self) -> float:
        """About how much memory the groups take."""
        looked = list(islice(self._groups.items(), 64))
        return len(self._groups) * (OWN + sum(map(deep_size, looked)) / len(looked))


def _parts(key: object, values: list[Any], step: int) -> Iterator[tuple[int, bytes]]:
    """A group as several records of so many values: of how many each is, and its key and values as a pickle."""
    for start in range(0, len(values), step):
        some = values[start : start + step]
        data = _dump(key, some)
        if len(data) > LARGE and len(some) > 1:  # they are larger than others
            yield from _parts(key, some, max(1, len(some) // 2))
        else:
            yield len(some), data


def _dump(key: object, values: list[Any]) -> bytes:
    try:
        data = pickle.dumps((key, values), 5)
        if b"__main__" not in data:
            return data
    except (pickle.PicklingError, AttributeError, TypeError):
        pass
    try:
        return next(pickled([(key, values)]))
    except PackingError as error:
        error.add_note(f"That was of the values of the key {shown(key)}.")
        raise


def _group(rows: Iterator[bytes]) -> tuple[Any, Iterator[Any]]:
    """The key of some records, as the first one has it, and an iterator of the values of all."""
    key, values = _loaded(next(rows))
    return key, chain(values, chain.from_iterable(_loaded(row)[1] for row in rows))


def _loaded(row: bytes) -> tuple[Any, list[Any]]:
    return cast("tuple[Any, list[Any]]", pickle.loads(row[HEAD.size + HEAD.unpack_from(row)[0] :]))
