"""A plan as a value. How one is made: `planner.py`.

    layer 0    (splits × 1 range)        each split's object has a slice for each range of the next layer
    layer k    (groups × ranges)         each object has what a group of the last layer's has of a range, sliced again
    parts      one for each partition    read from all groups of the last layer, of the range in which it lies

With one layer each split's object has a slice for each partition. Where that is too many requests, layers in between
regroup: with a × b objects in one, a · b ≥ P, it is P · (a + b) reads in all and not P · P.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Actual", "Layer", "Option", "Plan", "Step", "Took", "requests_of"]


@dataclass(frozen=True, slots=True)
class Layer:
    """The objects between two phases: `groups` of the input, in order, times `ranges` of the partitions.

    Layer 0 has a group for each split, and one range. Ranges are nested: those of a layer are a multiple of those of
    the layer before. `tier` names the kind of store in which they lie: `folder`, `s3`, `redis`.
    """

    groups: int
    ranges: int
    tier: str

    @property
    def objects(self) -> int:
        """How many objects that is."""
        return self.groups * self.ranges


@dataclass(frozen=True, slots=True)
class Step:
    """One step, as it is expected or as it was: what it moves, what it asks for, how long that takes."""

    name: str  # sample, partition, regroup 1, merge
    tasks: int
    bytes: int  # that it reads, and (but for a sample) writes again
    seconds: float
    requests: Mapping[str, int]  # by kind
    source: str  # the kind of store from which it reads, and
    target: str  # to which it writes


@dataclass(frozen=True, slots=True)
class Took:
    """What a step took when it was done."""

    tasks: int
    bytes: int | None  # that it read, where that is known
    seconds: float
    requests: Mapping[str, int]

    def then(self, later: "Took") -> "Took":
        """Both together."""
        requests = dict(Counter(self.requests) + Counter(later.requests))
        both = None if self.bytes is None or later.bytes is None else self.bytes + later.bytes
        return Took(self.tasks + later.tasks, both, self.seconds + later.seconds, requests)


@dataclass(frozen=True, slots=True)
class Option:
    """Another way that was looked at; `why` says in words what spoke against it."""

    name: str
    seconds: float | None
    dollars: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Actual:
    """What was done by a plan took; a step's bytes are what it read, which is as planned where nobody has counted."""

    seconds: float
    dollars: float | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided before anything was read; as text, all of it in words, and what came of it.

    Seconds and dollars are None where nothing is known of the stores, as of a folder.
    """

    bytes: int
    memory: int  # bytes that a worker's data may take
    split: int  # bytes of a split, at most
    partitions: int
    block: int  # bytes of one request at most: so many in flight fit beside the data
    together: int  # neighbouring partitions that one worker reads by one request for each block
    layers: tuple[Layer, ...]
    at_once: int = 1  # tasks
    rounds: int = (
        1  # in which layer 0 is filled and emptied, where its store holds no more: one for each group of layer 1
    )
    prefixes: int = 1  # over which the keys of intermediate objects spread
    steps: tuple[Step, ...] = ()
    seconds: float | None = None
    dollars: float | None = None
    unpriced: bool = False  # whether there is a store beside, whose price by the hour is not known and not in them
    why: str = ""
    rejected: tuple[Option, ...] = ()
    what: str = "sort"
    items: int = 0  # of which a function makes what is grouped: how many bytes that will be, nobody knows
    to_all: int | None = None  # bytes of the side of a join that every worker reads: then nothing lies between
    actual: Actual | None = field(default=None, compare=False)

    @property
    def splits(self) -> int:
        """How many splits; there may be a few more, as a split holds whole pieces of inputs."""
        return self.layers[0].groups

    @property
    def levels(self) -> int:
        """How often the data is exchanged."""
        return len(self.layers)

    @property
    def tier(self) -> str:
        """Where the first phase puts its objects."""
        return self.layers[0].tier

    @property
    def requests(self) -> dict[str, int]:
        """What is asked of stores, by kind, as it is expected."""
        return requests_of(self.steps)

    def __str__(self) -> str:
        from pywren_shuffle.planning.words import words_of

        return words_of(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # as the last line of a notebook's cell
        printer.text(str(self))


def requests_of(steps: Iterable[Step]) -> dict[str, int]:
    """What these steps ask for, by kind."""
    found: Counter[str] = Counter()
    for step in steps:
        found.update(step.requests)
    return dict(found)
