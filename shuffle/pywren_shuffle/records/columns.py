"""Many rows of a table at once, with pyarrow: their order by columns, a hash of each, how many bytes they have.

pyarrow imports pandas, if there is one, as soon as it makes an array or a scalar of Python or numpy values, or the
other way round, or imports pyarrow.dataset: 0.2 s and 40 MB in each worker. So values pass between it and numpy as
buffers.

Only what works on tables imports this module, and with it pyarrow and numpy.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from pywren_shuffle.proof import MASK
from pywren_shuffle.records.digests import PAD, SHORT, hashes_of, mixed
from pywren_shuffle.records.keyed import Order, hashes

__all__ = [
    "Column",
    "are_ordered",
    "are_true",
    "array_of",
    "by_keys",
    "comparable",
    "key_of",
    "row_hashes",
    "scalar_of",
    "size_of",
    "sortable",
    "stable_order",
    "sums_between",
    "values_of",
    "width_of",
]

Array = Any  # pyarrow and numpy say less about theirs than these functions need
_VALUE, _NAN, _NULL = 1, 2, 3
_ODD = np.uint64(0x9E3779B97F4A7C15)
_ROWS = 1 << 15  # that are hashed together


@dataclass(frozen=True, slots=True)
class Column:
    """A column to sort by. NaN stands between values and nulls, in either direction, as pyarrow has it."""

    name: str
    descending: bool = False
    nulls_first: bool = False


def sortable(kind: Array) -> bool:
    """Whether values of that type have an order."""
    return not (types.is_nested(kind) or types.is_interval(kind) or isinstance(kind, pa.BaseExtensionType))


def stable_order(table: Array, columns: Sequence[Column]) -> Array:
    """The places of the rows, sorted by these columns and then by place."""
    arrays: list[Array] = []
    keys: list[tuple[str, str]] = []
    for column in columns:
        values = comparable(table[column.name])
        if column.nulls_first and (values.null_count or types.is_floating(values.type)):
            arrays.append(array_of(_ranks(values, column)))
            keys.append((str(len(keys)), "ascending"))
        arrays.append(values)
        keys.append((str(len(keys)), "descending" if column.descending else "ascending"))
    table = pa.Table.from_arrays(arrays, [name for name, _ in keys])
    return values_of(pc.sort_indices(table, sort_keys=keys), np.uint64)


def key_of(table: Array, index: int, columns: Sequence[Column]) -> tuple[Any, ...]:
    """What a row is sorted by, as a value that compares as rows do."""
    key: list[Any] = []
    for column in columns:
        value = _plain(table[column.name][index])
        rank = _NULL if value is None else _NAN if value != value else _VALUE
        key.append(-rank if column.nulls_first else rank)
        key.append(None if rank != _VALUE else Order(value, True) if column.descending else value)
    return tuple(key)


def are_ordered(table: Array, columns: Sequence[Column]) -> bool:
    """Whether no row belongs before the one above it."""
    wrong = np.zeros(max(0, len(table) - 1), bool)
    for column in reversed(columns):
        values = comparable(table[column.name])
        ranks = _ranks(values, column)
        above, below = values.slice(0, len(values) - 1), values.slice(1)
        compared = np.abs(ranks[1:]) == _VALUE
        lower = are_true(pc.greater(below, above) if column.descending else pc.less(below, above))
        alike = (ranks[1:] == ranks[:-1]) & (~compared | are_true(pc.equal(below, above)))
        wrong &= alike
        wrong |= (ranks[1:] < ranks[:-1]) | ((ranks[1:] == ranks[:-1]) & compared & lower)
    return not wrong.any()


def row_hashes(table: Array) -> Array:
    """A hash of 64 bits for each row, not linear, and the same in every process however the table is stored."""
    some = table.to_batches(max_chunksize=_ROWS)
    found = [_combined((_hashes(column) for column in batch.columns), len(batch)) for batch in some]
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def sums_between(hashes: Array, cuts: Sequence[int]) -> list[int]:
    """The sum of the hashes of the rows between each cut and the next, in 64 bits."""
    totals = np.zeros(len(hashes) + 1, np.uint64)
    np.cumsum(hashes, out=totals[1:])
    return [(stop - start) & MASK for start, stop in pairwise(map(int, totals[list(cuts)]))]


def by_keys(table: Array, keys: Sequence[str], calls: Sequence[tuple[Any, str]], names: Sequence[str]) -> Array:
    """What `table.group_by(keys).aggregate(calls)` gives, with these names for the results."""
    try:
        from pyarrow import _acero as acero  # what is public imports pyarrow.dataset, too
    except ImportError:  # which a later pyarrow may call otherwise
        from pyarrow import acero

    made = [f"result {number}" for number in range(len(calls))]
    wanted = [(column, f"hash_{function}", None, name) for (column, function), name in zip(calls, made, strict=True)]
    steps = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(table)),
        acero.Declaration("aggregate", acero.AggregateNodeOptions(wanted, keys=list(keys))),
    ]
    found = acero.Declaration.from_sequence(steps).to_table(use_threads=False)
    return found.select([*keys, *made]).rename_columns([*keys, *names])


def size_of(array: Array) -> int:
    """How many bytes the values have, wherever they lie: a sum over the values."""
    kind = array.type
    if isinstance(array, pa.ChunkedArray):
        return sum(size_of(chunk) for chunk in array.chunks)
    if isinstance(kind, pa.BaseExtensionType):
        return size_of(array.storage)
    if types.is_dictionary(kind):
        return size_of(array.dictionary_decode())
    if types.is_struct(kind):
        return sum(size_of(child) for child in array.flatten())
    if _is_list(kind):
        return size_of(array.flatten())
    if _is_binary(kind):
        return pc.sum(pc.binary_length(comparable(array))).as_py() or 0
    return len(array) * max(1, width_of(kind))


def array_of(values: Array) -> Array:
    """Numbers of numpy's as an array of pyarrow's."""
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))]
    )


def scalar_of(value: float, dtype: str) -> Array:
    """A number as pyarrow's functions take it; `dtype` is numpy's."""
    return array_of(np.array([value], dtype))[0]


def values_of(array: Array, dtype: Array) -> Array:
    """And the other way round; below a null lies anything."""
    if not len(array):
        return np.empty(0, dtype)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * np.dtype(dtype).itemsize)


def _bools(array: Array) -> Array:
    return values_of(array.cast(pa.uint8()), np.bool_)


def comparable(values: Array) -> Array:
    """The same values in a type that pyarrow sorts and compares."""
    kind = values.type
    if types.is_dictionary(kind):
        return comparable(values.cast(kind.value_type))
    if types.is_float16(kind):
        return values.cast(pa.float32())
    return values.cast(pa.int8()) if types.is_null(kind) else values


def _ranks(values: Array, column: Column) -> Array:
    """Of each value whether it is one, NaN or null, as numbers that sort so."""
    ranks = np.full(len(values), _VALUE, np.int8)
    if types.is_floating(values.type):
        ranks[are_true(pc.is_nan(values))] = _NAN
    if values.null_count:
        ranks[are_true(pc.is_null(values))] = _NULL
    return -ranks if column.nulls_first else ranks


def are_true(mask: Array) -> Array:
    """Where a mask is true, and neither false nor null."""
    return _bools(mask) & _bools(mask.is_valid()) if mask.null_count else _bools(mask)


def _plain(scalar: Array) -> Any:
    """A value that Python compares as pyarrow sorts; times as their numbers, which lose nothing."""
    if types.is_dictionary(scalar.type):
        return _plain(scalar.value) if scalar.is_valid else None
    return scalar.value if types.is_temporal(scalar.type) else scalar.as_py()


def _hashes(array: Array) -> Array:
    """A hash of each value; what lies below a null counts for nothing."""
    found = _value_hashes(array)
    if array.null_count:
        found = np.where(_bools(array.is_valid()), found, np.uint64(_NULL))
    return found


def _value_hashes(array: Array) -> Array:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _hashes(array.storage)
    if types.is_dictionary(kind):
        return _hashes(array.dictionary_decode())
    if types.is_struct(kind):
        return _combined((_hashes(child) for child in array.flatten()), len(array))
    if _is_list(kind):
        return _list_hashes(array)
    if _is_binary(kind):
        return _text_hashes(array.cast(pa.large_binary())) if len(array) else np.empty(0, np.uint64)
    if types.is_boolean(kind):
        return mixed(_bools(array).astype(np.uint64))
    if types.is_null(kind):
        return np.zeros(len(array), np.uint64)
    if width := width_of(kind):
        return _combined(_words(array, width), len(array))
    return _numbers(hashes([repr(value).encode() for value in array.to_pylist()]), len(array))


def _words(array: Array, width: int) -> Iterable[Array]:
    """The values' bytes, eight at a time, the last ones filled up."""
    stored = array.buffers()[1] if len(array) else b""
    table = np.frombuffer(stored, np.uint8)[array.offset * width : (array.offset + len(array)) * width]
    table = table.reshape(len(array), width)
    for at in range(0, width, 8):
        word = np.zeros((len(array), 8), np.uint8)
        word[:, : min(8, width - at)] = table[:, at : at + 8]
        yield word.view(np.uint64).reshape(-1)


def _list_hashes(array: Array) -> Array:
    lengths = values_of(pc.list_value_length(array).cast(pa.int64()), np.int64)
    if array.null_count:
        lengths = np.where(_bools(array.is_valid()), lengths, 0)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    places = np.arange(int(lengths.sum()), dtype=np.uint64) - np.repeat(begins, lengths).astype(np.uint64)
    totals = np.zeros(len(places) + 1, np.uint64)
    np.cumsum(mixed(_hashes(array.flatten()) + places * _ODD), out=totals[1:])
    return mixed(totals[ends] - totals[begins] + lengths.astype(np.uint64))


def _text_hashes(array: Array) -> Array:
    """Of strings, whatever lies below a null; the long ones each by itself."""
    ends = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    begins, lengths = ends[:-1] - ends[0], np.diff(ends)
    data = np.zeros(int(ends[-1] - ends[0]) + PAD, np.uint8)
    if array.buffers()[2] is not None:
        data[:-PAD] = np.frombuffer(array.buffers()[2], np.uint8)[ends[0] : ends[-1]]
    long = lengths > SHORT
    if not long.any():
        return hashes_of(data, begins, lengths)
    found = np.empty(len(array), np.uint64)
    found[~long] = hashes_of(data, begins[~long], lengths[~long])
    some = array.take(array_of(np.flatnonzero(long))).to_pylist()
    found[long] = _numbers(hashes([value or b"" for value in some]), len(some))
    return found


def _numbers(found: Iterator[int], count: int) -> Array:
    return np.fromiter(found, np.int64, count).view(np.uint64)


def _combined(parts: Iterable[Array], count: int) -> Array:
    """One hash for what has several, by their places."""
    found = np.zeros(count, np.uint64)
    for part in parts:
        found = mixed(found * _ODD + part)
    return found


def _is_list(kind: Array) -> bool:
    return any(test(kind) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list))


def _is_binary(kind: Array) -> bool:
    tests = (types.is_string, types.is_binary, types.is_large_string, types.is_large_binary)
    return any(test(kind) for test in tests)


def width_of(kind: Array) -> int:
    """Bytes of a value of fixed width, 0 for a type without a fixed width."""
    try:
        return -(-int(kind.bit_width) // 8)
    except ValueError:
        return 0
