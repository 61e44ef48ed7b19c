"""What the deployment, packages, signatures and company networks must show: claims 1 to 6, all on this machine."""

import re

from claims import Claim, Ran, _deploy_networks, _deploy_packages
from claims.aws import EACH, named

SETUP = "tests/system/test_setup.py"
TEMPLATE = "tests/unit/test_template.py"
POLICY = "tests/unit/test_policy.py"


def setup(id: str, what: str, threshold: str, *names: str) -> Claim:
    """Some tests of the one run of the set-up's tests."""
    return Claim(id, what, threshold, (*EACH, "{source}/" + SETUP), named(*names), needs=(SETUP,))


def lint(ran: Ran) -> tuple[str, bool]:
    """cfn-lint, of each template that was rendered."""
    verdicts = re.findall(r"::test_cfn_lint_finds_nothing\S* (PASSED|FAILED|ERROR)", ran.output)
    if not verdicts:
        raise LookupError("cfn-lint was not run")
    return f"{len(verdicts)} templates, {len(verdicts) - verdicts.count('PASSED')} with findings", set(verdicts) == {
        "PASSED"
    }


CLAIMS = [
    setup(
        "1a",
        "setup → check → map → setup → teardown",
        "what there is after = before",
        "setup_check_map",
        "what_was_begun",
    ),
    Claim("1b", "cfn-lint, errors and warnings", "0", (*EACH, "{source}/" + TEMPLATE), lint, (TEMPLATE,)),
    setup(
        "1c", "a GET outside the role's prefix, enforced", "denied; action, resource, option", "the_roles_own_prefix"
    ),
    setup("1d", "--read and --write, enforced", "that place, and no other", "read_and_write_add_up"),
    setup(
        "1e", "policy user, admin, worker, enforced", "enough", "a_user_needs", "an_admin_needs", "a_role_and_a_bucket"
    ),
    Claim(
        "1f",
        "the policies, by ministack's evaluator and moto's",
        "as expected, and agreed",
        (*EACH, "{source}/" + POLICY),
        named("a_worker_may", "a_user_runs", "an_admin_passes", "no_policy_has"),
        (POLICY,),
    ),
    setup("1g", "who has only the bucket", "neither key nor code", "who_has_only_the_bucket", "the_bucket_is_private"),
    *_deploy_packages.CLAIMS,
    *_deploy_networks.CLAIMS,
    setup("6", "two users, two sizes at once", "0 calls that change a function", "two_users_of_different_sizes"),
]
