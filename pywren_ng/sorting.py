"""What an executor offers beyond single tasks: sorting data that is larger than any worker's memory.

The work is done in `pywren_shuffle.sort`, to which ours is an executor like any other. Here is decided what follows
from which executor it is: how much of a worker's memory it may use, where intermediate data lies, who asks S3.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pywren_ng.credentials import Chain, has_keys
from pywren_runtime.errors import ConfigError

if TYPE_CHECKING:
    from pywren_shuffle.sort import Sorted

__all__ = ["Premises", "Sorting"]

OWN = 100  # MB of a worker's limit that its interpreter and its libraries take
Place = str | os.PathLike[str]
Places = Place | Iterable[Place]


@dataclass(frozen=True, slots=True)
class Premises:
    """What a sort must know of its executor."""

    backend: str
    store: str  # its URL
    memory: int | None  # MB of each worker, if there is a limit

    @property
    def is_here(self) -> bool:
        """Whether workers see this machine's files."""
        return self.backend in ("local", "inline")


class Sorting:
    """The faces of the sort, mixed into an executor."""

    def _premises(self) -> Premises:
        raise NotImplementedError

    def sort(
        self,
        source: Places,
        target: Place,
        *,
        records: str,
        key: object = None,
        reverse: object = False,
        partitions: int | None = None,
        memory: float | None = None,
        overwrite: bool = False,
    ) -> "Sorted":
        """Sort all records at `source` into parts at `target`; return what was done, proven to be right.

        A place is a path or an `s3://` URL: an object, a folder, or a pattern such as `s3://bucket/in/*.dat`. `records`
        names their format: `"fixed:100:10"` (100 bytes, the first 10 are the key), `"text"`, `"rows"`, `"table"`; `key`
        and `reverse` are as for `sorted`, where the format has use for them. The sort is stable.

        `memory` is what each worker may use for data, in MB; the number of splits follows from it. `partitions` is the
        number of parts. A target in use is an error unless `overwrite=True`, which removes the parts of earlier sorts.
        """
        from pywren_shuffle.sort import sort

        premises = self._premises()
        places = [source] if isinstance(source, str | os.PathLike) else list(source)
        to = _seen(target, premises)
        apart = premises.store if premises.store.startswith("s3:") and to.startswith("s3:") else None
        return sort(
            cast(Executor, self),
            [_seen(place, premises) for place in places],
            to,
            records=records,
            key=key,
            reverse=reverse,
            partitions=partitions,
            memory=_memory(memory, premises),
            overwrite=overwrite,
            intermediate=apart,
        )

    def submit_sort(
        self,
        source: Places,
        target: Place,
        *,
        records: str,
        key: object = None,
        reverse: object = False,
        partitions: int | None = None,
        memory: float | None = None,
        overwrite: bool = False,
    ) -> "Future[Sorted]":
        """The same as `sort`, without waiting: a future of its result. It cannot be cancelled once it runs."""
        run = functools.partial(
            self.sort,
            source,
            target,
            records=records,
            key=key,
            reverse=reverse,
            partitions=partitions,
            memory=memory,
            overwrite=overwrite,
        )
        future: Future[Sorted] = Future()
        future.set_running_or_notify_cancel()
        # Not a daemon: the interpreter waits for it, as it does for every task of an executor.
        threading.Thread(target=_drive, args=(run, future), name="pywren-sort").start()
        return future


def _drive(run: "Callable[[], Sorted]", future: "Future[Sorted]") -> None:
    try:
        future.set_result(run())
    except BaseException as error:
        future.set_exception(error)


def _memory(asked: float | None, premises: Premises) -> float | None:
    if asked is not None or premises.memory is None:
        return asked
    if premises.memory <= OWN:
        raise ConfigError(
            f"memory={premises.memory} MB is too little for a worker that sorts: it takes about {OWN} before it reads"
            " anything. Give the executor more, as memory=512."
        )
    return premises.memory - OWN


def _seen(place: Place, premises: Premises) -> str:
    """The place as a worker can reach it."""
    text = os.fspath(place)
    if not text.startswith("s3:"):
        if not premises.is_here:
            raise ConfigError(
                f"{text!r} lies on this machine, where no worker of the backend {premises.backend!r} can see it: copy"
                " it to S3, or sort with Executor('local')."
            )
        return text
    if has_keys(os.environ) or not premises.is_here:
        return text
    from pywren_runtime.stores.s3_settings import parse

    # The client's own ways to credentials and region, which a worker does not have.
    head, mark, options = text.rpartition("?")
    bucket = "/".join((head or text).split("/")[:3])
    settings = parse(bucket + mark + options if mark else bucket, os.environ)
    region = None if settings.names_region else Chain().region()
    added = settings.url_with(region=region, asks_client=True).partition("?")[2]
    return f"{head or text}?{added}"
