"""Lines of text: `text`. A line ends with a newline, or with carriage return and newline, and sorts without that end.

Lines compare as their bytes do, which for UTF-8 is as the characters' numbers do; a `key=` gets the line as a str.
Every line keeps its own end. A last line without one gets that of the line before it: it may come to lie in the middle.
A line belongs to the piece in which it begins, so that an object can be cut anywhere.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pywren_runtime.errors import ConfigError, RecordError
from pywren_runtime.stores import Buffer
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

__all__ = ["Text", "open_format"]

CHUNK = 8 << 20  # bytes that are cut into lines together
AHEAD = 64 << 10  # bytes that are first looked at beyond a piece, for the end of its last line
LINES = 4096  # that leave together
NEIGHBOURS = 8  # lines that a sample takes from a place: less is not worth to go there
NEWLINE = 10
PROBE = 256 << 10  # bytes from which is learned how long lines are
# How files begin that are no lines, whatever their names say. Whoever sorts these would get what nobody can read.
NO_LINES = {
    b"\x1f\x8b\x08": "compressed with gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first",
    b"\xfd7zXZ\x00": "compressed with xz: unpack it first",
    b"PK\x03\x04": "a zip file: unpack it first",
    b"PAR1\x15": "a Parquet file: write records='table:COLUMN' for it",
    b"pywrows1": "a file of rows: write records='rows' for it",
    b"\xff\xfe": "UTF-16, whose newlines are two bytes: convert it to UTF-8 first",
    b"\xfe\xff": "UTF-16, whose newlines are two bytes: convert it to UTF-8 first",
}


@dataclass(frozen=True, slots=True)
class Text:
    """Lines, sorted by their bytes or by a function of the line."""

    function: KeyFunction | None = None
    reverse: bool = False
    expansion: float = 4.0
    record_size: int = 80
    suffix: str = ".txt"
    extra: int = 1
    vectors: bool = False

    @property
    def decoded_expansion(self) -> float:
        """See Format."""
        return self.expansion

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Text":
        """See Format: how long lines are, and what they take as Python objects."""
        largest = max(sources, key=lambda source: source.size, default=None)
        if largest is None or not largest.size:
            return self
        start = (largest.size - min(largest.size, PROBE)) // 2
        found = self.load([Piece(largest, start, min(largest.size, start + PROBE))], reader)
        if not len(found):
            return self
        many = sum(source.size for source in sources) >= MANY
        return replace(self, expansion=found.memory(), record_size=-(-found.nbytes // len(found)), vectors=many)

    def cut(self, source: Source, size: int, reader: Reader) -> Iterable[Piece]:
        """See Format: at any byte."""
        starts = range(0, source.size, size)
        return [Piece(source, start, min(start + size, source.size)) for start in starts]

    def sample(self, pieces: Sequence[Piece], count: int, places: int, reader: Reader) -> Keyed:
        """See Format. Of each place, the lines that lie there from end to end."""
        places = min(places, -(-count // NEIGHBOURS))
        stretch = (-(-count // places) + 2) * self.record_size + 64
        total = sum(piece.stop - piece.start for piece in pieces)
        keys: list[object] = []
        if places * stretch < total:
            looked = list(_spread(pieces, places, stretch, total))
            data = reader.read(looked)
            for place in looked:
                here, data = bytes(data[: place.stop - place.start]), data[place.stop - place.start :]
                whole, newline, _ = (here if place.start == 0 else here.partition(b"\n")[2]).rpartition(b"\n")
                if newline:
                    keys += self._batch(whole, place).keys
        if not keys:
            keys = self.load(pieces, reader).keys
        return Keyed(self, [keys[place] for place in evenly(count, len(keys))], [])

    def load(self, pieces: Sequence[Piece], reader: Reader) -> Keyed:
        """See Format."""
        return join(self, [batch for piece in pieces for batch in self._batches(piece, reader)])

    def _batches(self, piece: Piece, reader: Reader) -> Iterator[Keyed]:
        count = 0
        for text in _texts(piece, reader):
            batch = self._batch(text, piece, count)
            count += len(batch)
            yield batch

    def decode(self, data: memoryview) -> tuple[Keyed, int]:
        """See Format."""
        whole, newline, _ = bytes(data).rpartition(b"\n")
        return self._batch(whole, None) if newline else join(self, []), len(whole) + len(newline)

    def join(self, batches: Sequence[Batch]) -> Keyed:
        """See Format."""
        return join(self, batches)

    def writer(self) -> KeyedWriter:
        """See Format."""
        return KeyedWriter(self)

    def pack(self, rows: list[bytes]) -> Iterator[Buffer]:
        """Lines with their ends."""
        return (b"\n".join(rows[at : at + LINES]) + b"\n" for at in range(0, len(rows), LINES))

    def _batch(self, text: bytes, piece: Piece | None, begin: int = 0) -> Keyed:
        """Some lines, of which the last one has no newline any more; so many of the piece come before them."""
        lines = text.split(b"\n")
        if self.function is not None:
            where = place_of(piece) if piece else "a block"
            return Keyed(self, keys_by(self.function, map(_text, lines), where, begin=begin), lines)
        if b"\r" in text:
            return Keyed(self, [line.removesuffix(b"\r") for line in lines], lines)
        return Keyed(self, lines, lines)


def open_format(rest: str, *, key: object = None, reverse: object = False) -> Format:
    """Without more: `text`."""
    if rest:
        raise ConfigError(f"records='text:{rest}': text takes no more than its name; key= and reverse= say the order.")
    function, reverse = check_key("text", key, reverse)
    return Text(function, reverse)


def _text(line: bytes) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "surrogateescape")  # what is not UTF-8 is no reason to fail


def _texts(piece: Piece, reader: Reader) -> Iterator[bytes]:
    """The lines that begin in a piece, some at a time, each time without the last newline."""
    parts: list[bytes] = []
    for chunk in _chunks(piece, reader):
        whole, newline, rest = chunk.rpartition(b"\n")
        if newline:
            yield b"".join((*parts, whole))
            parts = []
        parts.append(rest)
    last = b"".join(parts)
    if last:  # it ends with its object
        begin = piece.source.size - len(last)
        before = bytes(reader.read([Piece(piece.source, begin - 2, begin)])) if begin >= 2 else b""
        yield last + b"\r" if before == b"\r\n" else last


def _chunks(piece: Piece, reader: Reader) -> Iterator[bytes]:
    """The bytes from the first line that begins in a piece to the end of the last that does."""
    data = reader.read([Piece(piece.source, max(0, piece.start - 1), piece.stop)])
    inside = piece.start == 0
    if inside:
        _check(bytes(data[:8]), piece)
    for at in range(0, len(data), CHUNK):
        chunk = bytes(data[at : at + CHUNK])
        if not inside:
            _, newline, chunk = chunk.partition(b"\n")
            inside = bool(newline)
        if inside:
            yield chunk
    if not inside or data[-1] == NEWLINE:
        return
    at, ahead, size = piece.stop, AHEAD, piece.source.size
    while at < size:
        chunk, newline, _ = bytes(reader.read([Piece(piece.source, at, min(size, at + ahead))])).partition(b"\n")
        yield chunk + newline
        if newline:
            return
        at, ahead = at + len(chunk), min(2 * ahead, CHUNK)


def _check(head: bytes, piece: Piece) -> None:
    """RecordError if a file that begins so has no lines."""
    for magic, what in NO_LINES.items():
        if head.startswith(magic):
            raise RecordError(f"{piece.source.key!r} in {piece.source.store} is no text but {what}, or leave it out.")


def _spread(pieces: Sequence[Piece], places: int, stretch: int, total: int) -> Iterator[Piece]:
    """Short pieces, evenly over these; one that would reach beyond its piece is cut off."""
    offsets = evenly(places, total)
    offset, begin = next(offsets, None), 0
    for piece in pieces:
        length = piece.stop - piece.start
        while offset is not None and offset < begin + length:
            start = piece.start + offset - begin
            yield Piece(piece.source, start, min(start + stretch, piece.source.size))
            offset = next(offsets, None)
        begin += length
