"""Joins: the rows of two inputs that have the same key, side by side.

    one side is small      all of it to every worker ──► dict ──► each split of the other side ──► part
    both are large         both sides' pairs ──► spread by key, the smaller side first ──► hold it, the other streams by

A key None is equal to None, as in Python; in a table, null is equal to nothing, as in SQL.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, Final, cast

from pywren_runtime.errors import ConfigError
from pywren_shuffle.broadcast import Broadcast, beside, is_possible
from pywren_shuffle.driving.run import Place
from pywren_shuffle.group import USUAL, How, Places, Reduced, Spread
from pywren_shuffle.objects.grouped import Grouped
from pywren_shuffle.objects.joining import HELD, LEFT, RIGHT, Joining, Row, Sided, SidedSource, side_of
from pywren_shuffle.objects.pairs import itself, record_pairs
from pywren_shuffle.phases.merge import Part
from pywren_shuffle.planning.model import to_all
from pywren_shuffle.planning.plan import Plan
from pywren_shuffle.proof import NOTHING, Tally
from pywren_shuffle.records import Piece, Source, is_table

__all__ = ["KINDS", "join"]

KINDS: Final = ("inner", "left", "right", "outer", "semi")


def join(
    executor: Executor,
    left: Places,
    right: Places,
    target: Place,
    *,
    kind: str = "inner",
    key: object = None,
    fn: Callable[[Any, Any], Any] | None = None,
    records: str = "rows",
    broadcast: bool | None = None,
    how: How = USUAL,
) -> "Reduced[None]":
    """A row `fn(left, right)`, by default the pair of both, for each two rows whose keys are equal.

    `kind` is inner, left, right, outer or semi: with left, a row of the left side that has no equal on the right comes
    with None; semi gives rows of the left side that have one, each once. `key` may be a pair of functions, one for each
    side. With `broadcast` the smaller side goes to every worker; by default it does where it fits well.
    """
    keys = key if isinstance(key, tuple) else (key, key)
    if kind not in KINDS:
        raise ConfigError(f"kind={kind!r} is no kind of join: there are {', '.join(KINDS)}.")
    if len(keys) != 2:
        raise ConfigError(f"key={key!r}: a tuple is the key of the left side and that of the right. Write a list.")
    if fn is not None and not callable(fn):
        raise ConfigError(f"fn={fn!r} must be a function of a row of the left side and one of the right.")
    format: Any
    if is_table(records):
        from pywren_shuffle.tables.aggregate import table_format
        from pywren_shuffle.tables.join import TableJoin

        if fn is not None:
            raise ConfigError("fn= is for rows: a join of tables has the columns of both sides.")
        format = TableJoin(kind, RIGHT, (table_format(records, keys[LEFT]), table_format(records, keys[RIGHT])))
    else:
        left_pairs = record_pairs(records, keys[LEFT], itself)
        right_pairs = record_pairs(records, keys[RIGHT], nothing if kind == "semi" else itself)
        format = Grouped(pairs=Sided((left_pairs, right_pairs)), finish=Joining(kind, fn))
    return _Join(executor, format, Joining(kind, fn), target, how, broadcast).run((left, right))


def nothing(row: Row) -> None:
    """That there is such a row is all that its group needs to know."""


class _Join(Spread):
    """One run of a join."""

    WHAT = "join"

    def __init__(
        self, executor: Executor, format: Any, joining: Joining, target: Place, how: How, broadcast: bool | None
    ) -> None:
        super().__init__(executor, format, target, how)
        self._joining = joining
        self._broadcast = broadcast

    def found(self, source: Any, overwrite: bool) -> list[Source]:
        """Both sides' inputs, of which the smaller one comes first; with `semi` the right one, which is not held."""
        sides = [
            [SidedSource(one.store, one.key, one.size, side) for one in self.listed(places)]
            for side, places in enumerate(source)
        ]
        sizes = [sum(one.size for one in side) for side in sides]
        first = RIGHT if self._joining.kind == "semi" or sizes[RIGHT] <= sizes[LEFT] else LEFT
        self._joining = replace(self._joining, first=first)
        sources: list[Source] = [*sides[first], *sides[1 - first]]
        self.output.claim(sources, overwrite=overwrite)
        format: Any = self._format
        if not isinstance(format, Grouped):
            format = replace(format, first=first)
        self._format = format.prepare(sources, self.exchange)
        return sources

    def how_to(self, sources: Sequence[Source]) -> Plan:
        """As any other, unless the first side goes to every worker."""
        plan = super().how_to(sources)
        small = sum(source.size for source in sources if side_of(source) == self._joining.first)
        assert self.terms is not None
        return to_all(plan, small, self.terms) if self._goes_to_all(small, plan) else plan

    def reduced(self, splits: Sequence[tuple[Piece, ...]], plan: Plan) -> tuple[list[Part], Tally]:
        """See Spread."""
        self._joining = replace(self._joining, memory=plan.memory)
        if isinstance(self._format, Grouped):
            self._format = replace(self._format, finish=self._joining)
        if plan.to_all is None:
            return super().reduced(splits, plan)
        first = self._joining.first
        small = tuple(piece for split in splits for piece in split if side_of(piece.source) == first)
        large = [tuple(piece for piece in split if side_of(piece.source) != first) for split in splits]
        return self._beside(small, [split for split in large if split], plan), NOTHING

    def _goes_to_all(self, small: int, plan: Plan) -> bool:
        if self._broadcast is not None:
            if self._broadcast and not is_possible(self._joining):
                raise ConfigError(
                    f"broadcast=True does not go with kind={self._joining.kind!r} and these inputs: the smaller side"
                    " has rows that nobody knows to have no equal. Leave broadcast out."
                )
            return self._broadcast
        format: Any = self._format
        sides = cast(Sided, format.pairs).sides if isinstance(format, Grouped) else format.sides
        size = small * (1 + sides[self._joining.first].expansion)
        return self._how.partitions is None and is_possible(self._joining) and size <= HELD * plan.memory

    def _beside(self, small: tuple[Piece, ...], large: Sequence[tuple[Piece, ...]], plan: Plan) -> list[Part]:
        keys = self.output.keys(len(large))
        self.traces.expect(self.traces.mark, [f"shuffles/{self.id}/{number:06d}" for number in range(len(large))])
        tasks = [
            Broadcast(
                format=self._format,
                joining=self._joining,
                small=small,
                pieces=split,
                counts_small=number == 0,
                store=self.traces.mark,
                target=self._target,
                key=keys[number],
                block=plan.block,
                hedging=self._hedging,
                over=self._over,
            )
            for number, split in enumerate(large)
        ]
        parts = []
        with self._steps.step("join", tasks, sum(task.bytes for task in tasks)):
            for part, requests in self._all(beside, tasks):
                self.requests += requests
                parts.append(part)
        return parts
