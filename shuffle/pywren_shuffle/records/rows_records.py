"""Rows of Python objects: `rows`, sorted as they compare or by `key=` of each. They lie in files that `dump` makes.

    file    MAGIC, frames, an empty frame, where each frame begins, (where that stands, how many, MAGIC)
    frame   (bytes, rows, digest), how long each row is, the rows: a pickle each

A row's bytes are the same from the input to the output; it is loaded for its key only, once in each phase. Between the
phases a digest stands before each frame, whose key follows from this sort's nonce and from what only the workers of our
executors know: who can read and write there cannot have a pickle loaded. In a pool of the standard library's, the nonce
alone is the secret; it travels in that pool's own pickles only.
Input files have no secret. Whoever can write these can run code where they are sorted, as with any pickle.
"""

import os
import pickle
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from hmac import compare_digest
from itertools import accumulate, chain, pairwise
from operator import ge
from struct import Struct
from typing import Any, BinaryIO, cast

from pywren_runtime.errors import ConfigError, PackingError, RecordError, ShuffleCorrupt
from pywren_runtime.seal import sealed
from pywren_runtime.stores import Buffer
from pywren_shuffle.proof import ADVICE
from pywren_shuffle.records import Batch, Format, Piece, Reader, Source
from pywren_shuffle.records.keyed import (
    MANY,
    Keyed,
    KeyedWriter,
    KeyFunction,
    check_key,
    evenly,
    join,
    keys_by,
    place_of,
)

__all__ = ["Rows", "dump", "load", "objects", "open_format", "pickled"]

FRAME = 16 << 10  # bytes of rows that make a frame; one row may be longer
MAGIC = b"pywrows1"
HEAD = Struct("<QQ16s")
END = HEAD.pack(0, 0, bytes(16))
FOOT = Struct("<QQ8s")
PROBED = 1000  # rows from which is learned what they take in memory


@dataclass(frozen=True, slots=True)
class Rows:
    """Python objects, sorted as they compare or by a function of each."""

    function: KeyFunction | None = None
    reverse: bool = False
    expansion: float = 10.0
    record_size: int = 100
    nonce: bytes = field(default_factory=lambda: os.urandom(16), repr=False)
    suffix: str = ".rows"
    extra: int = 0
    vectors: bool = False

    @property
    def decoded_expansion(self) -> float:
        """See Format. In rounds, more is in memory: objects are loaded by frames, and not by bytes."""
        return 1.75 * self.expansion

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Rows":
        """See Format: what rows take as Python objects."""
        largest = max(sources, key=lambda source: source.size, default=None)
        pieces = self.cut(largest, 1, reader) if largest else []
        if not pieces:
            return self
        found = self._batch(list(_rows(pieces[0], reader))[:PROBED], _name(pieces[0]))
        many = sum(source.size for source in sources) >= MANY
        return replace(self, expansion=found.memory(), record_size=-(-found.nbytes // len(found)), vectors=many)

    def cut(self, source: Source, size: int, reader: Reader) -> list[Piece]:
        """See Format: between frames, which the end of the file lists."""
        if not source.size:
            return []
        starts, pieces = _frames(source, reader), []
        begin = starts[0]
        for here, after in pairwise(starts):
            if after - begin > size and here > begin:
                pieces.append(Piece(source, begin, here))
                begin = here
        return [*pieces, Piece(source, begin, starts[-1])] if starts[-1] > begin else pieces

    def sample(self, pieces: Sequence[Piece], count: int, places: int, reader: Reader) -> Keyed:
        """See Format. A place is a frame."""
        frames = []
        for piece in pieces:
            starts = (start for start in _frames(piece.source, reader) if piece.start <= start <= piece.stop)
            frames += [Piece(piece.source, *ends) for ends in pairwise(starts)]
        looked = [frames[place] for place in evenly(max(1, places), len(frames))]
        total = sum(frame.stop - frame.start for frame in looked)
        keys: list[object] = []
        for frame in looked:
            rows = list(_rows(frame, reader))
            share = -(-count * (frame.stop - frame.start) // total)
            some = [rows[place] for place in evenly(share, len(rows))]
            keys += self._batch(some, _name(frame)).keys
        return Keyed(self, keys, [])

    def load(self, pieces: Sequence[Piece], reader: Reader) -> Keyed:
        """See Format."""
        return join(self, [self._batch(list(_rows(piece, reader)), _name(piece)) for piece in pieces])

    def decode(self, data: memoryview) -> tuple[Keyed, int]:
        """See Format. Nothing is loaded whose digest is wrong."""
        rows: list[bytes] = []
        at, key = 0, sealed(self.nonce)
        for body, count, digest in _bodies(data):
            if not compare_digest(_digest(body, count, key), digest):
                raise ShuffleCorrupt(f"a block of rows between the phases is not what was written. {ADVICE}")
            rows += _parted(body, count)
            at += HEAD.size + len(body)
        return self._batch(rows, "a block"), at

    def join(self, batches: Sequence[Batch]) -> Keyed:
        """See Format."""
        return join(self, batches)

    def writer(self) -> "RowsWriter":
        """See Format."""
        return RowsWriter(self)

    def pack(self, rows: list[bytes]) -> Iterator[Buffer]:
        """Frames with this sort's digest."""
        return _packed(rows, sealed(self.nonce))

    def _batch(self, rows: list[bytes], where: str) -> Keyed:
        objects = map(pickle.loads, rows)
        if self.function is None:
            return Keyed(self, keys_by(lambda row: row, objects, where), rows)
        return Keyed(self, keys_by(self.function, objects, where), rows)


class RowsWriter(KeyedWriter):
    """A part is a file of rows."""

    def __init__(self, packing: Rows) -> None:
        super().__init__(packing)
        self._file = _File()

    def write(self, batch: Batch) -> Iterator[Buffer]:
        """See Writer."""
        self.measure(batch)
        return self._file.frames(cast(Keyed, batch).rows)

    def close(self) -> Iterator[Buffer]:
        """See Writer."""
        return self._file.end()


def open_format(rest: str, *, key: object = None, reverse: object = False) -> Format:
    """Without more: `rows`."""
    if rest:
        raise ConfigError(f"records='rows:{rest}': rows take no more than their name; key= and reverse= say the order.")
    function, reverse = check_key("rows", key, reverse)
    return Rows(function, reverse)


def dump(rows: Iterable[object]) -> Iterator[bytes]:
    """The bytes of a file of rows: `with open(path, "wb") as file: file.writelines(dump(rows))`.

    Whatever cloudpickle can take may be a row. It is read as it is written: there may be more rows than memory. What a
    script or a notebook defines is in no worker, so each row of such a class carries the class: some 3 KB and a
    millisecond. In a module of its own, the class goes once.
    """
    file = _File()
    return cast(Iterator[bytes], chain(file.frames(pickled(rows)), file.end()))


def load(file: BinaryIO) -> Iterator[object]:
    """The rows of a file, which must be one that you trust: `with open(path, "rb") as file: list(load(file))`."""
    name = repr(getattr(file, "name", "the file"))
    if file.read(len(MAGIC)) != MAGIC:
        raise _no_file_of_rows(name)
    while True:
        head = file.read(HEAD.size)
        if head == END:
            return
        length, count, digest = HEAD.unpack(head) if len(head) == HEAD.size else (0, 0, b"")
        body = memoryview(file.read(length))
        if not count or _digest(body, count, b"") != digest:
            raise RecordError(f"{name} is damaged: one of its frames is not what was written. Make that file anew.")
        yield from map(pickle.loads, _parted(body, count))


class _File:
    """A file of rows as it is written."""

    def __init__(self) -> None:
        self._at = 0
        self._starts = array("Q")

    def frames(self, rows: Iterable[bytes]) -> Iterator[Buffer]:
        if not self._at:
            self._at = len(MAGIC)
            yield MAGIC
        for frame in _packed(rows, b""):
            self._starts.append(self._at)
            self._at += len(frame)
            yield frame

    def end(self) -> Iterator[Buffer]:
        yield from self.frames(())
        self._starts.append(self._at)
        yield END + self._starts.tobytes() + FOOT.pack(self._at + HEAD.size, len(self._starts), MAGIC)


def pickled(rows: Iterable[object]) -> Iterator[bytes]:
    """Each row as a pickle; PackingError for one that has none."""
    for number, row in enumerate(rows):
        try:
            data = pickle.dumps(row, 5)
            by_value = b"__main__" in data  # what a script defines is not there in a worker: it goes along
        except (pickle.PicklingError, AttributeError, TypeError):
            by_value = True
        yield _by_value(row, number) if by_value else data


def _by_value(row: object, number: int) -> bytes:
    import cloudpickle

    try:
        return cast(bytes, cloudpickle.dumps(row, 5))
    except Exception as error:
        raise PackingError(
            f"row {number:,} cannot be pickled: {error}. Leave out of rows what must stay here."
        ) from error


def _packed(rows: Iterable[bytes], key: bytes) -> Iterator[bytes]:
    """Frames of about FRAME bytes."""
    own: list[bytes] = []
    size = 0
    for row in rows:
        own.append(row)
        size += len(row)
        if size >= FRAME:
            yield _frame(own, key)
            own, size = [], 0
    if own:
        yield _frame(own, key)


def _frame(rows: list[bytes], key: bytes) -> bytes:
    body = b"".join((array("I", map(len, rows)).tobytes(), *rows))
    return HEAD.pack(len(body), len(rows), _digest(body, len(rows), key)) + body


def _bodies(data: memoryview) -> Iterator[tuple[memoryview, int, bytes]]:
    """The whole frames at the beginning of this: body, number of rows, digest."""
    at = 0
    while at + HEAD.size <= len(data):
        length, count, digest = HEAD.unpack_from(data, at)
        at += HEAD.size + length
        if at > len(data):
            return
        yield data[at - length : at], count, digest


def _parted(body: memoryview, count: int) -> list[bytes]:
    ends = accumulate(body[: 4 * count].cast("I"), initial=4 * count)
    return [bytes(body[start:stop]) for start, stop in pairwise(ends)]


def _digest(body: Buffer, count: int, key: bytes) -> bytes:
    return blake2b(body, digest_size=16, key=key, salt=count.to_bytes(8, "little")).digest()


def _rows(piece: Piece, reader: Reader) -> Iterator[bytes]:
    """The rows of some frames of an input file."""
    at = piece.start
    for body, count, digest in _bodies(reader.read([piece])):
        if _digest(body, count, b"") != digest:
            break
        yield from _parted(body, count)
        at += HEAD.size + len(body)
    _check_end(piece, at)


def _check_end(piece: Piece, at: int) -> None:
    if at != piece.stop:
        raise RecordError(
            f"{piece.source.key!r} in {piece.source.store} is damaged: the frame of rows at byte {at:,} is not what was"
            " written. Make that file anew, or leave it out."
        )


def objects(piece: Piece, reader: Reader) -> Iterator[list[Any]]:
    """The rows of some frames of an input file as what they were, a frame at a time."""
    at = piece.start
    for body, count, digest in _bodies(reader.read([piece])):
        if _digest(body, count, b"") != digest:
            break
        data = bytes(body)
        ends = accumulate(body[: 4 * count].cast("I"), initial=4 * count)
        yield [pickle.loads(data[start:stop]) for start, stop in pairwise(ends)]
        at += HEAD.size + len(body)
    _check_end(piece, at)


def _frames(source: Source, reader: Reader) -> "array[int]":
    """Where each frame of a file begins, and where the last one ends."""
    size, name = source.size, f"{source.key!r} in {source.store}"
    if size < len(MAGIC) + FOOT.size:
        raise _no_file_of_rows(name)
    index, count, magic = FOOT.unpack(reader.read([Piece(source, size - FOOT.size, size)]))
    if magic != MAGIC or not count or index + 8 * count + FOOT.size != size:
        raise _no_file_of_rows(name)
    starts = array("Q")
    starts.frombytes(reader.read([Piece(source, index, size - FOOT.size)]))
    if (starts[0], starts[-1]) != (len(MAGIC), index - HEAD.size) or any(map(ge, starts, starts[1:])):
        raise _no_file_of_rows(name)
    return starts


def _name(piece: Piece) -> str:
    return place_of(piece, len(MAGIC))


def _no_file_of_rows(name: str) -> RecordError:
    return RecordError(
        f"{name} is no file of rows. Of a Parquet file say records='table', of lines records='text'; or make one from"
        " any iterable of Python objects: from pywren_shuffle.records.rows_records import dump; with open(path, 'wb')"
        " as file: file.writelines(dump(rows))."
    )
