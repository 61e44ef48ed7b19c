"""How ranges are read, in a worker or in the driver: mapped where they are files, else by requests, counted.

read ─┬─► a mapping of one range of a file
      └─► room for all ranges ◄─ blocks ◄─ 16 requests in flight; a second one where one is late
"""

import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final

from pywren_runtime.errors import KeyMissing, ShuffleCorrupt, StoreError
from pywren_runtime.stores import Buffer, Store
from pywren_runtime.stores import open_store as open_any
from pywren_shuffle.places.flights import Data, Flight, Flights
from pywren_shuffle.places.inputs import folder_of
from pywren_shuffle.records import Piece, Source

__all__ = ["BLOCK", "PART", "Exchange", "joined", "path_of", "put_requests", "room_for"]

BLOCK: Final = 8 << 20  # bytes of one request at most
_LISTED = 1000  # keys that one request lists or deletes
PART: Final = 16 << 20  # of an upload, and
_ONE_PUT: Final = 4 * PART  # what goes without parts, as the store does it
_SMALL = 1 << 20  # less than that is not worth a mapping


class Exchange:
    """Opens stores and reads ranges of their objects; what it has asked for is in `requests`."""

    def __init__(
        self, *, hedging: bool, block: int = BLOCK, ahead: int = 0, open_store: Callable[[str], Store] = open_any
    ) -> None:
        self._requests: Counter[str] = Counter()
        self._hedging = hedging
        self._ahead = ahead
        self._block = block
        self._open_store = open_store
        self._flights: Flights | None = None
        self._stores: dict[str, Store] = {}

    @property
    def requests(self) -> Counter[str]:
        """What was asked of stores that are no folders, by kind; `hedges` of the ranges were asked for once more."""
        found = Counter(self._requests)
        if self._flights is not None:
            found += Counter(GetRange=self._flights.sent, hedges=self._flights.hedges)
        return found

    def open(self, url: str) -> Store:
        """The store at that URL, opened once."""
        store = self._stores.get(url)
        if store is None:
            store = self._stores[url] = self._open_store(url)
        return store

    def read(self, pieces: Sequence[Piece]) -> memoryview:
        """All these bytes, one piece after another; see `records.Reader`."""
        pieces = joined(pieces)
        size = sum(piece.stop - piece.start for piece in pieces)
        if len(pieces) == 1 and size >= _SMALL and path_of(pieces[0].source) is not None:
            return _mapped(pieces[0])
        room = memoryview(room_for(size))[:size]
        at = 0
        flights: list[Flight] = []
        for piece in pieces:
            flights += self.fill(piece, room[at : at + piece.stop - piece.start])
            at += piece.stop - piece.start
        for flight in flights:
            flight.result()
        return room.toreadonly()

    def fill(self, piece: Piece, room: memoryview) -> list[Flight]:
        """Read into that room: it is full once all flights have come back."""
        path = path_of(piece.source)
        if path is not None:
            _read_file(path, piece, room)
            return []
        if self._flights is None:
            self._flights = Flights(hedging=self._hedging, ahead=self._ahead)
        store, key = self.open(piece.source.store), piece.source.key
        size = len(room)
        number = -(-size // self._block)
        cuts = [size * cut // number for cut in range(number + 1)]
        flights = []
        for start, stop in pairwise(cuts):

            def send(start: int = start, stop: int = stop) -> Data:
                return store.get_range(key, piece.start + start, stop - start)

            def deliver(data: Data, start: int = start, stop: int = stop) -> None:
                if len(data) < stop - start:
                    raise _short(f"{piece.source.store}/{key}", piece.start + start + len(data), piece)
                room[start:stop] = data

            flights.append(self._flights.start(send, deliver))
        return flights

    def put(self, url: str, key: str, chunks: Iterable[Buffer]) -> int:
        """One object of these bytes, by one request where that is possible; how many bytes it has."""
        store = self.open(url)
        if folder_of(url) is not None:
            return store.put_stream(key, chunks)
        whole = bytearray()
        for chunk in chunks:
            whole += chunk
        store.put(key, whole)
        self._requests.update(put_requests(len(whole), streamed=False))
        return len(whole)

    def put_stream(self, url: str, key: str, chunks: Iterable[Buffer]) -> int:
        """One object of these bytes, as they come; how many bytes it has."""
        size = self.open(url).put_stream(key, chunks)
        if folder_of(url) is None:
            self._requests.update(put_requests(size, streamed=True))
        return size

    def keys(self, url: str, prefix: str) -> list[tuple[str, int]]:
        """Keys and sizes of all that lies there under a prefix, in order."""
        found = list(self.open(url).keys(prefix))
        if folder_of(url) is None:
            self._requests["ListObjectsV2"] += max(1, -(-len(found) // _LISTED))
        return found

    def is_there(self, url: str, key: str) -> bool:
        """Whether an object lies there."""
        if folder_of(url) is None:
            self._requests["HeadObject"] += 1
        try:
            self.open(url).get_range(key, 0, 0)
        except KeyMissing:
            return False
        return True

    def delete(self, url: str, keys: Sequence[str]) -> None:
        """Delete these objects."""
        if not keys:
            return
        self.open(url).delete_many(keys)
        if folder_of(url) is None:
            self._requests["DeleteObjects"] += -(-len(keys) // _LISTED)

    def close(self) -> None:
        """Let go of the stores."""
        if self._flights is not None:
            self._flights.close()
        for store in self._stores.values():
            store.close()
        self._stores.clear()


def put_requests(size: int, *, streamed: bool) -> dict[str, int]:
    """What it takes to put an object of that size, by kind; a stream goes in parts as soon as it fills one."""
    if size <= (PART if streamed else _ONE_PUT):
        return {"PutObject": 1}
    return {"CreateMultipartUpload": 1, "UploadPart": -(-size // PART), "CompleteMultipartUpload": 1}


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The same bytes in fewer pieces: none is empty, and none begins where the one before it ends."""
    found: list[Piece] = []
    for piece in pieces:
        if piece.stop == piece.start:
            continue
        if found and found[-1].source == piece.source and found[-1].stop == piece.start:
            found[-1] = Piece(piece.source, found[-1].start, piece.stop)
        else:
            found.append(piece)
    return found


def path_of(source: Source) -> str | None:
    """The file in which an object lies, or None where it lies elsewhere."""
    folder = folder_of(source.store)
    return None if folder is None else os.path.join(folder, source.key)


def room_for(size: int) -> "mmap.mmap | bytearray":
    """Memory for so many bytes; large pages for much, which cost a hundredth of the faults."""
    if size < _SMALL:
        return bytearray(size)
    room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        room.madvise(mmap.MADV_HUGEPAGE)
    return room


def _open(path: str, piece: Piece) -> int:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KeyMissing(f"{path!r} is not there any more: somebody has removed it since the sort began.") from None
    except OSError as error:
        raise StoreError(f"{path!r} could not be read: {error.strerror or error}.") from error
    size = os.fstat(file).st_size
    if size < piece.stop:
        os.close(file)
        raise _short(path, size, piece)
    return file


def _mapped(piece: Piece) -> memoryview:
    path = path_of(piece.source)
    assert path is not None
    file = _open(path, piece)
    try:
        skipped = piece.start % mmap.ALLOCATIONGRANULARITY
        mapping = mmap.mmap(
            file, piece.stop - piece.start + skipped, offset=piece.start - skipped, access=mmap.ACCESS_READ
        )
    except OSError as error:
        raise StoreError(f"{path!r} could not be mapped: {error.strerror or error}.") from error
    finally:
        os.close(file)
    return memoryview(mapping)[skipped:]


def _read_file(path: str, piece: Piece, room: memoryview) -> None:
    file = _open(path, piece)
    try:
        done = 0
        while done < len(room):
            got = os.preadv(file, [room[done : done + (1 << 30)]], piece.start + done)
            if not got:
                raise _short(path, piece.start + done, piece)
            done += got
    except OSError as error:
        raise StoreError(f"{path!r} could not be read: {error.strerror or error}.") from error
    finally:
        os.close(file)


def _short(name: str, size: int, piece: Piece) -> ShuffleCorrupt:
    return ShuffleCorrupt(
        f"{name!r} has {size:,} bytes now and had at least {piece.stop:,} when the sort began: it was cut or written"
        " anew meanwhile. Let nobody write there while a sort reads it, and run the sort again."
    )
