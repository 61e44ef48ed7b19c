"""What the sort shuffle must show: claims 1 to 7, all of it on this machine."""

import re

from claims import Claim, Ran
from claims.aws import all_of_it, named
from claims.foundation import PYTEST, Read, row

SORT = "tests/system/test_sort.py"
RECORDS = "tests/unit/test_{}records.py"
FAULTS = "tests/system/test_sort_faults.py"
MEMORY = "tests/system/test_sort_memory.py"
WAYS = "tests/contract/test_sorts.py"
BENCH = "scripts/bench/sort.py"
AT_FULL_SIZE = "scripts/bench/sort_memory.py"
REQUESTS = "scripts/bench/sort_requests.py"
EACH = tuple("-v" if part == "-q" else part for part in PYTEST)  # a line for each test


def some(file: str, id: str, what: str, threshold: str, *names: str) -> Claim:
    """Those tests of a file whose names begin so."""
    return Claim(id, what, threshold, (*EACH, "{source}/" + file), named(*names), needs=(file,))


def whole(file: str, id: str, what: str) -> Claim:
    """All tests of a file."""
    return Claim(id, what, "all pass", (*EACH, "{source}/" + file), all_of_it, needs=(file,))


def section(id: str, name: str, what: str, threshold: str) -> Claim:
    """One section of the requests, which judges itself."""
    command = ("{python}", "{source}/" + REQUESTS, name)
    return Claim(id, what, threshold, command, row(name), needs=(REQUESTS,))


def compared(part: int) -> Read:
    """One of the bounds on our time, as the benchmark says them in one line."""

    def read(ran: Ran) -> tuple[str, bool]:
        said, _ = row("5")(ran)
        found = re.fullmatch(r".* ([\d.]+) s \((.*)\)", said)
        if found is None:
            raise LookupError(f"no figures in {said!r}")
        bound = found[2].split(", ")[part]
        limit = re.fullmatch(r"[≤<] (?:([\d.]+)× )?(\S+) ([\d.]+) s", bound)
        if limit is None:
            raise LookupError(f"no bound in {bound!r}")
        return f"{found[1]} s, {limit[2]} {limit[3]} s", float(found[1]) <= float(limit[1] or 1) * float(limit[3])

    return read


def fast(id: str, what: str, threshold: str, part: int) -> Claim:
    """One bound of the one run of the benchmark, whose samples stay."""
    command = ("{python}", "{source}/" + BENCH, "--here", "--json", "{results}/sort.json")
    return Claim(id, what, threshold, command, compared(part), needs=(BENCH,))


CLAIMS = [
    whole(SORT, "1a", "right by the oracle: six kinds of keys, P from 1 to 97"),
    *(
        whole(RECORDS.format(kind), f"1{letter}", f"record formats: {name}")
        for letter, kind, name in (
            ("b", "", "all"),
            ("c", "text_", "lines"),
            ("d", "rows_", "Python objects"),
            ("e", "table_", "tables"),
        )
    ),
    some(SORT, "2a", "what was changed between the phases is named", "all pass", "a_block_that_was_changed"),
    some(SORT, "2b", "a part that was changed is named", "all pass", "a_part_that_was_changed"),
    section("3a", "64", "requests at the proxy, 64 splits and partitions", "64 PUT, 4,096 GET"),
    section("3b", "256", "requests at the proxy, 256 splits and partitions", "256 PUT, 65,536 GET"),
    whole(MEMORY, "4a", "four times all workers' memory, in small"),
    Claim(
        "4b",
        "4 GB by 4 workers of 256 MB",
        "right, naive dies",
        ("{python}", "{source}/" + AT_FULL_SIZE),
        row("4"),
        needs=(AT_FULL_SIZE,),
    ),
    fast("5a", "10 million records, beside DuckDB", "≤ 0.6× DuckDB", 0),
    fast("5b", "10 million records, beside numpy", "< numpy", 1),
    fast("5c", "10 million records, beside the floor", "≤ 1.5× the floor", 2),
    whole(FAULTS, "6a", "workers that die, 503s, stalls, everything twice, Ctrl-C"),
    section("6b", "stalls", "20,000 reads of which 1 % stall", "p99.9 < 0.5 s, hedges ≤ 2 %"),
    whole(WAYS, "7", "one call on every executor, on folders and S3"),
]
