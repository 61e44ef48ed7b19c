"""More than all workers' memory together is sorted under limits that are enforced, where a naive sort dies of them."""

from pathlib import Path

import pytest
from support.sorting import FIXED, Folder, assert_sorted, fill, sort_memory

from pywren_shuffle.sort import sort

WORKERS, MEGABYTES = 2, 8


@pytest.mark.parametrize("kind", ["uniform", "equal"])
def test_four_times_the_memory_of_all_workers(tmp_path: Path, kind: str) -> None:
    place = Folder(tmp_path)
    total = 4 * WORKERS * MEGABYTES << 20
    source = fill(place, kind, -(-total // 100), files=4)
    with sort_memory.limited_pool(WORKERS, MEGABYTES) as pool:
        with pytest.raises(MemoryError):
            pool.submit(sort_memory.naive_sort, sorted((tmp_path / "in").iterdir()), source.records // WORKERS).result()
        result = sort(pool, place.url("in/*.dat"), place.url("out"), records=FIXED, memory=MEGABYTES)
        assert_sorted(place, result, source)
        few = sort(pool, place.url("in/*.dat"), place.url("few"), records=FIXED, memory=MEGABYTES, partitions=2)
        assert_sorted(place, few, source, out="few")
