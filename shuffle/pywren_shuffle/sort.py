"""The sort: a sample, two phases or more, a proof.

sort ──► find, cut ──► sample ──► boundaries ──► partition × splits ──► merge × partitions ──► compare ──► publish
                        └────────── tasks of any concurrent.futures.Executor ──────────┘
"""

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from pywren_shuffle.driving.run import Place, Run
from pywren_shuffle.phases.sample import Hot
from pywren_shuffle.planning.plan import Plan
from pywren_shuffle.planning.terms import Terms
from pywren_shuffle.planning.words import Written, bytes_in_words
from pywren_shuffle.proof import compare
from pywren_shuffle.records import open_format

__all__ = ["Place", "Run", "Sorted", "plan_sort", "sort"]


@dataclass(frozen=True, slots=True)
class Sorted(Written):
    """A sort that was done, and proven: what was written is what was read."""

    id: str
    parts: tuple[str, ...]  # paths, or URLs, in order
    records: int
    bytes: int
    checksum: int = field(repr=False)
    splits: int
    reads: int  # of slices, as ranges: so many requests where they lie in no folder, and hedges come on top
    requests: dict[str, int]  # by kind, of driver and workers; hedges are among them, and counted apart, too
    seconds: float
    hot: tuple[Hot, ...]  # keys that fill more than a partition
    plan: Plan = field(repr=False)
    notices: tuple[str, ...] = ()  # what went otherwise than planned and was set right; also logged as warnings
    _repr_pretty_ = Written._repr_pretty_  # IPython looks for it where the __repr__ is

    def __str__(self) -> str:
        return self.told(f"sorted {self.records:,} records, {bytes_in_words(self.bytes)}")


def sort(
    executor: Executor,
    source: Place | Iterable[Place],
    target: Place,
    *,
    records: str,
    key: object = None,
    reverse: object = False,
    partitions: int | None = None,
    memory: float | None = None,
    together: int = 1,
    levels: int | None = None,
    splits: int | None = None,
    overwrite: bool = False,
    intermediate: str | None = None,
    spare: str | None = None,
    hedging: bool = True,
    terms: Terms | None = None,
) -> Sorted:
    """Sort all records at `source` into parts at `target`, and return when that is done and proven.

    `memory` is what a worker may use for data, in MB beside its interpreter and imports. One task merges `together`
    neighbouring partitions, and reads of each block what is theirs at once. `splits` is how many there are if memory
    allows no fewer, and `levels` how often all data is exchanged, where the plan is not to decide. Intermediate data
    lies below `shuffles/` in the store `intermediate`, and goes whatever happens; what that does not take or loses lies
    in the store `spare`. Each is by default the next: `spare`, the target. Plans follow from what the executor and
    `rates.json` say, or from `terms`.
    """
    format = open_format(records, key=key, reverse=reverse)
    run = Run(executor, format, target, intermediate, hedging, terms=terms, spare=spare)
    try:
        found = run.found(source, overwrite)
        plan = run.planned(found, partitions, together, memory, levels, splits)
        cut = run.cut(found, plan)
        edges, hot = run.sampled(cut, plan)
        blocks = run.partitioned(cut, edges, plan)
        parts = run.merged(blocks, plan)
        total = compare([block.tally for block in blocks], [part.tally for part in parts], [part.key for part in parts])
        run.output.publish(parts, total)
    except BaseException as error:
        run.traces.give_up(error)
        raise
    run.output.remove_old()
    run.traces.clean()
    plan = run.done(plan)
    assert plan.actual is not None
    return Sorted(
        id=run.id,
        parts=tuple(run.output.url_of(part.key) for part in parts),
        records=total.records,
        bytes=total.bytes,
        checksum=total.checksum,
        splits=len(blocks),
        reads=run.reads,
        requests=dict(run.requests + run.exchange.requests),
        seconds=plan.actual.seconds,
        hot=tuple(hot),
        plan=plan,
        notices=tuple(run.healing.notices),
    )


def plan_sort(
    executor: Executor,
    source: Place | Iterable[Place],
    target: Place,
    *,
    records: str,
    key: object = None,
    reverse: object = False,
    partitions: int | None = None,
    memory: float | None = None,
    together: int = 1,
    levels: int | None = None,
    splits: int | None = None,
    intermediate: str | None = None,
    spare: str | None = None,
    terms: Terms | None = None,
) -> Plan:
    """How `sort` would do it, without doing it: what is read are sizes, and what a format must know of its inputs."""
    format = open_format(records, key=key, reverse=reverse)
    run = Run(executor, format, target, intermediate, False, terms=terms, spare=spare)
    try:
        return run.planned(run.looked(source), partitions, together, memory, levels, splits)
    finally:
        run.traces.clean()
