"""An iterable of bytes cut into parts of one size, for stores that take a large object in several requests."""

from collections.abc import Iterable, Iterator

from pywren_runtime.stores import Buffer, flat

__all__ = ["Parts"]


class Parts:
    """The bytes of an iterable in parts of one size, copied at once; `error` is what the iterable raised."""

    def __init__(self, chunks: Iterable[Buffer], most: int) -> None:
        self.size = 0
        self.error: BaseException | None = None
        self._most = most
        self._parts = self._cut(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def _cut(self, chunks: Iterable[Buffer]) -> Iterator[bytes]:
        buffer = bytearray()
        try:
            for chunk in chunks:
                rest = memoryview(flat(chunk))
                self.size += len(rest)
                while len(buffer) + len(rest) >= self._most:
                    room = self._most - len(buffer)
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
