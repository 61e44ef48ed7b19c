"""More than all workers' memory together is sorted under limits that are enforced, where a naive sort dies of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.local_aws import SCRIPTS
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


OBJECTS = """
import random, sys
sys.path[:0] = sys.argv[3:]
from operator import itemgetter
import sort_memory
from pywren_shuffle.records.rows_records import dump, load
from pywren_shuffle.sort import sort

def rows_of(*parts):
    found = []
    for part in parts:
        with open(part, "rb") as file:
            found += load(file)
    return found

workers, megabytes, partitions = 2, 8, int(sys.argv[2]) or None
source, target = sys.argv[1] + "/in", sys.argv[1] + "/out"
with sort_memory.limited_pool(workers, megabytes) as pool:
    pool.submit(abs, 0).result()  # forked before there are rows, whose memory would be theirs to use again
    chance = random.Random(1)
    rows = [(chance.getrandbits(20), {"name": chance.randbytes(9).hex()}, [0.5, None]) for _ in range(60_000)]
    with open(source, "wb") as file:
        file.writelines(dump(rows))
    try:
        pool.submit(rows_of, source).result()
        sys.exit("the limit is none")
    except MemoryError:
        pass
    result = sort(pool, source, target, records="rows", key=itemgetter(0), memory=megabytes, partitions=partitions)
assert rows_of(*result.parts) == sorted(rows, key=itemgetter(0))
assert result.splits > 1
"""


@pytest.mark.parametrize("partitions", [0, 2], ids=["at once", "in rounds"])
def test_objects_of_python_keep_within_it_as_well(tmp_path: Path, partitions: int) -> None:
    """They take many times their size on a disk. In an interpreter of its own: what is forked has no free memory."""
    command = [sys.executable, "-c", OBJECTS, str(tmp_path), str(partitions), str(SCRIPTS / "bench")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
