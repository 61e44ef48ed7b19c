"""Who the client is for AWS: the environment's keys, or boto3's chain (profile, SSO, role, process, instance).

    find() ──► callable ──► Credentials, valid now      for the S3 store and for Invoke, asked again and again

A local worker that needs the chain runs this module, which prints what is valid: boto3 is never in a worker itself.
"""

import os
import sys
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from pywren_runtime import stores
from pywren_runtime.aws import Credentials, from_environment
from pywren_runtime.errors import CredentialsError
from pywren_runtime.stores import Store

__all__ = ["Chain", "find", "open_s3", "open_store"]


def find(environ: Mapping[str, str] = os.environ) -> Callable[[], Credentials]:
    """What gives credentials that are valid now; keys in the environment and no profile: then without boto3."""
    if has_keys(environ):
        return lambda: from_environment(environ)
    return Chain()


def has_keys(environ: Mapping[str, str]) -> bool:
    """Whether the environment itself says who asks."""
    named = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
    return bool(environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY") and not named)


def open_store(url: str) -> Store:
    """The client's store at any URL; one in S3 with its own credentials, which a worker could not find."""
    return open_s3(url) if url.startswith("s3:") else stores.open_store(url)


def open_s3(url: str, environ: Mapping[str, str] = os.environ) -> Store:
    """The client's store at `s3://bucket/prefix`.

    A server that is not AWS's is tried here, once, so that no worker need do it: see `S3Store.check`.
    """
    from pywren_runtime.stores.s3_settings import parse
    from pywren_runtime.stores.s3_store import S3Store

    if has_keys(environ):
        store = S3Store(url)
    else:
        chain = Chain()
        settings = parse(url, environ)
        region = None if settings.names_region else chain.region()
        store = S3Store(settings.url_with(region=region, asks_client=True), credentials=chain)
    store.check()
    return store


class Chain:
    """boto3's chain of credentials, looked through at the first call; boto3 renews what expires, in time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._session: Any = None
        self._found: Any = None

    def __call__(self) -> Credentials:
        with self._lock, _Failures():
            if self._found is None:
                self._found = self._open().get_credentials()
            if self._found is None:
                raise CredentialsError(
                    "there are no AWS credentials: neither the environment, nor a profile, nor this machine's role has"
                    f" any. {_LOG_IN}"
                )
            frozen = self._found.get_frozen_credentials()
            expiry = getattr(self._found, "_expiry_time", None)  # boto3 shows it nowhere else
            return Credentials(
                frozen.access_key, frozen.secret_key, frozen.token, expiry.timestamp() if expiry else None
            )

    def region(self) -> str | None:
        """The region that the profile names."""
        with self._lock, _Failures():
            found: str | None = self._open().region_name
            return found

    def _open(self) -> Any:
        if self._session is None:
            import boto3

            self._session = boto3.Session()
        return self._session


_LOG_IN = (
    "Run `aws configure` (or `aws configure sso` where your company has a log-in page), or set AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, or AWS_PROFILE."
)


class _Failures:
    """Turns what boto3 raises into a CredentialsError that says which command helps."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, CredentialsError):
            return
        from botocore.exceptions import BotoCoreError, ClientError

        if isinstance(error, BotoCoreError | ClientError):
            raise CredentialsError(_words(type(error).__name__, str(error))) from error


def _words(kind: str, said: str) -> str:
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    named = f" --profile {profile}" if profile else ""
    if "SSO" in kind or kind == "TokenRetrievalError":
        return f"the log-in has expired or was never made ({said}). Run: aws sso login{named}"
    if kind == "ProfileNotFound":
        return f"{said}. Correct AWS_PROFILE; `aws configure list-profiles` shows those that there are."
    return (
        f"AWS gave no credentials ({kind}: {said}). See what this finds: aws sts get-caller-identity{named}. {_LOG_IN}"
    )


def main() -> None:
    """Print the chain's credentials as JSON, for a local worker that cannot find them itself."""
    import json

    try:
        found = find()()
    except CredentialsError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps([found.key_id, found.secret, found.token, found.expires]))


if __name__ == "__main__":
    main()
