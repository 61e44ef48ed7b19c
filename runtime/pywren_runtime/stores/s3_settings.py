"""Where an S3 store lies and by which way it is reached: a value made of its URL and the standard AWS variables.

    s3://bucket/prefix?endpoint=https://s3.example.org&region=eu-west-1

The endpoint and region of a URL decide; without them AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION and
AWS_DEFAULT_REGION do. Credentials never stand in a URL.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from time import time
from typing import TYPE_CHECKING, Any

from pywren_runtime.errors import ConfigError, CredentialsError
from pywren_runtime.stores import check_key

if TYPE_CHECKING:
    from pywren_runtime.aws import Credentials

__all__ = ["CLIENT", "Settings", "parse", "told_credentials"]

CLIENT = "client"
"""What `credentials=` says in the URL for a worker that is to ask its client's chain of credentials."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_AWS_HOST = re.compile(r"https://[^/]*\.amazonaws\.com(?:\.cn)?(?::443)?/?")
_EXPRESS = "--x-s3"
_OPTIONS = frozenset({"endpoint", "region", "conditional", "credentials", "names", "profile"})


@dataclass(frozen=True, slots=True)
class Settings:
    """One store's place and way."""

    bucket: str
    prefix: str  # ends with a slash unless empty
    region: str
    endpoint: str | None  # None for AWS itself
    trusted: bool  # the server is known to honour If-None-Match
    names_region: bool  # or it is a guess
    asks_client: bool  # only the client's own way of finding credentials will do
    profile: str | None  # which of the client's
    strict: bool  # an object whose name can be no key of ours is an error of a listing, and not passed over
    url: str
    ca_file: str | None = None
    proxy: str | None = None
    no_proxy: str | None = None

    @property
    def is_aws(self) -> bool:
        """Whether this is Amazon's own S3, about which nothing need be found out."""
        return self.endpoint is None or _AWS_HOST.fullmatch(self.endpoint) is not None

    def config(self) -> dict[str, Any]:
        """The client library's words for place and way; they decide over the environment, which it reads too."""
        found: dict[str, Any] = {"region": self.region, "conditional_put": "etag"}
        if self.endpoint:
            return found | {"aws_endpoint_url_s3": self.endpoint, "virtual_hosted_style_request": False}
        # A certificate for *.s3.amazonaws.com does not cover a name with dots.
        return found | {"virtual_hosted_style_request": "." not in self.bucket}

    def client_options(self) -> dict[str, Any]:
        """The same for its connections; ConfigError if the file of certificates cannot be read."""
        options: dict[str, Any] = {"allow_http": bool(self.endpoint and self.endpoint.startswith("http://"))}
        if self.ca_file and not options["allow_http"]:
            try:
                with open(self.ca_file, "rb") as file:
                    options["root_certificate"] = file.read()
            except OSError as error:
                raise ConfigError(
                    f"AWS_CA_BUNDLE={self.ca_file!r} cannot be read: {error.strerror}. Name a file of certificates"
                    " (PEM), or unset it."
                ) from error
        if self.proxy:
            options["proxy_url"] = self.proxy
            if self.no_proxy:
                options["proxy_excludes"] = self.no_proxy
        return options

    @property
    def place(self) -> str:
        """Where the bucket is looked for, in words."""
        return f"region {self.region}" + (f" at {self.endpoint}" if self.endpoint else "")

    def url_with(
        self,
        *,
        region: str | None = None,
        trusted: bool = False,
        asks_client: bool = False,
        profile: str | None = None,
    ) -> str:
        """The store's URL with what another process could not find out by itself."""
        from urllib.parse import quote

        url = self.url
        more = {
            "region": region,
            "conditional": "trusted" if trusted else None,
            "credentials": CLIENT if asks_client else None,
            "profile": profile,
        }
        for name, value in more.items():
            if value is not None and f"{name}=" not in url.partition("?")[2]:
                url += f"{'&' if '?' in url else '?'}{name}={quote(value, safe='')}"
        return url


def parse(url: str, environ: Mapping[str, str]) -> Settings:
    """The settings that a URL and a process's environment make; ConfigError if the URL makes no sense."""
    head, _, query = url.partition("?")
    bucket, _, prefix = head.partition(":")[2].removeprefix("//").partition("/")
    prefix = prefix.rstrip("/")
    options = _options(query) if query else {}
    if _BUCKET.fullmatch(bucket) is None:
        raise ConfigError(f"store={url!r} names no bucket; write it as store='s3://bucket/prefix'.")
    if bucket.endswith(_EXPRESS):
        raise ConfigError(
            f"store={url!r}: a directory bucket (S3 Express One Zone) does not list its keys in order, which a store"
            " must; use a general purpose bucket."
        )
    if unknown := options.keys() - _OPTIONS:
        raise ConfigError(
            f"store={url!r}: {', '.join(sorted(unknown))} is no option of an S3 store; there are"
            f" {', '.join(sorted(_OPTIONS))}. Keys never stand in a URL: they come from the environment or a profile."
        )
    if prefix:
        check_key(prefix)
    endpoint = options.get("endpoint") or environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(f"the S3 endpoint {endpoint!r} is no URL: it begins with http:// or https://.")
    region = options.get("region") or _region(environ)
    return Settings(
        bucket=bucket,
        prefix=f"{prefix}/" if prefix else "",
        region=region or "us-east-1",
        names_region=region is not None,
        endpoint=endpoint.rstrip("/") if endpoint else None,
        trusted=options.get("conditional") == "trusted",
        asks_client=options.get("credentials") == CLIENT,
        profile=options.get("profile"),
        strict=options.get("names") == "strict",
        url=f"s3://{bucket}{'/' + prefix if prefix else ''}{'?' + query if query else ''}",
        ca_file=environ.get("AWS_CA_BUNDLE") or None,
        proxy=_proxy(environ, secure=endpoint is None or endpoint.startswith("https://")),
        no_proxy=environ.get("no_proxy") or environ.get("NO_PROXY") or None,
    )


def _options(query: str) -> dict[str, str]:
    from urllib.parse import parse_qsl

    return dict(parse_qsl(query, keep_blank_values=True))


def _region(environ: Mapping[str, str]) -> str | None:
    return environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")


def _proxy(environ: Mapping[str, str], *, secure: bool) -> str | None:
    if secure:
        return environ.get("https_proxy") or environ.get("HTTPS_PROXY") or None
    return environ.get("http_proxy") or None  # as everywhere: a CGI script's caller could set HTTP_PROXY


def told_credentials(settings: Settings, environ: Mapping[str, str]) -> "Callable[[], Credentials] | None":
    """A client's chain of credentials, for a process of its machine that was told to ask it; else None."""
    if not settings.asks_client or (not settings.profile and _has_keys(environ)):
        return None
    return _told(settings.profile, tuple(map(environ.get, _DECIDES)))


@functools.cache
def _told(profile: str | None, decides: tuple[str | None, ...]) -> "_Told":
    """One for all stores of a process that ask as the same client: it starts an interpreter to ask."""
    return _Told(profile)


_DECIDES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "HOME")


def _has_keys(environ: Mapping[str, str]) -> bool:
    return bool(environ.get("AWS_ACCESS_KEY_ID") and environ.get("AWS_SECRET_ACCESS_KEY"))


class _Told:
    """What `python -m pywren_ng.credentials` prints, as long as it is valid: a worker itself imports no boto3."""

    def __init__(self, profile: str | None) -> None:
        self._profile = profile
        self._lock = Lock()
        self._found: Credentials | None = None
        self._until = 0.0

    def __call__(self) -> "Credentials":
        with self._lock:
            found = self._found
            if found is None or time() >= self._until:
                found = self._found = _ask_client(self._profile)
                self._until = found.good_until(time())
            return found


def _ask_client(profile: str | None) -> "Credentials":
    import json
    import subprocess
    import sys

    from pywren_runtime.aws import Credentials

    command = [sys.executable, "-m", "pywren_ng.credentials", *filter(None, [profile])]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise CredentialsError(done.stderr.strip().rpartition("\n")[2] or f"{' '.join(command)} gave no credentials")
    return Credentials(*json.loads(done.stdout))
