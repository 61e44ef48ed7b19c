"""Plans on paper: what sorting 1 GB to 100 TB on AWS Lambda would take by today's rates and prices.

rates.json ──► terms for S3, S3 Express One Zone and Redis ──► make_plan ──► a row of the table for each size

Records are 100 bytes, a tenth of which is the key; input and output are on S3 in all columns. Redis is as many nodes as
hold the data, as often as it lies there. Of four sizes of functions the one whose plan is the cheapest is taken.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import ceil

from pywren_runtime.errors import ConfigError
from pywren_shuffle.planning.plan import Plan
from pywren_shuffle.planning.planner import make_plan
from pywren_shuffle.planning.terms import Terms, Tier, fleet_of, lambda_workers, tier_named
from pywren_shuffle.planning.words import bytes_in_words
from pywren_shuffle.records import open_format

__all__ = ["BEGIN", "END", "paper"]

BEGIN, END = "<!-- scripts/bench/plan.py --paper -->", "<!-- end of it -->"
SIZES = tuple(10**exponent for exponent in range(9, 15))
AT_ONCE = 1000
MEMORIES = (1769, 3538, 7076, 10_240)
OWN = 100  # MB of a worker that are not for data
INPUT = 2_000_000_000  # bytes of an input object, which are cut into splits, each for itself
RECORDS = {
    10**12: "MapReduce 2004: 891 s on 1,746 machines",
    10**14: "CloudSort: $451 in 2014, $144 in 2016, $97 and 5,378 s in 2022",
}


def paper() -> str:
    """The table, as it stands in the README."""
    return "\n".join([BEGIN, *_rows(), END])


def _rows() -> Iterator[str]:
    yield "| | S3 | S3 Express One Zone | Redis | records |"
    yield "|---|---|---|---|---|"
    s3, express = tier_named("s3"), tier_named("s3express")
    for size in SIZES:
        fleets = [_redis(size, copies) for copies in (1, 2, 3)]
        cells = [_cell(_cheapest(size, tiers)) for tiers in ([(s3, "")], [(express, "")], fleets)]
        yield f"| {bytes_in_words(size)} | {' | '.join(cells)} | {RECORDS.get(size, '')} |"


def _cell(found: tuple[Plan, int, str]) -> str:
    plan, memory, nodes = found
    assert plan.seconds is not None and plan.dollars is not None
    seconds = f"{plan.seconds:,.0f}" if plan.seconds >= 100 else f"{plan.seconds:.2g}"
    dollars = f"{plan.dollars:,.0f}" if plan.dollars >= 100 else f"{plan.dollars:.2g}"
    levels = f"{plan.levels} level{'s' * (plan.levels > 1)}"
    more = f", {nodes}" if nodes else ""
    return f"**{seconds} s, ${dollars}**: {plan.splits:,} × {plan.partitions:,}, {levels}, {memory:,} MB{more}"


def _cheapest(size: int, tiers: list[tuple[Tier, str]]) -> tuple[Plan, int, str]:
    plans, refusals = [], []
    for (tier, nodes), memory in product(tiers, MEMORIES):
        try:
            plans.append((_plan(size, tier, memory), memory, nodes))
        except ConfigError as error:  # it does not fit into such functions
            refusals.append(str(error))
    if not plans:
        raise SystemExit("\n".join(refusals))
    return min(plans, key=lambda found: found[0].dollars or 0.0)


def _plan(size: int, tier: Tier, memory: int) -> Plan:
    s3 = tier_named("s3")
    format = open_format("fixed:100:10")
    return make_plan(
        size,
        objects=ceil(size / INPUT),
        record_size=format.record_size,
        expansion=format.expansion,
        decoded=format.decoded_expansion,
        memory=memory - OWN,
        partitions=None,
        together=1,
        terms=Terms(lambda_workers(AT_ONCE, memory), s3, s3, (tier,)),
    )


def _redis(size: int, copies: int) -> tuple[Tier, str]:
    """The cheapest nodes of one kind that hold so much so often, as one tier, and what they are."""
    fleet = fleet_of(size * copies)
    tier = tier_named("redis")
    tier = replace(
        tier,
        puts=fleet.number * tier.puts,
        gets=fleet.number * tier.gets,
        bandwidth=fleet.bandwidth,
        capacity=size * copies,
        connections=fleet.number + tier.connections,
        per_hour=fleet.per_hour,
    )
    return tier, f"{fleet.number:,} {fleet.kind.removeprefix('cache.')}"
