"""CPython's mix-ins, made into test cases for one executor.

The bodies are CPython's. Adapted, for executors that are not the standard library's:

- `test_shutdown` runs scripts that say `from concurrent.futures import NAME`; that line is rewritten to
  import the executor under test by that name. (They run with `-I`, so it puts this folder on the path.)
- Tests that name `futures.ProcessPoolExecutor` outright get the executor under test instead: otherwise they
  would pass without having touched it.
- The failing initializer's test reads `_broken` and the standard library's log; ours asks `submit` instead.
- The workers are started before a test begins: the tests of `wait` presume that a trivial call ends within
  1.5 seconds.

The standard library's own executors run the tests as they stand, which shows that the harness is sound.
"""

import concurrent.futures
import functools
import multiprocessing
import re
import time
import unittest
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path
from typing import Any
from unittest import mock

import reference
from executors import Subject

FOLDER = Path(__file__).resolve().parent
IMPORT_LINE = re.compile(r"from concurrent\.futures import (\w+)")


class Adapted:
    """Goes before CPython's `ExecutorMixin`: says which executor to make, and has its workers started."""

    subject: Subject
    executor: Any
    executor_type: Callable[..., Executor]
    worker_count: int
    addCleanup: Callable[..., None]  # noqa: N815
    warm = True

    def setUp(self) -> None:
        if not self.subject.standard:
            self._name_the_executor()
        super().setUp()  # type: ignore[misc]
        if self.warm and not self.subject.standard:
            concurrent.futures.wait([self.executor.submit(time.sleep, 0.2) for _ in range(self.worker_count)])

    def get_context(self) -> Any:
        """CPython's name for "multiprocessing's start method", which only its own pool has."""
        return self.subject.start_method and multiprocessing.get_context(self.subject.start_method)

    def _name_the_executor(self) -> None:
        shutdown = reference.module_of("ExecutorShutdownTest")
        # A partial, so as not to equal `executor_type`: one test skips itself where the two are equal.
        stand_in = functools.partial(self.subject.make)
        for patch in (
            mock.patch.object(concurrent.futures, "ProcessPoolExecutor", stand_in),
            mock.patch.object(shutdown, "assert_python_ok", rewriting(shutdown.assert_python_ok, self.subject)),
        ):
            patch.start()
            self.addCleanup(patch.stop)


def rewriting(assert_python_ok: Callable[..., Any], subject: Subject) -> Callable[..., Any]:
    """CPython's runner of scripts, with the scripts' import line replaced by one that imports `subject`."""
    source = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); from executors import {subject.make.__name__}"

    def run(*arguments: str) -> Any:
        # A function, not a template: a folder's name may hold backslashes.
        scripts = [IMPORT_LINE.sub(lambda line: f"{source} as {line[1]}", argument) for argument in arguments]
        if scripts == list(arguments):
            raise AssertionError("CPython's script no longer imports its executor by the line we rewrite")
        return assert_python_ok(*scripts)

    return run


class FailingInitializer(Adapted):
    """CPython's test by public means: `submit` tells that the executor is broken, not `_broken` and a log."""

    warm = False
    assertRaises: Callable[..., Any]  # noqa: N815

    def test_initializer(self) -> None:
        try:
            future = self.executor.submit(abs, -1)
        except BrokenExecutor:
            pass
        else:
            with self.assertRaises(BrokenExecutor):
                future.result(timeout=60)
        for _ in range(500):
            try:
                self.executor.submit(abs, -1)
            except BrokenExecutor:
                return
            time.sleep(0.01)
        raise AssertionError("submit() still accepts work 5 s after the initializer failed")


class Unwarmed(Adapted):
    """For initializers: a task before the test would use up what the test wants to see."""

    warm = False


COMMON = {
    "Submit": "ExecutorTest",
    "Wait": "WaitTests",
    "AsCompleted": "AsCompletedTests",
    "Shutdown": "ExecutorShutdownTest",
    "Initializer": "InitializerMixin",
    "FailingInitializer": "FailingInitializerMixin",
}
PROCESSES = {
    "Submit": "ProcessPoolExecutorTest",
    "Shutdown": "ProcessPoolShutdownTest",
    "Crash": "ExecutorDeadlockTest",
}
THREADS = {
    "Submit": "ThreadPoolExecutorTest",
    "Wait": "ThreadPoolWaitTests",
    "Shutdown": "ThreadPoolShutdownTest",
}


def adaptation(name: str, subject: Subject) -> type:
    """What goes before CPython's class in the case called `name`."""
    if name == "FailingInitializer":
        return Unwarmed if subject.standard else FailingInitializer
    return Unwarmed if name == "Initializer" else Adapted


def build(subject: Subject) -> Iterator[type[unittest.TestCase]]:
    """One test case per subject area; the pool's own tests, where there are some, include the common ones."""
    mixin, base = reference.load("ExecutorMixin"), reference.load("BaseTestCase")
    for name, common in (COMMON | (THREADS if subject.threads else PROCESSES)).items():
        theirs = reference.load(common)
        bases = [adaptation(name, subject), theirs]
        bases += [each for each in (mixin, base) if not issubclass(theirs, each)]
        body: dict[str, Any] = {"TIMEOUT": 60}
        body |= {"subject": subject, "executor_type": staticmethod(subject.make)}
        if subject.start_method:
            body["ctx"] = subject.start_method
        if hasattr(theirs, "_test_traceback"):
            # A class method that one test submits: bound to CPython's class, so that a worker can import it.
            body["_test_traceback"] = theirs._test_traceback
        if not subject.threads and name == "Shutdown":
            # The thread pool's own, but it needs nothing of a thread pool.
            body["test_cancel_futures_wait_false"] = vars(reference.load("ThreadPoolShutdownTest"))[
                "test_cancel_futures_wait_false"
            ]
        yield type(name, tuple(bases), body)
