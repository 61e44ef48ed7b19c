"""How much may lie in the memory of a Redis server, and whether it stays, and how many may ask: what INFO says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pywren_runtime.stores.redis_settings import CONNECTIONS

__all__ = ["Room", "room_of"]

_FIELD = re.compile(
    rb"^(maxmemory|maxmemory_policy|used_memory|total_system_memory|maxclients|connected_clients):([^\r\n]*)",
    re.MULTILINE,
)
_USABLE: Final = 0.8  # of what is free: the rest is for connections, and for what memory allocators lose


@dataclass(frozen=True, slots=True)
class Room:
    """`bytes` that may be put there, None if nobody knows; `doubts` are for the user."""

    bytes: int | None
    policy: str = ""  # what the server does when its memory is full; empty if it does not say
    doubts: tuple[str, ...] = ()
    servers: int = 1
    processes: int | None = None  # that may be connected at once, None if it does not say


def room_of(replies: Sequence[Any], most: int | None) -> Room:
    """The room that a cluster's masters have together, `most` bytes if the user says so: a reply of each of them.

    Keys spread evenly, so that the server with the least room decides; every process asks every server.
    """
    said = [_fields(reply) for reply in replies]
    policies = sorted({fields["maxmemory_policy"] for fields in said if "maxmemory_policy" in fields})
    doubts = []
    free = [_free(fields) for fields in said]
    known = [bytes for bytes in free if bytes is not None]
    if len(known) < len(free):
        doubts.append("the server does not tell its maxmemory (INFO memory), so it may be full before all is there")
    if any(policy != "noeviction" for policy in policies) and any(_number(fields, "maxmemory") for fields in said):
        doubts.append(
            f"its maxmemory-policy is {' and '.join(policies)}: it may drop what lies there when its memory is full."
            " Set it to noeviction"
        )
    room = int(_USABLE * min(known) * len(free)) if known and len(known) == len(free) else None
    if most is not None:
        room = most if room is None else min(most, room)
    clients = [left for fields in said if (left := _clients(fields)) is not None]
    processes = min(clients) // CONNECTIONS if clients else None
    return Room(room, " ".join(policies), tuple(doubts), max(1, len(said)), processes)


def _free(fields: dict[str, str]) -> int | None:
    limit = _number(fields, "maxmemory")
    if limit is None:
        return None
    limit = limit or _number(fields, "total_system_memory")  # no limit of its own: then the machine's
    return None if limit is None else max(0, limit - (_number(fields, "used_memory") or 0))


def _clients(fields: dict[str, str]) -> int | None:
    most = _number(fields, "maxclients")
    return None if most is None else max(0, most - (_number(fields, "connected_clients") or 0))


def _number(fields: dict[str, str], name: str) -> int | None:
    text = fields.get(name, "")
    return int(text) if text.isdigit() else None


def _fields(reply: Any) -> dict[str, str]:
    """Empty where the server refuses to say."""
    if not isinstance(reply, bytes):
        return {}
    return {name.decode(): value.decode().strip() for name, value in _FIELD.findall(reply)}
