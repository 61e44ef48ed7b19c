"""What every test runs under: nothing may be skipped where it counts."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

STRICT = os.environ.get("TESTS_STRICT", os.environ.get("CI", "0")).lower() in ("1", "true")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    """A skip is a convenience on a laptop; in strict runs it is a failure, and so is any expected failure."""
    report = yield
    if STRICT and (report.skipped or hasattr(report, "wasxfail")):
        refuse(report, getattr(report, "wasxfail", None))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[Any]:
    """The same for a file that skips itself while it is imported."""
    report = yield
    if STRICT and report.skipped:
        refuse(report, None)
    return report


def refuse(report: Any, expected: str | None) -> None:
    """Turn a skipped or expectedly failing report into a failed one that says so."""
    why = f"expected failure ({expected})" if expected is not None else f"skip ({report.longrepr})"
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: {why} is a failure in a strict run (CI=true or TESTS_STRICT=1)"
    if expected is not None:
        del report.wasxfail


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say the counts that must be zero, also when they are."""
    stats = terminalreporter.stats
    expected = len(stats.get("xfailed", [])) + len(stats.get("xpassed", []))
    skipped = len(stats.get("skipped", []))
    terminalreporter.line(f"skipped: {skipped}, expected failures: {expected}, strict: {STRICT}")
