"""What the planner is told: what workers can do, what stores can do, what both cost.

rates.json ──► tier_named, lambda_workers ──► Terms(workers, source, target, tiers) ──► planner.make_plan
"""

import os
from dataclasses import dataclass
from math import ceil, inf
from typing import Final

from pywren_runtime.rates import rates

__all__ = [
    "FOLDER",
    "Fleet",
    "Terms",
    "Tier",
    "Workers",
    "fleet_of",
    "free_below",
    "kind_of",
    "lambda_workers",
    "tier_named",
]


@dataclass(frozen=True, slots=True)
class Tier:
    """A store in which a sort's data lies: how fast it answers, what it holds, what it takes for that.

    What is unknown is infinite, and what is free costs nothing; of a folder nothing is known.
    """

    name: str  # folder, s3, s3express, redis
    puts: float = inf  # requests a second that write, and
    gets: float = inf  # that read, each for one prefix
    prefixes: int = 1  # over which keys may spread, and each of which answers that many
    prefixes_after: float = 0.0  # seconds of load, before which all prefixes together answer what one does
    bandwidth: float = inf  # bytes a second in each direction, for all workers together
    capacity: float = inf  # bytes
    most_parts: int = 10_000  # of which an object may be made
    connections: int = 16  # that each worker has to it
    most_workers: float = inf  # that may be connected at once
    per_put: float = 0.0  # dollars
    per_get: float = 0.0
    per_byte_in: float = 0.0
    per_byte_out: float = 0.0
    per_hour: float | None = 0.0  # of which each that has begun is paid; None if nobody knows


@dataclass(frozen=True, slots=True)
class Workers:
    """What runs the tasks."""

    at_once: int  # tasks; more wait for their turn
    bandwidth: float = inf  # bytes a second and direction of one worker
    most_seconds: float = inf  # for one task
    most_descriptors: int = 1024
    per_second: float = 0.0  # dollars for one worker
    per_call: float = 0.0
    lingers: bool = False  # each task asks once more whether its sort goes on, see `host.heed`


@dataclass(frozen=True, slots=True)
class Terms:
    """All that a plan follows from beside the data. Of the tiers the first that can be is taken."""

    workers: Workers
    source: Tier  # where the input is, and
    target: Tier  # where the output will be
    tiers: tuple[Tier, ...]  # where intermediate data may lie

    def tier(self, name: str) -> Tier:
        """The tier of that name."""
        return next(tier for tier in (*self.tiers, self.source, self.target) if tier.name == name)


@dataclass(frozen=True, slots=True)
class Fleet:
    """Nodes of ElastiCache."""

    per_hour: float
    number: int
    kind: str
    bandwidth: float  # bytes a second of all of them


FOLDER: Final = Tier("folder")


def lambda_workers(at_once: int, memory: float, architecture: str = "x86_64") -> Workers:
    """So many environments of AWS Lambda with so many MB each."""
    told = rates()["lambda"]
    return Workers(
        at_once=min(at_once, told["most_at_once"]),
        bandwidth=told["bytes_per_second"],
        most_seconds=told["most_seconds"],
        most_descriptors=told["most_descriptors"],
        per_second=memory / 1024 * told["per_gb_second"][architecture],
        per_call=told["per_request"],
    )


def tier_named(name: str) -> Tier:
    """The tier of that name as `rates.json` has it; of what is not there nothing is known.

    For Redis these are rates of one small server; its capacity and price follow from which it is, see `fleet_of`.
    """
    told = rates().get(name)
    if told is None:
        return Tier(name)
    return Tier(
        name,
        puts=told["puts_per_second"],
        gets=told["gets_per_second"],
        prefixes=told.get("prefixes", 1),
        prefixes_after=told.get("seconds_to_split_a_prefix", 0.0),
        bandwidth=told.get("bytes_per_second", inf),
        most_parts=told.get("most_parts", 10_000),
        per_put=told.get("per_put", 0.0),
        per_get=told.get("per_get", 0.0),
        per_byte_in=told.get("per_byte_in", 0.0),
        per_byte_out=told.get("per_byte_out", 0.0),
        per_hour=None if "nodes" in told else 0.0,
    )


def fleet_of(size: int) -> Fleet:
    """The cheapest nodes of one kind that hold so many bytes."""
    told = rates()["redis"]
    fleets = []
    for kind, node in told["nodes"].items():
        number = ceil(size / (node["gib"] * 2**30 * told["of_memory"])) or 1
        fleets.append(Fleet(number * node["per_hour"], number, kind, number * node["bytes_per_second"]))
    return min(fleets, key=lambda fleet: (fleet.per_hour, fleet.number, fleet.kind))


def kind_of(url: str) -> str:
    """The name of the tier that a store's URL means: `s3` for `s3://bucket`, `redis` for `rediss://host`."""
    scheme = url.partition(":")[0].partition("+")[0]
    return {"file": "folder", "rediss": "redis"}.get(scheme, scheme)


def free_below(folder: str) -> int:
    """Bytes that can be written there, or where it will be made."""
    from shutil import disk_usage

    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return disk_usage(folder).free
