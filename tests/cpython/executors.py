"""The executors that the harness can test, each called as CPython's tests do: number of workers first.

The scripts that `test_shutdown` starts import this module too, so it imports an executor only to make one.
"""

from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

Initializer = Callable[..., object]


def pywren(
    max_workers: int | None = None,
    *,
    mp_context: None = None,
    initializer: Initializer | None = None,
    initargs: tuple[Any, ...] = (),
) -> Executor:
    """`Executor("local")`; its workers are not multiprocessing's, so `mp_context` is taken and dropped."""
    from pywren_ng import Executor as PywrenExecutor

    return PywrenExecutor("local", max_workers=max_workers, initializer=initializer, initargs=initargs)


def pywren_lambda(
    max_workers: int | None = None,
    *,
    mp_context: None = None,
    initializer: Initializer | None = None,
    initargs: tuple[Any, ...] = (),
) -> Executor:
    """`Executor("lambda")` on the deployment that the environment names: see `on_lambda`."""
    from pywren_ng import Executor as PywrenExecutor

    return PywrenExecutor("lambda", max_workers=max_workers, initializer=initializer, initargs=initargs)


def local_aws() -> AbstractContextManager[object]:
    """The surroundings of `pywren_lambda`."""
    from on_lambda import local_deployment

    return local_deployment()


def loky(
    max_workers: int | None = None,
    *,
    mp_context: None = None,
    initializer: Initializer | None = None,
    initargs: tuple[Any, ...] = (),
) -> Executor:
    """Joblib's process pool, as a second opinion on the harness."""
    from loky import ProcessPoolExecutor as LokyExecutor

    executor: Executor = LokyExecutor(max_workers, initializer=initializer, initargs=initargs)
    return executor


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An executor under test, and how the tests must be adapted to it."""

    name: str
    make: Callable[..., Executor]
    requirements: tuple[str, ...] = ()
    """What pip must install for it; "." is this repository."""
    surroundings: Callable[[], AbstractContextManager[object]] = nullcontext
    """What must be there while it is tested."""
    exempt: tuple[str, ...] = ()
    """Whose lists of exempt tests hold; only its own if none is named."""
    start_method: str | None = None
    """Multiprocessing's, for the one executor that has one."""
    standard: bool = False
    """Whether it is the standard library's own, which CPython's tests name as it stands."""
    tidy: bool = True
    """Whether threads or processes that a test leaves behind fail it."""
    threads: bool = False
    """Whether it runs tasks in this process, where a test that crashes a worker would crash the harness."""


SUBJECTS = (
    Subject(name="pywren", make=pywren, requirements=(".",)),
    Subject(
        name="pywren-lambda",
        make=pywren_lambda,
        requirements=(".", "awslambdaric", "ministack", "pytest"),
        surroundings=local_aws,
        exempt=("pywren",),  # and nothing more: tasks there behave as they do here
    ),
    # A pool of loky's that broke leaves a thread behind now and then.
    Subject(name="loky", make=loky, requirements=("loky",), tidy=False),
    Subject(name="processes", make=ProcessPoolExecutor, start_method="spawn", standard=True),
    Subject(name="threads", make=ThreadPoolExecutor, standard=True, threads=True),
)


def subject(name: str) -> Subject:
    """The subject called `name`."""
    return next(each for each in SUBJECTS if each.name == name)
