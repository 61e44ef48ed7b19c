"""The one port: signatures are verified here, then each request goes to whoever serves it."""

import base64
import binascii
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import parse_qs
from xml.etree import ElementTree

from local_aws import refusals, sigv4
from local_aws.control import Control
from local_aws.credentials import ACCOUNT, Credential, Keyring
from local_aws.functions import INTERNAL, Functions
from local_aws.http1 import Request, Response
from local_aws.invoke import PATH, Invoker
from local_aws.permissions import Permissions, wishes_of
from local_aws.s3_proxy import PREFIX, S3Proxy
from local_aws.s3_requests import Answer
from local_aws.s3_requests import Request as Asking
from local_aws.upstream import Upstream

SETTINGS = re.compile(r"/2016-08-19/account-settings/?\Z")
PLACES = ("s3", "lambda", "iam", "sts", "cloudformation", "logs")


class Gateway:
    """Answers every request that comes to the port."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        functions: Functions,
        invoker: Invoker,
        control: Control,
        proxy: S3Proxy,
        port: int,
    ) -> None:
        self._keyring = keyring
        self._functions = functions
        self._invoker = invoker
        self._control = control
        self._proxy = proxy
        self._place = ("127.0.0.1", port)
        self._upstream = Upstream(port)
        self._permissions = Permissions(self._upstream, control.knobs)

    async def serve(self, request: Request) -> Response:
        """The answer to one request."""
        if request.path.startswith("/_local/"):
            return await self._control.answer(request)
        if request.path.startswith(PREFIX):
            status, body = self._proxy.control(request.method, request.target, request.body)
            return Response(status, [("Content-Type", "application/json")], body)
        service = "s3"
        try:
            claim = sigv4.claim_of(request)
            if claim is None:
                service = service_by_path(request)
                raise sigv4.Refused("missing", "Missing Authentication Token")
            service = claim.service
            credential = sigv4.verify(request, claim, self._keyring, time.time())
        except sigv4.Refused as refused:
            self._control.knobs.counters[f"refused_{refused.kind}"] += 1
            return refusals.refusal(service, refused.kind, refused.text)
        return await self._admitted(request, claim, credential)

    async def _admitted(self, request: Request, claim: sigv4.Claim, credential: Credential) -> Response:
        service, region = claim.service, claim.scope[1]
        if service not in PLACES:
            return refusals.refusal("query", "not_implemented", f"This local AWS has no service {service}")
        secure = self._control.knobs.settings.secure
        if text := await self._permissions.refusal(credential, request, service, region, secure=secure):
            return refusals.refusal(service, "denied", text)
        self._look(service, request.target.encode() + request.body)
        if service == "s3":
            return await self._s3(request, region, credential)
        if service == "lambda" and PATH.match(request.path) and request.method == "POST":
            answer = await self._invoker.invoke(request, region)
            if isinstance(answer.body, bytes):
                self._look(service, answer.body)
            return answer
        return await self._control_plane(request, service, region, credential)

    def _look(self, service: str, said: bytes) -> None:
        needle = self._control.knobs.settings.needle.encode()
        if needle and any(needle in text for text in (said, *decoded(said))):
            self._control.knobs.counters[f"seen in {service}"] += 1

    async def _s3(self, request: Request, region: str, caller: Credential) -> Response:
        asking = Asking(request.method, request.target, list(request.headers.items()), request.body)
        answer = await self._proxy.answer(asking, self._place)
        if "policy" in request.query and request.method != "GET":
            self._permissions.changed()
        secure = self._control.knobs.settings.secure
        if answer.status == 404 and (text := await self._permissions.hides(caller, request, region, secure=secure)):
            return refusals.refusal("s3", "denied", text)
        headers = list(answer.headers)
        if answer.size is not None and answer.status not in (204, 304):
            headers.append(("Content-Length", str(answer.size)))
        if request.method == "HEAD" or answer.size == 0:
            async for _ in answer.body:
                pass
            return Response(answer.status, headers)
        return Response(answer.status, headers, pieces(answer))

    async def _control_plane(self, request: Request, service: str, region: str, credential: Credential) -> Response:
        self._control.knobs.counters[f"asked {wishes_of(request, service, region)[0].action}"] += 1
        words = parse_qs(request.body.decode("latin-1")) if service in ("sts", "iam") else {}
        action = words.get("Action", [""])[0]
        if action == "GetCallerIdentity":
            return caller_identity(credential)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in ("authorization", "x-amz-security-token", "accept-encoding")
        }
        headers["authorization"] = INTERNAL.format(region=region, service=service)
        # The emulator reads the whole body before it answers, so nothing is lost by doing the same.
        response = await self._upstream.forward(Request(request.method, request.target, headers, request.body))
        body = response.body if isinstance(response.body, bytes) else b"".join([piece async for piece in response.body])
        if service in ("cloudformation", "iam"):
            self._permissions.changed()
        if service == "cloudformation" or (service == "lambda" and request.method != "GET"):
            self._functions.changed()
        if action in ("AssumeRole", "GetSessionToken", "CreateAccessKey") and response.status == 200:
            self._learn(body, credential)
        if SETTINGS.match(request.path) and response.status == 200:
            body = self._settings(body)
        kept = [(name, value) for name, value in response.headers if name.lower() != "content-length"]
        return Response(response.status, kept, body)

    def _learn(self, body: bytes, caller: Credential) -> None:
        """Accept from now on the keys that the emulator has just made."""
        found = {element.tag.rpartition("}")[2]: element.text or "" for element in ElementTree.fromstring(body).iter()}
        expires = None
        if "Expiration" in found:
            stamp = re.sub(r"\.\d+", "", found["Expiration"])
            expires = float(sigv4.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")))
        token = found.get("SessionToken")
        arn = (
            f"arn:aws:iam::{ACCOUNT}:user/{found['UserName']}" if "UserName" in found else found.get("Arn", caller.arn)
        )
        self._keyring.add(Credential(found["AccessKeyId"], found["SecretAccessKey"], token, expires, arn, caller.deny))

    def _settings(self, body: bytes) -> bytes:
        answer = json.loads(body)
        limits = answer["AccountLimit"]
        reserved = limits["ConcurrentExecutions"] - limits["UnreservedConcurrentExecutions"]
        limits["ConcurrentExecutions"] = self._control.knobs.settings.account_concurrency
        limits["UnreservedConcurrentExecutions"] = limits["ConcurrentExecutions"] - reserved
        return json.dumps(answer).encode()


def decoded(said: bytes) -> Iterator[bytes]:
    """What stands in it in base64."""
    for found in re.finditer(rb"[A-Za-z0-9+/]{8,}={0,2}", said):
        with contextlib.suppress(binascii.Error):
            yield base64.b64decode(found[0])


async def pieces(answer: Answer) -> AsyncIterator[bytes]:
    """The body, piece by piece."""
    async for piece in answer.body:
        yield piece


def service_by_path(request: Request) -> str:
    """Whose words to use for a request that names no service."""
    if re.match(r"/20\d\d-\d\d-\d\d/", request.path):
        return "lambda"
    return "query" if request.headers.get("content-type", "").startswith("application/x-www-form") else "s3"


def caller_identity(credential: Credential) -> Response:
    """STS's answer to who the caller is."""
    body = (
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
        f"<Arn>{credential.arn}</Arn><UserId>{credential.access_key}</UserId><Account>{ACCOUNT}</Account>"
        "</GetCallerIdentityResult></GetCallerIdentityResponse>"
    )
    return Response(200, [("Content-Type", "text/xml")], body.encode())
