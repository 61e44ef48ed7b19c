"""Runs CPython's own executor tests on one executor, and holds the result against its list of exempt tests.

Fails if a test fails that is not exempt, if an exempt one passes, or if fewer than `--least` pass.
"""

import argparse
import faulthandler
import platform
import sys
import time
import traceback
import unittest
from pathlib import Path
from typing import Any

import cases
from executors import SUBJECTS, subject
from test import support

HANGS_AFTER = 120
"""Seconds after which a test counts as hung; the whole run is then ended with every thread's stack."""


def read_exempt(path: Path) -> dict[str, str]:
    """Test → reason, from lines `Case.test: reason`; blank lines and comments (#) are for people."""
    exempt = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        test, _, reason = line.partition(": ")
        if not reason.strip() or test in exempt:
            raise SystemExit(f"{path.name}: this line gives no reason, or exempts a test twice: {line}")
        exempt[test] = reason.strip()
    return exempt


def name_of(test: unittest.TestCase) -> str:
    """`Case.test`, as the lists of exempt tests spell it."""
    return f"{type(test).__name__}.{test.id().rpartition('.')[2]}"


class Tally(unittest.TestResult):
    """Why each test that ran did not pass; None for those that did."""

    def __init__(self, exempt: dict[str, str], *, tidy: bool) -> None:
        super().__init__()
        self.exempt = exempt
        self.tidy = tidy
        self.problems: dict[str, str | None] = {}
        self._began = 0.0

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self.problems[name_of(test)] = None
        self._began = time.monotonic()
        support.environment_altered = False
        faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        faulthandler.cancel_dump_traceback_later()
        name = name_of(test)
        if self.tidy and support.environment_altered and not self.problems[name]:
            self.problems[name] = "It left threads or child processes behind.\n"
        problem, took = self.problems[name], time.monotonic() - self._began
        verdict = "passed" if not problem else "exempt" if name in self.exempt else "FAILED"
        if not problem and name in self.exempt:
            verdict = "PASSED, though exempt"
        print(f"{took:6.1f} s  {name}: {verdict}", flush=True)
        super().stopTest(test)

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        if not isinstance(test, unittest.TestCase):
            raise err[1]
        self.problems[name_of(test)] = "".join(traceback.format_exception(*err))
        # The frames hold executors; a test must not keep another's alive.
        traceback.clear_frames(err[2])

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        self.addError(test, err)

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:  # noqa: N802
        if err is not None:
            self.addError(test, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self.problems[name_of(test)] = f"It skipped itself: {reason}\n"


def report(tally: Tally, least: int, show_exempt: bool) -> bool:
    """Prints what happened; whether all is well."""
    exempt = tally.exempt
    passed = {name for name, problem in tally.problems.items() if not problem}
    failed = {name: problem for name, problem in tally.problems.items() if problem and name not in exempt}
    excused = {name: problem for name, problem in tally.problems.items() if problem and name in exempt}
    needless = sorted(passed & exempt.keys())
    for name, problem in failed.items():
        print(f"\n===== FAILED {name}\n{problem}", end="")
    if show_exempt:
        for name, problem in excused.items():
            print(f"\n===== exempt {name}: {exempt[name]}\n{problem}", end="")
    print()
    for name in excused:
        print(f"exempt  {name}: {exempt[name]}")
    for name in needless:
        print(f"FAILED  {name} passes, so it must not be on the list of exempt tests")
    absent = sorted(exempt.keys() - tally.problems.keys())
    if absent:
        print(f"not in this Python: {', '.join(absent)}")
    counted = len(passed) - len(needless)
    if counted < least:
        print(f"FAILED  {counted} passed, at least {least} must")
    print(f"ran {len(tally.problems)}, exempt {len(excused)}")
    wrong = len(failed) + len(needless)
    print(f"{counted} passed, {wrong} failed", flush=True)
    return not wrong and counted >= least


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executor", choices=[each.name for each in SUBJECTS], default="pywren")
    parser.add_argument("--least", type=int, default=36, help="how many must pass (default: %(default)s)")
    parser.add_argument("--only", default="", help="only tests whose name contains this; any number may pass")
    parser.add_argument("--show-exempt", action="store_true", help="print the tracebacks of exempt tests too")
    options = parser.parse_args()
    chosen = subject(options.executor)
    print(f"CPython {platform.python_version()}'s tests of concurrent.futures on: {chosen.name}", flush=True)
    support.verbose = False
    exempt = {}
    for name in chosen.exempt or (chosen.name,):
        exempt |= read_exempt(cases.FOLDER / "exempt" / f"{name}.txt")
    tally = Tally({test: why for test, why in exempt.items() if options.only in test}, tidy=chosen.tidy)
    with chosen.surroundings():
        for case in cases.build(chosen):
            for test in unittest.defaultTestLoader.loadTestsFromTestCase(case):
                if isinstance(test, unittest.TestCase) and options.only in name_of(test):
                    test.run(tally)
    return 0 if report(tally, 0 if options.only else options.least, options.show_exempt) else 1


if __name__ == "__main__":
    sys.exit(main())
