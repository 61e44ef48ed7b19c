"""Groups and joins: row 5 of the shuffle's claims, and the half of row 6 that is about groups."""

from claims import Claim
from claims.aws import EACH, all_of_it, named
from claims.foundation import PYTEST, row

KEYS = "tests/unit/test_keys.py"
ROWS = "tests/system/test_groups.py"
TABLES = "tests/system/test_table_groups.py"
WAYS = "tests/contract/test_groups_everywhere.py"
PLANS = "tests/system/test_group_plans.py"
LOST = "tests/system/test_redis_groups.py"
MEMORY = "scripts/bench/group_memory.py"
BENCH = "scripts/bench/group.py"


def tests(id: str, file: str, what: str) -> Claim:
    """All tests of a file."""
    return Claim(id, what, "all pass", (*PYTEST, "{source}/" + file), all_of_it, needs=(file,))


def some(id: str, file: str, what: str, *names: str) -> Claim:
    """Those tests of a file whose names begin so."""
    return Claim(id, what, "all pass", (*EACH, "{source}/" + file), named(*names), needs=(file,))


def limited(id: str, name: str, what: str) -> Claim:
    """One run under limits that the kernel enforces, which judges itself."""
    command = ("{python}", "{source}/" + MEMORY, name)
    return Claim(id, what, "10,000,000 of them", command, row(id), needs=(MEMORY,))


def fast(id: str, what: str, threshold: str) -> Claim:
    """One bound of the one run of the benchmark, whose samples stay."""
    command = ("{python}", "{source}/" + BENCH, "--here", "--json", "{results}/group.json")
    return Claim(id, what, threshold, command, row(id), needs=(BENCH,))


CLAIMS = [
    some("5a", TABLES, "groups equal DuckDB's: uniform, Zipf, one hot key", "aggregates", "distinct_rows"),
    some("5b", TABLES, "joins equal DuckDB's: five kinds, with nulls", "joins", "a_join_of_one_hot_key"),
    tests("5c", ROWS, "groups, joins and MapReduce of rows; words of 1,000 files"),
    tests("5d", KEYS, "equal keys, and no others, are one group"),
    tests("5e", WAYS, "the same calls here and on Lambda"),
    limited("5f", "group", "one key with 10 million values, 128 MB"),
    limited("5g", "join", "10^5 × 10^2 rows of one key, 128 MB"),
    limited("5h", "tables", "the same join of tables, 128 MB"),
    tests("5i", PLANS, "plans of groups and joins beside what was asked, counted at a proxy"),
    tests("5j", LOST, "groups and joins on Redis: full, evicted, restarted, gone"),
    fast("6c", "10 million rows by key, beside dask.bag", "≥ 3× dask.bag"),
    fast("6d", "10 million rows of a table, fresh processes", "≤ 2× DuckDB, one thread"),
    fast("6e", "the same, processes that have begun", "≤ 2× DuckDB, one thread"),
]
