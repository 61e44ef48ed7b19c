"""Records of one width whose first bytes are the key: `fixed:100:10` is 100 bytes with a key of 10.

What moves them is `fixed_batches`, and with it numpy: it is imported when the first of them are read, so that workers
begin while a driver still imports it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING

from pywren_runtime.errors import ConfigError, RecordError
from pywren_shuffle.records import Batch, Piece, Reader, Source

if TYPE_CHECKING:
    from pywren_shuffle.records.fixed_batches import FixedWriter
    from pywren_shuffle.records.vectors import Array

__all__ = ["Fixed", "open_format"]

if find_spec("numpy") is None:
    raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

_BESIDE = 120  # bytes: order and hash of a record, its key's first word, and what sorting many equal keys takes


@dataclass(frozen=True, slots=True)
class Fixed:
    """Records of `width` bytes, sorted by the first `key` of them as bytes compare."""

    width: int
    key: int
    reverse: bool = False

    suffix = ".dat"

    @property
    def record_size(self) -> int:
        return self.width

    @property
    def expansion(self) -> float:
        return _BESIDE / self.width

    @property
    def decoded_expansion(self) -> float:
        return self.expansion

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Fixed":
        return self

    def cut(self, source: Source, size: int, reader: Reader) -> Iterable[Piece]:
        if source.size % self.width:
            raise RecordError(
                f"{source.key!r} in {source.store} has {source.size:,} bytes, which is no multiple of {self.width}:"
                f" it is not made of records of {self.width} bytes. Correct records='fixed:{self.width}:{self.key}',"
                " or leave that object out."
            )
        records = source.size // self.width
        pieces = -(-source.size // max(size, self.width))
        cuts = [records * number // pieces * self.width for number in range(pieces + 1)] if pieces else []
        return [Piece(source, start, stop) for start, stop in pairwise(cuts)]

    def sample(self, pieces: Sequence[Piece], count: int, places: int, reader: Reader) -> Batch:
        from pywren_shuffle.records.fixed_batches import FixedBatch, joined

        form = replace(self, width=self.key)
        total = sum(piece.stop - piece.start for piece in pieces) // self.width
        found: list[Batch] = []
        for piece in pieces:
            records = (piece.stop - piece.start) // self.width
            share = -(-count * records // total)
            near = max(1, min(share, places * records // total))
            found.append(FixedBatch(form, self._sample(piece, records, share, near, reader)))
        return joined(found) if found else form.decode(memoryview(b""))[0]

    def _sample(self, piece: Piece, records: int, count: int, places: int, reader: Reader) -> "Array":
        from pywren_shuffle.records.fixed_batches import spread, table_of

        count = min(count, records)
        stretch = -(-count // places)
        # Of a mapping what is not looked at is not read; and stretches that leave nothing out are one request.
        if stretch == 1 or places * stretch >= records:
            return spread(table_of(self.width, reader.read([piece])), count, self.key)
        starts = [piece.start + (records - stretch) * number // places * self.width for number in range(places)]
        stretches = [Piece(piece.source, start, start + stretch * self.width) for start in starts]
        return table_of(self.width, reader.read(stretches))[:, : self.key].copy()

    def load(self, pieces: Sequence[Piece], reader: Reader) -> Batch:
        return self.decode(reader.read(pieces))[0]

    def decode(self, data: memoryview) -> tuple[Batch, int]:
        from pywren_shuffle.records.fixed_batches import FixedBatch, table_of

        whole = len(data) // self.width * self.width
        return FixedBatch(self, table_of(self.width, data[:whole])), whole

    def join(self, batches: Sequence[Batch]) -> Batch:
        from pywren_shuffle.records.fixed_batches import joined

        return joined(batches)

    def writer(self) -> "FixedWriter":
        from pywren_shuffle.records.fixed_batches import FixedWriter

        return FixedWriter(self)


def open_format(rest: str, *, key: object = None, reverse: object = False) -> Fixed:
    """`WIDTH:KEY`: bytes of a record, and how many of the first are the key; with `reverse` the last key first."""
    width, _, length = rest.partition(":")
    if not (width.isdecimal() and length.isdecimal() and 1 <= int(length) <= int(width)):
        raise ConfigError(
            f"records='fixed:{rest}' should be 'fixed:WIDTH:KEY', the bytes of a record and how many of its first bytes"
            " are the key, at least one: 'fixed:100:10'."
        )
    if key is not None or not isinstance(reverse, bool):
        raise ConfigError(
            f"records of fixed width are sorted by their first bytes: key={key!r}, reverse={reverse!r} cannot be; there"
            " are reverse=True and reverse=False, and no key."
        )
    return Fixed(int(width), int(length), reverse)
