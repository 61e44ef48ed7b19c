"""Which results are reduced together, and when a reducer may begin. Pure.

    results of a map   0   1   2   3   4        fan_in=2                 no fan_in: one reducer for all
                       └─┬─┘   └─┬─┘   │
    level 1              0       1     2
                         └───┬───┘     │ ── what was reduced is not reduced again alone: it is handed up
    level 2                  0         1
                             └────┬────┘
    level 3                       0 ── the result

A reducer of two or more levels begins when all its results lie there. A single one may begin before, and is told of
the rest as it lands; `may_begin` and `must_go` say when.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

R = TypeVar("R")

READS: Final = 75e6  # bytes a second that a worker reads at least, on Lambda
RESERVE: Final = 0.5  # of a reducer's time limit: what is known of the future fills the other half at most


@dataclass(frozen=True, slots=True)
class Node:
    """One call of the function that reduces: which, on which level; level 0 are the results of the map."""

    level: int
    index: int


def sizes(total: int, fan_in: int | None) -> list[int]:
    """How many results there are on each level, the map's first and 1 at last."""
    found = [total]
    while len(found) == 1 or found[-1] > 1:
        found.append(1 if fan_in is None else max(1, -(-found[-1] // fan_in)))
    return found


class Tree(Generic[R]):
    """Says which node can begin as results land, in whatever order."""

    def __init__(self, total: int, fan_in: int | None) -> None:
        self.sizes: list[int] = sizes(total, fan_in)
        self._fan_in = max(1, total) if fan_in is None else fan_in
        self._results: dict[Node, R] = {}
        self._missing: dict[Node, int] = {}  # results that a node waits for, of those for which some have landed

    @property
    def is_single(self) -> bool:
        """Whether one reducer gets everything."""
        return len(self.sizes) == 2

    @property
    def number(self) -> int:
        """How many calls of the function that reduces there will be."""
        handed_up = sum(below % self._fan_in == 1 for below in self.sizes[1:-1])
        return sum(self.sizes[1:]) - handed_up

    @property
    def root(self) -> Node:
        """The node whose result is that of the whole."""
        return Node(len(self.sizes) - 1, 0)

    def land(self, node: Node, result: R) -> Node | None:
        """A result is there; the node that can begin now, if any."""
        self._results[node] = result
        parent = Node(node.level + 1, node.index // self._fan_in)
        number = len(self._below(parent))
        if number == 1 and node.level:
            return self.land(parent, self._results.pop(node))
        missing = self._missing.pop(parent, number) - 1
        if missing:
            self._missing[parent] = missing
        return None if missing else parent

    def inputs(self, node: Node) -> list[R]:
        """What a node reduces, in order."""
        return [self._results[Node(node.level - 1, index)] for index in self._below(node)]

    def first(self, start: int) -> Iterator[R]:
        """The map's results from that one on, up to the first that is not there."""
        while (result := self._results.get(Node(0, start))) is not None:
            yield result
            start += 1

    def drop(self, node: Node) -> list[R]:
        """A node's result is there, and no one needs what it was made of."""
        return [self._results.pop(Node(node.level - 1, index)) for index in self._below(node)]

    def drop_all(self) -> list[R]:
        """Nobody needs anything any more."""
        dropped = list(self._results.values())
        self._results.clear()
        return dropped

    def _below(self, node: Node) -> range:
        start = node.index * self._fan_in
        return range(start, min(start + self._fan_in, self.sizes[node.level - 1]))


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of a map while some of its results are missing."""

    total: int
    landed: int
    in_order: int  # of these, how many come before the first gap
    size: int  # bytes that have landed
    longest: float  # seconds of the longest task so far
    waits: bool  # whether any task of the executor waits for a worker
    free: int  # workers with nothing to do


def may_begin(sight: Sight, limit: float | None) -> bool:
    """Whether a reducer may begin before all results are there.

    It takes no worker that a task waits for; it finds work, and half of the results are there, so that it does not
    idle for longer than it is worth; and the longest task once more, and all there is to read, fit its time limit.
    """
    if sight.waits or sight.free < 1 or not sight.in_order or 2 * sight.landed < sight.total:
        return False
    if limit is None:
        return True
    reading = sight.size * sight.total / sight.landed / READS
    return sight.longest + reading <= limit * RESERVE


def must_go(since: float, now: float, *, waits: bool, limit: float | None) -> bool:
    """Whether a reducer that began early must end: a task of its map waits for a worker, or half its time is over."""
    return waits or now >= latest(since, limit)


def latest(since: float, limit: float | None) -> float:
    """When a reducer that began then must know all results."""
    return math.inf if limit is None else since + limit * RESERVE
