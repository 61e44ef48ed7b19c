"""One bar per job, for a person who is looking, and for nobody else.

    Shelf (the engine counts on it) ◄── looks every 0.1 s ── a thread ──► tqdm ──► stderr

The engine knows of no bar and does nothing for one. The thread lives while there are jobs to show, and is
joined when the executor shuts down; tqdm is imported when the first bar is drawn. A job that is done within
half a second shows none, unless bars were asked for.
"""

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Bars", "Counts", "Watched", "is_watched"]

_INTERVAL = 0.1  # seconds between two looks
_PATIENCE = 0.5  # seconds before a bar that nobody asked for
_DEPTH = "PYWREN_NG_INTERNAL_DEPTH"  # set in workers: a task's own executors draw nothing


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a job is. `total` is None while its length is not known."""

    total: int | None
    done: int
    failed: int  # of those done
    cancelled: int
    retried: int
    is_over: bool  # nothing more will come of it


class Watched(Protocol):
    """What a bar looks at."""

    def counts(self) -> Counts:
        """How far it is; any thread may ask."""
        ...


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

    def __init__(self, wanted: bool | None) -> None:
        in_worker = int(os.environ.get(_DEPTH, "0")) > 0
        self._wanted = not in_worker and (is_watched() if wanted is None else wanted)
        self._patience = 0.0 if wanted else _PATIENCE
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._shown: list[_Bar] = []
        self._thread: threading.Thread | None = None
        self._is_drawing = False  # whether the thread has more to do

    def watch(self, title: str, watched: Watched) -> None:
        """Show a job from now until it is over; if it is shown already, show how it is now.

        Whoever has waited for a job says so here, so that its bar is at its end before the next line is printed.
        """
        if not self._wanted or self._closed.is_set():
            return
        with self._lock:
            bar = next((bar for bar in self._shown if bar.watched is watched), None)
            counts = watched.counts()
            if bar is None and not counts.is_over:
                bar = _Bar(title, watched, begun=time.monotonic(), before=counts.done)
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
            bar.close()
            self._shown.remove(bar)


@dataclass(slots=True, eq=False)
class _Bar:
    """One job's bar; `drawn` is tqdm's, once there is something to see."""

    title: str
    watched: Watched
    begun: float  # on the monotonic clock
    before: int  # tasks that were done then
    drawn: Any = None

    def draw(self, counts: Counts, now: float) -> None:
        """Bring the bar up to date."""
        with contextlib.suppress(OSError, ValueError):  # stderr is gone: so be it
            if self.drawn is None and counts.total != 0:
                self.drawn = _drawn(self.title, counts.total, self.before)
                self.drawn.start_t -= now - self.begun
            if self.drawn is not None:
                self.drawn.total, self.drawn.n = counts.total, counts.done
                trouble = {
                    "failed": counts.failed,
                    "retried": counts.retried,
                    "cancelled": counts.cancelled,
                }
                self.drawn.set_postfix({name: n for name, n in trouble.items() if n}, refresh=False)
                self.drawn.refresh()

    def close(self) -> None:
        """Leave the bar as it stands, and go to the next line."""
        if self.drawn is not None:
            with contextlib.suppress(OSError, ValueError):
                self.drawn.close()


def _drawn(title: str, total: int | None, before: int) -> Any:
    from importlib import import_module
    from importlib.util import find_spec

    # Without widgets `auto` would choose the plain bar too, but warn first, and import asyncio.
    kind = "tqdm.auto" if _is_notebook() and find_spec("ipywidgets") else "tqdm"

    class Bar(import_module(kind).tqdm):  # type: ignore[misc]
        """Without tqdm's own watching thread, which would outlive the executor."""

        monitor_interval = 0

    # The mean rate and not the latest one: tasks end in bursts.
    return Bar(desc=title, total=total, initial=before, unit="task", smoothing=0, mininterval=0)
