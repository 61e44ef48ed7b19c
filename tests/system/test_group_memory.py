"""A key with more values than a worker may hold is grouped and joined under limits that are enforced."""

from pathlib import Path

import pytest
from support.grouping import group_memory, put_rows, rows_of
from support.sorting import sort_memory

from pywren_shuffle.group import How, map_reduce_by_key
from pywren_shuffle.join import join
from pywren_shuffle.places.inputs import store_url

MEGABYTES, COUNT = 8, 500_000
TABLES = 64  # a row group takes 32 MB


def test_more_values_of_one_key_than_memory(tmp_path: Path) -> None:
    with sort_memory.limited_pool(2, MEGABYTES) as pool:
        assert group_memory.group_of_one_key(pool, tmp_path, COUNT, MEGABYTES) == COUNT
        assert group_memory.dies(pool, tmp_path, MEGABYTES)


def test_more_pairs_of_one_item_than_memory(tmp_path: Path) -> None:
    with sort_memory.limited_pool(2, 16) as pool:
        items, how = [40, 0, 8], How(memory=16, intermediate=store_url(tmp_path / "between"))
        result = map_reduce_by_key(pool, group_memory.many_pairs, items, group_memory.total_size, how=how)
    assert result.value == {7: 48_000_000}


@pytest.mark.parametrize(("left", "right"), [(10_000, 40), (40_000, 10)])
def test_more_pairs_of_one_key_than_memory(tmp_path: Path, left: int, right: int) -> None:
    with sort_memory.limited_pool(2, MEGABYTES) as pool:
        assert group_memory.join_of_one_key(pool, tmp_path, left, right, MEGABYTES) == left * right


def numbers(one: tuple[str, int, bytes], other: tuple[str, int, bytes]) -> tuple[int, int]:
    return one[1], other[1]


def test_more_rows_of_one_key_on_both_sides_than_memory(tmp_path: Path) -> None:
    rows = [("hot", number, bytes(50_000)) for number in range(250)]
    sources = put_rows(tmp_path / "left", rows), put_rows(tmp_path / "right", rows)
    how = How(memory=MEGABYTES, partitions=2)
    with sort_memory.limited_pool(2, MEGABYTES) as pool:
        made = join(pool, *sources, tmp_path / "out", key=group_memory.first, fn=numbers, broadcast=False, how=how)
    assert sorted(rows_of(made.parts)) == [(one, other) for one in range(250) for other in range(250)]


def test_more_pairs_of_tables_than_memory(tmp_path: Path) -> None:
    with sort_memory.limited_pool(2, TABLES) as pool:
        assert group_memory.join_of_tables(pool, tmp_path, 20_000, 200, TABLES) == 4_000_000
