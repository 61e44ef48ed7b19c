"""CPython's own tests of `concurrent.futures`, wherever this Python keeps them.

3.12 and later ship a package, `test.test_concurrent_futures`; 3.11 ships the same classes in one file.
"""

import importlib
from types import ModuleType
from typing import Any

PACKAGE = "test.test_concurrent_futures"

HOMES = {
    "BaseTestCase": "util",
    "ExecutorMixin": "util",
    "ExecutorTest": "executor",
    "WaitTests": "test_wait",
    "AsCompletedTests": "test_as_completed",
    "ExecutorShutdownTest": "test_shutdown",
    "InitializerMixin": "test_init",
    "FailingInitializerMixin": "test_init",
    "ProcessPoolExecutorTest": "test_process_pool",
    "ProcessPoolShutdownTest": "test_shutdown",
    "ExecutorDeadlockTest": "test_deadlock",
    "ThreadPoolExecutorTest": "test_thread_pool",
    "ThreadPoolWaitTests": "test_wait",
    "ThreadPoolShutdownTest": "test_shutdown",
}


def module_of(name: str) -> ModuleType:
    """The module in which CPython defines the class `name`."""
    tests = importlib.import_module(PACKAGE)
    if hasattr(tests, "__path__"):
        return importlib.import_module(f"{PACKAGE}.{HOMES[name]}")
    return tests


def load(name: str) -> Any:
    """CPython's test class (or mix-in) called `name`."""
    return getattr(module_of(name), name)
