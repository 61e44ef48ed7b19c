"""What a request asks for in IAM's words, and whether the policies that are deployed allow it.

    request ─► Wish (action, resource, conditions) ─┐
    the caller's ARN ─► its policies, its boundary ─┼─► ministack's evaluator ─► None, or AWS's sentence
    the bucket's policy ────────────────────────────┘

Policies are read from the control plane as it stands. The account's root may do anything; what a service does for a
caller, such as CloudFormation when it makes a role, is not asked about.
"""

import json
import re
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import parse_qs, quote, unquote, urlencode
from xml.etree import ElementTree

from local_aws.credentials import ACCOUNT, Credential
from local_aws.faults import Knobs
from local_aws.functions import INTERNAL
from local_aws.http1 import Request
from local_aws.upstream import Upstream

KINDS = {":root": "Root", ":assumed-role/": "AssumedRole"}
OURS = {"Filter.member.1": "User", "Filter.member.2": "Role", "Filter.member.3": "LocalManagedPolicy"}
FREE = ("sts:GetCallerIdentity",)  # to everybody, whatever the policies say
SAME = {"Invoke": "InvokeFunction", "GetLayerVersionByArn": "GetLayerVersion"}  # operations named otherwise in policies


@dataclass(frozen=True, slots=True)
class Wish:
    """One action on one resource."""

    action: str
    resource: str
    conditions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Principal:
    """A user's or role's policies, parsed; its boundary if it has one."""

    policies: list[object]
    limits: list[list[object]]


class Permissions:
    """Decides for callers other than root; what it has read it keeps until something was changed."""

    def __init__(self, upstream: Upstream, knobs: Knobs) -> None:
        self._upstream = upstream
        self._knobs = knobs
        self._principals: dict[str, Principal] | None = None
        self._buckets: dict[str, str] = {}

    def changed(self) -> None:
        """A policy may be another now."""
        self._principals = None
        self._buckets.clear()

    async def refusal(
        self, caller: Credential, request: Request, service: str, region: str, *, secure: bool
    ) -> str | None:
        """AWS's sentence for the first thing in a request that is not allowed."""
        is_root = caller.arn.endswith(":root")
        if not caller.deny and is_root and (service != "s3" or not await self._policy_of(bucket_of(request))):
            return None
        for wish in wishes_of(request, service, region):
            if wish.action in caller.deny:
                return f"User: {caller.arn} is not authorized to perform: {wish.action} on resource: {wish.resource}"
            if wish.action in FREE:
                continue
            if text := await self._refused(caller.arn, wish, region, secure):
                self._knobs.counters[f"denied {wish.action}"] += 1
                return text
            self._knobs.counters[f"allowed {wish.action}"] += not is_root
        return None

    async def hides(self, caller: Credential, request: Request, region: str, *, secure: bool) -> str | None:
        """What S3 says to who may not list the bucket, in place of that nothing is there."""
        if caller.arn.endswith(":root"):
            return None
        wish = Wish("s3:ListBucket", f"arn:aws:s3:::{bucket_of(request)}")
        return await self._refused(caller.arn, wish, region, secure)

    async def _refused(self, arn: str, wish: Wish, region: str, secure: bool) -> str | None:
        from ministack.core import iam_evaluator
        from ministack.core.iam_actions import identity_denial_message

        kind = next((kind for part, kind in KINDS.items() if part in arn), "User")
        asked = iam_evaluator.EvalContext(arn, kind, ACCOUNT, wish.action, wish.resource, region, "127.0.0.1", secure)
        asked.service_context = {name.lower(): value for name, value in wish.conditions.items()}
        principal = Principal([], []) if kind == "Root" else await self._principal(arn)
        result = iam_evaluator.EvalResult("Allow")
        if kind != "Root":
            result = iam_evaluator.evaluate(asked, principal.policies, *principal.limits)
        if wish.action.startswith("s3:"):
            policy = await self._policy_of(wish.resource.removeprefix("arn:aws:s3:::").partition("/")[0])
            if policy:
                limits = tuple(principal.limits)
                result = iam_evaluator.combine_resource_policy(result, asked, policy, ACCOUNT, limits=limits)
        if result.decision == "Allow":
            return None
        return str(identity_denial_message(wish.action, arn, wish.resource, result.decision == "Deny"))

    async def _principal(self, arn: str) -> Principal:
        if self._principals is None:
            self._principals = await self._read()
        kind, _, rest = arn.rpartition(":")[2].partition("/")
        name = rest.split("/")[0] if kind == "assumed-role" else rest.rpartition("/")[2]
        return self._principals.get(f"{'role' if kind == 'assumed-role' else kind}/{name}", Principal([], []))

    async def _read(self) -> dict[str, Principal]:
        """All users and roles."""
        form = urlencode(
            {"Action": "GetAccountAuthorizationDetails", "Version": "2010-05-08", "MaxItems": "1000", **OURS}
        )
        headers = {"host": "localhost", "authorization": INTERNAL.format(region="us-east-1", service="iam")}
        headers["content-type"] = "application/x-www-form-urlencoded"
        status, body = await self._upstream.fetch("POST", "/", headers, form.encode())
        if status != 200:
            raise RuntimeError(f"the emulator does not say who may do what: {status} {body[:300]!r}")
        details = ElementTree.fromstring(re.sub(rb'\sxmlns="[^"]+"', b"", body))
        managed = {found.findtext("Arn"): _default(found) for found in details.iterfind(".//Policies/member")}
        principals = {}
        for kind, where in (("role", "RoleDetailList"), ("user", "UserDetailList")):
            for found in details.iterfind(f".//{where}/member"):
                inline = found.iterfind(f"./{kind.title()}PolicyList/member/PolicyDocument")
                attached = found.iterfind("./AttachedManagedPolicies/member/PolicyArn")
                own = [unquote(each.text or "") for each in inline]
                own += [managed.get(each.text, "") for each in attached]
                boundary = found.findtext("./PermissionsBoundary/PermissionsBoundaryArn")
                limits = [[_parsed(managed.get(boundary, ""))]] if boundary else []
                name = found.findtext(f"{kind.title()}Name")
                principals[f"{kind}/{name}"] = Principal([_parsed(document) for document in own if document], limits)
        return principals

    async def _policy_of(self, bucket: str) -> str:
        if bucket and bucket not in self._buckets:
            headers = {"host": "localhost", "authorization": INTERNAL.format(region="us-east-1", service="s3")}
            status, body = await self._upstream.fetch("GET", f"/{quote(bucket)}?policy", headers)
            self._buckets[bucket] = body.decode() if status == 200 else ""
        return self._buckets.get(bucket, "")


def _default(policy: ElementTree.Element) -> str:
    for version in policy.iterfind("./PolicyVersionList/member"):
        if version.findtext("IsDefaultVersion") == "true":
            return unquote(version.findtext("Document") or "")
    return ""


def _parsed(document: str) -> list[object]:
    from ministack.core.iam_evaluator import parse_policy_document

    return parse_policy_document(json.loads(document)) if document else []


def bucket_of(request: Request) -> str:
    """The bucket in the path of a request to S3."""
    return unquote(request.path).lstrip("/").partition("/")[0]


def wishes_of(request: Request, service: str, region: str) -> list[Wish]:
    """What a request asks for; more than one where it deletes many objects or copies one."""
    from ministack.core import iam_actions

    query = parse_qs(request.query, keep_blank_values=True)
    headers = dict(request.headers)
    if service == "lambda":
        return [_lambda_wish(request, region)]
    path = unquote(request.path)
    if service != "s3":
        query = {**parse_qs(request.body.decode("latin-1")), **query}
    action = iam_actions.extract_iam_action(service, request.method, path, headers, request.body, query)
    resource = iam_actions.extract_resource_arn(
        service, request.method, path, headers, request.body, query, region, ACCOUNT
    )
    if service != "s3":
        return [Wish(action or f"{service}:*", resource)]
    listed = {f"s3:{name}": query[name][0] for name in ("prefix", "delimiter", "max-keys") if name in query}
    more = iam_actions.s3_additional_checks(request.method, path, headers, request.body, query)
    first = Wish(action or "s3:*", resource, listed if action in ("s3:ListBucket", "s3:ListBucketVersions") else {})
    return [first, *(Wish(action, resource) for action, resource in more)]


def _lambda_wish(request: Request, region: str) -> Wish:
    here = f"arn:aws:lambda:{region}:{ACCOUNT}"
    for name, verb, pattern, asked in _operations():
        match = pattern.fullmatch(request.path.rstrip("/"))
        if match and request.method == verb and asked in request.query:
            said = {key: unquote(value) for key, value in match.groupdict().items()}
            resource = "*"
            if "FunctionName" in said:
                resource = f"{here}:function:{said['FunctionName'].rpartition(':')[2]}"
            elif "LayerName" in said and name != "ListLayerVersions":
                resource = ":".join(filter(None, (f"{here}:layer", said["LayerName"], said.get("VersionNumber"))))
            return Wish(f"lambda:{SAME.get(name, name)}", resource)
    return Wish("lambda:*", "*")


@cache
def _operations() -> list[tuple[str, str, re.Pattern[str], str]]:
    """Lambda's operations as botocore knows them: method, path, and what the query must have; the narrowest first."""
    from botocore.loaders import Loader

    operations = Loader().load_service_model("lambda", "service-2")["operations"]
    found = []
    for name, about in operations.items():
        path, _, asked = about["http"]["requestUri"].partition("?")
        named = re.sub(r"\{(\w+)\+?\}", r"(?P<\1>[^/]+)", path.rstrip("/"))
        found.append((name, about["http"]["method"], re.compile(named), asked))
    return sorted(found, key=lambda each: (each[2].groups, not each[3]))
