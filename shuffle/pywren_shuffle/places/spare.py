"""What becomes of a sort whose intermediate data lies in a store that may lose it, as the memory of a Redis server.

partition ──► the tier ── refuses, is full, is not there ──► the spare place: beside the output, or a bucket
merge     ◄── the tier ── a block is gone ──► `lost` ──► driver: which are? ──► made once more, in the spare place
                                                └─► what could not be merged, once more
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, runtime_checkable

from pywren_runtime.errors import ShuffleCorrupt, ShuffleError, StoreError
from pywren_runtime.stores import Buffer
from pywren_shuffle.places.exchange import Exchange

__all__ = ["BlocksLost", "Kept", "Room", "Roomy", "kept", "missing", "put_kept", "said"]

T = TypeVar("T")
_SHOWN: Final = 400  # characters of a reason


class BlocksLost(ShuffleError):
    """What a phase should read is not there any more, or not as it was written; the driver knows what to do."""


class Room(Protocol):
    """What a store says of its memory."""

    @property
    def bytes(self) -> int | None:
        """How many may be put there; None if nobody knows."""
        ...

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why that may not hold, for the user."""
        ...

    @property
    def servers(self) -> int:
        """Over how many of them keys spread."""
        ...

    @property
    def processes(self) -> int | None:
        """How many may be connected at once; None if nobody knows."""
        ...


@runtime_checkable
class Roomy(Protocol):
    """A store that holds only so much, and may lose what it holds."""

    def room(self) -> Room:
        """StoreError if it cannot be asked."""
        ...


@dataclass(frozen=True, slots=True)
class Kept:
    """Where something was put, and why not where it should."""

    store: str
    notice: str = ""


# ── in a worker ──


def put_kept(exchange: Exchange, store: str, spare: str, key: str, chunks: Callable[[], Iterable[Buffer]]) -> Kept:
    """Put it at `store`, or if that does not take it, at `spare`; without a spare place, its error comes out."""
    try:
        exchange.put(store, key, chunks())
        return Kept(store)
    except StoreError as error:
        if not spare:
            raise
        notice = said(error)
    exchange.put(spare, key, chunks())
    return Kept(spare, notice)


def kept(batches: Iterator[T]) -> Iterator[T]:
    """The same, but what cannot be read is BlocksLost, and so told from what cannot be written."""
    try:
        yield from batches
    except (StoreError, ShuffleCorrupt) as error:
        raise BlocksLost(said(error)) from error


# ── in the driver ──


def missing(exchange: Exchange, store: str, sizes: dict[str, int]) -> list[str]:
    """Which of these keys have nothing there, or less than their size: all, if the store cannot be asked.

    If none seems to be missing all are doubtful, for somebody has found one that is not as it was written.
    """
    try:
        lie = dict(exchange.keys(store, "shuffles/"))
    except StoreError:
        return list(sizes)
    return [key for key, size in sizes.items() if lie.get(key) != size] or list(sizes)


def said(error: BaseException) -> str:
    """An error's words, as far as somebody reads them in the middle of others."""
    text = str(error)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
