"""How a sort is divided, as a pure function of sizes, rates and prices.

sizes, memory ──► splits that fit ──► shapes: splits × partitions × levels × tiers ──► what cannot be is left out
                                                                                  └──► the fastest, or the cheapest
                                                                                       of those that are about as fast

A split is as large as one worker's memory allows, with all that loading, sorting and encoding it takes. Of folders no
rates are known: there are as many partitions as splits, as many splits as processors' caches like, and one level.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import Final

from pywren_runtime.errors import ConfigError
from pywren_shuffle.places.flights import AT_ONCE
from pywren_shuffle.planning.levels import layers_of
from pywren_shuffle.planning.limits import refusal
from pywren_shuffle.planning.model import Shape, Work, dollars_of, steps_of
from pywren_shuffle.planning.plan import Layer, Option, Plan, Step
from pywren_shuffle.planning.terms import Terms, Tier
from pywren_shuffle.sizes import MEMORY, SMALL

__all__ = ["make_plan"]

LEAST: Final = 0.05
MOST_PARTS: Final = 100_000
_UPLOADS: Final = 80 << 20  # bytes that parts of an upload take while they are under way
_DATA: Final = 0.85  # of a worker's memory is for data; the rest for what is taken of it at a time, and for objects
_SLACK: Final = 0.8  # of that is planned with: partitions are not all of one size
_LARGEST_BLOCK: Final = 8 << 20
_SMALLEST_BLOCK: Final = 64 << 10
_CACHED: Final = 32 << 20  # bytes of a split that a processor's cache holds in good part; more cost nothing in a folder
_AS_FAST: Final = 1.05, 0.05  # times the least seconds, or so many more: what is cheaper is worth that
_PHASE: Final = 0.3  # seconds that one more level must save, as tasks take time to begin that no plan knows of
_LEVELS: Final = 3


@dataclass(frozen=True)
class _Candidate:
    """A shape with what it takes."""

    work: Work
    shape: Shape
    terms: Terms

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return steps_of(self.work, self.shape, self.terms)

    @cached_property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @cached_property
    def dollars(self) -> float:
        return dollars_of(self.steps, self.terms)

    @cached_property
    def refusal(self) -> str:
        """Why it cannot be; empty if it can."""
        return refusal(self.work, self.shape, self.steps, self.terms)


def make_plan(
    total: int,
    *,
    objects: int,
    record_size: float,
    expansion: float,
    decoded: float,
    memory: float | None,
    partitions: int | None,
    together: int,
    terms: Terms,
    levels: int | None = None,
    splits: int | None = None,
    listed: int | None = None,
    is_spread: bool = False,
    items: int = 0,
) -> Plan:
    """The plan for so many bytes of input in so many objects; ConfigError for what makes no sense, or cannot be.

    What lies in no folder costs memory: an object is whole before it is put, and an output part is sent in parts.
    """
    memory = MEMORY if memory is None else memory
    _check(memory, partitions, together, levels)
    remote = terms.tiers[0].name != "folder"
    usable = int(_DATA * memory * (1 << 20))
    if remote:
        usable -= min(_UPLOADS, usable // 3)
    block = min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, usable // (4 * AT_ONCE)))
    work = Work(total, objects, max(1.0, record_size), expansion, decoded, usable, block, listed, is_spread, items)
    least = max(1, ceil(total / max(1, int(_SLACK * usable / (1 + expansion + remote)))))
    if not remote:
        return _in_folders(work, splits or least, partitions, together, terms, levels or 1)
    found = [*_candidates(work, max(least, splits or 0), partitions, together, terms)]
    if splits is not None:
        made = _as_cut(max(least, splits), objects)
        found = [one for one in found if one.shape.layers[0].groups == made] or found
    if levels is not None:
        found = [one for one in found if len(one.shape.layers) == levels] or found
    possible = [one for one in found if not one.refusal]
    if not possible:
        raise _impossible(found)
    at_once = [one for one in possible if one.shape.partitions >= (partitions or least)]
    possible = at_once or possible  # partitions that do not fit into memory are merged in rounds, which takes longer
    first = next(tier for tier in terms.tiers if any(one.shape.layers[0].tier == tier.name for one in possible))
    chosen = _spread(_best([one for one in possible if one.shape.layers[0].tier == first.name]))
    return replace(
        _plan_of(chosen),
        seconds=chosen.seconds,
        dollars=chosen.dollars,
        unpriced=any(terms.tier(layer.tier).per_hour is None for layer in chosen.shape.layers),
        why=_reason(chosen, least, partitions),
        rejected=tuple(_others(chosen, found, partitions or least)),
    )


def _check(memory: float, partitions: int | None, together: int, levels: int | None) -> None:
    if levels is not None and levels not in range(1, _LEVELS + 1):
        raise ConfigError(f"levels={levels} should be from 1 to {_LEVELS}: how often the data is exchanged.")
    if not isinstance(memory, int | float):
        raise ConfigError(f"memory={memory!r} should be a number: the MB that a worker has for data.")
    if not memory >= LEAST:
        raise ConfigError(f"memory={memory} (MB for a worker's data) is too little: give it at least {LEAST}.")
    if partitions is not None and not (isinstance(partitions, int) and 1 <= partitions <= MOST_PARTS):
        raise ConfigError(f"partitions={partitions!r} should be a number from 1 to {MOST_PARTS:,}.")
    if together < 1:
        raise ConfigError(f"together={together} partitions cannot be merged by one task: it is 1 or more.")


def _in_folders(work: Work, splits: int, partitions: int | None, together: int, terms: Terms, levels: int) -> Plan:
    workers = terms.workers.at_once
    splits = max(splits, min(ceil(work.bytes / _CACHED), 8 * workers))
    if splits < workers:
        splits = max(splits, min(workers, ceil(work.bytes / SMALL)))
    else:
        splits = _in_turns(splits, workers)
    parts = partitions or splits
    chosen = _Candidate(work, Shape(layers_of(splits, parts, levels, terms.tiers[0].name), parts, together), terms)
    if chosen.refusal and partitions is None:  # so many that each fits, and none is merged in rounds
        parts = max(splits, ceil(work.bytes * (1 + work.decoded) / (_SLACK * work.memory)))
        chosen = replace(chosen, shape=Shape(layers_of(splits, parts, levels, terms.tiers[0].name), parts, together))
    if chosen.refusal:
        raise _impossible([chosen])
    why = "one level, as files are read without requests"
    return replace(_plan_of(chosen), why=why if partitions is None else f"partitions={partitions} was asked for; {why}")


def _plan_of(chosen: _Candidate) -> Plan:
    work, shape = chosen.work, chosen.shape
    return Plan(
        bytes=work.bytes,
        memory=work.memory,
        split=max(1, ceil(work.bytes / shape.layers[0].groups)),
        partitions=shape.partitions,
        block=work.block,
        together=shape.together,
        layers=shape.layers,
        at_once=chosen.terms.workers.at_once,
        rounds=shape.rounds,
        prefixes=shape.prefixes,
        items=work.items,
        steps=chosen.steps,
    )


def _in_turns(splits: int, workers: int) -> int:
    """So many or a few more, so that none is left over for a last turn."""
    return ceil(splits / workers) * workers if splits > workers else splits


def _as_cut(splits: int, objects: int) -> int:
    """So many or a few more, as objects of one size make them: a split is a piece of one, or some whole ones."""
    if objects > 1 < splits:
        before = 0
        while before != splits:
            before = splits
            splits = objects * ceil(splits / objects) if splits >= objects else ceil(objects / (objects // splits))
    return splits


# ── candidates ──


def _candidates(work: Work, least: int, partitions: int | None, together: int, terms: Terms) -> Iterator[_Candidate]:
    """Every combination that may make sense, whether it can be or not."""
    workers = terms.workers.at_once
    splits = [*_numbers(least, workers)]
    if least > workers:
        splits = [_in_turns(least, workers)]
    if not work.bytes:
        splits = [least]
    for number in dict.fromkeys(_as_cut(number, work.objects) for number in splits):
        for parts in [partitions] if partitions else _partitions(number, splits, workers):
            for tier in terms.tiers:
                for levels in range(1, _LEVELS + 1):
                    layers = layers_of(number, parts, levels, tier.name)
                    if len(layers) == levels:
                        yield _Candidate(work, Shape(layers, parts, together), terms)
                yield from _in_rounds(work, number, parts, together, tier, terms)


def _numbers(least: int, most: int) -> Iterator[int]:
    """Numbers from one to the other, each about a third larger than the one before."""
    number = least
    while number < most:
        yield number
        number = max(number + 1, number * 4 // 3)
    yield max(least, most)


def _partitions(splits: int, all_splits: list[int], workers: int) -> list[int]:
    """Numbers of partitions to be looked at with so many splits."""
    if all_splits[0] <= workers:
        return [number for number in all_splits if splits <= 4 * number <= 16 * splits]
    fewer = {_in_turns(splits // by, workers) for by in (2, 4, 8) if splits // by >= workers}
    return [splits, *sorted(fewer, reverse=True)]


def _in_rounds(
    work: Work, splits: int, partitions: int, together: int, tier: Tier, terms: Terms
) -> Iterator[_Candidate]:
    """A store too small for all, filled and emptied into the next tier, whose objects the last phase merges."""
    beside = terms.tiers[terms.tiers.index(tier) + 1 :]
    if work.bytes <= tier.capacity or not beside:
        return
    rounds = ceil(work.bytes / tier.capacity)
    if rounds <= splits:
        ranges = min(partitions, max(ceil(max(splits, partitions) / rounds), min(partitions, terms.workers.at_once)))
        layers = Layer(splits, 1, tier.name), Layer(rounds, ranges, beside[0].name)
        yield _Candidate(work, Shape(layers, partitions, together, rounds), terms)


# ── the choice ──


def _best(candidates: list[_Candidate]) -> _Candidate:
    """The cheapest of those that are about as fast as the fastest."""
    factor, more = _AS_FAST
    seconds = [one.seconds + _PHASE * (len(one.shape.layers) - 1) for one in candidates]
    bound = max(min(seconds) * factor, min(seconds) + more)
    fast = [one for one, taken in zip(candidates, seconds, strict=True) if taken <= bound]
    return min(fast, key=lambda one: (one.dollars, one.seconds, one.shape.partitions))


def _spread(chosen: _Candidate) -> _Candidate:
    """The same with keys spread over as many prefixes as make it faster, where the store has more than one."""
    most = chosen.terms.tier(chosen.shape.layers[-1].tier).prefixes
    prefixes = 1
    while prefixes < most:
        more = replace(chosen, shape=replace(chosen.shape, prefixes=min(most, 2 * prefixes)))
        if more.seconds > 0.98 * chosen.seconds:
            break
        chosen, prefixes = more, more.shape.prefixes
    return chosen


def _reason(chosen: _Candidate, least: int, partitions: int | None) -> str:
    shape, workers = chosen.shape, chosen.terms.workers.at_once
    said = f"the cheapest of those within {_AS_FAST[0] - 1:.0%}, or {_AS_FAST[1]} s, of the fastest"
    if partitions is not None:
        said = f"partitions={partitions} was asked for; the rest is {said}"
    if least > workers:
        said += f"; {least:,} splits is what fits into memory, {workers:,} at once is what there is"
    elif shape.layers[0].groups == least > 1:
        said += f"; {least:,} splits is what fits into memory"
    return said


def _others(chosen: _Candidate, found: list[_Candidate], least: int) -> Iterator[Option]:
    """The best of each other kind, and half and twice as many partitions, with what spoke against them."""
    own = chosen.shape
    kinds: dict[str, list[_Candidate]] = {}
    for one in found:
        shape = one.shape
        if (shape.layers[0].tier, len(shape.layers), shape.rounds) != (own.layers[0].tier, len(own.layers), own.rounds):
            kinds.setdefault(_kind(one), []).append(one)
        elif shape.partitions > 1.9 * own.partitions:
            kinds.setdefault("more partitions", []).append(one)
        elif shape.partitions < own.partitions / 1.9:
            kinds.setdefault("fewer partitions", []).append(one)
    for name, candidates in kinds.items():
        possible = [one for one in candidates if not one.refusal]
        if possible:
            best = min(possible, key=lambda one: (one.shape.partitions < least, one.seconds))
            number = f"{best.shape.partitions:,} partition{'s' * (best.shape.partitions != 1)}"
            name = f"{name}: {number}" if name.endswith("partitions") else f"{name}, {number}"
            why = _against(best, chosen)
            if best.shape.partitions < least <= own.partitions:
                why = "they would not fit into memory, and be merged in rounds"
            yield Option(name, best.seconds, best.dollars, why)
        else:
            yield Option(name, None, None, candidates[-1].refusal)


def _kind(one: _Candidate) -> str:
    levels, tier = len(one.shape.layers), one.shape.layers[0].tier
    if one.shape.rounds > 1:
        return f"{one.shape.rounds} rounds on {tier}"
    return f"{levels} level{'s' * (levels > 1)} on {tier}"


def _against(one: _Candidate, chosen: _Candidate) -> str:
    """What is worst about it beside the one that was chosen, in words."""
    if one.seconds <= chosen.seconds * _AS_FAST[0] or one.seconds <= chosen.seconds + _AS_FAST[1]:
        if one.shape.layers[0].tier != chosen.shape.layers[0].tier:
            return f"{chosen.shape.layers[0].tier} was asked for"
        if one.seconds < chosen.seconds and len(one.shape.layers) > len(chosen.shape.layers):
            return f"not {_PHASE} s faster, which one more phase should be"
        return "no faster to speak of, and not as cheap" if one.dollars >= chosen.dollars else "cheaper, but slower"
    worst = max(one.steps, key=lambda step: step.seconds)
    read, put = worst.requests.get("GetRange", 0), worst.requests.get("PutObject", 0)
    reading, putting = read / one.terms.tier(worst.source).gets, put / one.terms.tier(worst.target).puts
    if len(one.shape.layers) > len(chosen.shape.layers):
        return "slower: it moves all data once more, and saves too few requests for that"
    if max(reading, putting) < worst.seconds / 2:
        return f"slower: {worst.name} takes {worst.seconds:,.1f} s for the bytes of {worst.tasks:,} tasks"
    if reading > putting:
        return f"slower: {worst.name} waits for {read:,} reads at {one.terms.tier(worst.source).gets:,.0f} a second"
    return f"slower: {worst.name} waits for {put:,} PUTs at {one.terms.tier(worst.target).puts:,.0f} a second"


def _impossible(found: list[_Candidate]) -> ConfigError:
    reasons = list(dict.fromkeys(one.refusal for one in found))
    return ConfigError(f"this cannot be done as it is asked for: {'; or: '.join(reasons[:4])}.")
