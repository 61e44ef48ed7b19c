"""What a type checker sees: mypy and pyright read this file, and nobody runs it.

Lines that are wrong on purpose say so: where a checker finds nothing wrong with one, that is an error of its own.
"""

# pyright: basic, reportUnnecessaryTypeIgnoreComment=true

import os
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future
from typing import assert_type

from pandas import DataFrame

from pywren_ng import Executor, Job, PywrenError, TaskTimeout, WorkerLost
from pywren_ng.observers import Attempt, AttemptEnded, Event, JobEnded, JobStarted, TaskSettled
from pywren_ng.pricing import Cost
from pywren_ng.report import AttemptLog, Failures
from pywren_shuffle.group import Reduced
from pywren_shuffle.sort import Sorted


def train(depth: int, rate: float = 0.1, *, name: str = "") -> tuple[int, str]:
    return depth, f"{name}{rate}"


def join(*parts: str) -> str:
    return "".join(parts)


def six(a: int, b: int, c: int, d: int, e: int, f: int) -> bytes:
    return bytes([a, b, c, d, e, f])


class Model:
    def __init__(self, size: int) -> None:
        self.size = size

    def predict(self, x: float) -> float:
        return x * self.size


def submits(ex: Executor) -> None:
    assert_type(ex.submit(train, 3), Future[tuple[int, str]])
    assert_type(ex.submit(train, 3, rate=0.5, name="a").result(), tuple[int, str])
    assert_type(ex.submit(os.getpid), Future[int])
    assert_type(ex.submit(Model, 3), Future[Model])
    assert_type(ex.submit(Model(3).predict, 0.5).result(timeout=1.0), float)
    assert_type(ex.submit(lambda: "text").result(), str)
    assert_type(ex.options(memory=512).submit(train, 3), Future[tuple[int, str]])
    ex.submit(train, "three")  # type: ignore[arg-type]
    ex.submit(train, 3, size=1)  # type: ignore[call-arg]
    ex.submit(train)  # type: ignore[call-arg]


def maps(ex: Executor) -> None:
    assert_type(ex.map(train, [1, 2]), Job[tuple[int, str]])
    assert_type(ex.map(train, range(3), [0.1, 0.2, 0.3]), Job[tuple[int, str]])
    assert_type(ex.map(Model, range(3)), Job[Model])
    assert_type(ex.map(lambda x: x + 0.5, range(3)), Job[float])
    assert_type(ex.map(lambda x, y: (x, y), range(3), "abc"), Job[tuple[int, str]])
    assert_type(ex.map(join, "a", "b", "c", "d", "e"), Job[str])
    assert_type(ex.map(six, [1], [2], [3], [4], [5], [6]), Job[bytes])
    assert_type(ex.map(train, range(3), timeout=1.0, chunksize=None, buffersize=2), Job[tuple[int, str]])
    assert_type(list(ex.map(train, range(3))), list[tuple[int, str]])
    ex.map(train, ["one"])  # type: ignore[arg-type]
    ex.map(train, range(3), chunksize="2")  # type: ignore[call-overload]


def total(results: Iterator[tuple[int, str]]) -> float:
    return sum(number for number, _ in results) / 2


def words(line: str) -> Iterator[tuple[str, int]]:
    return ((word, 1) for word in line.split())


def count(word: str, ones: Iterator[int]) -> int:
    return sum(ones)


def reductions(ex: Executor) -> None:
    assert_type(ex.map_reduce(train, range(3), total), Future[float])
    assert_type(ex.map_reduce_by_key(words, ["a b", "b"], count), Future[dict[str, int]])
    assert_type(ex.map_reduce_by_key(words, ["a b"], count, output="counts").result(), Reduced[None])
    assert_type(ex.sort("in", "out", records="text"), Sorted)
    assert_type(ex.submit_sort("in", "out", records="text"), Future[Sorted])
    ex.join("in", ["a", "b"], "out", kind="iner")  # type: ignore[arg-type]
    ex.map_reduce(train, ["three"], total)  # type: ignore[arg-type]


def jobs(job: Job[Model]) -> None:
    assert_type(next(job), Model)
    assert_type(iter(job), Iterator[Model])
    assert_type([model.size for model in job], list[int])
    assert_type(job.results(), list[Model])
    assert_type(job.futures, list[Future[Model]])
    assert_type(next(job.as_completed(timeout=1.0)), Future[Model])
    assert_type([future.result() for future in job.as_completed()], list[Model])
    assert_type(job.retry_failed(), Job[Model])
    assert_type(job.errors(), list[Failures])
    assert_type(job.errors()[0].tasks, tuple[int, ...])
    assert_type(job.stats, AttemptLog)
    assert_type(list(job.stats), list[Attempt])
    assert_type(job.stats[0].seconds, float)
    assert_type(job.logs(0), str)
    assert_type(job.cost, Cost | None)
    assert_type(job.to_pandas(), DataFrame)
    assert_type(job.counts, tuple[int, int, int])


async def loops(job: Job[Model]) -> None:
    assert_type([model async for model in job], list[Model])
    assert_type(await anext(job), Model)
    assert_type([future async for future in job.as_completed()], list[Future[Model]])


def observers(event: Event) -> str:
    match event:
        case JobStarted():
            assert_type(event.tasks, int | None)
            return event.name
        case AttemptEnded():
            assert_type(event.attempt, Attempt)
            return event.attempt.ended
        case TaskSettled():
            return event.ending
        case JobEnded():
            assert_type(event.cost, Cost | None)
            return str(event)


def executors() -> None:
    with Executor(max_workers=2, progress=observers, retry_on=(OSError, TaskTimeout)) as ex:
        assert_type(ex, Executor)
        plain: futures.Executor = ex
        assert_type(plain.submit(train, 3), Future[tuple[int, str]])
    Executor(progress=3)  # type: ignore[arg-type]
    Executor(progress=len)  # type: ignore[arg-type]


def errors(error: PywrenError) -> None:
    timed_out: TimeoutError = TaskTimeout("it took too long")
    lost: futures.BrokenExecutor = WorkerLost("it was killed")
    assert_type(str(timed_out) + str(lost) + str(error), str)
