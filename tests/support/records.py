"""What the tests of record formats share: inputs as files, and what a format makes of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.records import Batch, Format, Piece, Source, open_format

READER = Exchange(hedging=False)


def put(folder: Path, data: bytes, name: str = "input") -> Source:
    """An input object."""
    (folder / name).write_bytes(data)
    return Source(f"file://{folder}", name, len(data))


def opened(records: str, *sources: Source, **options: Any) -> Format:
    """A format that knows its inputs."""
    return open_format(records, **options).prepare(sources, READER)


def cut(format: Format, source: Source, size: int = 10**9) -> list[Piece]:
    """An object in pieces."""
    return list(format.cut(source, size, READER))


def loaded(format: Format, *sources: Source, size: int = 10**9) -> Batch:
    """All records of some objects."""
    return format.load([piece for source in sources for piece in cut(format, source, size)], READER)


def written(format: Format, *batches: Batch) -> bytes:
    """The part that is made of these batches."""
    writer = format.writer()
    out = [bytes(buffer) for batch in batches for buffer in writer.write(batch)]
    return b"".join([*out, *map(bytes, writer.close())])


def encoded(batch: Batch) -> bytes:
    """A batch as it lies between the phases."""
    return b"".join(map(bytes, batch.encode()))


def keys(batches: Iterable[Batch]) -> list[Any]:
    """Every key."""
    return [batch.key(index) for batch in batches for index in range(len(batch))]
