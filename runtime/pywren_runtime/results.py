"""What a reducer reads: the results of other tasks, in input order, as they land.

store ── read ahead: 8 at a time, 32 MB at most ──► pieces ── unpacked when it is its turn ──► the user's function
  └── notices, signed: what has landed since the reducer began
"""

import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from pywren_runtime.failures import Unread
from pywren_runtime.pickling import Bytes, Fetch, Ref, loads, refs_of

AT_ONCE: Final = 8  # results that are being read, or have been and wait for their turn
AHEAD: Final = 32 << 20  # bytes of these; one result is read ahead however long it is
GLANCE: Final = 0.01  # seconds from one look for a notice to the next; it grows
GLANCE_MOST: Final = 0.2

_FRONT = struct.Struct("<HIII")
_SIZE = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Landed:
    """Results that lie in the store, one after another in input order, each as its task's Outcome has it."""

    job: str  # the reducer's
    number: int  # 0 is what the reducer's Call brings, 1 and so on are the notices that follow
    total: int  # how many there will be in all
    results: tuple[bytes, ...]

    def encode(self) -> bytes:
        job = self.job.encode()
        parts = [_FRONT.pack(len(job), self.number, self.total, len(self.results)), job]
        for packed in self.results:
            parts += (_SIZE.pack(len(packed)), packed)
        return b"".join(parts)

    @classmethod
    def decode(cls, body: bytes | memoryview) -> "Landed":
        job_size, number, total, count = _FRONT.unpack_from(body)
        at = _FRONT.size + job_size
        job = str(body[_FRONT.size : at], "ascii")
        results = []
        for _ in range(count):
            (size,) = _SIZE.unpack_from(body, at)
            at += _SIZE.size
            results.append(bytes(body[at : at + size]))
            at += size
        return cls(job, number, total, tuple(results))


Hear = Callable[[str, int], Landed | None]
"""A job's notice of that number, if it is there yet."""


class Results(Iterator[Any]):
    """All results in input order, each unpacked when it is asked for; close it, or use it in a `with`.

    `len()` is how many there are in all. What was handed out is not kept: memory is what the function keeps, and what
    is read ahead.
    """

    def __init__(self, first: Landed, fetch: Fetch, hear: Hear, *, ahead: int = AHEAD) -> None:
        self._job, self._total = first.job, first.total
        self._known = deque(first.results)  # not being read yet
        self._notice = 1  # the next one
        self._fetch = fetch
        self._hear = hear
        self._most = ahead
        self._coming: deque[tuple[bytes, int, Future[dict[str, Bytes]]]] = deque()
        self._bytes = 0  # of these
        self._given = 0
        self._fault: BaseException | None = None
        self._pool = ThreadPoolExecutor(AT_ONCE, "pywren-results")

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Read no further; no thread is left."""
        self._known.clear()
        self._pool.shutdown(cancel_futures=True)
        self._coming.clear()

    def __len__(self) -> int:
        return self._total

    def __next__(self) -> Any:
        if self._fault is not None:
            raise self._fault
        if self._given == self._total:
            raise StopIteration
        try:
            while not self._coming:
                if not self._known:
                    self._known.extend(self._listen().results)
                self._read_ahead()
            packed, size, coming = self._coming.popleft()
            pieces = coming.result()
        except Exception as error:
            self._fault = Unread(f"reading result {self._given}")
            raise self._fault from error
        self._bytes -= size
        self._given += 1
        del coming
        self._read_ahead()
        try:
            return loads(packed, lambda ref: pieces[ref.key])
        except Exception as error:
            error.add_note(f"raised while result {self._given - 1} was unpacked for the function that reduces")
            raise

    def __reduce__(self) -> NoReturn:
        raise TypeError("results are read where they are reduced, and only there: return what was made of them")

    def _read_ahead(self) -> None:
        while self._known and len(self._coming) < AT_ONCE:
            refs = refs_of(self._known[0])
            size = sum(ref.size for ref in refs)
            if self._coming and self._bytes + size > self._most:
                break
            self._bytes += size
            self._coming.append((self._known.popleft(), size, self._pool.submit(self._read, refs)))

    def _read(self, refs: list[Ref]) -> dict[str, Bytes]:
        return {ref.key: self._fetch(ref) for ref in refs}

    def _listen(self) -> Landed:
        """The next notice; whoever has started the reducer too early, or waits no longer, ends its process."""
        pause = GLANCE
        while (landed := self._hear(self._job, self._notice)) is None:
            time.sleep(pause)
            pause = min(1.5 * pause, GLANCE_MOST)
        self._notice += 1
        return landed
