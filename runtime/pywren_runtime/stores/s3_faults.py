"""What went wrong with a request to S3: from the client library's words to a verdict, a pause or an error's text.

text ── read ──► Fault ── verdict ──► MISSING · TAKEN · BEYOND    an answer, which the caller awaits
                                 ──► PASSING ── pause ──► seconds, and the same again; None: given up
                                 ──► FINAL                        explain ──► StoreError
"""

import enum
import re
from dataclasses import dataclass, replace

from pywren_runtime.aws import LOG_IN
from pywren_runtime.errors import StoreCredentialsError, StoreError, StoreFull
from pywren_runtime.stores.s3_settings import Settings

__all__ = ["Fault", "Patience", "Verdict", "explain", "pause", "read"]


class Verdict(enum.Enum):
    """What a fault means for who asked."""

    MISSING = enum.auto()  # nothing lies there
    TAKEN = enum.auto()  # something lies there, and nothing was to
    BEYOND = enum.auto()  # the range begins where the object ends
    PASSING = enum.auto()  # the same request may succeed later
    FINAL = enum.auto()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds."""

    connect: float = 5.0
    silence: float = 15.0  # until an answer begins, and between two pieces of it
    slowest: float = 262_144.0  # bytes a second at which a large object may be sent
    total: float = 180.0  # of tries and pauses, in all
    unreachable: float = 15.0  # the same while not even a connection was made
    first_pause: float = 0.1
    longest_pause: float = 5.0

    def for_size(self, size: int) -> "Patience":
        """The same for an object of up to that size, which takes a while to send before an answer can begin."""
        silence = self.silence + size / self.slowest
        return replace(self, silence=silence, total=max(self.total, _TRIES_AT_LEAST * silence))


@dataclass(frozen=True, slots=True)
class Fault:
    """One failed request."""

    text: str
    status: int | None  # None if no answer came
    code: str  # S3's own word for it
    kind: str  # the client library's word for what happened to the connection
    region: str | None = None  # where the bucket is, if the answer says so

    @property
    def verdict(self) -> Verdict:
        if self.lacks_credentials:
            return Verdict.FINAL
        if self.status == 404 and self.code in ("NoSuchKey", "NotFound", ""):
            return Verdict.MISSING
        if self.status in (412, 304):
            return Verdict.TAKEN
        if self.status == 416:
            return Verdict.BEYOND
        if self.status is None:
            return Verdict.PASSING if self.kind and not self.is_certificate else Verdict.FINAL
        if self.code in _PASSING or self.status in (408, 409, 429):
            return Verdict.PASSING
        return Verdict.PASSING if self.status >= 500 and self.status not in (501, 507) else Verdict.FINAL

    @property
    def maybe_done(self) -> bool:
        """Whether the request may have been carried out and only its answer was lost."""
        if self.status is None:
            return self.kind != "Connect"
        return self.status == 200 or self.status >= 500 or self.status == 408

    @property
    def unreachable(self) -> bool:
        """Whether nobody was there to ask."""
        return self.kind == "Connect"

    @property
    def is_expiry(self) -> bool:
        """Whether fresh credentials may help."""
        return self.code in _EXPIRED

    @property
    def lacks_credentials(self) -> bool:
        """Whether nothing was sent because nobody gave credentials."""
        head = self.text.partition("\n\n")[0]
        return "External AWS credential provider" in head or "http://169.254.16" in head

    @property
    def is_bare_redirect(self) -> bool:
        """Whether the bucket is elsewhere, and the server did not say where."""
        return self.status in (301, 307) and self.region is None

    @property
    def is_certificate(self) -> bool:
        """Whether the server's certificate was refused."""
        return self.status is None and "certificate" in self.text.lower()


_TRIES_AT_LEAST = 3
_PASSING = frozenset(
    "SlowDown RequestTimeout InternalError ServiceUnavailable OperationAborted ConditionalRequestConflict"
    " NoSuchUpload Throttling ThrottlingException RequestLimitExceeded BandwidthLimitExceeded TooManyRequests".split()
)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")  # the second of one key among many
_REGION = re.compile(r"<Region>([\w-]+)</Region>")
_KIND = re.compile(r"kind: (\w+)")


def read(text: str) -> Fault:
    """The fault in the words of an exception of the client library."""
    head, _, debug = text.partition("\n\nDebug source:")
    found = _STATUS.search(head)
    status = int(found[1]) if found else None
    if status is None and "Received redirect without LOCATION" in head:
        status = 301
    if status is None and ("Server returned error response" in head or "DeleteObjects request failed" in head):
        status = 200
    code, region = _CODE.search(head), _REGION.search(head)
    kind = _KIND.search(debug) if status is None and "HTTP error" in head else None
    if kind is None and status is None and "HTTP error" in head:
        return Fault(text, None, "", "Unknown", None)
    return Fault(
        text if kind else head.strip(),
        status,
        (code[1] or code[2]) if code else "",
        kind[1] if kind else "",
        region[1] if region else None,
    )


def pause(fault: Fault, tries: int, elapsed: float, roll: float, patience: Patience) -> float | None:
    """Seconds to wait before the next try, or None when it is not worth one; `roll` is chance, from 0 to 1."""
    limit = patience.unreachable if fault.unreachable else patience.total
    longest = min(patience.longest_pause, patience.first_pause * 2.0 ** min(tries - 1, 20))
    seconds = longest * (0.25 + 0.75 * roll)
    return seconds if elapsed + seconds < limit else None


# ── in words ──

_ACTIONS = {"read": "s3:GetObject", "write": "s3:PutObject", "list": "s3:ListBucket", "delete": "s3:DeleteObject"}
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_WRONG_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity"})
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "InsufficientCapacity"})
_ELSEWHERE = frozenset(
    {"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)


def explain(fault: Fault, settings: Settings, action: str, key: str, tries: int, elapsed: float) -> StoreError:
    """The error that says what happened to what, why, and what to do."""
    what = f" {key!r}" if key else ""
    text = f"the store {settings.url} could not {action}{what}: "
    if fault.code in _FULL or fault.status == 507:
        return StoreFull(f"{text}the server has no room left ({fault.code or fault.status}). Free space there.")
    kind = StoreCredentialsError if (why := _unknown(fault)) else StoreError
    return kind(text + (why or _reason(fault, settings, action, key, tries, elapsed)))


def _unknown(fault: Fault) -> str:
    """What is wrong with the credentials themselves, if anything is."""
    if fault.lacks_credentials:
        return f"there are no credentials. {LOG_IN}, or name a profile in AWS_PROFILE (aws configure makes one)."
    if fault.code in _EXPIRED:
        return f"the credentials have expired ({fault.code}). {LOG_IN}."
    if fault.code in _WRONG_KEYS or fault.status == 401:
        return (
            f"the credentials are not valid ({fault.code or fault.status}). See whose they are: aws sts"
            f" get-caller-identity. {LOG_IN}."
        )
    return ""


def _reason(fault: Fault, settings: Settings, action: str, key: str, tries: int, elapsed: float) -> str:
    bucket = settings.bucket
    if fault.code == "NoSuchBucket" or (fault.status == 404 and action == "list"):
        return (
            f"there is no bucket {bucket!r} (looked for in {settings.place}). Correct the name, or make it:"
            f" aws s3 mb s3://{bucket} --region {settings.region}"
        )
    if fault.status in (301, 307) or (fault.code in _ELSEWHERE and fault.status in (301, 307, 400)):
        return _wrong_region(fault, settings)
    if fault.code == "RequestTimeTooSkewed":
        return (
            "this machine's clock differs from the server's by more than 15 minutes (RequestTimeTooSkewed). Set the"
            " clock, for instance: timedatectl set-ntp true"
        )
    if fault.status == 403 or fault.code == "AccessDenied":
        return _denied(fault, settings, action, key)
    return _other(fault, settings, tries, elapsed)


def _wrong_region(fault: Fault, settings: Settings) -> str:
    right = fault.region if fault.region and fault.region != settings.region else None
    if right is None:
        return (
            f"the bucket {settings.bucket!r} is not in {settings.place}. Find out where it is (aws s3api"
            f" get-bucket-location --bucket {settings.bucket}), and set AWS_REGION to that."
        )
    return (
        f"the bucket {settings.bucket!r} is in region {right}, and not in {settings.place}. Set AWS_REGION={right},"
        f" or region={right} in the store's URL: ?region={right}"
    )


def _denied(fault: Fault, settings: Settings, action: str, key: str) -> str:
    asked = _ACTIONS.get(action, "s3:*")
    path = "" if action == "list" else f"/{settings.prefix}{key}"
    more = ""
    if action == "read":
        more = " Who may not s3:ListBucket is told the same of a key at which nothing lies."
    return (
        f"{asked} on arn:aws:s3:::{settings.bucket}{path} was denied ({fault.code or 403}). Allow it in the policy"
        f" of the user or role that asks (aws sts get-caller-identity), or in the bucket's policy.{more}"
    )


def _other(fault: Fault, settings: Settings, tries: int, elapsed: float) -> str:
    where = settings.endpoint or f"S3 in {settings.region}"
    if fault.is_certificate:
        return (
            f"the certificate of {where} was refused. If a private authority signed it, name its file in"
            f" AWS_CA_BUNDLE. ({_last_words(fault)})"
        )
    if fault.code == "EntityTooLarge":
        return "the object is too large: 5 GiB is the most in one request. Store it in smaller pieces."
    if fault.verdict is not Verdict.PASSING:
        return f"{where} refused ({_last_words(fault)}). If it is no S3 server, correct the endpoint."
    by = f" by the proxy {settings.proxy.rpartition('@')[2]}" if settings.proxy else ""  # without its password
    state = f"{'could not be reached' + by if fault.unreachable else 'failed'} ({_last_words(fault)})"
    return (
        f"{where} {state} in {tries} tries over {elapsed:.0f} s. Look at the network, the proxy and the endpoint, and"
        " try again."
    )


_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")
_SAID = re.compile(r'(?:message|error): "([^"]+)"|\b(TimedOut|ConnectionReset|IncompleteMessage|UnexpectedEof)\b')


def _last_words(fault: Fault) -> str:
    if fault.status is not None:
        message = _MESSAGE.search(fault.text)
        return f"{fault.status} {fault.code}".strip() + (f": {message[1]}" if message else "")
    said = _SAID.search(fault.text)
    if said is None:
        return fault.kind or fault.text.partition("\n")[0]
    return {"TimedOut": "no answer"}.get(said[2] or "", said[1] or said[2])
