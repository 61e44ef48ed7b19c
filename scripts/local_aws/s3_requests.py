"""What a request to S3 asks for, and of whom it is: pure functions of the request.

Both ways of naming a bucket are understood: in the path, and in a Host that begins with `bucket.s3`.
"""

import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

__all__ = ["KINDS", "Answer", "Asked", "Cut", "Request", "asked_of"]

KINDS = (
    "PutObject",
    "ConditionalPut",
    "GetObject",
    "GetRange",
    "HeadObject",
    "HeadBucket",
    "ListObjectsV2",
    "DeleteObject",
    "DeleteObjects",
    "CreateMultipartUpload",
    "UploadPart",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "Other",
)
# Beside these a request for an object asks for the object itself and for nothing about it.
HARMLESS = re.compile(r"(x-id|versionId|partNumber|response-.*|X-Amz-.*|AWSAccessKeyId|Signature|Expires)\Z", re.I)
VIRTUAL = re.compile(r"([a-z0-9][a-z0-9.-]+)\.s3[.-]")
CREDENTIAL = re.compile(r"(?:Credential|AWSAccessKeyId)=([^/,&\s]+)")

Headers = list[tuple[str, str]]


class Cut(Exception):
    """The connection to the client is to be cut now, without another byte."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came: the target with its query, the headers with their case, the body as sent.

    The body is not decoded: what was `aws-chunked` still is. Only the transfer's own chunks are gone.
    """

    method: str
    target: str
    headers: Headers
    body: bytes = b""

    def header(self, name: str) -> str:
        return header_of(self.headers, name)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whose body arrives piece by piece and may end in `Cut`.

    `size` is what Content-Length promises; None says that it is not known before the end. The headers say neither
    the length nor the framing: whoever writes the answer does.
    """

    status: int
    reason: str
    headers: Headers
    body: AsyncGenerator[bytes, None]
    size: int | None


@dataclass(frozen=True, slots=True)
class Asked:
    """Which operation, on what, and by whom: access key id and User-Agent, empty where there is none."""

    kind: str
    bucket: str
    key: str
    access_key: str
    agent: str


def header_of(headers: Iterable[tuple[str, str]], name: str) -> str:
    """The first of this name in whatever case, or nothing."""
    wanted = name.lower()
    return next((value for key, value in headers if key.lower() == wanted), "")


def asked_of(request: Request) -> Asked:
    """Reads it off method, target and headers; what is no known operation on objects is Other."""
    path, _, query = request.target.partition("?")
    names = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    bucket, key = _place(path, request.header("host"))
    credential = CREDENTIAL.search(request.header("authorization") or unquote(query))
    return Asked(
        _kind_of_object(request, names) if key else _kind_of_bucket(request.method, names, bucket),
        bucket,
        key,
        credential.group(1) if credential else "",
        request.header("user-agent"),
    )


def _place(path: str, host: str) -> tuple[str, str]:
    """Bucket and key."""
    path = unquote(path)
    if virtual := VIRTUAL.match(host):
        return virtual.group(1), path[1:]
    bucket, _, key = path[1:].partition("/")
    return bucket, key


def _kind_of_bucket(method: str, names: set[str], bucket: str) -> str:
    if not bucket:
        return "Other"
    if method == "HEAD":
        return "HeadBucket"
    if method == "GET" and "list-type" in names:
        return "ListObjectsV2"
    return "DeleteObjects" if method == "POST" and "delete" in names else "Other"


def _kind_of_object(request: Request, names: set[str]) -> str:
    if "uploads" in names:
        return "CreateMultipartUpload" if request.method == "POST" else "Other"
    if "uploadId" in names:
        kinds = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
        return kinds.get(request.method, "Other")
    if any(not HARMLESS.match(name) for name in names):
        return "Other"  # its tags, its access list, …
    match request.method:
        case "PUT" if request.header("x-amz-copy-source"):
            return "Other"
        case "PUT" if request.header("if-none-match") or request.header("if-match"):
            return "ConditionalPut"
        case "GET" if request.header("range"):
            return "GetRange"
    kinds = {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
    return kinds.get(request.method, "Other")
