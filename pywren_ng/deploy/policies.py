"""The least that each may: the role of the functions, who uses them, and who sets them up.

    worker(…) ─► the template's role, and `pywren-ng policy worker` for a role that a company makes itself
    user(…), admin(…) ─► `pywren-ng policy user | admin`

Statements are written once, with `arn` to make the name of a resource: in a template that is a reference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pywren_ng.deploy.plan import Plan, parse_place

Arn = Callable[[str], Any]
Statement = Mapping[str, Any]
READ = "s3:GetObject"
WRITE = ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a deployment is, in the words of ARNs; `*` where that is not known."""

    name: str
    bucket: str
    folder: str
    region: str = "*"
    account: str = "*"

    @property
    def partition(self) -> str:
        """China and the government's regions are AWSes of their own."""
        return {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(self.region.rpartition("-")[0].rpartition("-")[0], "aws")

    def arn(self, text: str) -> str:
        """A resource's name: `s3:::bucket`, `lambda:{here}:function:x`."""
        return f"arn:{self.partition}:{text.replace('{here}', f'{self.region}:{self.account}')}"


def document(*statements: Statement) -> dict[str, Any]:
    """A policy of these."""
    return {"Version": "2012-10-17", "Statement": list(statements)}


def worker(plan: Plan, name: str, bucket: str, arn: Arn) -> dict[str, Any]:
    """What tasks may do: `bucket` is its name, or what stands for it."""
    statements = [
        *_store(bucket, plan.folder, arn),
        _allow(
            "Log", _words("logs", "CreateLogStream PutLogEvents"), arn(f"logs:{{here}}:log-group:/aws/lambda/{name}:*")
        ),
        _allow("StartWorkers", ("lambda:InvokeFunction",), arn(f"lambda:{{here}}:function:{name}-w*")),
    ]
    for number, (read, write) in enumerate(_granted(plan)):
        (place,) = {read or write, write or read}
        statements += _grant(number, parse_place(place), bool(read), bool(write), arn)
    if plan.subnets:
        statements += _network(name, arn)
    return document(*statements)


def user(place: Place) -> dict[str, Any]:
    """What it takes to run jobs on a deployment, and to fetch its file (`pywren-ng join`)."""
    functions = place.arn(f"lambda:{{here}}:function:{place.name}-w*")
    return document(
        _allow("RunTasks", ("lambda:InvokeFunction", "lambda:GetFunctionConfiguration"), functions),
        _allow("SeeLimits", ("lambda:GetAccountSettings",), "*"),
        _allow("FindDeployment", ("cloudformation:DescribeStacks",), _stack(place)),
        *_store(place.bucket, place.folder, place.arn),
    )


def admin(place: Place, *, own_bucket: bool = True, own_role: bool = True) -> dict[str, Any]:
    """What it takes to set up, check and tear down.

    CloudFormation does what it does with the caller's permissions: those that AWS publishes for each kind of resource.
    """
    allowed = user(place)["Statement"]
    mine = place.arn(f"lambda:{{here}}:function:{place.name}-w*")
    layers = place.arn(f"lambda:{{here}}:layer:{place.name}-py*")
    log = place.arn(f"logs:{{here}}:log-group:/aws/lambda/{place.name}*")
    allowed += [
        _allow("Stack", _words("cloudformation", _STACK), _stack(place)),
        _allow("Functions", _words("lambda", _FUNCTIONS), mine),
        _allow("Code", _words("lambda", _LAYERS), [layers, f"{layers}:*"]),
        _allow("ListCode", ("lambda:ListLayers", "lambda:ListLayerVersions"), "*"),
        _allow("Logs", _words("logs", _LOGS), log),
        _allow("ListLogs", _words("logs", "DescribeLogGroups DescribeResourcePolicies"), "*"),
        *_emptying(place, own_bucket),
    ]
    if own_bucket:
        allowed.append(_allow("Bucket", _words("s3", _BUCKET), place.arn(f"s3:::{place.bucket}")))
    if own_role:
        allowed.append(_allow("Role", _words("iam", _ROLE), place.arn(f"iam::{place.account}:role/{place.name}-*")))
    seeing = _words("ec2", "DescribeSubnets DescribeSecurityGroups DescribeVpcs DescribeNetworkInterfaces")
    allowed.append(_allow("SeeNetworks", seeing, "*"))
    roles = place.arn(f"iam::{place.account}:role/{place.name}-*") if own_role else "*"
    passing = _allow("PassRole", ("iam:PassRole",), roles)
    to_lambda = {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}}
    return document(*allowed, {**passing, "Condition": to_lambda})


_STACK = "CreateStack UpdateStack DeleteStack DescribeStackEvents"
_LAYERS = "PublishLayerVersion GetLayerVersion DeleteLayerVersion"
_FUNCTIONS = (
    "CreateFunction GetFunction UpdateFunctionCode UpdateFunctionConfiguration DeleteFunction"
    " PutFunctionEventInvokeConfig GetFunctionEventInvokeConfig UpdateFunctionEventInvokeConfig"
    " DeleteFunctionEventInvokeConfig TagResource UntagResource ListTags GetFunctionCodeSigningConfig"
    " GetFunctionRecursionConfig GetRuntimeManagementConfig"
)
_LOGS = (
    "CreateLogGroup DeleteLogGroup PutRetentionPolicy ListTagsForResource TagResource UntagResource"
    " GetDataProtectionPolicy DescribeIndexPolicies"
)
_BUCKET = (
    "CreateBucket DeleteBucket PutBucketPublicAccessBlock GetBucketPublicAccessBlock PutBucketOwnershipControls"
    " GetBucketOwnershipControls PutEncryptionConfiguration GetEncryptionConfiguration PutLifecycleConfiguration"
    " GetLifecycleConfiguration GetBucketAcl PutBucketPolicy GetBucketPolicy DeleteBucketPolicy PutBucketTagging"
    " GetBucketTagging"
)
_ROLE = (
    "CreateRole GetRole UpdateRole UpdateRoleDescription UpdateAssumeRolePolicy DeleteRole PutRolePolicy GetRolePolicy"
    " DeleteRolePolicy PutRolePermissionsBoundary DeleteRolePermissionsBoundary TagRole UntagRole ListRoleTags"
    " ListRolePolicies ListAttachedRolePolicies"
)


def _store(bucket: str, folder: str, arn: Arn) -> list[Statement]:
    """Everything below a folder of a bucket.

    Without the permission to list, S3 says of a key at which nothing lies that access is denied, and not that nothing
    is there. Such a request has no prefix: hence IfExists.
    """
    listing = _allow("List", ("s3:ListBucket",), arn(f"s3:::{bucket}"))
    return [
        _allow("Objects", (READ, *WRITE), arn(f"s3:::{bucket}/{folder}/*")),
        {**listing, "Condition": {"StringLikeIfExists": {"s3:prefix": f"{folder}/*"}}},
    ]


def _granted(plan: Plan) -> list[tuple[str, str]]:
    """Each place that was granted, as (read, write)."""
    return [
        (place if place in plan.reads else "", place if place in plan.writes else "")
        for place in dict.fromkeys((*plan.reads, *plan.writes))
    ]


def _grant(number: int, place: tuple[str, str], read: bool, write: bool, arn: Arn) -> list[Statement]:
    """Of `bucket/a/b`: the object of that name and all below it."""
    bucket, prefix = place
    prefix = prefix.rstrip("/")
    below = [prefix, f"{prefix}/*"] if prefix else ["*"]
    objects = [arn(f"s3:::{bucket}/{part}") for part in below]
    statements: list[Statement] = []
    if read:
        listing = _allow(f"List{number}", ("s3:ListBucket",), arn(f"s3:::{bucket}"))
        only = {"Condition": {"StringLikeIfExists": {"s3:prefix": below}}} if prefix else {}
        statements += [_allow(f"Read{number}", (READ,), objects), {**listing, **only}]
    if write:
        statements.append(_allow(f"Write{number}", WRITE, objects))
    return statements


def _network(name: str, arn: Arn) -> list[Statement]:
    """What Lambda itself needs to put a function into a network, and what a task is not to do with that."""
    actions = _words(
        "ec2",
        "CreateNetworkInterface DeleteNetworkInterface DescribeNetworkInterfaces DescribeSubnets"
        " AssignPrivateIpAddresses UnassignPrivateIpAddresses",
    )
    own = {"Condition": {"ArnLike": {"lambda:SourceFunctionArn": arn(f"lambda:{{here}}:function:{name}-w*")}}}
    return [_allow("Network", actions, "*"), {**_allow("NotByTasks", actions, "*"), "Effect": "Deny", **own}]


def _emptying(place: Place, own_bucket: bool) -> list[Statement]:
    """In a bucket of its own also what somebody else has put beside the deployment's folder."""
    listing = _words("s3", "ListBucketVersions ListBucketMultipartUploads")
    deleting = _words("s3", "DeleteObject DeleteObjectVersion AbortMultipartUpload")
    below = place.arn(f"s3:::{place.bucket}/{'' if own_bucket else f'{place.folder}/'}*")
    return [_allow("ListAll", listing, place.arn(f"s3:::{place.bucket}")), _allow("DeleteAll", deleting, below)]


def _stack(place: Place) -> str:
    return place.arn(f"cloudformation:{{here}}:stack/{place.name}/*")


def _words(service: str, actions: str) -> tuple[str, ...]:
    return tuple(f"{service}:{action}" for action in actions.split())


def _allow(sid: str, actions: tuple[str, ...], resource: Any) -> dict[str, Any]:
    return {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": resource}
