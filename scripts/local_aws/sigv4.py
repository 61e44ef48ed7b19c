"""Signature Version 4, the receiving side: is this request signed by whom it says, now, and as it arrived?"""

import hashlib
import hmac
import time
from calendar import timegm
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote

from local_aws.credentials import Credential, Keyring
from local_aws.http1 import Request

SKEW = 900
UNRESERVED = "-_.~"
ALGORITHM = "AWS4-HMAC-SHA256"


class Refused(Exception):
    """Why a request is not let in: the kind of refusal, whose words each service says its own way."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says of its own signature."""

    access_key: str
    scope: tuple[str, str, str]
    signed: tuple[str, ...]
    signature: str
    moment: str
    token: str | None
    lasts: int | None
    query: tuple[tuple[str, str], ...]

    @property
    def service(self) -> str:
        """The service the signature is for."""
        return self.scope[2]


def parse_query(query: str) -> tuple[tuple[str, str], ...]:
    """Names and values, decoded; a plus is a plus."""
    pairs = (part.partition("=") for part in query.split("&") if part)
    return tuple((unquote(name), unquote(value)) for name, _, value in pairs)


def claim_of(request: Request) -> Claim | None:
    """The signature in a request's header or, presigned, in its query; None if it has none."""
    query = parse_query(request.query)
    header = request.headers.get("authorization")
    named = dict(query)
    try:
        if header is not None:
            algorithm, _, rest = header.partition(" ")
            fields = dict(part.strip().split("=", 1) for part in rest.split(","))
            found = (fields["Credential"], fields["SignedHeaders"], fields["Signature"])
            moment, token, lasts = (
                request.headers.get("x-amz-date", ""),
                request.headers.get("x-amz-security-token"),
                None,
            )
        elif "X-Amz-Signature" in named:
            algorithm, moment = named["X-Amz-Algorithm"], named["X-Amz-Date"]
            found = (named["X-Amz-Credential"], named["X-Amz-SignedHeaders"], named["X-Amz-Signature"])
            token, lasts = named.get("X-Amz-Security-Token"), int(named["X-Amz-Expires"])
            query = tuple(pair for pair in query if pair[0] != "X-Amz-Signature")
        else:
            return None
        key, day, region, service, last = found[0].split("/")
    except (KeyError, ValueError):
        raise Refused("incomplete", "The authorization of the request is malformed.") from None
    if algorithm != ALGORITHM or last != "aws4_request" or not moment.startswith(day):
        raise Refused("incomplete", f"The authorization is not a complete {ALGORITHM} one.")
    return Claim(key, (day, region, service), tuple(found[1].split(";")), found[2], moment, token, lasts, query)


def verify(request: Request, claim: Claim, keyring: Keyring, now: float) -> Credential:
    """The credential that signed this request, or Refused."""
    credential = keyring.find(claim.access_key)
    if credential is None:
        raise Refused("unknown_key", "The security token included in the request is invalid.")
    if (claim.token or None) != credential.token:
        raise Refused("bad_token", "The security token included in the request is invalid.")
    if credential.expires is not None and credential.expires <= now:
        raise Refused("expired", "The security token included in the request is expired")
    check_moment(claim, now)
    required = {"host"} | {name for name in request.headers if name.startswith("x-amz-") and claim.lasts is None}
    if missing := required - set(claim.signed) - {"x-amz-trace-id"}:
        raise Refused("bad_signature", f"There were headers present in the request which were not signed: {missing}")
    expected = signature(request, claim, credential.secret, hashed_payload(request, claim))
    if not hmac.compare_digest(expected, claim.signature):
        raise Refused(
            "bad_signature",
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method.",
        )
    return credential


def check_moment(claim: Claim, now: float) -> None:
    """A request must have been signed within a quarter of an hour; a presigned one lasts as long as it says."""
    try:
        signed = timegm(time.strptime(claim.moment, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise Refused("incomplete", "The date of the request is malformed.") from None
    if claim.lasts is not None:
        if now > signed + claim.lasts:
            raise Refused("presigned_expired", "Request has expired")
    elif abs(now - signed) > SKEW:
        here = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        raise Refused("skewed", f"Signature expired: {claim.moment} is now too far from {here}")


def hashed_payload(request: Request, claim: Claim) -> str:
    """The payload's place in the canonical request; what it claims about the body is checked."""
    if claim.lasts is not None and claim.service == "s3":
        return "UNSIGNED-PAYLOAD"
    said = request.headers.get("x-amz-content-sha256")
    if said in ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"):
        return said
    if said is not None and said.startswith("STREAMING-"):
        raise Refused("not_implemented", "Chunks that are signed one by one are not verified here, so not accepted.")
    actual = hashlib.sha256(request.body).hexdigest()
    if said is not None and said != actual:
        raise Refused("bad_hash", "The provided 'x-amz-content-sha256' header does not match what was computed.")
    return actual


def signature(request: Request, claim: Claim, secret: str, payload: str) -> str:
    """The signature this request should carry."""
    path = request.path
    path = quote(unquote(path), safe="/" + UNRESERVED) if claim.service == "s3" else quote(path, safe="/" + UNRESERVED)
    pairs = sorted((quote(name, safe=UNRESERVED), quote(value, safe=UNRESERVED)) for name, value in claim.query)
    query = "&".join(f"{name}={value}" for name, value in pairs)
    headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in claim.signed)
    canonical = "\n".join((request.method, path or "/", query, headers, ";".join(claim.signed), payload))
    scope = "/".join((*claim.scope, "aws4_request"))
    text = "\n".join((ALGORITHM, claim.moment, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    return hmac.new(signing_key(secret, *claim.scope), text.encode(), hashlib.sha256).hexdigest()


@lru_cache(maxsize=1024)
def signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """The key of one day, region and service."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
