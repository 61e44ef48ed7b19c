"""Whose account, in which region: boto3's clients, and its refusals in our words."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pywren_ng import credentials
from pywren_runtime.aws import region_of
from pywren_runtime.errors import AccessDenied, ConfigError, DeploymentError, PywrenError

_DENIED = re.compile(r"not authorized to perform: (?P<action>[\w:*-]+)(?: on resource: \"?(?P<resource>[^\s\"]+))?")


class Account:
    """An account in one region, as the credentials of a profile or of boto3's chain reach it."""

    def __init__(self, profile: str | None = None, region: str | None = None) -> None:
        import boto3

        self.profile = profile
        with self.asking("find credentials"):
            self._session = boto3.Session(profile_name=profile, region_name=region or region_of())
            found = self._session.region_name
        if not found:
            raise ConfigError("no region is set: name one with --region (for instance eu-west-3), or in AWS_REGION")
        self.region: str = found
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """boto3's client of a service."""
        if service not in self._clients:
            with self.asking("find credentials"):
                self._clients[service] = self._session.client(service)
        return self._clients[service]

    def who(self) -> tuple[str, str]:
        """The account's number, and the ARN of who asks."""
        with self.asking("ask AWS who asks"):
            found = self.client("sts").get_caller_identity()
        return found["Account"], found["Arn"]

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """What boto3 raises inside becomes an error of ours: `what` says, as "could not …", what was tried."""
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

        try:
            yield
        except ClientError as error:
            raise _refused(what, error, self.profile) from error
        except (ConnectionError, HTTPClientError) as error:
            raise DeploymentError(
                f"could not {what}: AWS cannot be reached ({error}). Look at the network, the region's name,"
                " HTTPS_PROXY, and AWS_CA_BUNDLE where the company signs certificates itself"
            ) from error
        except BotoCoreError as error:
            raise credentials.explained(type(error).__name__, str(error), self.profile) from error


def is_missing(error: Exception) -> bool:
    """Whether AWS says that there is no such thing."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return False
    said = error.response["Error"]
    return said["Code"] in ("ResourceNotFoundException", "NoSuchBucket", "404") or (
        said["Code"] == "ValidationError" and "does not exist" in said.get("Message", "")
    )


def _refused(what: str, error: Any, profile: str | None) -> PywrenError:
    said = error.response["Error"]
    code, text = said["Code"], said.get("Message", "")
    if code in ("ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch") or (
        code.startswith(("UnrecognizedClient", "InvalidAccessKey", "InvalidSignature"))
    ):
        return credentials.explained(code, text, profile)
    if code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"):
        denied = _DENIED.search(text)
        named = f"{denied['action']} on {denied['resource'] or '*'}" if denied else f"that ({text})"
        return AccessDenied(
            f"could not {what}: {named} is not allowed to these credentials; `pywren-ng policy admin` prints what setup"
            " and teardown need, for whoever gives permissions in this account"
        )
    return DeploymentError(f"could not {what}: {code}: {text}")
