"""What cannot be: each limit of workers and stores, and in words how a shape would break it."""

from collections.abc import Iterator
from itertools import pairwise
from math import ceil
from typing import Final

from pywren_shuffle.places.exchange import PART
from pywren_shuffle.planning.model import Shape, Work
from pywren_shuffle.planning.plan import Step
from pywren_shuffle.planning.terms import Terms, Tier
from pywren_shuffle.planning.words import bytes_in_words
from pywren_shuffle.sizes import least_memory

__all__ = ["refusal"]

_TRIFLE: Final = 4 << 20  # bytes by which nobody's memory is judged
_COUNTS: Final = 4 << 30  # bytes of numbers that the driver may have to keep
_PER_COUNT: Final = 4
_PER_SLICE: Final = 24
_OTHER_DESCRIPTORS: Final = 64  # of a worker: its pipes, libraries, and what is asked twice


def refusal(work: Work, shape: Shape, steps: tuple[Step, ...], terms: Terms) -> str:
    """Why it cannot be done in that shape; empty if it can."""
    checks = (
        _memory(work, shape),
        _driver(shape),
        _capacity(work, shape, terms),
        _uploads(work, shape, terms),
        _descriptors(shape, terms),
        _clients(shape, terms),
        _time(steps, terms),
    )
    return next((said for check in checks for said in check), "")


def _memory(work: Work, shape: Shape) -> Iterator[str]:
    tasks = [(layer.objects, ceil(before.groups / layer.groups)) for before, layer in pairwise(shape.layers)]
    for number, slices in [*tasks, (shape.merges, shape.layers[-1].groups)]:
        each = work.bytes / number
        if each * (1 + work.decoded) <= work.memory:
            continue
        needed = least_memory(slices, max(work.record_size, 1), work.decoded)
        if needed > work.memory + _TRIFLE:
            yield (
                f"memory: {number:,} tasks would merge {slices:,} slices each, {bytes_in_words(each)} in all, and a"
                f" block of every slice takes {bytes_in_words(needed)}, of which a worker has"
                f" {bytes_in_words(work.memory)} for data; give workers more, or let there be more partitions"
            )


def _driver(shape: Shape) -> Iterator[str]:
    ranges = [*(layer.ranges for layer in shape.layers[1:]), shape.partitions]
    slices = sum(layer.groups * of_next for layer, of_next in zip(shape.layers, ranges, strict=True))
    needed = _PER_SLICE * slices + _PER_COUNT * shape.layers[0].groups * shape.partitions
    if needed > _COUNTS:
        yield (
            f"the driver's memory: it would keep {bytes_in_words(needed)} of offsets, counts and checksums of"
            f" {slices:,} slices, and {bytes_in_words(_COUNTS)} is as far as it goes"
        )


def _capacity(work: Work, shape: Shape, terms: Terms) -> Iterator[str]:
    for tier in {terms.tier(layer.tier) for layer in shape.layers}:
        passes = sum(layer.tier == tier.name for layer in shape.layers)
        needed = work.bytes * passes / (shape.rounds if tier.name == shape.layers[0].tier else 1)
        what, where = "intermediate data", tier.name
        if tier.name == "folder":
            needed, what, where = needed + work.bytes, "intermediate data and output", "the disk"
        if needed > tier.capacity:
            yield (
                f"room: {bytes_in_words(needed)} of {what} would lie on {where}, which has room for"
                f" {bytes_in_words(tier.capacity)}: make room, or take another place"
            )


def _uploads(work: Work, shape: Shape, terms: Terms) -> Iterator[str]:
    written = [("object", layer.objects, terms.tier(layer.tier)) for layer in shape.layers]
    for name, number, tier in [*written, ("output part", shape.partitions, terms.target)]:
        parts = ceil(work.bytes / number / PART)
        if tier.name != "folder" and parts > tier.most_parts:
            least = ceil(work.bytes / PART / tier.most_parts)
            yield (
                f"uploads: each {name} of {bytes_in_words(work.bytes / number)} would be sent in {parts:,} parts of"
                f" {PART >> 20} MB, and {tier.name} takes {tier.most_parts:,}: let there be at least {least:,}"
            )


def _descriptors(shape: Shape, terms: Terms) -> Iterator[str]:
    used: set[Tier] = {terms.source, terms.target, *(terms.tier(layer.tier) for layer in shape.layers)}
    needed = sum(tier.connections for tier in used) + _OTHER_DESCRIPTORS
    if needed > terms.workers.most_descriptors:
        yield (
            f"file descriptors: a worker would hold about {needed:,} connections and files, and may have"
            f" {terms.workers.most_descriptors:,}"
        )


def _clients(shape: Shape, terms: Terms) -> Iterator[str]:
    tasks = max(shape.merges, *(layer.objects for layer in shape.layers))
    workers = min(tasks, terms.workers.at_once)
    for tier in {terms.tier(layer.tier) for layer in shape.layers}:
        if workers > tier.most_workers:
            yield (
                f"connections: {workers:,} workers at once would read and write {tier.name}, which lets in"
                f" {tier.most_workers:,} more (its maxclients)"
            )


def _time(steps: tuple[Step, ...], terms: Terms) -> Iterator[str]:
    workers = terms.workers
    for step in steps:
        seconds = step.seconds / max(1, ceil(step.tasks / workers.at_once))
        if seconds > workers.most_seconds:
            yield (
                f"time: each of {step.tasks:,} tasks of the step {step.name!r} would take {seconds:,.0f} s, and a"
                f" worker has {workers.most_seconds:,.0f}"
            )
