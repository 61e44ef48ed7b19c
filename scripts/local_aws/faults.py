"""The knobs: which faults the Invoke service injects, how often, and how many of each it did."""

import random
import time
from collections import Counter
from dataclasses import dataclass

FAULTS = ("throttle", "error", "kill", "duplicate", "drop", "stall", "reset_before", "reset_after")


@dataclass(slots=True)
class Fault:
    """One knob: a fraction of Invokes, at most so many times, for so many seconds, of one function or of all.

    `delay`: how long a stalled answer waits, and how deep into a run a kill strikes at most.
    """

    fraction: float = 0.0
    times: int | None = None
    seconds: float | None = None
    function: str | None = None
    delay: float | None = None
    since: float = 0.0


@dataclass(slots=True)
class Settings:
    """What can be turned besides faults; seconds are real ones."""

    cold_start: float = 0.0
    account_concurrency: int = 1000
    ramp: int = 1000
    ramp_seconds: float = 10.0
    real_environments: int = 64
    idle_seconds: float = 300.0
    init_seconds: float = 10.0
    retry_delay: float = 1.0
    throttle_delay: float = 0.1
    secure: bool = True  # whether policies are told that a request came by TLS
    seed: int = 0
    needle: str = ""  # what to look for in requests, and in what Invokes bring back


class Knobs:
    """Faults and settings as they stand, with the counters of what was done and of what was injected."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As at the start: no faults, AWS's limits, counters at zero."""
        self.settings = Settings()
        self.faults = {name: Fault() for name in FAULTS}
        self.injected: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
        self.counters: Counter[str] = Counter()
        self._random = random.Random(0)

    def turn(self, wishes: dict[str, object]) -> None:
        """Set some; a fault is given as a fraction, or as an object with the fields of Fault. ValueError if unknown."""
        for name, wish in wishes.items():
            if name in self.faults:
                fields = wish if isinstance(wish, dict) else {"fraction": wish}
                self.faults[name] = Fault(**{"fraction": 1.0, **fields, "since": time.monotonic()})
            elif name in Settings.__dataclass_fields__:
                setattr(self.settings, name, type(getattr(self.settings, name))(wish))
            else:
                raise ValueError(f"no knob is called {name!r}; there are {[*self.faults, *Settings.__slots__]}")
        if "seed" in wishes:
            self._random = random.Random(self.settings.seed)

    def strikes(self, name: str, function: str) -> Fault | None:
        """Whether this fault is to be injected now; if so it is counted."""
        fault = self.faults[name]
        if not fault.fraction or (fault.function is not None and fault.function != function):
            return None
        if fault.seconds is not None and time.monotonic() > fault.since + fault.seconds:
            return None
        if fault.times is not None and fault.times <= 0:
            return None
        if self._random.random() >= fault.fraction:
            return None
        if fault.times is not None:
            fault.times -= 1
        self.injected[name] += 1
        return fault

    def chance(self) -> float:
        """A number from the seeded source."""
        return self._random.random()
