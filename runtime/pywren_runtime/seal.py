"""A secret that all workers of an executor or a deployment have, and that travels nowhere.

    key, by a pipe ──► adopt, once ──► a secret of this process ──► sealed(nonce) ──► the key of digests between workers

What two workers leave for each other in a store can so be told from what somebody else has put there, although that one
may read the nonce in their Calls. Nothing can be signed with it that the key itself signs.
"""

from hashlib import blake2b

__all__ = ["adopt", "sealed"]

_own = [b""]  # of the process, which has one key for all its life: a task has no other way to it


def adopt(key: bytes) -> None:
    """Derive this worker's secret from the key that its greeting brought."""
    _own[0] = blake2b(b"between workers", digest_size=32, key=key).digest()


def sealed(nonce: bytes) -> bytes:
    """A key of 32 bytes, the same in all these workers; in any other process as secret as the nonce is."""
    return blake2b(nonce, digest_size=32, key=_own[0]).digest()
