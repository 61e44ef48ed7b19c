"""Who is told how jobs go: a person by a bar, a program by events, everybody else by one line through `logging`.

    engine ─► Teller ─► Shelf                    only where somebody listens (`teller.py`); else the Shelf alone
                 └────► deliver ─► observer, and at the end a line at INFO

The library configures no logging: `logging.basicConfig(level=logging.INFO)` shows the lines.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pywren_ng.progress import LOG, Bars, Together, is_in_worker
from pywren_ng.shelf import Shelf
from pywren_ng.tracker import Watcher

if TYPE_CHECKING:
    from pywren_ng.observers import Observer

__all__ = ["Audience"]

Deliver = Callable[[Callable[[], object]], None]
Look = Callable[[Shelf], object]


class Audience:
    """Of one executor. `wanted`: an observer, or what `Bars` takes."""

    def __init__(self, wanted: "bool | Observer | None", workers: int) -> None:
        self.observer: Observer | None = None
        if callable(wanted) and not is_in_worker():
            from pywren_ng.teller import Guarded

            self.observer = Guarded(wanted)
        self.bars: Bars = Bars(False if callable(wanted) else wanted, workers)

    def attend(self, shelf: Shelf, deliver: Deliver, call: Deliver) -> tuple[Watcher, Look]:
        """A job begins: who is to watch its tasks, and whom to tell whenever it may be over.

        `deliver` runs what is the user's, `call` runs something in turn.
        """
        # Not isEnabledFor: it takes logging's lock the first time, which another thread may hold for long.
        is_logged = not (self.bars.wanted or is_in_worker()) and LOG.getEffectiveLevel() <= logging.INFO
        if self.observer is None and not is_logged:
            return shelf, self.bars.watch
        from pywren_ng.observers import JobStarted
        from pywren_ng.teller import Teller

        teller = Teller(shelf, self.observer, deliver)
        if self.observer is not None:
            deliver(functools.partial(self.observer, JobStarted(shelf.tasks.job, shelf.title, shelf.length)))
        return teller, lambda shelf: call(teller.look)

    def show(self, title: str, futures: Sequence[Future[Any]]) -> Callable[[], object]:
        """A bar for single tasks together; what is given back brings it to its end once they are over."""
        look = functools.partial(self.bars.watch, Together(title, futures))
        look()
        return look
