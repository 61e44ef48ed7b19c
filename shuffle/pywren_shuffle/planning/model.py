"""How long a plan takes and what it costs, from bytes, requests and rates alone.

    a step    reads, then writes; of each, bytes and requests pass at their own rates at the same time:
              max(D / (b · p), requests / q), and of the lesser what one request of each worker takes;
              who has read writes while the others' last reads wait for their turns: less (p - 1) / larger q
    a sort    sample · partition (input ─► layer 0) · regroup (layer ─► layer) … · merge (layer ─► output)

With p workers that make r requests each, the first bytes flow when p requests were answered, and the last request is
answered before its own bytes flow: max(a + c/r, c + a/r) for a seconds of bytes and c of requests.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, expm1

from pywren_shuffle.places.exchange import put_requests
from pywren_shuffle.planning.plan import Actual, Layer, Plan, Step, Took
from pywren_shuffle.planning.terms import Terms, Tier
from pywren_shuffle.sizes import round_block, sample_size

__all__ = ["PLACES", "Shape", "Work", "dollars_of", "seconds_of", "steps_of", "to_all", "with_actual"]

PLACES = 16  # from which a split's sample comes where each costs a request
_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be sorted, and what a worker has for it."""

    bytes: int
    objects: int
    record_size: float
    expansion: float  # bytes of memory beside each byte, as it is loaded, and
    decoded: float  # as it is merged
    memory: int  # bytes that a worker's data may take
    block: int  # bytes of one request at most
    listed: int | None = None  # requests that it took to find the objects
    is_spread: bool = False  # by hashes or places: nobody takes a sample, and blocks are found by a list when they go
    items: int = 0  # see `Plan`


@dataclass(frozen=True, slots=True)
class Shape:
    """One way to do it."""

    layers: tuple[Layer, ...]
    partitions: int
    together: int
    rounds: int = 1
    prefixes: int = 1

    @property
    def merges(self) -> int:
        """How many tasks make the output: none has partitions of two ranges."""
        ranges = self.layers[-1].ranges
        least, larger = divmod(self.partitions, ranges)
        return (ranges - larger) * ceil(least / self.together) + larger * ceil((least + 1) / self.together)


def seconds_of(moved: float, requests: float, tasks: int, rate: float, terms: Terms, tier: Tier) -> float:
    """How long so many tasks take to move these bytes in one direction by so many requests."""
    if not requests or not tasks:
        return 0.0
    workers = min(tasks, terms.workers.at_once)
    turns = ceil(tasks / workers)
    flow = max(moved / tasks * turns / terms.workers.bandwidth, moved / tier.bandwidth)
    asking = requests / rate
    return max(flow, asking) + min(flow, asking) / max(1.0, requests / workers)


def steps_of(work: Work, shape: Shape, terms: Terms) -> tuple[Step, ...]:
    """All steps of a sort done in that shape.

    Where keys are spread, the part of the work that is done before the store has split its prefixes is as slow as ever.
    """
    steps = tuple(_steps(work, shape, terms))
    if shape.prefixes == 1:
        return steps
    before = tuple(_steps(work, replace(shape, prefixes=1), terms))
    part = min(1.0, terms.tier(shape.layers[-1].tier).prefixes_after / sum(step.seconds for step in before))
    return tuple(
        replace(step, seconds=part * slow.seconds + (1 - part) * step.seconds)
        for slow, step in zip(before, steps, strict=True)
    )


def _steps(work: Work, shape: Shape, terms: Terms) -> Iterator[Step]:
    source, target, layers = terms.source, terms.target, shape.layers
    splits = layers[0].groups
    whole = max(work.objects, splits * ceil(work.bytes / splits / work.block))
    if shape.partitions > 1 and work.bytes and not work.is_spread:
        records = work.bytes / work.record_size
        keys = min(sample_size(records, shape.partitions), records)
        stretch = ceil(keys / splits / PLACES)
        if stretch == 1 or PLACES * stretch * splits >= records:  # splits are read as a whole
            moved, asked = work.bytes, whole
        else:
            moved, asked = int(keys * work.record_size), max(work.objects, splits * PLACES)
        seconds = seconds_of(moved, asked, splits, source.gets, terms, source)
        tasks = min(splits, terms.workers.at_once)
        yield Step("sample", tasks, moved, seconds, _of(source, GetRange=asked), source.name, source.name)
    yield _step("partition", work, shape, terms, (splits, whole if work.bytes else 0, None, layers[0]))
    for number, (before, after) in enumerate(pairwise(layers), 1):
        asked = _asked(work, before.groups * after.ranges, after.objects)
        yield _step(f"regroup {number}", work, shape, terms, (after.objects, asked, before, after))
    asked = _asked(work, layers[-1].groups * shape.merges, shape.merges)
    yield _step("merge", work, shape, terms, (shape.merges, asked, layers[-1], None))
    found = work.listed
    if found is None:
        found = ceil(work.objects / _LISTED) if source.name != "folder" else 0
    if work.is_spread and layers[0].tier != "folder":
        found += 1
    lists, deletes = found + 1 + ceil(shape.partitions / _LISTED), ceil(sum(one.objects for one in layers) / _LISTED)
    around = _of(target, ListObjectsV2=lists, PutObject=1, DeleteObjects=deletes)
    seconds = lists / target.gets + (1 + deletes) / target.puts
    yield Step("list, clean", 1, 0, seconds, around, target.name, target.name)


def _step(name: str, work: Work, shape: Shape, terms: Terms, way: tuple[int, int, Layer | None, Layer | None]) -> Step:
    """So many tasks read by so many requests from the input or a layer, and write the next layer or the output."""
    tasks, asked, before, after = way
    source = terms.tier(before.tier) if before else terms.source
    target = terms.tier(after.tier) if after else terms.target
    written = after.objects if after else shape.partitions
    put = put_requests(ceil(work.bytes / written), streamed=after is None)
    puts = {kind: number * written for kind, number in put.items()}
    gets_rate = source.gets * (shape.prefixes if before else 1)
    puts_rate = target.puts * (shape.prefixes if after else 1)
    reading = seconds_of(work.bytes, asked, tasks, gets_rate, terms, source)
    writing = seconds_of(work.bytes, sum(puts.values()), tasks, puts_rate, terms, target)
    seconds = _overlapped(reading, writing, min(tasks, terms.workers.at_once), max(gets_rate, puts_rate))
    looks = {"HeadObject": tasks} if terms.workers.lingers else {}
    requests = _of(source, GetRange=asked, **looks) | _of(target, **puts)
    return Step(name, tasks, work.bytes, seconds, requests, source.name, target.name)


def _overlapped(reading: float, writing: float, workers: int, rate: float) -> float:
    """Seconds of both, where who has read writes while the others' last reads wait for their turns."""
    return reading + writing - min(reading, writing, (workers - 1) / rate)


def _of(tier: Tier, **requests: int) -> dict[str, int]:
    """What is asked of a store: nothing of a folder."""
    return {} if tier.name == "folder" else requests


def _asked(work: Work, slices: int, tasks: int) -> int:
    """By how many ranges so many tasks read so many slices."""
    if work.items:
        return slices
    if not work.bytes:
        return 0
    # Nobody asks for an empty one: so many have any, where each record may be in each.
    slices = max(1, round(-slices * expm1(-work.bytes / work.record_size / slices)))
    block = work.block
    if work.bytes / tasks * (1 + work.decoded) > work.memory:  # it is merged in rounds
        block = min(block, round_block(ceil(slices / tasks), work.memory, work.decoded))
    return slices * ceil(work.bytes / slices / block)


def to_all(plan: Plan, small: int, terms: Terms) -> Plan:
    """The same where so many bytes of the input go to each task for a split of the rest, and nothing lies between."""
    source, target, tasks = terms.source, terms.target, plan.splits
    large = plan.bytes - small
    asked = tasks * (ceil(small / plan.block) + ceil(large / tasks / plan.block))
    put = {kind: number * tasks for kind, number in put_requests(ceil(large / tasks), streamed=True).items()}
    reading = seconds_of(large + tasks * small, asked, tasks, source.gets, terms, source)
    writing = seconds_of(large, sum(put.values()), tasks, target.puts, terms, target)
    seconds = _overlapped(reading, writing, min(tasks, terms.workers.at_once), max(source.gets, target.puts))
    looks = {"HeadObject": tasks} if terms.workers.lingers else {}
    requests = _of(source, GetRange=asked) | _of(target, **put, **looks)
    step = Step("join", tasks, large + tasks * small, seconds, requests, source.name, target.name)
    last = plan.steps[-1]
    last = replace(last, requests={kind: number for kind, number in last.requests.items() if kind != "DeleteObjects"})
    is_known = plan.seconds is not None
    return replace(
        plan,
        steps=(step, last),
        seconds=step.seconds + last.seconds if is_known else None,
        dollars=dollars_of((step, last), terms) if is_known else None,
        to_all=small,
        partitions=tasks,
        why="the smaller side fits into each worker's memory",
        rejected=(),
    )


def dollars_of(steps: Iterable[Step], terms: Terms) -> float:
    """Requests, bytes and the time of workers and stores, in dollars."""
    workers, found, lasts = terms.workers, 0.0, 0.0
    used: dict[str, Tier] = {}
    for step in steps:
        source, target = terms.tier(step.source), terms.tier(step.target)
        used |= {source.name: source, target.name: target}
        lasts += step.seconds
        found += step.seconds * min(step.tasks, workers.at_once) * workers.per_second + step.tasks * workers.per_call
        found += step.bytes * (source.per_byte_out + target.per_byte_in)
        for kind, number in step.requests.items():
            if kind.startswith(("Get", "Head")):
                found += number * source.per_get
            elif not kind.startswith("Delete"):
                found += number * target.per_put
    return found + sum((tier.per_hour or 0.0) * ceil(lasts / 3600) for tier in used.values())


def with_actual(plan: Plan, took: Mapping[str, Took], around: Counter[str], seconds: float, terms: Terms) -> Plan:
    """The plan with what came of it: what each step took, and the driver's requests around them."""
    rest = max(0.0, seconds - sum(one.seconds for one in took.values()))
    took = {**took, "list, clean": Took(1, None, rest, dict(around))}
    done = tuple(
        replace(
            step,
            tasks=own.tasks,
            bytes=step.bytes if own.bytes is None else own.bytes,
            seconds=own.seconds,
            requests=own.requests,
        )
        for step in plan.steps
        if (own := took.get(step.name)) is not None
    )
    dollars = None if plan.dollars is None else dollars_of(done, terms)
    return replace(plan, actual=Actual(seconds, dollars, done))
