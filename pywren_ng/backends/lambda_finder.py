"""Looks in the store for what workers put there. All of it in threads of its own; what it finds it hands over.

Outcomes land in any order, from workers whose clocks differ: each look lists from the lowest key that is still
wanted, and never from the last one seen.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from pywren_runtime.errors import KeyMissing, StoreError
from pywren_runtime.stores import Store
from pywren_runtime.wire import beat_key, outcome_key, stop_key

THREADS = 16
PATIENCE = 5.0  # seconds that marks and looks under way may take at the end


@dataclass(frozen=True, slots=True)
class Listed:
    """Which outcomes of a job lie there, as (task, round)."""

    job: str
    keys: tuple[tuple[int, int], ...]
    fault: StoreError | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """One outcome of a job; no frame if it is not there."""

    job: str
    task: int
    round: int
    frame: bytes | None
    fault: StoreError | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """How many heartbeats there were of each Call of a job, by its first task and attempt."""

    job: str
    begun: float  # when the look began
    beats: dict[tuple[int, int], int]
    fault: StoreError | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A Call that is too large to go along lies in the store now, or could not be put there."""

    number: int
    error: StoreError | None


Found = Listed | Fetched | Heard | Kept


class Finder:
    """Lists, gets and puts for one backend; `wake` is called when something has been found.

    Its threads are its own, and the first is made at once: a pool of the standard library's takes nothing more once the
    interpreter has begun to end, when what was submitted is still to be done, and some versions then start no thread.
    """

    def __init__(self, store: Store, wake: Callable[[], object]) -> None:
        self.found: deque[Found] = deque()
        self._store = store
        self._wake = wake
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)  # threads that wait, and that no work was put for
        self._threads: list[threading.Thread] = []
        self._is_over = False
        self._hire()

    def list(self, job: str, lowest: int) -> None:
        """Which outcomes of a job lie there from that task on."""
        self._do(self._list, job, lowest)

    def fetch(self, job: str, wanted: Iterable[tuple[int, int]]) -> None:
        """Get outcomes of a job."""
        for task, round in wanted:
            self._do(self._fetch, job, task, round)

    def listen(self, job: str, now: float) -> None:
        """Which Calls of a job give signs of life."""
        self._do(self._listen, job, now)

    def keep(self, number: int, key: str, frame: bytes) -> None:
        """Put a Call that is too large to go along."""
        self._do(self._keep, number, key, frame)

    def stop(self, job: str) -> None:
        """Let starters and heartbeats see that a job was cancelled."""
        self._do(self._mark, stop_key(job), always=True)

    def close(self) -> None:
        """End; marks that jobs are stopped are put first, unless that takes long: such a job runs to its end."""
        self._is_over = True
        until = time.monotonic() + PATIENCE
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:  # one that is left would be in the middle of a request when the interpreter ends
            thread.join(max(0.0, until - time.monotonic()))

    def _do(self, work: Callable[..., None], *args: object, always: bool = False) -> None:
        self._work.put(lambda: None if self._is_over and not always else work(*args))
        if not self._idle.acquire(blocking=False) and len(self._threads) < THREADS:
            with contextlib.suppress(RuntimeError):  # the interpreter ends: those that there are do it
                self._hire()

    def _hire(self) -> None:
        thread = threading.Thread(target=self._run, name="pywren-finder", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get_nowait()
            except Empty:
                self._idle.release()
                work = self._work.get()
            if work is None:
                return
            work()

    def _mark(self, key: str) -> None:
        with contextlib.suppress(Exception):  # what cannot be marked runs to its end
            self._store.put(key, b"stopped")

    def _hand_over(self, found: Found) -> None:
        self.found.append(found)
        self._wake()

    def _list(self, job: str, lowest: int) -> None:
        prefix = outcome_key(job, 0, 0).rpartition("/")[0] + "/"
        try:
            after = outcome_key(job, lowest, 0).rpartition(".")[0]
            names = [key.removeprefix(prefix).split(".") for key, _ in self._store.keys(prefix, after)]
            listed = Listed(job, tuple((int(task), int(round)) for task, round in names))
        except Exception as error:  # whatever it is: who waits for an answer gets one
            listed = Listed(job, (), _fault(error))
        self._hand_over(listed)

    def _fetch(self, job: str, task: int, round: int) -> None:
        try:
            fetched = Fetched(job, task, round, self._store.get(outcome_key(job, task, round)))
        except KeyMissing:
            fetched = Fetched(job, task, round, None)
        except Exception as error:
            fetched = Fetched(job, task, round, None, _fault(error))
        self._hand_over(fetched)

    def _listen(self, job: str, now: float) -> None:
        prefix = beat_key(job, 0, 0).rpartition("/")[0] + "/"
        try:
            beats = {}
            for key, size in self._store.keys(prefix):
                task, attempt = key.removeprefix(prefix).split(".")
                beats[int(task), int(attempt)] = size
            heard = Heard(job, now, beats)
        except Exception as error:
            heard = Heard(job, now, {}, _fault(error))
        self._hand_over(heard)

    def _keep(self, number: int, key: str, frame: bytes) -> None:
        try:
            self._store.put(key, frame)
            kept = Kept(number, None)
        except Exception as error:
            kept = Kept(number, _fault(error))
        self._hand_over(kept)


def _fault(error: Exception) -> StoreError:
    return error if isinstance(error, StoreError) else StoreError(f"{type(error).__name__}: {error}")
