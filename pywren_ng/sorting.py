"""What an executor offers beyond single tasks: sorting data that is larger than any worker's memory.

The work is done in `pywren_shuffle.sort`, to which ours is an executor like any other. Here is decided what follows
from which executor it is: how much of a worker's memory it may use, where intermediate data lies, who asks S3.
"""

import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar, cast

from pywren_ng.credentials import Access, as_told
from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import without_password

if TYPE_CHECKING:
    from pywren_runtime.stores import Store
    from pywren_shuffle.host import Host
    from pywren_shuffle.planning.plan import Plan
    from pywren_shuffle.planning.words import Written
    from pywren_shuffle.sort import Sorted

__all__ = ["Place", "Places", "Premises", "Sorting", "all_seen", "between", "in_background", "parted", "seen", "usable"]

OWN = 100  # MB of a worker's limit that its interpreter and its libraries take
P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Place = str | os.PathLike[str]
Places: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Written"


@dataclass(frozen=True, slots=True)
class Premises:
    """What a sort must know of its executor."""

    backend: str
    store: str  # its URL
    memory: int | None  # MB of each worker, if there is a limit
    access: Access  # of the client's, which workers elsewhere do not have
    stop: Callable[[Sequence[Future[Any]]], None]  # also what runs
    workers: int  # at once
    arch: str  # of the processors that are paid for, if any are
    show: Callable[[str, Sequence[Future[Any]]], Callable[[], object]]  # tasks, to a person who looks

    @property
    def is_here(self) -> bool:
        """Whether workers see this machine's files."""
        return self.backend in ("local", "inline")

    @property
    def place(self) -> str:
        """The executor's store as a worker can reach it."""
        return self.store if self.is_here else _without_client(self.store)


def in_background(run: Callable[[], T]) -> Future[T]:
    """A future of what is run in a thread, for which the interpreter waits, as for every task of an executor."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    threading.Thread(target=_drive, args=(run, future), name="pywren-shuffle").start()
    return future


def _drive(run: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(run())
    except BaseException as error:
        future.set_exception(error)


def _submitting(
    run: Callable[Concatenate[S, P], T],
) -> Callable[[Callable[..., object]], Callable[Concatenate[S, P], Future[T]]]:
    """Makes a method that does the same without waiting, by the name and with the text of what it decorates."""

    def named(by: Callable[..., object]) -> Callable[Concatenate[S, P], Future[T]]:
        def submit(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
            return in_background(functools.partial(run, self, *args, **kwargs))

        functools.update_wrapper(submit, by, ("__module__", "__name__", "__qualname__", "__doc__"))
        own = inspect.signature(run)  # whose parameters `help` shows
        submit.__signature__ = own.replace(return_annotation=f"Future[{own.return_annotation}]")  # type: ignore[attr-defined]
        return submit

    return named


class Sorting:
    """The faces of the sort, mixed into an executor."""

    def _premises(self) -> Premises:
        raise NotImplementedError

    @property
    def _host(self) -> "Host":
        from pywren_shuffle.host import Host
        from pywren_shuffle.planning.terms import lambda_workers

        premises = self._premises()
        opener, memory = _opener(premises, cast(Executor, self)), premises.memory or 0
        workers = lambda_workers(premises.workers, memory, premises.arch) if premises.arch else None
        return Host(premises.stop, not premises.is_here, opener, workers, premises.show)

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
        intermediate: str | None = None,
    ) -> "Sorted":
        """Sort all records at `source` into parts at `target`; return what was done, proven to be right.

        A place is a path or an `s3://` URL: an object, a folder with all below it, or a pattern such as
        `s3://bucket/in/**/*.dat`. `source` may be several, in that order, or the result of an earlier step; an object
        that is named twice is read once. `records` says what lies there: `"text"` (lines), `"rows"` (Python objects, in
        files that `pywren_shuffle.records.rows_records.dump` makes), `"table:country,-time"` (Parquet files, by these
        columns), `"fixed:100:10"` (100 bytes, the first 10 are the key). `key` and `reverse` are as for `sorted`, but
        for tables, of which `key` names columns. The sort is stable.

        `memory` is what each worker may use for data, in MB; the number of splits follows from it. `partitions` is the
        number of parts. A target in use is an error unless `overwrite=True`, which removes the parts of earlier sorts.

        `intermediate` is where data lies between the phases, if not beside the output: `redis://host`, `rediss://host`,
        `redis+cluster://host`, an S3 prefix or a folder. What Redis does not take or loses is made again beside the
        output, and `notices` of the result say so. Workers find its password in REDISCLI_AUTH, on Lambda by
        `pywren-ng setup --redis-password`.
        """
        places, to, usable_memory, lies, apart = self._given(source, target, memory, intermediate)
        self._begin(records, places)
        from pywren_shuffle.sort import sort

        found = sort(
            cast(Executor, self),
            places,
            to,
            records=records,
            key=key,
            reverse=reverse,
            partitions=partitions,
            memory=usable_memory,
            overwrite=overwrite,
            intermediate=lies,
            spare=apart,
        )
        # Under the names that the caller would use, and not those that workers need.
        if to.startswith("s3:"):
            own = parted(os.fspath(target))[1]
            found = replace(found, parts=tuple(parted(part)[0] + own for part in found.parts))
        return found

    def plan_sort(
        self,
        source: Places,
        target: Place,
        *,
        records: str,
        key: object = None,
        reverse: object = False,
        partitions: int | None = None,
        memory: float | None = None,
        intermediate: str | None = None,
    ) -> "Plan":
        """How `sort` would do it, and what that would take: `print` it. Nothing is written, and little is read.

        What is read are sizes, and what a format must know of its inputs beforehand, such as a schema. The result of a
        sort has its plan, too, with what came of it.
        """
        from pywren_shuffle.sort import plan_sort

        places, to, usable_memory, lies, apart = self._given(source, target, memory, intermediate)
        return plan_sort(
            cast(Executor, self),
            places,
            to,
            records=records,
            key=key,
            reverse=reverse,
            partitions=partitions,
            memory=usable_memory,
            intermediate=lies,
            spare=apart,
        )

    def _begin(self, records: str, places: Sequence[str]) -> None:
        """Let workers of this machine start and import while this process still imports."""
        premises = self._premises()
        if premises.backend == "local":
            from pywren_shuffle.early import begin

            begin(cast(Executor, self), records, places, premises.workers)

    def _given(
        self, source: Places, target: Place, memory: float | None, intermediate: str | None
    ) -> tuple[list[str], str, float | None, str | None, str | None]:
        """Places as workers reach them, MB for data; where intermediate data lies, and what does not lie there."""
        premises = self._premises()
        to = seen(target, premises)
        apart = premises.place if premises.store.startswith("s3:") and to.startswith("s3:") else None
        lies = None if intermediate is None else between(intermediate, premises)
        return all_seen(source, premises), to, usable(memory, premises), lies, apart

    @_submitting(sort)
    def submit_sort(self) -> None:  # its parameters are those of `sort`
        """The same as `sort`, without waiting: a future of its result, which is not cancelled."""


def between(place: str, premises: Premises) -> str:
    """Where intermediate data is to lie, as a worker can reach it."""
    if not place.startswith("redis"):
        from pywren_shuffle.places.inputs import store_url

        return store_url(seen(place, premises))
    from pywren_runtime.stores.redis_settings import PASSWORD, parse

    bare = without_password(place)
    if bare != place:
        way = f"put it into {PASSWORD} before you make the executor"
        if not premises.is_here:
            way = "give it to the functions: pywren-ng setup --redis-password"
        raise ConfigError(f"the password in the URL of {bare} would not come to workers: leave it out, and {way}.")
    parse(place)  # here, and not in a worker
    return place


def usable(asked: float | None, premises: Premises) -> float | None:
    """How many MB a worker may use for data."""
    if asked is not None or premises.memory is None:
        return asked
    if premises.memory <= OWN:
        raise ConfigError(
            f"memory={premises.memory} MB is too little for a worker that sorts: it takes about {OWN} before it reads"
            " anything. Give the executor more, as memory=512."
        )
    return premises.memory - OWN


def all_seen(source: Places, premises: Premises) -> list[str]:
    """The places of an input, each as a worker can reach it."""
    from pywren_shuffle.planning.words import Written

    if isinstance(source, Written):
        places: Iterable[Any] = source.parts
    elif isinstance(source, str | bytes | os.PathLike) or hasattr(source, "read") or not isinstance(source, Iterable):
        places = [source]  # of which some are none
    else:
        places = source
    return [seen(place, premises) for place in places]


def seen(place: Place, premises: Premises) -> str:
    """The place as a worker can reach it."""
    from pywren_shuffle.places.inputs import store_url

    store_url(place)  # ConfigError for what is none
    text = os.fspath(place)
    if text.startswith("redis"):
        raise ConfigError(
            f"{text.rpartition('@')[2]!r}: neither input nor output lies in Redis; it is for what lies between the"
            " phases (intermediate=). Name a folder or an s3:// URL."
        )
    if not text.startswith("s3:"):
        if not premises.is_here:
            raise ConfigError(
                f"{text!r} lies on this machine, where no worker of the backend {premises.backend!r} can see it: copy"
                " it to S3, or sort with Executor('local')."
            )
        return text
    head, options = parted(text)
    bucket = "/".join(head.split("/")[:3])
    told = as_told(bucket + options, premises.access)[0]
    if not premises.is_here:
        told = _without_client(told)
    return head + told[len(bucket) :]


def parted(place: str) -> tuple[str, str]:
    """A place, and its options if it has any: a pattern may have a question mark, too."""
    head, mark, options = place.rpartition("?")
    return (head, mark + options) if mark and "=" in options else (place, "")


def _without_client(url: str) -> str:
    """The same place for a worker elsewhere, which has its own role and not the client's credentials."""
    head, _, query = url.partition("?")
    options = [option for option in query.split("&") if option.partition("=")[0] not in ("", "credentials", "profile")]
    return "?".join(filter(None, (head, "&".join(options))))


def _opener(premises: Premises, executor: Executor) -> "Callable[[str], Store]":
    """How the driver opens a place that was named for workers: as the client, or through one of them."""

    def open_store(url: str) -> "Store":
        from pywren_runtime import stores

        if url.startswith("redis") and not premises.is_here:
            from pywren_shuffle.places.afar import Afar

            return Afar(url, executor)
        if not url.startswith("s3:"):
            return stores.open_store(url)
        from pywren_runtime.stores.s3_store import S3Store

        return S3Store(url, credentials=as_told(url, premises.access)[1])

    return open_store
