"""One bar per job, for a person who is looking, and for nobody else.

    Shelf (the engine counts on it) ◄── looks every 0.1 s ── a thread ──► tqdm ──► stderr

The engine knows of no bar and does nothing for one. The thread lives while there are jobs to show, and is
joined when the executor shuts down; tqdm is imported when the first bar is drawn. A job that is done within
half a second shows none, unless bars were asked for. Below a bar that has ended stands one line of what came of
its job; where none was drawn, that line goes to `logging`, at INFO.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

__all__ = ["Bars", "Counts", "Together", "Watched", "is_watched", "uploading"]

_INTERVAL = 0.1  # seconds between two looks
_PATIENCE = 0.5  # seconds before a bar that nobody asked for
LOG: Final = logging.getLogger(__name__)
_DEPTH = "PYWREN_NG_INTERNAL_DEPTH"  # set in workers: a task's own executors draw nothing


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a job is. `total` is None while its length is not known."""

    total: int | None
    done: int
    running: int  # sent out; a worker may have several before it
    failed: int  # of those done
    cancelled: int
    retried: int
    is_over: bool  # nothing more will come of it


class Watched(Protocol):
    """What a bar looks at."""

    title: str

    def counts(self) -> Counts:
        """How far it is; any thread may ask."""
        ...

    def ended(self) -> object:
        """What came of it, as a line."""
        ...


class Together:
    """Single tasks that are one thing to who looks, such as a step of a sort."""

    def __init__(self, title: str, futures: Sequence[Future[Any]]) -> None:
        self.title = title
        self._futures = futures
        self._begun = time.monotonic()

    def counts(self) -> Counts:
        """How far they are; what failed is not looked at, as whoever submitted them tells of it."""
        done = sum(future.done() for future in self._futures)
        cancelled = sum(future.cancelled() for future in self._futures)
        running = sum(future.running() for future in self._futures)
        return Counts(len(self._futures), done - cancelled, running, 0, cancelled, 0, done == len(self._futures))

    def ended(self) -> str:
        """What they took."""
        number = len(self._futures)
        return f"{self.title}: {number:,} task{'s' * (number != 1)} in {time.monotonic() - self._begun:.2f} s"


def is_in_worker() -> bool:
    """Whether this process runs an executor's tasks: then nobody looks, and nobody is told."""
    return int(os.environ.get(_DEPTH, "0")) > 0


def is_watched() -> bool:
    """Whether a person sees what this process draws: stderr is a terminal, or a notebook shows it."""
    if _is_notebook():
        return True
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


def _is_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())


class Bars:
    """The bars of one executor. `wanted`: True for every job, None if somebody is looking, False for none."""

    def __init__(self, wanted: bool | None, workers: int = 1 << 30) -> None:
        self.wanted: bool = not is_in_worker() and (is_watched() if wanted is None else wanted)
        self._workers = workers  # more tasks than these are not running, wherever they are
        self._patience = 0.0 if wanted else _PATIENCE
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._shown: list[_Bar] = []
        self._thread: threading.Thread | None = None
        self._is_drawing = False  # whether the thread has more to do

    def watch(self, watched: Watched) -> None:
        """Show a job from now until it is over; if it is shown already, show how it is now.

        Whoever has waited for a job says so here, so that its bar is at its end before the next line is printed.
        """
        if not self.wanted or self._closed.is_set():
            return
        with self._lock:
            bar = next((bar for bar in self._shown if bar.watched is watched), None)
            counts = watched.counts()
            if bar is None and not counts.is_over:
                bar = _Bar(watched, self._workers, begun=time.monotonic(), before=counts.done)
                self._shown.append(bar)
                self._begin()
            if bar is not None:
                self._look(bar)

    def _begin(self) -> None:
        if not self._is_drawing:
            self._is_drawing = True
            self._thread = threading.Thread(target=self._run, name="pywren-progress", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Bring every bar up to date for the last time, and end the thread."""
        self._closed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            is_last = self._closed.wait(_INTERVAL)
            with self._lock:
                for bar in list(self._shown):
                    self._look(bar, is_last=is_last)
                self._is_drawing = bool(self._shown)
                if not self._is_drawing:
                    return

    def _look(self, bar: "_Bar", *, is_last: bool = False) -> None:
        counts, now = bar.watched.counts(), time.monotonic()
        if bar.drawn is not None or now >= bar.begun + self._patience:
            bar.draw(counts, now)
        if counts.is_over or is_last:
            bar.close(is_over=counts.is_over)
            self._shown.remove(bar)


@dataclass(slots=True, eq=False)
class _Bar:
    """One job's bar; `drawn` is tqdm's, once there is something to see."""

    watched: Watched
    workers: int
    begun: float  # on the monotonic clock
    before: int  # tasks that were done then
    drawn: Any = None

    def draw(self, counts: Counts, now: float) -> None:
        """Bring the bar up to date."""
        with contextlib.suppress(OSError, ValueError):  # stderr is gone: so be it
            if self.drawn is None and counts.total != 0:
                self.drawn = _drawn(self.watched.title, counts.total, self.before)
                self.drawn.start_t -= now - self.begun
            if self.drawn is not None:
                self.drawn.total, self.drawn.n = counts.total, counts.done
                beside = {
                    "running": min(counts.running, self.workers),
                    "failed": counts.failed,
                    "retried": counts.retried,
                    "cancelled": counts.cancelled,
                }
                self.drawn.set_postfix({name: n for name, n in beside.items() if n}, refresh=False)
                self.drawn.refresh()

    def close(self, *, is_over: bool) -> None:
        """Leave the bar as it stands, and say below what came of its job."""
        if self.drawn is not None:
            with contextlib.suppress(OSError, ValueError):
                self.drawn.close()
                if is_over:
                    self.drawn.write(str(self.watched.ended()), file=sys.stderr)  # around the bars of others
        elif is_over and LOG.isEnabledFor(logging.INFO):
            LOG.info("%s", self.watched.ended())


def _drawn(title: str, total: int | None, before: int) -> Any:
    # The mean rate and not the latest one: tasks end in bursts.
    return _kind()(desc=title, total=total, initial=before, unit="task", smoothing=0, mininterval=0)


def _kind() -> Any:
    from importlib import import_module
    from importlib.util import find_spec

    # Without widgets `auto` would choose the plain bar too, but warn first, and import asyncio.
    kind = "tqdm.auto" if _is_notebook() and find_spec("ipywidgets") else "tqdm"

    class Bar(import_module(kind).tqdm):  # type: ignore[misc]
        """Without tqdm's own watching thread, which would outlive the executor."""

        monitor_interval = 0

    return Bar


def uploading(wanted: object) -> Callable[[str, int], AbstractContextManager[Callable[[int], object]]]:
    """What shows how much of an upload has come, to whoever would see the bars of jobs and waits for a second."""
    is_shown = Bars(wanted if wanted is None or isinstance(wanted, bool) else False).wanted

    @contextlib.contextmanager
    def shown(title: str, size: int) -> Iterator[Callable[[int], object]]:
        if not is_shown:
            yield int
            return
        with _kind()(desc=title, total=size, unit="B", unit_scale=True, delay=1, leave=False) as bar:
            yield bar.update

    return shown
