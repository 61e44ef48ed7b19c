"""A key with more values than a worker may hold is grouped and joined under limits that are enforced."""

from pathlib import Path

import pytest
from support.grouping import group_memory
from support.sorting import sort_memory

from pywren_shuffle.group import How, map_reduce_by_key
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


def test_more_pairs_of_tables_than_memory(tmp_path: Path) -> None:
    with sort_memory.limited_pool(2, TABLES) as pool:
        assert group_memory.join_of_tables(pool, tmp_path, 20_000, 50, TABLES) == 1_000_000
