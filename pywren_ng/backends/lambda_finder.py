"""Looks in the store for what workers put there. All of it in threads of its own; what it finds it hands over.

Outcomes land in any order, from workers whose clocks differ: each look lists from the lowest key that is still
wanted, and never from the last one seen.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pywren_runtime.errors import KeyMissing, StoreError
from pywren_runtime.stores import Store
from pywren_runtime.wire import beat_key, outcome_key, stop_key

THREADS = 16


@dataclass(frozen=True, slots=True)
class Listed:
    """Which outcomes of a job lie there, as (task, round)."""

    job: str
    keys: tuple[tuple[int, int], ...]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """One outcome of a job; no frame if it is not there."""

    job: str
    task: int
    round: int
    frame: bytes | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """How many heartbeats there were of each Call of a job, by its first task and attempt."""

    job: str
    begun: float  # when the look began
    beats: dict[tuple[int, int], int]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A Call that is too large to go along lies in the store now, or could not be put there."""

    number: int
    error: StoreError | None


Found = Listed | Fetched | Heard | Kept


class Finder:
    """Lists, gets and puts for one backend; `wake` is called when something has been found."""

    def __init__(self, store: Store, wake: Callable[[], object]) -> None:
        self.found: deque[Found] = deque()
        self._store = store
        self._wake = wake
        self._pool = ThreadPoolExecutor(THREADS, "pywren-finder")
        self._marks: list[Future[None]] = []

    def list(self, job: str, lowest: int) -> None:
        """Which outcomes of a job lie there from that task on."""
        self._pool.submit(self._list, job, lowest)

    def fetch(self, job: str, wanted: Iterable[tuple[int, int]]) -> None:
        """Get outcomes of a job."""
        for task, round in wanted:
            self._pool.submit(self._fetch, job, task, round)

    def listen(self, job: str, now: float) -> None:
        """Which Calls of a job give signs of life."""
        self._pool.submit(self._listen, job, now)

    def keep(self, number: int, key: str, frame: bytes) -> None:
        """Put a Call that is too large to go along."""
        self._pool.submit(self._keep, number, key, frame)

    def stop(self, job: str) -> None:
        """Let starters and heartbeats see that a job was cancelled."""
        self._marks.append(self._pool.submit(self._store.put, stop_key(job), b"stopped"))

    def close(self) -> None:
        """End; marks that jobs are stopped are put first."""
        for mark in self._marks:
            mark.exception(timeout=10)  # what cannot be marked runs to its end
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _hand_over(self, found: Found) -> None:
        self.found.append(found)
        self._wake()

    def _list(self, job: str, lowest: int) -> None:
        prefix = outcome_key(job, 0, 0).rpartition("/")[0] + "/"
        try:
            after = outcome_key(job, lowest, 0).rpartition(".")[0]
            names = [key.removeprefix(prefix).split(".") for key, _ in self._store.keys(prefix, after)]
            listed = Listed(job, tuple((int(task), int(round)) for task, round in names))
        except StoreError as error:
            listed = Listed(job, (), str(error))
        self._hand_over(listed)

    def _fetch(self, job: str, task: int, round: int) -> None:
        try:
            fetched = Fetched(job, task, round, self._store.get(outcome_key(job, task, round)))
        except KeyMissing:
            fetched = Fetched(job, task, round, None)
        except StoreError as error:
            fetched = Fetched(job, task, round, None, str(error))
        self._hand_over(fetched)

    def _listen(self, job: str, now: float) -> None:
        prefix = beat_key(job, 0, 0).rpartition("/")[0] + "/"
        try:
            beats = {}
            for key, size in self._store.keys(prefix):
                task, attempt = key.removeprefix(prefix).split(".")
                beats[int(task), int(attempt)] = size
            heard = Heard(job, now, beats)
        except StoreError as error:
            heard = Heard(job, now, {}, str(error))
        self._hand_over(heard)

    def _keep(self, number: int, key: str, frame: bytes) -> None:
        try:
            self._store.put(key, frame)
            kept = Kept(number, None)
        except StoreError as error:
            kept = Kept(number, error)
        self._hand_over(kept)
