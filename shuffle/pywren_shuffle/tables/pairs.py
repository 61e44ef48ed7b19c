"""Which rows of two tables have equal keys, and what a join makes of them: pyarrow and numpy, many rows at a time.

Rows of both sides have the same columns between the phases: a hash, the side, the left's columns, the right's; those of
the other side are null. A row with a null in its key is equal to none, as in SQL; a nan is equal to a nan, and numbers
of two types are equal as the wider type has them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pywren_runtime.errors import ConfigError
from pywren_shuffle.objects.joining import LEFT, RIGHT
from pywren_shuffle.records.columns import are_true, array_of, by_keys, comparable, row_hashes, values_of
from pywren_shuffle.tables.hashed import HASH, alike

__all__ = ["ALONE", "SIDE", "Pairing", "Some", "pairing_of"]

SIDE = "side of the join"
ALONE = 2  # is added to the side of a row that has a null in its key
AT_ONCE = 1 << 16  # rows of the output, and
MOST = 4 << 20  # bytes of them
SEED = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Some:
    """Rows of one side, with the key of each as both sides have it, and a mark for each that has found an equal."""

    table: Any
    keys: tuple[Any, ...]
    hashes: Any
    matched: Any

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True, slots=True)
class Pairing:
    """How two tables are joined. A column of the output has a name, and comes from either side or from both."""

    kind: str
    first: int
    names: tuple[tuple[str, ...], tuple[str, ...]]  # of the key columns of both sides
    plain: tuple[Any, Any]  # their schemas
    types: tuple[Any, ...]  # of the keys
    columns: tuple[tuple[str, int | None, int | None], ...]
    schema: Any  # of the output

    @property
    def between(self) -> Any:
        """The columns of what lies between the phases."""
        head = [pa.field(HASH, pa.uint64(), nullable=False), pa.field(SIDE, pa.int8(), nullable=False)]
        of = [
            pa.field(f"{side}.{number}", field.type)
            for side in (LEFT, RIGHT)
            for number, field in enumerate(self.plain[side])
        ]
        return pa.schema(head + of)

    def sent(self, table: Any, side: int, place: int) -> Any:
        """Rows of one side as they lie between the phases; `place` is where they begin, for those that have no key."""
        if self.kind == "semi" and side == RIGHT:  # that there is such a key is all that counts
            names = list(self.names[RIGHT])
            some = by_keys(table.select(names), names, [], [])
            table = pa.table(
                [some[f.name] if f.name in names else pa.nulls(len(some), f.type) for f in self.plain[RIGHT]],
                schema=self.plain[RIGHT],
            )
        keys = [self._key(table, side, number) for number in range(len(self.types))]
        hashes = row_hashes(pa.table(keys, [str(number) for number in range(len(keys))]))
        null = np.zeros(len(table), bool)
        for key in keys:
            null |= are_true(pc.is_null(key))
        places = np.arange(place, place + len(table), dtype=np.uint64)
        hashes = np.where(null, (places + np.uint64(1)) * SEED, hashes)  # all over the partitions
        own = list(table.columns)
        other = [pa.nulls(len(table), field.type) for field in self.plain[1 - side]]
        sides = array_of(np.where(null, side + ALONE, side).astype(np.int8))
        return pa.table([array_of(hashes), sides, *(own + other if side == LEFT else other + own)], schema=self.between)

    def of(self, table: Any, side: int) -> Some:
        """Rows that lie between the phases, all of one side, as some that can be matched."""
        width = len(self.plain[LEFT])
        begin = 2 + width * (side == RIGHT)
        own = table.select(list(range(begin, begin + len(self.plain[side])))).rename_columns(self.plain[side].names)
        keys = tuple(self._key(own, side, number) for number in range(len(self.types)))
        return Some(own, keys, values_of(table.column(0), np.uint64), np.zeros(len(own), bool))

    def matched(self, held: Some, others: Some) -> Iterator[Any]:
        """The output's rows for pairs of equal keys, and marks on both; `held` is in the order of hashes."""
        low = np.searchsorted(held.hashes, others.hashes, "left")
        counts = np.searchsorted(held.hashes, others.hashes, "right") - low
        ends = np.cumsum(counts)
        width = 1 + sum(some.table.nbytes // max(1, len(some)) for some in (held, others))
        step = max(1, min(AT_ONCE, MOST // width))
        for start in range(0, int(counts.sum()), step):
            pair = np.arange(start, min(start + step, int(ends[-1])))
            theirs = np.searchsorted(ends, pair, "right")
            ours = low[theirs] + pair - (ends - counts)[theirs]
            equal = self._equal(held, ours, others, theirs)
            ours, theirs = ours[equal], theirs[equal]
            held.matched[ours] = True
            others.matched[theirs] = True
            if self.kind != "semi" and len(ours):
                yield self._rows(held, ours, others, theirs)

    def alone(self, side: int, some: Some) -> Iterator[Any]:
        """The output's rows for those of one side that are marked, with semi, or are not, if the kind wants these."""
        if self.kind == "semi":
            wanted = some.matched if side == LEFT else None
        else:
            wanted = ~some.matched if self.kind in ("outer", ("left", "right")[side]) else None
        if wanted is not None and wanted.any():
            rows = np.flatnonzero(wanted)
            yield self._rows(some, rows, None, None) if side == self.first else self._rows(None, None, some, rows)

    def _key(self, table: Any, side: int, number: int) -> Any:
        return comparable(alike(table[self.names[side][number]].cast(self.types[number])))

    def _equal(self, held: Some, ours: Any, others: Some, theirs: Any) -> Any:
        found = np.ones(len(ours), bool)
        for mine, other in zip(held.keys, others.keys, strict=True):
            one, two = mine.take(array_of(ours)), other.take(array_of(theirs))
            equal = pc.equal(one, two)
            if pa.types.is_floating(one.type):
                equal = pc.or_(equal, pc.and_(pc.is_nan(one), pc.is_nan(two)))
            found &= are_true(equal)
        return found

    def _rows(self, held: Some | None, ours: Any, others: Some | None, theirs: Any) -> Any:
        sides = [(held, ours), (others, theirs)]
        if self.first == RIGHT:
            sides.reverse()
        count = len(ours if ours is not None else theirs)
        made = []
        for (_, *places), field in zip(self.columns, self.schema, strict=True):
            values = None
            for (some, rows), place in zip(sides, places, strict=True):
                if some is not None and place is not None and values is None:
                    values = some.table.column(place).take(array_of(rows)).cast(field.type)
            made.append(pa.nulls(count, field.type) if values is None else values)
        return pa.table(made, schema=self.schema)


def pairing_of(kind: str, first: int, keys: Sequence[Sequence[str]], schemas: Sequence[Any]) -> Pairing:
    """How tables of these schemas are joined; ConfigError for keys that cannot be compared."""
    types = []
    if len(keys[LEFT]) != len(keys[RIGHT]):
        raise ConfigError(
            f"the key of the left side is of {len(keys[LEFT])} columns and that of the right one of {len(keys[RIGHT])}:"
            " name as many for both."
        )
    for one, two in zip(*keys, strict=True):
        kinds = [schema.field(name).type for schema, name in zip(schemas, (one, two), strict=True)]
        try:
            fields = [pa.schema([pa.field("key", kind)]) for kind in kinds]
            types.append(pa.unify_schemas(fields, promote_options="permissive").field(0).type)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            raise ConfigError(
                f"the column {one!r} of the left side is of type {kinds[0]}, and {two!r} of the right one of type"
                f" {kinds[1]}: they cannot be equal. Convert one of them."
            ) from None
    shared = {one: two for one, two in zip(*keys, strict=True) if one == two}
    columns: list[tuple[str, int | None, int | None]] = []
    fields = []
    for place, field in enumerate(schemas[LEFT]):
        other = schemas[RIGHT].get_field_index(field.name) if field.name in shared and kind != "semi" else None
        columns.append((field.name, place, other))
        fields.append(pa.field(field.name, types[list(keys[0]).index(field.name)] if other is not None else field.type))
    taken = {name for name, _, _ in columns}
    for place, field in enumerate(schemas[RIGHT] if kind != "semi" else ()):
        if field.name not in shared:
            name = field.name
            while name in taken:
                name += "_right"
            taken.add(name)
            columns.append((name, None, place))
            fields.append(pa.field(name, field.type))
    names = (tuple(keys[LEFT]), tuple(keys[RIGHT]))
    return Pairing(kind, first, names, (schemas[LEFT], schemas[RIGHT]), tuple(types), tuple(columns), pa.schema(fields))
