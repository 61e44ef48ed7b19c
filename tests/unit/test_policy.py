"""What the printed policies allow, in the judgement of two evaluators of IAM policies that are not ours."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ministack.core import iam_evaluator
from moto.iam.access_control import IAMPolicy, PermissionResult

from pywren_ng.deploy import grants, policies
from pywren_ng.deploy.plan import Plan, filled
from pywren_ng.deploy.policies import Place

ACCOUNT, REGION = "123456789012", "eu-west-3"
PLACE = Place("lab", "lab-data-1", "lab", REGION, ACCOUNT)
PLAN = filled(
    Plan(reads=("s3://data/in", "s3://both/x"), writes=("s3://out", "s3://both/x"), subnets=("subnet-1",)), "lab"
)
WORKER = policies.worker(PLAN, "lab", "lab-data-1", PLACE.arn)
FUNCTION = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:lab-w1-py312-x86_64-512"
STACK = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/lab/1"


def allows(policy: dict[str, Any], action: str, resource: str, **conditions: str) -> bool:
    """Ministack's verdict, and moto's where it is asked about no condition: it knows none of those."""
    asked = iam_evaluator.EvalContext(
        "arn:aws:iam::1:user/x", "User", ACCOUNT, action, resource, REGION, "127.0.0.1", True
    )
    asked.service_context = {name.replace("_", ":", 1).lower(): value for name, value in conditions.items()}
    parsed = [iam_evaluator.parse_policy_document(json.dumps(policy))]
    verdict = iam_evaluator.evaluate(asked, parsed).decision == "Allow"
    plain = {"Version": "2012-10-17", "Statement": [each for each in policy["Statement"] if "Condition" not in each]}
    if not conditions and not any("Condition" in each for each in policy["Statement"] if action in each["Action"]):
        other = IAMPolicy({"policy_document": json.dumps(plain)}).is_action_permitted(action, resource)
        assert (other == PermissionResult.PERMITTED) == verdict, f"the evaluators differ about {action} on {resource}"
    return verdict


@pytest.mark.parametrize(
    ("action", "resource", "expected"),
    [
        ("s3:GetObject", "arn:aws:s3:::lab-data-1/lab/jobs/1", True),
        ("s3:PutObject", "arn:aws:s3:::lab-data-1/lab/jobs/1", True),
        ("s3:GetObject", "arn:aws:s3:::lab-data-1/other/x", False),
        ("s3:GetObject", "arn:aws:s3:::lab-data-12/lab/jobs/1", False),
        ("s3:GetObject", "arn:aws:s3:::data/in/x", True),
        ("s3:GetObject", "arn:aws:s3:::data/in", True),
        ("s3:GetObject", "arn:aws:s3:::data/inner", False),
        ("s3:PutObject", "arn:aws:s3:::data/in/x", False),
        ("s3:PutObject", "arn:aws:s3:::out/x", True),
        ("s3:GetObject", "arn:aws:s3:::out/x", False),
        ("s3:GetObject", "arn:aws:s3:::both/x/1", True),
        ("s3:DeleteObject", "arn:aws:s3:::both/x/1", True),
        ("s3:DeleteBucket", "arn:aws:s3:::lab-data-1", False),
        ("lambda:InvokeFunction", FUNCTION, True),
        ("lambda:InvokeFunction", FUNCTION.replace(":lab-", ":other-"), False),
        ("lambda:GetFunctionConfiguration", FUNCTION, False),
        ("lambda:UpdateFunctionCode", FUNCTION, False),
        ("logs:PutLogEvents", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/lab:log-stream:1", True),
        ("logs:CreateLogGroup", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/lambda/lab", False),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/lab-Role-1", False),
    ],
)
def test_a_worker_may(action: str, resource: str, expected: bool) -> None:
    assert allows(WORKER, action, resource) is expected


@pytest.mark.parametrize(
    ("bucket", "prefix", "expected"),
    [("lab-data-1", "lab/jobs/", True), ("lab-data-1", "other/", False), ("data", "in/", True), ("data", "", False)],
)
def test_a_worker_may_list(bucket: str, prefix: str, expected: bool) -> None:
    assert allows(WORKER, "s3:ListBucket", f"arn:aws:s3:::{bucket}", s3_prefix=prefix) is expected
    assert allows(WORKER, "s3:ListBucket", f"arn:aws:s3:::{bucket}")  # asked so of a key at which nothing lies


def test_tasks_in_a_network_may_not_do_what_lambda_may_for_them() -> None:
    wish = "ec2:CreateNetworkInterface", "*"
    assert allows(WORKER, *wish, ec2_Region=REGION)
    assert not allows(WORKER, *wish, lambda_SourceFunctionArn=FUNCTION)


def test_a_user_runs_and_changes_nothing() -> None:
    user = policies.user(PLACE)
    for action, resource in (
        ("lambda:InvokeFunction", FUNCTION),
        ("lambda:GetFunctionConfiguration", FUNCTION),
        ("cloudformation:DescribeStacks", STACK),
        ("lambda:GetAccountSettings", "*"),
        ("s3:PutObject", "arn:aws:s3:::lab-data-1/lab/blobs/1"),
    ):
        assert allows(user, action, resource)
    for action, resource in (
        ("lambda:UpdateFunctionConfiguration", FUNCTION),
        ("lambda:UpdateFunctionCode", FUNCTION),
        ("cloudformation:UpdateStack", STACK),
        ("iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/lab-Role-1"),
        ("s3:GetObject", "arn:aws:s3:::other/x"),
        ("lambda:InvokeFunction", FUNCTION.replace(":lab-", ":laboratory-")),
    ):
        assert not allows(user, action, resource)


def test_an_admin_passes_only_its_own_role_and_only_to_lambda() -> None:
    admin = policies.admin(PLACE)
    own, other = f"arn:aws:iam::{ACCOUNT}:role/lab-Role-1", f"arn:aws:iam::{ACCOUNT}:role/Admin"
    assert allows(admin, "iam:PassRole", own, iam_PassedToService="lambda.amazonaws.com")
    assert not allows(admin, "iam:PassRole", own, iam_PassedToService="ec2.amazonaws.com")
    assert not allows(admin, "iam:PassRole", other, iam_PassedToService="lambda.amazonaws.com")
    assert not allows(admin, "iam:CreateRole", other)
    assert allows(admin, "cloudformation:UpdateStack", STACK)
    assert not allows(admin, "cloudformation:UpdateStack", STACK.replace("/lab/", "/other/"))


def statements(policy: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from policy["Statement"]


@pytest.mark.parametrize(
    "policy", [WORKER, policies.user(PLACE), policies.admin(PLACE)], ids=["worker", "user", "admin"]
)
def test_no_policy_has_a_wildcard_for_actions_and_each_name_once(policy: dict[str, Any]) -> None:
    assert all("*" not in action for each in statements(policy) for action in each["Action"])
    ids = [each["Sid"] for each in statements(policy)]
    assert len(ids) == len(set(ids))
    broad = {action for each in statements(policy) if each["Resource"] == "*" for action in each["Action"]}
    assert all(action.split(":")[1].startswith(("Get", "List", "Describe")) for action in broad if action[:3] != "ec2")
    assert len(json.dumps(policy, separators=(",", ":"))) < 6144  # of a managed policy


@pytest.mark.parametrize(
    ("region", "partition"),
    [
        ("eu-west-3", "aws"),
        ("cn-north-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("us-east-1", "aws"),
        ("*", "aws"),
    ],
)
def test_partitions(region: str, partition: str) -> None:
    assert Place("lab", "b", "f", region).arn("s3:::b") == f"arn:{partition}:s3:::b"


# -- What a denied task is told

WHO = "User: arn:aws:sts::123456789012:assumed-role/lab-Role-1/lab-w1-py312-x86_64-512 is not authorized to perform:"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            f"An error occurred (AccessDenied) when calling the GetObject operation: {WHO} s3:GetObject on resource: "
            '"arn:aws:s3:::data/in/x.csv" because no identity-based policy allows the s3:GetObject action',
            "s3:GetObject on arn:aws:s3:::data/in/x.csv. To allow it, run: pywren-ng setup --name lab --read s3://data/in",
        ),
        (
            f"<Message>{WHO} s3:PutObject on resource: &quot;arn:aws:s3:::out/x&quot; because no …</Message>",
            "run: pywren-ng setup --name lab --write s3://out",
        ),
        (f"{WHO} s3:ListBucket on resource: arn:aws:s3:::data because", "--read s3://data"),
        (f"{WHO} dynamodb:GetItem on resource: arn:aws:dynamodb:x because", "--role-arn"),
        (f"{WHO} s3:GetObject on resource: arn:aws:s3:::d/x because no permissions boundary allows", "ask who gives"),
    ],
)
def test_a_denied_task_is_told_the_option(said: str, advice: str) -> None:
    found = grants.advice(said)
    assert found is not None and advice in found


def test_others_are_told_nothing() -> None:
    laptop = "User: arn:aws:iam::1:user/me is not authorized to perform: s3:GetObject on resource: arn:aws:s3:::b/x"
    assert grants.advice(laptop) is None
    assert grants.advice("an error of the user's") is None
