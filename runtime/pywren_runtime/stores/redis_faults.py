"""What went wrong with a Redis server: whether it passes, and else an error's text.

a Refusal, or what the socket said ── Fault ── passes ──► the same again, after a pause, as long as patience lasts
                                           └── explain ──► StoreError, or StoreFull where there is no memory
"""

from dataclasses import dataclass

from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisClusterException, RedisError, ResponseError, SlotNotCoveredError
from redis.exceptions import TimeoutError as NotInTime

from pywren_runtime.errors import StoreError, StoreFull
from pywren_runtime.stores.redis_settings import PASSWORD, Settings

__all__ = ["Fault", "Patience", "explain", "of_error", "of_refusal"]

_WRAPPERS = (NotConnected, NotInTime, RedisClusterException)
_REASONS = (RedisError, RedisClusterException, OSError)
_PASSING = frozenset("TRYAGAIN LOADING CLUSTERDOWN MASTERDOWN READONLY BUSY NOREPLICAS".split())


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds."""

    connect: float = 5.0
    silence: float = 20.0  # until an answer begins, and between two pieces of it
    total: float = 30.0  # of tries and pauses
    unreachable: float = 10.0  # the same while nobody is there to ask
    pause: float = 0.05  # the first; each is twice the one before
    longest: float = 1.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What one try met: `code` is Redis's word, or for a connection `connect`, `lost` or `certificate`."""

    code: str
    text: str
    where: str  # the server

    @property
    def passes(self) -> bool:
        return self.code in ("connect", "lost") or self.code in _PASSING

    @property
    def maybe_done(self) -> bool:
        """Whether the command may have been carried out, and only its answer was lost."""
        return self.code == "lost"


def of_refusal(refusal: RedisError, where: str) -> Fault:
    """The fault that a server's answer is."""
    text = f"{refusal.status_code or ''} {refusal}".strip()  # redis-py takes off the codes that it knows
    return Fault(text.partition(" ")[0], text, where)


def of_error(error: Exception, where: str, *, connected: bool) -> Fault:
    """The fault that an exception of a connection is, or one met in finding out about a cluster."""
    cause: BaseException = error  # as redis-py wraps it, for its own words tell neither certificate nor refusal
    while isinstance(cause, _WRAPPERS) and not getattr(cause, "status_code", None):
        inner = cause.__cause__ or cause.__context__
        if not isinstance(inner, _REASONS):
            break
        cause = inner
    if isinstance(cause, RedisError) and (isinstance(cause, ResponseError) or cause.status_code not in (None, "ERR")):
        return of_refusal(cause, where)
    if type(cause).__name__ in ("SSLCertVerificationError", "SSLError"):
        return Fault("certificate" if "CERTIFICATE" in str(cause) else "tls", str(cause), where)
    if isinstance(cause, SlotNotCoveredError):
        return Fault("CLUSTERDOWN", str(cause), where)
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return Fault("lost" if connected else "connect", "no answer" if isinstance(cause, TimeoutError) else text, where)


def explain(fault: Fault, settings: Settings, action: str, key: str = "", seconds: float = 0.0) -> StoreError:
    """The error that says what happened to what, why, and what to do."""
    text = f"the store {settings.url} could not {action}{f' {key!r}' if key else ''}: "
    if fault.code == "OOM":
        return StoreFull(
            f"{text}{fault.where} has no memory left (its maxmemory is reached). Give it more, delete what is not"
            " needed, or let less lie there (?bytes= in the URL)."
        )
    return StoreError(text + _reason(fault, settings, seconds))


def _reason(fault: Fault, settings: Settings, seconds: float) -> str:
    where = fault.where
    if fault.code == "connect":
        return (
            f"{where} could not be reached in {seconds:.0f} s ({fault.text}). Look whether the server runs, and lets in"
            " who asks: workers on Lambda only from its own network (pywren-ng setup --subnets --security-groups)."
            + " A server without TLS does not answer either: then write redis://."
            * settings.tls
        )
    if fault.code == "lost":
        return (
            f"{where} stopped answering, for {seconds:.0f} s by now ({fault.text}). Look whether the server was"
            " restarted or ran out of memory, and try again."
            + " One that wants TLS may hang up on who speaks none: then write rediss://."
            * (not settings.tls)
        )
    if fault.code in _ADVICE:
        return f"{where} {_ADVICE[fault.code]} ({fault.text})."
    if fault.code in _PASSING:
        return f"{where} was not ready for {seconds:.0f} s ({fault.text}). Look at the server's log, and try again."
    if "cluster support disabled" in fault.text:
        return f"{where} is no cluster. Write redis:// for it."
    return f"{where} refused ({fault.text})."


_PASSWORD_ADVICE = (
    f"Put the right one into {PASSWORD} before the executor is made, for workers find it there when they start; on"
    " Lambda by `pywren-ng setup --redis-password`. A user's name stands in the URL"
)
_ADVICE = {
    "certificate": "has a certificate that is not trusted. If a private authority signed it, name its file in the URL"
    " (?ca=/a/file.pem) or in SSL_CERT_FILE",
    "tls": "and this side could not agree on TLS. Write redis:// if it speaks none",
    "NOAUTH": f"wants a password. {_PASSWORD_ADVICE}",
    "WRONGPASS": f"does not accept that user and password. {_PASSWORD_ADVICE}",
    "NOPERM": "does not permit that to this user. Give it the commands and keys of the store: ~prefix/* +@all",
    "MOVED": "is a node of a cluster. Write redis+cluster:// for it",
    "MISCONF": "cannot save its data to disk, and takes no more. Look at the server's log and disk",
    "EXECABORT": "did not run a transaction. Look at the server's log",
}
