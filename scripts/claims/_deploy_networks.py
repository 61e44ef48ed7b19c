"""What versions, signatures and company networks must show: claims 3 to 5 of the topic `deploy`, which lists them."""

from claims import Claim
from claims.aws import EACH, named
from claims.foundation import row

SIGNING = "tests/system/test_signing.py"
VERSIONS = "tests/system/test_versions.py"
NETWORKS = "tests/system/test_networks.py"
COST = "scripts/bench/signing.py"


def of(file: str, id: str, what: str, threshold: str, *names: str) -> Claim:
    """Some tests of the one run of a file."""
    return Claim(id, what, threshold, (*EACH, "{source}/" + file), named(*names), needs=(file,))


CLAIMS = [
    of(VERSIONS, "3a", "client N−1, N+1 against runtime N", "one error, 0 Invokes", "a_client_of_another"),
    of(VERSIONS, "3b", "the same, its file out of date", "one error, nothing run", "a_client_whose_file"),
    of(VERSIONS, "3c", "runtime N−1, N+1 in a function's place", "one error, nothing run", "a_runtime_of_another"),
    of(VERSIONS, "3d", "another release of one wire version", "works", "releases_of_one", "who_changes_the_wire"),
    of(SIGNING, "4a", "changed, swapped, unsigned: in a worker", "one error each", "a_worker_refuses"),
    of(SIGNING, "4b", "changed, swapped, unsigned: in the client", "one error each", "the_client_refuses"),
    of(SIGNING, "4c", "a key or a secret in whatever is written", "none", "no_secret_is_written"),
    Claim("4d", "what signing costs of no-ops", "< 3 %", ("{python}", "{source}/" + COST), row("signing"), (COST,)),
    of(NETWORKS, "5a", "setup, check, map, teardown by a proxy", "0 direct connections", "a_whole_session"),
    of(
        NETWORKS,
        "5b",
        "keys, a role, a log-in page, a program",
        "work; renewed in time",
        "static_keys",
        "a_role",
        "a_log_in_page",
        "credentials_that_end",
    ),
    of(
        NETWORKS,
        "5c",
        "what is wrong with the way or the keys",
        "said, with the cure",
        "what_is_wrong",
        "a_log_in_that",
        "no_profile",
        "a_region_without",
        "credentials_that_have_ended",
    ),
]
