"""What packages must show: claim 2, and the table of claim 3."""

from claims import Claim
from claims.aws import EACH, measured, named
from claims.foundation import PYTEST, row, tests

BENCH = "scripts/bench/packages.py"
UNIT = "tests/unit/test_packages.py"
WORKERS = "tests/system/test_packages_in_workers.py"

CLAIMS = [
    measured(BENCH, "2a", "20 trees of scikit-learn by requirements=", "as on this machine", row("2a")),
    measured(BENCH, "2b", "its bundle for another Python and processor", "every binary is for that", row("2b")),
    measured(BENCH, "2c", "a cold worker has it", "≤ 3 s", row("2c")),
    Claim("2d", "found, packed, laid out, compared", "all pass", (*PYTEST, "{source}/" + UNIT), tests, (UNIT,)),
    Claim("2e", "packages in workers", "all pass", (*EACH, "{source}/" + WORKERS), tests, (WORKERS,)),
    Claim(
        "3t",
        "client of another Python: the table",
        "before the first Call",
        (*EACH, "{source}/" + WORKERS),
        named("a_client_of_another_python", "a_task_that_imports_what"),
        (WORKERS,),
    ),
]
