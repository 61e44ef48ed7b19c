"""What the joblib backend must show: claim 2 of the first hour, and joblib's part of claim 4."""

from claims import Claim
from claims.aws import named
from claims.foundation import PYTEST, row

TESTS = "tests/system/test_joblib.py"
BENCH = "scripts/bench/forest.py"
EACH = tuple("-v" if part == "-q" else part for part in PYTEST)  # a line for each test


def some(id: str, what: str, *names: str) -> Claim:
    """Those tests whose names begin so."""
    return Claim(id, what, "all pass", (*EACH, "{source}/" + TESTS), named(*names), needs=(TESTS,))


CLAIMS = [
    Claim(
        "2a",
        "100 trees on 50,000 × 50, beside loky",
        "≤ 1.1× loky, data stored once, same trees",
        ("{python}", "{source}/" + BENCH, "--here", "--json", "{results}/forest.json"),
        row("2"),
        needs=(BENCH,),
    ),
    some("2b", "the same forest on Lambda, its data put once", "the_same_forest_on_lambda"),
    some(
        "4b",
        "scikit-learn on four worker processes, none the client's",
        "a_forest_grows_in_the_workers",
        "cross_validation_and_grid_search",
        "predict_needs_shared_memory",
    ),
]
