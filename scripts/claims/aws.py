"""What S3, the Lambda backend and the local AWS must show: claims 1 to 6, all of it on this machine."""

import re

from claims import Claim, Ran
from claims.foundation import PYTEST, Read, at_least, found, row, tests

ON_LAMBDA = "tests/contract/test_executors_on_lambda.py"
FAULTS = "tests/system/test_lambda_faults.py"
JOBS = "tests/system/test_lambda_jobs.py"
INVOKE = "scripts/bench/invoke.py"
STORE = "scripts/bench/store.py"
COLD = "scripts/bench/cold.py"
KINDS = 21  # ways to fail, F1 to F21
EACH = tuple("-v" if part == "-q" else part for part in PYTEST)  # a line for each test


def every_fault(ran: Ran) -> tuple[str, bool]:
    """Each of F1 to F21 has a test, and all tests passed."""
    names = re.findall(r"::test(_f\d+\w*)\S* PASSED", ran.output)
    seen = {int(number) for name in names for number in re.findall(r"_f(\d+)(?=_)", name)}
    line, is_clean = tests(ran)
    return f"{len(seen)} of {KINDS}: {line}", is_clean and seen == set(range(1, KINDS + 1))


def named(*names: str) -> Read:
    """Tests whose names begin so, among those of one run of a file; the others have claims of their own."""

    def read(ran: Ran) -> tuple[str, bool]:
        verdicts = []
        for name in names:
            lines = re.findall(rf"::test_{name}\S* (PASSED|FAILED|ERROR)", ran.output)
            if not lines:
                raise LookupError(f"no test ran whose name begins with test_{name}")
            verdicts += lines
        return f"{verdicts.count('PASSED')} of {len(verdicts)} tests pass", set(verdicts) == {"PASSED"}

    return read


def cpython(id: str, kind: str, what: str) -> Claim:
    """CPython's tests with one kind of Invoke."""
    command = ("{source}/scripts/test-cpython", "--backend", "lambda", "--invoke", kind)
    read = at_least(36, r"^(\d+) passed, \d+ failed")
    return Claim(id, f"CPython's executor tests, {what}", "≥ 36, none unexcused", command, read)


def job(id: str, what: str, threshold: str, *names: str) -> Claim:
    """Some tests of the one run of the jobs' tests."""
    return Claim(id, what, threshold, (*EACH, "{source}/" + JOBS), named(*names), needs=(JOBS,))


def measured(script: str, id: str, what: str, threshold: str, read: Read, *options: str) -> Claim:
    """One row of the one run of a benchmark, whose samples stay."""
    kept = "{results}/" + script.rpartition("/")[2].replace(".py", ".json")
    command = ("{python}", "{source}/" + script, *options, "--json", kept)
    return Claim(id, what, threshold, command, read, needs=(script,))


def all_of_it(ran: Ran) -> tuple[str, bool]:
    """The whole file, with what no other claim names."""
    return found(r"^=*\s*(\d+ .* in [\d.]+s.*?)\s*=*$", ran.output)[1], tests(ran)[1]


CLAIMS = [
    Claim(
        "1a",
        "the executor suite on Lambda, both kinds of Invoke",
        "all pass",
        (*PYTEST, "{source}/" + ON_LAMBDA),
        tests,
        needs=(ON_LAMBDA,),
    ),
    cpython("1b", "sync", "synchronous"),
    cpython("1c", "async", "asynchronous"),
    Claim("2", "F1–F21, each with its counter", "all pass", (*EACH, "{source}/" + FAULTS), every_fault, (FAULTS,)),
    job("3", "2,000 tasks while everything fails", "right, each committed once", "thousands_of_tasks"),
    job("4a", "1,000 small tasks, synchronous", "≤ 2 PUTs and no more", "a_synchronous_job_stores"),
    job("4b", "1,000 small tasks, asynchronous", "+ 1 PUT, 1 GET a task, LISTs", "an_asynchronous_job_takes"),
    job("4c", "a blob that was removed", "noticed, put again", "a_blob_that_was_removed"),
    Claim("4d", "the other tests of whole jobs", "all pass", (*EACH, "{source}/" + JOBS), all_of_it, (JOBS,)),
    measured(INVOKE, "5a", "Invokes per second of client CPU", "≥ 3,000, ≥ 4× boto3", row("5a"), "--here"),
    measured(INVOKE, "5b", "4,096 tasks over 64 real environments", "all right", row("5b"), "--here"),
    measured(STORE, "5c", "small PUT and GET through the store", "≥ 10× boto3", row("5c")),
    measured(COLD, "6a", "initialisation of a cold environment", "≤ 1.5× trivial", row("6a")),
    measured(COLD, "6b", "Invoke → first result, cold", "≤ trivial + 120 ms", row("6b")),
    measured(COLD, "6c", "boto3 in a worker", "none", row("6c")),
]
