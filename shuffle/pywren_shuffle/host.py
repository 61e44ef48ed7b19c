"""What a sort asks of its executor beyond `submit`, and how one ends whose tasks still run.

interrupted ──► cancel, stop ──► all over at once? ──► everything is removed
                                    └─ no ──► a mark: `shuffles/<id>/over` ──► everything is removed
                                                 ├─► as soon as all are over: once more, and the mark, too
a worker that nobody hears of ──► writes ──► is there a mark? ──► it removes what it wrote
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from signal import SIGINT
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pywren_runtime.stores import Store, open_store
from pywren_shuffle.places.exchange import Exchange

if TYPE_CHECKING:
    from pywren_shuffle.planning.terms import Workers

__all__ = ["Host", "halt", "heed", "host_of", "later", "over_key", "submit_all"]

GRACE: Final = 0.5  # seconds for which an interrupted sort waits for what runs

T = TypeVar("T")
R = TypeVar("R")
Futures = Sequence[Future[Any]]


def _no_stop(futures: Futures) -> None:
    """What runs in a pool of the standard library's cannot be stopped."""


def _unseen(title: str, futures: Futures) -> Callable[[], object]:
    """Nobody looks."""
    return lambda: None


@dataclass(frozen=True, slots=True)
class Host:
    """What our own executors say of themselves in the attribute `_host`; any other is as the defaults say."""

    stop: Callable[[Futures], None] = _no_stop  # settles them all
    lingers: bool = False  # a worker that was stopped may go on for a while, and nobody hears when it is over
    open_store: Callable[[str], Store] = open_store  # with what only the driver has, such as a profile
    workers: "Workers | None" = None  # what they can do and cost, where that is known
    show: Callable[[str, Futures], Callable[[], object]] = _unseen  # to a person; gives what to call once all are over


def host_of(executor: Executor) -> Host:
    """The host of an executor."""
    found = getattr(executor, "_host", None)
    return found if isinstance(found, Host) else Host()


def over_key(id: str) -> str:
    """What lies there once a sort was given up while its tasks ran."""
    return f"shuffles/{id}/over"


def submit_all(executor: Executor, run: Callable[[T], R], tasks: Iterable[T], futures: list[Future[R]]) -> None:
    """Submit a task for each, and note its future before Ctrl-C is heard: what nobody knows of, nobody stops."""
    with _unbroken() as heard:
        for task in tasks:
            futures.append(executor.submit(run, task))
            if heard:
                break


@contextlib.contextmanager
def _unbroken() -> Iterator[list[Any]]:
    """A stretch that Ctrl-C does not cut in two: what it gives is not empty any more, and the end raises."""
    heard: list[Any] = []
    if threading.current_thread() is not threading.main_thread() or not callable(before := signal.getsignal(SIGINT)):
        yield heard
        return
    signal.signal(SIGINT, lambda *what: heard.append(what))
    try:
        yield heard
    finally:
        signal.signal(SIGINT, before)
    if heard:
        before(*heard[0])


def halt(host: Host, futures: Futures, error: BaseException) -> list[Future[Any]]:
    """Cancel what waits, and stop what runs; which of these may still write.

    After an interrupt, that is known at once. After any other error all are over when this returns: nobody waits for it
    at a prompt, and what is over needs no mark.
    """
    for future in futures:
        future.cancel()
    running = [future for future in futures if not future.done()]
    if isinstance(error, Exception):
        if not host.lingers:
            host.stop(running)
        wait(running)
        return []
    host.stop(running)
    late = wait(running, timeout=GRACE).not_done
    return running if host.lingers else list(late)


def later(futures: Futures, run: Callable[[], object]) -> None:
    """Run something once these are over; the caller goes on, and the interpreter does not end before."""

    def wait_and_run() -> None:
        wait(futures)
        run()

    with contextlib.suppress(RuntimeError):  # the interpreter ends already: `pywren-ng clean` finds what is left
        threading.Thread(target=wait_and_run, name="pywren-sort-end").start()


def heed(exchange: Exchange, store: str, over: str, written: Iterable[tuple[str, str]]) -> None:
    """In a worker that lingers, after it has written: if the sort is over, nobody will remove that but itself.

    Whoever gives up puts the mark before it lists what is to go: so either this one sees the mark, or that one what
    was written.
    """
    if over and exchange.is_there(store, over):
        for place, key in written:
            exchange.delete(place, [key])
