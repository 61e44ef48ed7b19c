"""Who the client is for AWS: the environment's keys, or boto3's chain (profile, SSO, role, process, instance).

    find(Access) ──► callable ──► Credentials, valid now      for the S3 store and for Invoke, asked again and again

A local worker that needs the chain runs this module, which prints what is valid: boto3 is never in a worker itself.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from time import time
from typing import Any, Final

from pywren_runtime import stores
from pywren_runtime.aws import Credentials, from_environment
from pywren_runtime.errors import CredentialsError
from pywren_runtime.stores import Store

__all__ = ["Access", "Chain", "as_told", "explained", "find", "open_s3", "open_store"]

AGAIN: Final = 10.0  # seconds after which a renewal that failed is tried again, while the old ones are good


@dataclass(frozen=True, slots=True)
class Access:
    """As whom, and in which region, as far as the user says; what is None AWS's own variables and files decide."""

    profile: str | None = None
    region: str | None = None
    _chains: "dict[str | None, Chain]" = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    def chain(self, profile: str | None) -> "Chain":
        """The one chain of all that is reached with this access: who logs in by a program is asked once."""
        return self._chains.setdefault(profile, Chain(profile))


def find(access: Access | None = None, environ: Mapping[str, str] = os.environ) -> Callable[[], Credentials]:
    """What gives credentials that are valid now; keys in the environment and no profile: then without boto3."""
    access = access or Access()
    if has_keys(environ) and not access.profile:
        return lambda: from_environment(environ)
    return access.chain(access.profile)


def has_keys(environ: Mapping[str, str]) -> bool:
    """Whether the environment itself says who asks."""
    named = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
    return bool(environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY") and not named)


def open_store(url: str, access: Access | None = None) -> Store:
    """The client's store at any URL; one in S3 with its own credentials, which a worker could not find."""
    return open_s3(url, access) if url.startswith("s3:") else stores.open_store(url)


def open_s3(url: str, access: Access | None = None, environ: Mapping[str, str] = os.environ) -> Store:
    """The client's store at `s3://bucket/prefix`. The region of its URL decides, then that of `access`.

    A server that is not AWS's is tried here, once, so that no worker need do it: see `S3Store.check`.
    """
    from pywren_runtime.stores.s3_store import S3Store

    told, chain = as_told(url, access or Access(), environ)
    store = S3Store(told, credentials=chain)
    store.check()
    return store


def as_told(url: str, access: Access, environ: Mapping[str, str] = os.environ) -> "tuple[str, Chain | None]":
    """The URL with what a worker of this machine could not find out itself, and the chain that it will ask, if any."""
    from pywren_runtime.stores.s3_settings import parse

    settings = parse(url, environ)
    profile = access.profile or settings.profile
    chain = None if has_keys(environ) and not profile else access.chain(profile)
    region = access.region
    if chain is not None and region is None and not settings.names_region:
        region = chain.region()
    return settings.url_with(region=region, asks_client=chain is not None, profile=profile), chain


class Chain:
    """boto3's chain of credentials, looked through at the first call, and again before what it gave ends.

    boto3 itself would run a program, or ask a server, at each call for what ends within ten minutes.
    """

    def __init__(self, profile: str | None = None) -> None:
        self._profile = profile
        self._lock = Lock()
        self._session: Any = None
        self._found: Any = None
        self._given: Credentials | None = None
        self._until = 0.0  # until when that need not be renewed

    def __call__(self) -> Credentials:
        with self._lock:
            given, now = self._given, time()
            if given is None or now >= self._until:
                try:
                    with _Failures(self._profile):
                        given = self._given = self._ask()
                    self._until = given.good_until(now)
                except CredentialsError:
                    if given is None or given.expires is None or now >= given.expires:
                        raise
                    self._until = min(now + AGAIN, given.expires)  # the old ones are good as yet
            return given

    def _ask(self) -> Credentials:
        if self._found is None:
            self._found = self._open().get_credentials()
        if self._found is None:
            raise CredentialsError(
                "there are no AWS credentials: neither the environment, nor a profile, nor this machine's role has"
                f" any. {_LOG_IN}"
            )
        frozen = self._found.get_frozen_credentials()
        expiry = getattr(self._found, "_expiry_time", None)  # boto3 shows it nowhere else
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token, expiry.timestamp() if expiry else None)

    def region(self) -> str | None:
        """The region that the profile names."""
        with self._lock, _Failures(self._profile):
            found: str | None = self._open().region_name
            return found

    def _open(self) -> Any:
        if self._session is None:
            import boto3

            self._session = boto3.Session(profile_name=self._profile)
        return self._session


_LOG_IN = (
    "Run `aws configure` (or `aws configure sso` where your company has a log-in page), or set AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
)


class _Failures:
    """Turns what boto3 raises into a CredentialsError that says which command helps."""

    def __init__(self, profile: str | None = None) -> None:
        self._profile = profile

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, CredentialsError):
            return
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(error, BotoCoreError | ClientError):
            raise explained(type(error).__name__, str(error), self._profile) from error


def explained(kind: str, said: str, profile: str | None = None) -> CredentialsError:
    """The error for what boto3 or AWS said about who asks."""
    return CredentialsError(_words(kind, said, profile))


def _words(kind: str, said: str, profile: str | None) -> str:
    profile = profile or os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    named = f" --profile {profile}" if profile else ""
    if "SSO" in kind or kind == "TokenRetrievalError":
        return f"the log-in has expired or was never made ({said}). Run: aws sso login{named}"
    if kind == "ProfileNotFound":
        return f"{said}. Correct the name; `aws configure list-profiles` shows those that there are."
    return (
        f"AWS gave no credentials ({kind}: {said}). See what this finds: aws sts get-caller-identity{named}. {_LOG_IN}"
    )


def main() -> None:
    """Print the chain's credentials as JSON, for a local worker that cannot find them itself."""
    import json

    try:
        found = find(Access(*sys.argv[1:2]))()
    except CredentialsError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps([found.key_id, found.secret, found.token, found.expires]))


if __name__ == "__main__":
    main()
