"""The Redis store and tier: row 4 of the shuffle's claims, and the half of row 6 that compares tiers."""

import re

from claims import Claim, Ran
from claims.aws import EACH, all_of_it, named

SORTS = "tests/system/test_redis_sorts.py"
ON_LAMBDA = "tests/system/test_redis_on_lambda.py"
STORE = "tests/unit/test_redis_store.py"
BENCH = "scripts/bench/tiers.py"
PLACES = ("folder", "s3", "redis", "cluster", "tls")


def every_place(ran: Ran) -> tuple[str, bool]:
    """Each test of the one suite passed at each place; every one looks at DBSIZE before and after."""
    passed = re.findall(r"::test_\w+\[(\w+)[^\]]*\] (PASSED|FAILED|ERROR)", ran.output)
    counts = {place: [verdict for name, verdict in passed if name == place].count("PASSED") for place in PLACES}
    is_met = len(set(counts.values())) == 1 and min(counts.values()) >= 8
    return ", ".join(f"{place} {count}" for place, count in counts.items()) + " pass", is_met


def section(id: str, name: str, what: str, threshold: str) -> Claim:
    """One section of the benchmark, which judges itself."""

    def read(ran: Ran) -> tuple[str, bool]:
        found = re.search(rf"^{name}  (.+?)  (PASS|FAIL)$", ran.output, re.MULTILINE)
        if found is None:
            raise LookupError(f"no verdict on {name}")
        rows = re.findall(r"^P= *(\d+) +(\w+) +([\d.]+) s +(\d+) MB/s", ran.output, re.MULTILINE)
        figures = ", ".join(f"{tier} {splits}: {speed} MB/s" for splits, tier, _, speed in rows)
        return ": ".join(filter(None, (found[1], figures))), found[2] == "PASS" and ran.code == 0

    command = ("{python}", "{source}/" + BENCH, name, "--json", "{results}/tiers-" + name + ".json")
    return Claim(id, what, threshold, command, read, needs=(BENCH,))


def fault(letter: str, what: str, *names: str) -> Claim:
    """Some tests of the one run of the faults."""
    return Claim(f"4{letter}", what, "answer and message", (*EACH, "{source}/" + SORTS), named(*names), needs=(SORTS,))


CLAIMS = [
    Claim(
        *("4a", "one suite over folder, S3, Redis, cluster, TLS + password", "all alike, DBSIZE as before"),
        command=(*EACH, "{source}/" + SORTS),
        read=every_place,
        needs=(SORTS,),
    ),
    fault("b", "Redis filled up", "a_server_that_is_full"),
    fault("c", "restarted between the phases", "a_server_that_is_restarted", "what_was_lost_is_made_again_on_s3"),
    fault("d", "a cluster's node killed", "a_node_of_a_cluster"),
    fault("e", "keys evicted", "keys_that_are_evicted", "a_policy_that_may_evict"),
    fault("f", "connection refused", "nobody_listens", "a_server_that_goes_while"),
    fault("g", "more than the cap, in rounds that merge beside the output", "more_than_the_cap"),
    fault("h", "no password in what travels", "no_password_is_in", "our_own_workers_know"),
    Claim(
        *("4i", "the store: layout, connections, every fault in words", "all pass"),
        command=(*EACH, "{source}/" + STORE),
        read=all_of_it,
        needs=(STORE,),
    ),
    Claim(
        *("4j", "Redis on Lambda, by a password that only the functions know", "answers, DBSIZE, seen nowhere"),
        command=(*EACH, "{source}/" + ON_LAMBDA),
        read=all_of_it,
        needs=(ON_LAMBDA,),
    ),
    section("6a", "sorts", "folder, S3 and Redis at P = 16, 64", "values right, requests as counted"),
    section("6b", "client", "our store beside bare redis-py with hiredis", "≥ 0.9× at each size"),
]
