"""A multipart upload: an iterable cut into parts, of which some are under way at a time."""

from collections.abc import Iterable, Iterator
from typing import Any

from pywren_runtime.stores import Buffer, flat

__all__ = ["PART", "Parts", "put_parts"]

PART = 16 << 20  # an upload may have 10,000
_AT_ONCE = 4


class Parts:
    """The bytes of an iterable in parts of one size, copied at once; `error` is what the iterable raised."""

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        self.size = 0
        self.error: BaseException | None = None
        self._parts = self._cut(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def _cut(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        buffer = bytearray()
        try:
            for chunk in chunks:
                rest = memoryview(flat(chunk))
                self.size += len(rest)
                while len(buffer) + len(rest) >= PART:
                    room = PART - len(buffer)
                    buffer += rest[:room]
                    rest = rest[room:]
                    yield bytes(buffer)
                    buffer.clear()
                buffer += rest
        except BaseException as error:
            self.error = error
            raise
        if buffer:
            yield bytes(buffer)


def put_parts(library: Any, client: Any, path: str, data: object, attributes: dict[str, str] | None = None) -> None:
    """Upload in parts; whatever is raised meanwhile, the library gives the upload up."""
    library.put(
        client, path, data, attributes=attributes, use_multipart=True, chunk_size=PART, max_concurrency=_AT_ONCE
    )
