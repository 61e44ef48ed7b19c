#!/usr/bin/env python3
"""Whether plans come true: sorts on a store that is slow by a known measure, and what was expected of them.

    s3_double.py ◄── s3_proxy: so many PUT/s, GET/s, and bytes/s for each worker and direction ◄── p processes that sort
                        └─► the planner is told these rates and nothing else: expected seconds beside measured ones

    scripts/bench/plan.py            the store of the claim, and three others by chance, whose seed is printed
    scripts/bench/plan.py --store 5,200,1e6      a store of so many PUT/s, GET/s, bytes/s; as many as are named
    scripts/bench/plan.py --paper    plans from 1 GB to 100 TB by today's rates and prices, as the README shows them

Each worker signs with an access key of its own, and is known by that. Imports are over before a clock runs.
"""

import multiprocessing
import os
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import sortcheck
import sortgen
from contest import Verdict, answered, asking, concluded, ends
from plan_paper import paper
from sort_requests import FIXED, KEYS, Stage, staged

from pywren_runtime.stores import open_store
from pywren_shuffle.planning.terms import Terms, Workers, tier_named
from pywren_shuffle.sort import Sorted, sort

RECORDS = 100_000  # 10 MB
WORKERS = (2, 4, 8, 16, 32)
CLOSE, BEST = 0.25, 1.15  # of what was expected, and times the best measured
PACKAGES = ("numpy", "obstore")


@dataclass(frozen=True)
class Knobs:
    """What the store is held to."""

    puts: float
    gets: float
    bandwidth: float

    def terms(self, workers: int) -> Terms:
        """What the planner is told: these, and that all else is as fast as it likes."""
        store = replace(tier_named("s3"), puts=self.puts, gets=self.gets)
        return Terms(Workers(workers, bandwidth=self.bandwidth), store, store, (store,))

    def __str__(self) -> str:
        return f"{self.puts:.3g} PUT/s, {self.gets:.3g} GET/s, {self.bandwidth / 1e6:.3g} MB/s"


def named(text: str) -> Knobs:
    """A store from the command line."""
    return Knobs(*map(float, text.split(",")))


def chance(dice: random.Random) -> Knobs:
    """A store that somebody might have, scaled down."""
    return Knobs(dice.uniform(20, 80), dice.uniform(30, 120), dice.uniform(4e5, 2e6))


@contextmanager
def pool_of(workers: int, store: str) -> Iterator[ProcessPoolExecutor]:
    """Processes that have imported all that they need, the store's client too, each known by its own access key."""
    fork = multiprocessing.get_context("fork")
    all_here = fork.Barrier(workers)
    with ProcessPoolExecutor(workers, mp_context=fork, initializer=become_known, initargs=(all_here,)) as pool:
        list(pool.map(wait_for_all, [store] * workers))
        yield pool


BARRIER: Any = None


def become_known(all_here: Any) -> None:
    global BARRIER
    BARRIER = all_here
    os.environ["AWS_ACCESS_KEY_ID"] = f"worker{os.getpid()}"


def wait_for_all(store: str) -> None:
    from pywren_shuffle.phases import merge, partition, regroup, sample  # noqa: F401
    from pywren_shuffle.records import open_format

    open_format(FIXED)
    open_store(store).get_range("all.dat", 0, 1)
    BARRIER.wait(60)


@dataclass
class Turn:
    """One sort on a slow store."""

    workers: int
    asked: str  # what was asked for: partitions, levels, or nothing
    splits: int
    partitions: int
    levels: int
    expected: float
    measured: float

    @property
    def off(self) -> float:
        return self.measured / self.expected - 1


class Bench:
    """A stage, and what was measured on it."""

    def __init__(self, stage: Stage, records: int) -> None:
        self.stage = stage
        self.data = sortgen.records("uniform", 0, records)
        self.stage.store("in").put("all.dat", self.data)
        self.number = 0

    def turn(self, knobs: Knobs, workers: int, **wishes: int) -> Turn:
        """A sort with so many workers, checked."""
        self.number += 1
        target = f"out{self.number}"
        with pool_of(workers, self.stage.url("in")) as pool:
            self.stage.ask("POST", "rates", asdict(knobs))
            try:
                result = sort(
                    pool,
                    self.stage.url("in/*.dat"),
                    self.stage.url(target),
                    records=FIXED,
                    hedging=False,
                    terms=knobs.terms(workers),
                    **wishes,
                )
            finally:
                self.stage.ask("DELETE", "rates")
        self.check(result, target)
        plan = result.plan
        assert plan.seconds is not None
        asked = ", ".join(f"{name}={value}" for name, value in wishes.items()) or "nothing"
        made = Turn(workers, asked, result.splits, plan.partitions, plan.levels, plan.seconds, result.seconds)
        print(f"  {said_of(made)}", flush=True)
        return made

    def check(self, result: Sorted, target: str) -> None:
        store = self.stage.store(target)
        names = [part.partition("?")[0].rpartition("/")[2] for part in result.parts]
        found = sortcheck.joined(sortcheck.summary_of(bytes(store.get(name))) for name in names)
        sortcheck.check(found, sortcheck.summary_of(self.data), stable=True)


def said_of(turn: Turn) -> str:
    return (
        f"{turn.workers:2} workers, {turn.asked} asked: {turn.splits} splits, {turn.partitions} partitions,"
        f" {turn.levels} level{'s' * (turn.levels > 1)}: expected {turn.expected:.2f} s, measured {turn.measured:.2f} s"
        f" ({turn.off:+.0%})"
    )


def setting(bench: Bench, name: str, knobs: Knobs) -> tuple[list[Turn], list[Verdict]]:
    """All turns on one store, and the verdicts."""
    print(f"{name}: {knobs}")
    turns = [bench.turn(knobs, workers, splits=workers, partitions=workers) for workers in WORKERS]
    most = WORKERS[-1]
    chosen = bench.turn(knobs, most)
    other = bench.turn(knobs, most, splits=most, partitions=most, levels=2 if turns[-1].levels == 1 else 1)
    worst = max([*turns, chosen, other], key=lambda turn: abs(turn.off))
    best = min(turn.measured for turn in [*turns, other])
    verdicts = [
        (f"{name}-close", f"at worst {worst.off:+.0%}, {worst.workers} workers (≤ 25 %)", abs(worst.off) <= CLOSE),
        (
            f"{name}-best",
            f"the planner's {chosen.partitions} partitions {chosen.measured:.2f} s, the best {best:.2f} s (≤ 1.15×)",
            chosen.measured <= BEST * best,
        ),
        (
            f"{name}-levels",
            f"{most} workers take {turns[-1].levels} in {turns[-1].measured:.2f} s,"
            f" where {other.levels} would be {other.measured:.2f} s",
            turns[-1].measured <= BEST * other.measured,
        ),
    ]
    return [*turns, chosen, other], verdicts


def main() -> int:
    parser = asking(__doc__, 1)
    parser.add_argument("--paper", action="store_true", help="print the README's table, and nothing else")
    parser.add_argument("--seed", type=int, help="of the three stores by chance; default: another each time")
    parser.add_argument("--store", type=named, action="append", metavar="PUTS,GETS,BYTES", help="this one instead")
    parser.add_argument("--only", choices=["told", "chance"], help="the store of the claim, or the others")
    asked = answered(parser, *PACKAGES)
    if asked.paper:
        print(paper())
        return 0
    os.environ.update(KEYS)
    seed = random.SystemRandom().randrange(1_000_000) if asked.seed is None else asked.seed
    dice = random.Random(seed)
    stores = {"told": Knobs(35, 55, 750_000)} | {f"chance{number}": chance(dice) for number in (1, 2, 3)}
    if asked.store:
        stores = {f"asked{number}": knobs for number, knobs in enumerate(asked.store, 1)}
    stores = {name: knobs for name, knobs in stores.items() if not asked.only or name.startswith(asked.only)}
    print(f"seed {seed}")
    turns: dict[str, list[Turn]] = {}
    verdicts: list[Verdict] = []
    with staged() as stage:
        bench = Bench(stage, RECORDS // 10 if asked.quick else RECORDS)
        for name, knobs in stores.items():
            turns[name], judged = setting(bench, name, knobs)
            verdicts += judged
    samples = {name: [asdict(turn) for turn in of_one] for name, of_one in turns.items()}
    told = {name: asdict(knobs) for name, knobs in stores.items()}
    return concluded(asked, verdicts, seed=seed, stores=told, samples=samples)


if __name__ == "__main__":
    ends(main)
