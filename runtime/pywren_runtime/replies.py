"""How a Call's outcomes leave a Lambda environment: in the answer, or through the store.

outcome ──► kept for the answer ── the Call takes long, or the answer grows large ──► put_new, in threads
        └──────────────────────── an asynchronous Call: there is no answer ─────────► put_new, in threads
"""

import base64
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from pywren_runtime.errors import KeyMissing, StoreError
from pywren_runtime.stores import Store
from pywren_runtime.wire import Outcome, Status, outcome_key

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

ROOM: Final = 5_000_000  # bytes of an answer; Lambda refuses those over 6 MB, after the work was done
WRITERS: Final = 8
WAITING: Final = 64  # outcomes that may wait for the store: past it the worker's pipe fills, and it waits too


class Replies:
    """The outcomes of one Call. `add` never waits for the store, unless that is far behind."""

    def __init__(self, store: Callable[[], Store], *, is_stored: bool, long_from: float) -> None:
        self._store = store
        self._is_stored = is_stored
        self._long_from = long_from  # of the monotonic clock
        self._frames: list[tuple[str, bytes]] | None = []  # for the answer; None once they do not fit
        self._size = 0
        self._pool: ThreadPoolExecutor | None = None
        self._puts: list[Future[bool]] = []
        self._may_answer = not is_stored

    def add(self, outcome: Outcome, frame: bytes) -> None:
        """Keep the signed frame for the answer, or begin to store it."""
        key = outcome_key(outcome.job, outcome.task, outcome.round)
        if self._is_stored:
            self._put(key, frame)
        if self._may_answer and self._frames is not None:
            self._frames.append((key, frame))
            self._size += len(frame) * 4 // 3 + 8 + _apart(outcome)
            if self._size > ROOM:
                self._store_all()
                self._frames = None

    def look(self, now: float) -> None:
        """From now on they are stored, if the Call takes so long that its connection may not."""
        if not self._is_stored and now >= self._long_from:
            self._store_all()

    def _store_all(self) -> None:
        if not self._is_stored:
            self._is_stored = True
            for key, frame in self._frames or ():
                self._put(key, frame)

    def _put(self, key: str, frame: bytes) -> None:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(WRITERS, "pywren-replies")
        if len(self._puts) >= WAITING:
            self._puts[-WAITING].exception()
        # False is as good: another attempt, or another delivery of this one, was there first, and counts.
        self._puts.append(self._pool.submit(lambda: self._store().put_new(key, frame)))

    def answer(self) -> dict[str, Any]:
        """What the Invoke gets. StoreError if outcomes that must be stored could not be."""
        if self._is_stored:
            try:
                for put in self._puts:
                    put.result()
                return {"stored": len(self._puts)}
            except StoreError:
                if not self._may_answer or self._frames is None:
                    raise
        return {"outcomes": [base64.b64encode(frame).decode() for _, frame in self._frames or ()]}

    def close(self) -> None:
        """Nothing of it may go on when the environment is frozen."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class Pulse:
    """Tells the store that a long Call still runs, and looks there whether its job was cancelled."""

    def __init__(self, store: Callable[[], Store], *, beat: str, stop: str, every: float, begins: float) -> None:
        self._store = store
        self._beat = beat  # the key
        self._stop = stop  # the key
        self._every = every
        self._begins = begins  # of the monotonic clock
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_stopped = False

    def look(self, now: float) -> None:
        """Begin, if the Call runs long enough."""
        if self._thread is None and now >= self._begins:
            self._thread = threading.Thread(target=self._run, name="pywren-pulse", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        count = 0
        while True:
            count += 1
            with contextlib.suppress(StoreError):  # a beat that is lost is noticed only if several are
                self._store().put(self._beat, b"." * count)
            if self._over.is_set():
                return
            with contextlib.suppress(StoreError):
                self.is_stopped = self.is_stopped or is_there(self._store(), self._stop)
            if self._over.wait(self._every):
                return

    def close(self) -> None:
        """No beat begins after this; one that is on its way gets a moment, for the environment may be frozen next."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(self._every / 2)


def _apart(outcome: Outcome) -> int:
    """Bytes of a result that lie in the store already: if they are many, the outcome that names them is to lie there
    too, or a broken connection would lose them."""
    if outcome.status is not Status.VALUE or not outcome.payload[0]:
        return 0
    from pywren_runtime.pickling import refs_of

    return sum(ref.size for ref in refs_of(outcome.payload))


def is_there(store: Store, key: str) -> bool:
    """Whether something lies at that key."""
    try:
        store.get(key)
    except KeyMissing:
        return False
    return True
