"""One bar per job, for a person who is looking, and for nobody else.

    Shelf (the engine counts on it) ◄── looks every 0.1 s ── a thread ──► tqdm ──► stderr

The engine knows of no bar and does nothing for one. The thread lives while there are jobs to show, and is joined
when the executor shuts down; tqdm is imported when the first bar is drawn. A job that is done within half a second
shows none, unless bars were asked for.
"""

import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["Bars", "Counts", "Watched", "is_watched"]

_INTERVAL = 0.1  # seconds between two looks
_PATIENCE = 0.5  # seconds before a bar that nobody asked for
_DEPTH = "PYWREN_NG_INTERNAL_DEPTH"  # set in workers: a task's own executors draw nothing


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a job is. `total` is None while its length is not known."""

    total: int | None
    known: int
    done: int
    failed: int  # of those done: failed or cancelled
    retried: int
    is_over: bool  # nothing more will come of it


class Watched(Protocol):
    """What a bar looks at."""

    def counts(self) -> Counts:
        """How far it is; any thread may ask."""
        ...


def is_watched() -> bool:
    """Whether a person sees what this process draws: stderr is a terminal, or a notebook shows it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and "IPKernelApp" in getattr(shell, "config", ()):
        return True
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False


class Bars:
    """The bars of one executor. `wanted`: True for every job, None if somebody is looking, False for none."""

    def __init__(self, wanted: bool | None) -> None:
        self._patience = 0.0 if wanted else _PATIENCE
        self._wanted = wanted is not False and not int(os.environ.get(_DEPTH, "0")) and (wanted or is_watched())
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._shown: list[_Bar] = []
        self._thread: threading.Thread | None = None

    def watch(self, title: str, watched: Watched) -> None:
        """Show a job from now until it is over."""
        if not self._wanted:
            return
        bar = _Bar(title, watched, time.monotonic() + self._patience)
        bar.draw(time.monotonic())
        with self._lock:
            if self._closed.is_set():
                return
            self._shown.append(bar)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pywren-progress", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Draw every bar as it stands now, for the last time, and end the thread."""
        with self._lock:
            self._closed.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_INTERVAL):
            self._look()
            with self._lock:
                if not self._shown:
                    self._thread = None
                    return
        self._look()

    def _look(self) -> None:
        closed = self._closed.is_set()
        with self._lock:
            shown = list(self._shown)
        for bar in shown:
            is_over = bar.draw(time.monotonic())
            if is_over or closed:
                bar.close()
                with self._lock:
                    self._shown.remove(bar)


@dataclass(slots=True, eq=False)
class _Bar:
    """One job's bar; `drawn` is tqdm's, once there is something to see."""

    title: str
    watched: Watched
    begin: float  # not before this time, of the monotonic clock
    drawn: Any = field(default=None)

    def draw(self, now: float) -> bool:
        """Bring the bar up to date. Whether its job is over."""
        counts = self.watched.counts()
        if self.drawn is None:
            if now < self.begin or counts.known == counts.total == 0:
                return counts.is_over
            self.drawn = _drawn(self.title, counts)
        bar = self.drawn
        bar.total, bar.n = counts.total, counts.done
        postfix = {"failed": counts.failed, "retried": counts.retried}
        bar.set_postfix({name: count for name, count in postfix.items() if count}, refresh=False)
        bar.refresh()
        return counts.is_over

    def close(self) -> None:
        if self.drawn is not None:
            self.drawn.close()


def _drawn(title: str, counts: Counts) -> Any:
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]  # which class `auto` is depends on where we are
        """Without tqdm's own watching thread, which would outlive the executor."""

        monitor_interval = 0

    # The mean rate and not the latest one: tasks end in bursts.
    return Bar(desc=title, total=counts.total, initial=counts.done, unit="task", smoothing=0, mininterval=0)
