"""What the foundation must show: CPython's tests, interoperation, speed, staying power, light weight."""

import os
import re
from collections.abc import Callable

from claims import Claim, Ran

Read = Callable[[Ran], tuple[str, bool]]

PROBES = "{source}/scripts/claims/probes/"
OVERHEAD = "scripts/bench/overhead.py"
STAYING = "scripts/bench/staying.py"
PYTEST = (
    *("{python}", "-m", "pytest", "-q", "--full", "-p", "no:cacheprovider"),
    *("-c", "{source}/setup.cfg", "--rootdir", "{source}"),
)
# A tmpfs over /proc that only this process and its children see. Without root it takes a user namespace too.
NO_PROC = (
    *("unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])),
    *("sh", "-ec", 'mount -t tmpfs none /proc; test -z "$(ls -A /proc)"; exec "$@"', "sh"),
)


def found(pattern: str, output: str) -> re.Match[str]:
    """The last match in an output; LookupError if there is none."""
    matches = list(re.finditer(pattern, output, re.MULTILINE))
    if not matches:
        raise LookupError(f"nothing in the output matches {pattern!r}")
    return matches[-1]


def at_least(least: int, pattern: str) -> Read:
    """The number in the pattern's group; the command must also have ended well."""

    def read(ran: Ran) -> tuple[str, bool]:
        number = int(found(pattern, ran.output)[1])
        return str(number), ran.code == 0 and number >= least

    return read


def at_most(most: float, pattern: str, unit: str) -> Read:
    """The same, downwards."""

    def read(ran: Ran) -> tuple[str, bool]:
        number = float(found(pattern, ran.output)[1])
        return f"{number:g} {unit}", ran.code == 0 and number <= most

    return read


def row(id: str) -> Read:
    """The benchmark's own rows for a claim, one for each bound: id, text, verdict."""

    def read(ran: Ran) -> tuple[str, bool]:
        rows = re.findall(rf"^{id}  (.*)  (PASS|FAIL)$", ran.output, re.MULTILINE)
        if not rows:
            raise LookupError(f"the output has no row for {id}")
        return "; ".join(said for said, _ in rows), all(verdict == "PASS" for _, verdict in rows)

    return read


def last_line(ran: Ran) -> tuple[str, bool]:
    """The exit code decides; the figure is the last thing said."""
    return (ran.output.strip().splitlines() or ["nothing printed"])[-1], ran.code == 0


def tests(ran: Ran) -> tuple[str, bool]:
    """Pytest's closing line: some passed, nothing else happened."""
    line = found(r"^=*\s*(\d+ .* in [\d.]+s.*?)\s*=*$", ran.output)[1]
    is_clean = re.fullmatch(r"\d+ passed(, \d+ warnings?)? in .*", line) is not None
    return line, ran.code == 0 and is_clean


def light(ran: Ran) -> tuple[str, bool]:
    """Nothing heavy is loaded, and the import is quick."""
    heavy = found(r"^pulls in of .*: (.*)$", ran.output)[1]
    cost, is_quick = at_most(60, r"^import costs ([\d.-]+) ms", "ms")(ran)
    return f"{heavy}, {cost}", is_quick and heavy == "none"


def speed(id: str, what: str, threshold: str) -> Claim:
    """One row of the one run of the benchmark."""
    command = ("{python}", "{source}/" + OVERHEAD, "--here", "--json", "{results}/overhead.json")
    return Claim(id, what, threshold, command, row(id), needs=(OVERHEAD,))


def staying(id: str, what: str, threshold: str, section: str) -> Claim:
    """One section of the endurance runs, which judges itself."""

    def read(ran: Ran) -> tuple[str, bool]:
        line = found(rf"^{section}: (.*): (PASS|FAIL)$", ran.output)
        return line[1], line[2] == "PASS" and ran.code == 0

    return Claim(id, what, threshold, ("{python}", "{source}/" + STAYING, section), read, needs=(STAYING,))


# The local AWS stands for Linux machines, and weighs its environments by what /proc says of them.
ON_LOCAL_AWS = (
    "contract/test_executors_on_lambda.py",
    "system/test_local_aws.py",
    "system/test_lambda_faults.py",
    "system/test_lambda_jobs.py",
    "contract/test_sorts.py",
    "system/test_sort_faults.py",
    "system/test_sort_memory.py",
)

CLAIMS = [
    Claim(
        "1",
        "CPython's executor tests pass",
        "≥ 36, none unexcused",
        ("{source}/scripts/test-cpython",),
        at_least(36, r"^(\d+) passed, \d+ failed"),
        needs=("scripts/test-cpython",),
    ),
    Claim(
        "2",
        "wait, as_completed, asyncio, dask take it",
        "all pass",
        (*PYTEST, "{source}/tests/system/test_stdlib_interop.py"),
        tests,
        needs=("tests/system/test_stdlib_interop.py",),
    ),
    speed("3a", "submit → result", "≤ ProcessPool"),
    speed("3b", "5,000 no-ops, one task each", "≥ 4× ProcessPool"),
    speed("3c", "script start → first result", "≤ loky"),
    speed("3d", "100 MB array to one task", "< ProcessPool, ≤ 2× ray"),
    speed("3e", "the same array to 100 tasks of one map", "stored once, < 2× of one"),
    speed("3f", "100 tasks return 1 MB each", "≤ ray"),
    staying("4a", "1,000 jobs in a row", "nothing lost or left", "jobs"),
    staying("4b", "100,000 tasks iterated in one map", "≤ 1 KB a task, level", "long-map"),
    staying("4c", "8 threads submitting for a minute", "nothing lost or left", "threads"),
    staying("4d", "a script that raises in mid-job", "nothing left", "raise"),
    Claim(
        "5a",
        "pip install . in an empty environment",
        "base packages only",
        ("{base}", PROBES + "base_packages.py"),
        last_line,
    ),
    Claim(
        "5b",
        "import pywren_ng pulls in, costs",
        "none, ≤ 60 ms",
        ("{base}", PROBES + "import_cost.py"),
        light,
    ),
    Claim(
        "5c",
        "the wheel maps a closure in another environment",
        "20 of 20",
        ("{other}", PROBES + "closure.py"),
        at_least(20, r"^(\d+) of 20 right"),
    ),
    Claim(
        "5d",
        "the suite with /proc hidden",
        "all pass",
        (
            *NO_PROC,
            *PYTEST,
            *("{source}/tests/" + room for room in ("contract", "unit", "system")),
            *("--ignore={source}/tests/" + file for file in ON_LOCAL_AWS),
        ),
        tests,
    ),
]
