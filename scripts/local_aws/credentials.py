"""Who may come in: access keys, their secrets, session tokens and how long those last."""

import secrets
import time
from dataclasses import dataclass

ACCOUNT = "123456789012"


@dataclass(frozen=True, slots=True)
class Credential:
    """One key; temporary ones have a token and an end. `deny` names actions refused to it: `lambda:InvokeFunction`."""

    access_key: str
    secret: str
    token: str | None = None
    expires: float | None = None
    arn: str = f"arn:aws:iam::{ACCOUNT}:root"
    deny: frozenset[str] = frozenset()


class Keyring:
    """All keys this AWS knows, and so accepts."""

    def __init__(self) -> None:
        self._known: dict[str, Credential] = {}
        self.root = Credential(f"AKIA{token(16)}", secrets.token_urlsafe(30))
        self.add(self.root)

    def add(self, credential: Credential) -> Credential:
        """Accept a key from now on."""
        self._known[credential.access_key] = credential
        return credential

    def find(self, access_key: str) -> Credential | None:
        """The key of that name, expired or not."""
        return self._known.get(access_key)

    def mint(self, *, seconds: float, arn: str, deny: frozenset[str] = frozenset()) -> Credential:
        """A new temporary key."""
        fresh = Credential(
            f"ASIA{token(16)}", secrets.token_urlsafe(30), secrets.token_urlsafe(60), time.time() + seconds, arn, deny
        )
        return self.add(fresh)


def token(length: int) -> str:
    """Capital letters and digits, as in access keys."""
    return "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(length))
