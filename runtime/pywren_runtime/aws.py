"""What talking to AWS needs before a byte is sent: credentials, the signature of a request, and where to send it.

The standard library only: a worker that starts workers imports this, and so does the client.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest
from typing import Final

from pywren_runtime.errors import ConfigError, CredentialsError

EARLY: Final = 300.0  # seconds
INFINITE: Final = float("inf")
LOG_IN: Final = (  # what to do about credentials that have expired, or are not valid
    "Log in again (`aws sso login`, with --profile if you use one), or put fresh values into AWS_ACCESS_KEY_ID,"
    " AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN"
)
SAFE: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. The secret and the session token never show in a repr."""

    key_id: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires: float | None = None  # seconds of the epoch

    def good_until(self, now: float) -> float:
        """When to ask for new ones: some minutes before these end, or after three quarters of what is left of them."""
        return INFINITE if self.expires is None else self.expires - min(EARLY, max(0.0, self.expires - now) / 4)


def from_environment(environ: Mapping[str, str] = os.environ) -> Credentials:
    """The credentials in the environment variables, where Lambda puts them; CredentialsError if there are none."""
    key_id, secret = environ.get("AWS_ACCESS_KEY_ID", ""), environ.get("AWS_SECRET_ACCESS_KEY", "")
    if not (key_id and secret):
        raise CredentialsError(
            "there are no AWS credentials in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both "
            "set. In a Lambda function they always are, if its role exists"
        )
    return Credentials(key_id, secret, environ.get("AWS_SESSION_TOKEN") or None)


def region_of(environ: Mapping[str, str] = os.environ) -> str | None:
    """The region that the environment variables name. Lambda sets AWS_REGION, boto3 reads AWS_DEFAULT_REGION."""
    return environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or None


def endpoint_of(service: str, region: str, environ: Mapping[str, str] = os.environ) -> str:
    """The URL of a service in a region: AWS_ENDPOINT_URL_<SERVICE>, AWS_ENDPOINT_URL, or AWS's own."""
    if environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        own = environ.get(f"AWS_ENDPOINT_URL_{service.upper()}") or environ.get("AWS_ENDPOINT_URL")
        if own:
            return own
    if not all(byte in SAFE for byte in region.encode()) or not region:
        raise ConfigError(f"{region!r} is no name of an AWS region; one is, for example, us-east-1")
    return f"https://{service}.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def quote(text: str, keep: str = "") -> str:
    """Percent-encoded as AWS wants it: all but letters, digits, `-_.~` and what is to be kept."""
    raw = text.encode()
    safe = SAFE.union(keep.encode()) if keep else SAFE
    if safe.issuperset(raw):
        return text
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in raw)


def canonical_path(path: str) -> str:
    """A path as the signature wants it: without dots and doubled slashes, and quoted once more than it is sent."""
    if "//" in path or "/." in path or not path.startswith("/"):
        kept: list[str] = []
        for part in path.split("/"):
            if part == "..":
                del kept[-1:]
            elif part not in ("", "."):
                kept.append(part)
        path = ("/" if path[:1] in ("", "/") else "") + "/".join(kept) + ("/" if kept and path.endswith("/") else "")
    return quote(path, "/")


def canonical_query(query: str) -> str:
    """A query that is quoted already, in the order in which it is signed."""
    if not query:
        return ""
    pairs = sorted((key, value) for key, _, value in (pair.partition("=") for pair in query.split("&")))
    return "&".join(f"{key}={value}" for key, value in pairs)


class Signer:
    """Signs requests (Signature Version 4) to one service in one region, with a key kept for the day.

    Not for S3, whose paths are quoted once only.
    """

    def __init__(self, service: str, region: str) -> None:
        self._service = service
        self._region = region
        self._second = -1
        self._stamp = ""
        self._made_for: tuple[str, str, str] | None = None
        self._key = b""
        self._scope = ""

    def sign(
        self, credentials: Credentials, method: str, target: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> dict[str, str]:
        """The headers to be sent: those given, in lower case and with `host`, and three that authorize them."""
        if int(now) != self._second:
            self._second = int(now)
            self._stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        stamp = self._stamp
        wanted = (credentials.key_id, credentials.secret, stamp[:8])
        if wanted != self._made_for:
            self._renew(wanted)
        signed = {**headers, "x-amz-date": stamp}
        if credentials.token:
            signed["x-amz-security-token"] = credentials.token
        names = sorted(signed)
        listed = ";".join(names)
        lines = "\n".join([f"{name}:{' '.join(signed[name].split())}" for name in names])
        path, _, query = target.partition("?")
        place = f"{canonical_path(path)}\n{canonical_query(query)}"
        request = f"{method}\n{place}\n{lines}\n\n{listed}\n{sha256(body).hexdigest()}"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{self._scope}\n{sha256(request.encode()).hexdigest()}"
        signature = digest(self._key, text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.key_id}/{self._scope}, SignedHeaders={listed}, "
            f"Signature={signature}"
        )
        return signed

    def _renew(self, wanted: tuple[str, str, str]) -> None:
        _, secret, day = wanted
        key = f"AWS4{secret}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = digest(key, part.encode(), "sha256")
        self._key, self._scope, self._made_for = key, f"{day}/{self._region}/{self._service}/aws4_request", wanted
