"""Whose turn it is: the threads of an executor.

    caller ── call(action) ─► inbox ─► a turn, here and now, if nobody has it
    caller ── help ──► waits for the backend in its own thread, if nobody does
    a thread of our own ──► waits for the backend when nobody helps, and a turn after each wait

Who holds the turn owns all state; it is let go of while somebody waits for the backend. That a caller starts its own
tasks and waits for its own results saves two switches of threads for each `submit(...).result()`.
"""

import _signal  # type: ignore[import-not-found]  # what `signal` wraps: conversions to enums cost 10 µs a submit
import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

from pywren_ng.backends import Backend

T = TypeVar("T")
FOREVER = 3600.0
DOZE = 0.1  # seconds after a caller has waited for its own result
GLANCE = 0.002


class Turns:
    """Takes turns for a subclass, which says what a turn does: `_turn`, `_busy`, `_fail` and `_end`."""

    def __init__(self, backend: Backend) -> None:
        self.closing: bool = False  # whether it takes no more; what it has taken it finishes
        self._backend = backend
        self._inbox: deque[Callable[[], object]] = deque()
        self._closed = threading.Event()
        self._pid = os.getpid()
        self._undisturbed = Undisturbed if backend.threaded else contextlib.nullcontext
        self._polling = threading.Lock()  # held by the thread that waits for the backend
        self._needed: queue.SimpleQueue[None] = queue.SimpleQueue()  # rings when somebody should
        self._until = 0.0  # when the next turn is due at the latest
        self._changes = 0  # of what somebody might wait for
        self._helped = -DOZE  # when a caller last did
        self._dozing = False  # whether the thread looks by itself
        self._owner = 0  # the thread whose turn it is
        # Not to be entered twice by one thread: a collected Job may call from anywhere. Tasks that run in a turn must.
        self._turns = threading.Lock() if backend.threaded else threading.RLock()
        self._thread: threading.Thread | None = None
        if backend.threaded:
            self._thread = threading.Thread(target=self._run, name="pywren-engine", daemon=True)
            self._thread.start()

    def _turn(self, waited: object | None) -> float:
        """What was asked, what has happened, what can start; when the next turn is due at the latest."""
        raise NotImplementedError

    def _busy(self) -> bool:
        """Whether anything is under way that the backend will bring news of."""
        raise NotImplementedError

    def _fail(self, error: BaseException) -> None:
        """A turn has failed, and nothing can be relied on any more."""
        raise NotImplementedError

    def _end(self) -> None:
        """All is done."""
        raise NotImplementedError

    def is_foreign(self) -> bool:
        """Whether this is a forked child of the engine's process: its threads are not here, its workers not ours."""
        return os.getpid() != self._pid

    def check_own(self) -> None:
        """RuntimeError in a forked child."""
        if self.is_foreign():
            raise RuntimeError(
                f"this executor belongs to process {self._pid}, which forked this one: its threads are not here; "
                "make an Executor of its own in each process"
            )

    def call(self, action: Callable[[], object]) -> None:
        """Have something done in turn: here and now if nobody has the turn, else by whoever has it."""
        if self.is_foreign():
            return
        with self._undisturbed():
            self._inbox.append(action)
            changes = self._changes
            # Looked at again after each turn: what arrived too late for its holder to see must not lie there.
            while self._inbox and self._turns.acquire(blocking=False):
                try:
                    if self._thread is not None:
                        self._take_turn(None)
                    else:
                        while not self._take_turn(self._backend.wait(0)) and self._busy():
                            pass
                finally:
                    self._turns.release()
            if self._polling.locked():
                if self._changes != changes:
                    self._backend.wake()  # perhaps it was what the waiting thread waits for
            elif not self._dozing and (self._busy() or self._inbox):
                self._needed.put(None)

    def later(self, action: Callable[[], object]) -> None:
        """Have something done by another thread: safe in finalizers, which may run in the middle of anything."""
        if not self.is_foreign():
            self._inbox.append(action)
            self._needed.put(None)
            self._backend.wake()

    def help(self, is_over: Callable[[], bool], deadline: float | None = None) -> None:
        """Wait for the backend in the caller's thread, unless somebody does, as long as it is of use.

        It saves the caller a switch of threads; afterwards the caller waits as if it had not helped.
        """
        if self._thread is None or is_over() or self.is_foreign():
            return
        # Ctrl-C ends the wait, and is raised once the others know that they must wait for themselves.
        with Undisturbed(self._backend.wake) as stretch:
            if not self._polling.acquire(blocking=False):
                return
            try:
                while not (is_over() or stretch.came or self._closed.is_set()) and self._busy():
                    left = FOREVER if deadline is None else deadline - time.monotonic()
                    if left <= 0:
                        break
                    self._poll(left)
            finally:
                self._polling.release()
                self._helped = time.monotonic()
                if self._busy() or self._inbox or self.closing:
                    self._needed.put(None)

    def ask(self, question: Callable[[], T]) -> T:
        """Have something done in turn and wait for what it returns."""
        answer: Future[T] = Future()

        def reply() -> None:
            try:
                answer.set_result(question())
            except Exception as error:
                answer.set_exception(error)

        self.check_own()
        self.call(reply)
        return answer.result()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._park()
            if not self._polling.acquire(blocking=False):
                continue  # a caller waits for the backend, and will ring
            try:
                while self._busy() or self._inbox:
                    self._poll(FOREVER)
                if self.closing:
                    with self._turns:
                        self._end()
            finally:
                self._polling.release()
            if self._busy() or self._inbox:
                self._needed.put(None)
        self.call(lambda: None)  # a turn for what was asked while it ended: who asked found the turn taken, and waits

    def _park(self) -> None:
        """Until somebody should wait for the backend.

        While callers wait for their own results, to be woken for each would cost them more than their task: for
        that time the thread looks by itself, now and then. What came before it stops dozing it sees; what comes
        after rings.
        """
        if time.monotonic() - self._helped < DOZE:
            self._dozing = True
            with contextlib.suppress(queue.Empty):
                self._needed.get(timeout=GLANCE)
            return
        self._dozing = False
        if self._polling.locked() or not (self._busy() or self._inbox):
            self._needed.get()

    def _poll(self, limit: float) -> None:
        """Wait for the backend, and take a turn. Only the thread that holds `_polling`."""
        left = 0.0 if self._inbox else self._until - time.monotonic()
        waited = self._backend.wait(max(0.0, min(left, limit)))
        with self._turns:
            self._take_turn(waited)

    def _take_turn(self, waited: object | None) -> bool:
        self._owner = threading.get_ident()
        try:
            self._until = self._turn(waited)
        except BaseException as error:
            if self._thread is None and not isinstance(error, Exception):
                raise  # Ctrl-C in a task that runs here
            self._fail(error)
            self.closing = True
            self._needed.put(None)
            return True
        finally:
            self._owner = 0
        return False

    def is_mine(self) -> bool:
        """Whether the calling thread is in the middle of a turn that others wait for."""
        return self._thread is not None and self._owner == threading.get_ident()

    def close_after(self, action: Callable[[], object], *, wait: bool) -> None:
        """Take no more, do this, and end when all is done; with `wait`, return then."""
        if self.is_foreign():
            return
        with self._undisturbed():
            self.closing = True
            self.call(action)
            self._needed.put(None)
        if self._thread is None:
            if not self._closed.is_set():
                self._end()
        elif wait and self._thread is not threading.current_thread():
            self._thread.join()


class Undisturbed:
    """A stretch that Ctrl-C does not cut in two: the main thread hears of it when the stretch is over."""

    __slots__ = ("_before", "_tell", "came")

    def __init__(self, tell: Callable[[], object] = lambda: None) -> None:
        self._tell = tell  # what to do at once
        self._before: Callable[[int, FrameType | None], object] | None = None
        self.came: list[tuple[int, FrameType | None]] = []

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came.append((number, frame))
        self._tell()

    def __enter__(self) -> "Undisturbed":
        if threading.get_ident() == threading.main_thread().ident:
            before = _signal.getsignal(_signal.SIGINT)
            if callable(before):
                self._before = before
                _signal.signal(_signal.SIGINT, self._note)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._before is not None:
            _signal.signal(_signal.SIGINT, self._before)
            if self.came:
                self._before(*self.came[0])
