"""What a first hour must show: claims 1 to 5, all of it on this machine."""

from claims import Claim
from claims.aws import all_of_it, named
from claims.foundation import PYTEST, row

REDUCE = "tests/system/test_reduce.py"
ON_LAMBDA = "tests/system/test_reduce_on_lambda.py"
MUCH = "scripts/bench/reduce.py"
INTERRUPTS = "tests/system/test_interrupts.py"
SHOT = "scripts/bench/screenshot.py"
BAR = "scripts/bench/bar.py"
TYPES = ("{python}", "{source}/scripts/claims/probes/exported_types.py", "{source}/tests/typing/examples.py")
HUGE = ("{python}", "{source}/scripts/claims/probes/two_gigabytes.py")
JOBLIB = "tests/system/test_joblib.py"
FOREST = "scripts/bench/forest.py"
EACH = tuple("-v" if part == "-q" else part for part in PYTEST)  # a line for each test
PEAKS = "right, reducer < 300 MB, client < 150 MB"


def some(file: str, id: str, what: str, *names: str) -> Claim:
    """Those tests of a file whose names begin so."""
    return Claim(id, what, "all pass", (*EACH, "{source}/" + file), named(*names), needs=(file,))


def whole(file: str, id: str, what: str) -> Claim:
    """All tests of a file."""
    return Claim(id, what, "all pass", (*EACH, "{source}/" + file), all_of_it, needs=(file,))


CLAIMS = [
    Claim(
        "1a",
        "10 GB of map results, 1,000 of 10 MB, locally",
        PEAKS,
        ("{python}", "{source}/" + MUCH),
        row("1"),
        needs=(MUCH,),
    ),
    Claim(
        "1b",
        "the same on Lambda (12 GB of memory: the local S3)",
        PEAKS,
        ("{source}/scripts/on-local-aws", "{python}", "{source}/" + MUCH, "--backend", "lambda", "--workers", "8"),
        row("1"),
        needs=(MUCH,),
    ),
    whole(REDUCE, "1c", "map and reduce: order, deaths, slots, what is left"),
    whole(ON_LAMBDA, "1d", "the same on Lambda: one PUT, one GET, none the client's"),
    Claim(
        "2a",
        "100 trees on 50,000 × 50, beside loky",
        "≤ 1.1× loky, data stored once, same trees",
        ("{python}", "{source}/" + FOREST, "--here", "--json", "{results}/forest.json"),
        row("2"),
        needs=(FOREST,),
    ),
    some(JOBLIB, "2b", "the same forest on Lambda, its data put once", "the_same_forest_on_lambda"),
    some(
        JOBLIB,
        "4b",
        "scikit-learn on four worker processes, none the client's",
        "a_forest_grows_in_the_workers",
        "cross_validation_and_grid_search",
        "predict_needs_shared_memory",
    ),
    whole("tests/docs/test_notebooks.py", "3a", "every notebook from a clean kernel, with its pictures"),
    Claim(
        "3b",
        "a Job's table as a browser draws it, light and dark",
        "contrast ≥ 7; needs chromium",
        ("{python}", "{source}/" + SHOT, "{results}"),
        row("3b"),
        needs=(SHOT,),
    ),
    some(INTERRUPTS, "4a", "an interrupt at a prompt and in a kernel", "ctrl_c_at_a_prompt", "an_interrupted_kernel"),
    whole("tests/system/test_notebook.py", "4c", "cells: what they define travels, errors show their lines"),
    Claim("4d", "types that are asserted, by mypy and pyright", "≥ 25, both agree", TYPES, row("4d")),
    Claim("4e", "pyright --verifytypes pywren_ng", "100 %", TYPES, row("4e")),
    some("tests/architecture/test_surface.py", "4f", "exported signatures without Any", "no_exported_signature"),
    whole("tests/system/test_first_hour.py", "5a", "each mistake of a first hour, its whole text"),
    Claim("5b", "a task that returns 2 GB", "right, or an error that says what to do", HUGE, row("5b")),
    Claim(
        "6a",
        "no-ops with a bar on a terminal, and without",
        "< 5 % slower",
        ("{python}", "{source}/" + BAR, "--json", "{results}/bar.json"),
        row("6a"),
        needs=(BAR,),
    ),
    whole("tests/unit/test_progress.py", "6b", "bars: for whom, what they show, what they leave"),
    whole("tests/unit/test_observers.py", "6c", "observers, the last line, the table, pandas"),
    some("tests/system/test_lambda_jobs.py", "6d", "job.cost beside what the local AWS billed", "the_cost", "refused"),
    some("tests/system/test_stdlib_interop.py", "6e", "asyncio, dask, tqdm", "async", "an_event", "dask", "tqdm"),
]
