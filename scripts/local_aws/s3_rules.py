"""Which faults the proxy injects: rules, each with a seeded die of its own and counters of what it did.

request ─► the first rule that fits and whose die says so ─► Fault ─► the proxy does it
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .s3_requests import KINDS, Asked

__all__ = ["FAULTS", "BadRule", "Rule", "rule_of"]

# name → (status, code, forwarded before it is injected). A status of 0 is no answer at all.
FAULTS: dict[str, tuple[int, str, bool]] = {
    "503": (503, "SlowDown", False),
    "500": (500, "InternalError", False),
    "409": (409, "ConditionalRequestConflict", False),
    "404": (404, "NoSuchKey", False),
    "403": (403, "AccessDenied", False),
    "reset_before": (0, "", False),
    "reset_after": (0, "", True),
    "silence": (0, "", False),
    "slow": (0, "", True),
    "truncate": (0, "", True),
}


class BadRule(ValueError):
    """A rule that was sent makes no sense; the text says which word of it."""


@dataclass(slots=True)
class Rule:
    """One rule and its counters; only `strike` changes it.

    `forward` says whether upstream gets the request before the fault: `reset_after` is the lost answer, and a `503`
    with `forward` is the error after the deed. `seconds` is how long `slow` waits, and when `silence` ends in a cut.
    """

    number: int
    fault: str
    kinds: tuple[str, ...] = ()  # none: all
    bucket: str = ""
    key: str = ""
    access_key: str = ""
    agent: str = ""
    fraction: float = 1.0
    times: int | None = None
    after: int = 0  # so many that fit are let through first
    seconds: float = 60.0
    forward: bool = False
    seed: int = 0
    fitted: int = 0
    injected: int = 0
    _die: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._die = random.Random(self.seed)

    def fits(self, asked: Asked) -> bool:
        """Kind by name; bucket, key, access key and agent by regular expressions that may match anywhere."""
        if self.kinds and asked.kind not in self.kinds:
            return False
        found = ((self.bucket, asked.bucket), (self.key, asked.key))
        whose = ((self.access_key, asked.access_key), (self.agent, asked.agent))
        return all(not pattern or re.search(pattern, text) for pattern, text in found + whose)

    def strike(self, asked: Asked) -> bool:
        """Whether this request is hit. One throw for each that fits, so the same seed hits the same ones."""
        if not self.fits(asked):
            return False
        self.fitted += 1
        is_hit = self._die.random() < self.fraction and self.fitted > self.after
        if not is_hit or (self.times is not None and self.injected >= self.times):
            return False
        self.injected += 1
        return True

    def shown(self) -> dict[str, Any]:
        """As JSON has it."""
        hidden = ("_die",)
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in hidden}


def rule_of(number: int, wish: Mapping[str, Any]) -> Rule:
    """The rule that was wished for; BadRule names what is unknown in it."""
    wish = dict(wish)
    fault = wish.pop("fault", None)
    if fault not in FAULTS:
        raise BadRule(f"fault {fault!r} is unknown; there are {', '.join(FAULTS)}")
    kind = wish.pop("kind", ())
    kinds = tuple([kind] if isinstance(kind, str) else kind)
    if unknown := [name for name in kinds if name not in KINDS]:
        raise BadRule(f"kind {', '.join(unknown)} is unknown; there are {', '.join(KINDS)}")
    taken = {"bucket", "key", "access_key", "agent", "fraction", "times", "after", "seconds", "forward", "seed"}
    if unknown := sorted(wish.keys() - taken):
        raise BadRule(f"{', '.join(unknown)}: no part of a rule; there are fault, kind, {', '.join(sorted(taken))}")
    for name in ("bucket", "key", "access_key", "agent"):
        try:
            re.compile(wish.get(name, ""))
        except (re.error, TypeError) as bad:
            raise BadRule(f"{name} {wish[name]!r} is no regular expression: {bad}") from bad
    if not 0 <= wish.get("fraction", 1.0) <= 1:
        raise BadRule(f"fraction {wish['fraction']} is not between 0 and 1")
    wish.setdefault("forward", FAULTS[fault][2])
    return Rule(number, fault, kinds, **wish)
