"""What the planner, more levels, Redis, groups and joins must show: claims 1 to 6, all of it on this machine."""

from claims import Claim
from claims._shuffle_groups import CLAIMS as GROUPS
from claims._shuffle_redis import CLAIMS as REDIS
from claims.aws import all_of_it
from claims.foundation import PYTEST, row
from claims.sort import section

PLAN = "scripts/bench/plan.py"
PLANNER = "tests/unit/test_planner.py"
LEVELS = "tests/system/test_levels.py"
PAPER = "tests/docs/test_plans.py"
STORES = ("told", "chance1", "chance2", "chance3")


def planned(id: str, name: str, what: str, threshold: str) -> Claim:
    """One verdict of the one run on slow stores, whose turns stay."""
    command = ("{python}", "{source}/" + PLAN, "--json", "{results}/plan.json")
    return Claim(id, what, threshold, command, row(name), needs=(PLAN,))


def tests(id: str, file: str, what: str) -> Claim:
    """All tests of a file."""
    return Claim(id, what, "all pass", (*PYTEST, "{source}/" + file), all_of_it, needs=(file,))


CLAIMS = [
    section("1a", "64x2", "requests at the proxy, two levels, P = 64", "128 PUT, 1,024 GET"),
    section("1b", "256x2", "requests at the proxy, two levels, P = 256", "512 PUT, 8,192 GET"),
    section("1c", "64x3", "requests at the proxy, three levels, P = 64", "192 PUT, 768 GET"),
    section("1d", "own", "requests at the proxy, P = 7, 50, 97", "as planned"),
    tests("1e", LEVELS, "two and three levels: right, proven, nothing left"),
    *(
        planned(f"2{letter}{number}", f"{store}-{part}", f"{what}, {store}", threshold)
        for letter, store in zip("abcd", STORES, strict=True)
        for number, (part, what, threshold) in enumerate(
            (
                ("close", "the plan is true on a slow store", "within 25 %"),
                ("best", "the planner's own choice there", "≤ 1.15× the best measured"),
                ("levels", "two levels where they win", "the faster is taken"),
            ),
            1,
        )
    ),
    tests("2e", PLANNER, "what fits, what is refused and why"),
    tests("3", PAPER, "plans from 1 GB to 100 TB, as the README shows them"),
    *REDIS,
    *GROUPS,
]
