"""What running on Lambda costs: what was counted, times the prices in one dated file (`pywren_runtime/rates.json`).

What AWS says that it bills (the REPORT line of a synchronous Invoke) is taken as it is, initialisation included. Of an
asynchronous one nobody is told: what its tasks took by their worker's clock counts instead, rounded up to milliseconds,
without initialisation. Not counted are: functions, arguments and results that are too large to ride along and the
requests for them, requests of the tasks' own, traffic out of the region, logs, and a free tier.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pywren_runtime.rates import rates

__all__ = ["Cost", "Usage", "cost_of"]


@dataclass(slots=True)
class Usage:
    """What one job has used so far: the engine's thread counts, any thread may read."""

    arch: str  # the processor, on which the price of a second depends
    invokes: int = 0  # that were not refused for want of concurrency
    gb_seconds: float = 0.0
    estimated: float = 0.0  # of these, by the workers' clocks
    untold: int = 0  # Invokes whose duration nobody knows: cancelled, dropped, or given up
    writes: int = 0  # requests to S3 that put or list
    reads: int = 0

    def billed(self, milliseconds: float, memory: int) -> None:
        """An Invoke took so long, as AWS said, in a function of so many MB."""
        self.gb_seconds += milliseconds / 1000 * memory / 1024

    def seemed(self, seconds: float, memory: int) -> None:
        """An Invoke took so long as far as its worker's clock tells."""
        own = math.ceil(max(0.0, seconds) * 1000) / 1000 * memory / 1024
        self.estimated += own
        self.gb_seconds += own


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job has cost so far: `dollars`, and what they were counted from. Adding costs adds all of it."""

    dollars: float
    invokes: int
    gb_seconds: float
    estimated: float  # GB-seconds among these that AWS did not tell
    untold: int  # Invokes whose duration is not known, and not in the sum
    writes: int
    reads: int
    priced: str  # the month of the prices

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.dollars + other.dollars,
            self.invokes + other.invokes,
            self.gb_seconds + other.gb_seconds,
            self.estimated + other.estimated,
            self.untold + other.untold,
            self.writes + other.writes,
            self.reads + other.reads,
            max(self.priced, other.priced),
        )

    def __str__(self) -> str:
        more = f" and {self.untold} Invokes of unknown length" if self.untold else ""
        return f"${self.dollars:.6f}{more}" if self.dollars < 0.01 else f"${self.dollars:,.2f}{more}"


def cost_of(usage: Usage, prices: Mapping[str, Any] | None = None) -> Cost:
    """What so much costs."""
    prices = rates() if prices is None else prices
    workers, store = prices["lambda"], prices["s3"]
    dollars = (
        usage.invokes * workers["per_request"]
        + usage.gb_seconds * workers["per_gb_second"][usage.arch]
        + usage.writes * store["per_put"]
        + usage.reads * store["per_get"]
    )
    return Cost(
        dollars,
        usage.invokes,
        usage.gb_seconds,
        usage.estimated,
        usage.untold,
        usage.writes,
        usage.reads,
        workers["date"],
    )
