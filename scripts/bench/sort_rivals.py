#!/usr/bin/env python3
"""Who takes part in sort.py: each one's own way from files to files, run as a process of its own.

    sort_rivals.py NAME SOURCE TARGET        a folder with inputs in its format, an empty one for the output

All have four threads or processes. Each function says which other settings were tried, one by one, on 3 million
records (300 MB) of sort.py's, on four cores that others used, too: what is called slower was so by a fifth at least. A
new rival is one function and one line in RIVALS.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FLOOR", "OURS", "RIVALS", "WORKERS", "Rival", "command"]

OURS, FLOOR = "pywren_ng", "floor"
WORKERS = 4
OBJECT_STORE = 6_000_000_000  # bytes


@dataclass(frozen=True, slots=True)
class Rival:
    """One contestant: what it reads, and the packages whose versions count."""

    source: str  # a folder of sort.py's stage: records, text, snappy, lz4
    run: Callable[[Path, Path], None] | None  # none: a command of the system's
    packages: tuple[str, ...] = ()


def ours(source: Path, target: Path) -> None:
    """As a user would, with the proof."""
    from pywren_ng import Executor

    with Executor("local", max_workers=WORKERS) as executor:
        executor.sort(f"{source}/*.dat", str(target), records="fixed:100:10")


def floor(source: Path, target: Path) -> None:
    """See sort_floor.py."""
    import sort_floor

    sort_floor.two_phases(source, target)


def numpy_in_memory(source: Path, target: Path) -> None:
    """An order of 64-bit prefixes, one thread."""
    import sort_floor

    sort_floor.in_memory(source, target)


def duckdb_parquet(source: Path, target: Path) -> None:
    """Snappy to snappy, free to read rows in any order, which is a fifth faster than not.

    As fast: LZ4, row groups of 20,480. Slower: no compression, row groups of a million, a file per thread, 8 threads.
    """
    table = f"read_parquet('{source}/*.parquet')"
    _duckdb(f"COPY (SELECT * FROM {table} ORDER BY key) TO '{target}/out.parquet' (FORMAT parquet, COMPRESSION snappy)")


def duckdb_text(source: Path, target: Path) -> None:
    """Whole lines: of records that are text, the key comes first. Not tried in any other way."""
    shape = r"columns={'line': 'VARCHAR'}, delim='\x01', header=false, quote='', escape='', new_line='\r\n'"
    table = f"read_csv('{source}/*.dat', {shape}, auto_detect=false)"
    written = "FORMAT csv, HEADER false, QUOTE '', DELIM '\x01'"
    _duckdb(f"COPY (SELECT * FROM {table} ORDER BY line) TO '{target}/out.txt' ({written})")


def _duckdb(statement: str) -> None:
    import duckdb

    duckdb.connect(config={"threads": WORKERS, "preserve_insertion_order": False}).execute(statement)


def polars(source: Path, target: Path) -> None:
    """In memory, LZ4. As fast: the streaming engine, no compression. Slower: eager reading, Snappy."""
    os.environ["POLARS_MAX_THREADS"] = str(WORKERS)
    import polars

    table = polars.scan_parquet(f"{source}/*.parquet").sort("key")
    table.sink_parquet(target / "out.parquet", compression="lz4", engine="in-memory")


def ray_data(source: Path, target: Path) -> None:
    """Sixteen blocks: four for each worker. With four blocks it took 34 s; other numbers were not compared."""
    import ray
    import ray.data

    ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=OBJECT_STORE,
        _temp_dir=os.environ["TMPDIR"],
    )
    ray.data.read_parquet(str(source), override_num_blocks=16).sort("key").write_parquet(str(target))


RIVALS = {
    OURS: Rival("records", ours, ("numpy",)),
    FLOOR: Rival("records", floor, ("numpy",)),
    "numpy": Rival("records", numpy_in_memory, ("numpy",)),
    "duckdb": Rival("snappy", duckdb_parquet, ("duckdb",)),
    "duckdb-text": Rival("text", duckdb_text, ("duckdb",)),
    "polars": Rival("lz4", polars, ("polars",)),
    "ray": Rival("snappy", ray_data, ("ray", "pyarrow")),
    "sort": Rival("text", None),
}


def command(name: str, source: Path, target: Path) -> list[str]:
    """What runs a contestant.

    `sort` runs in the C locale; C.UTF-8 takes twice as long, 2 and 8 threads longer, a tenth of the memory as long.
    """
    if RIVALS[name].run is not None:
        return [sys.executable, __file__, name, str(source), str(target)]
    inputs = [str(path) for path in sorted(source.iterdir())]
    return ["sort", f"--parallel={WORKERS}", "-S", "50%", "-T", str(target), "-o", str(target / "out.txt"), *inputs]


if __name__ == "__main__":
    run = RIVALS[sys.argv[1]].run
    assert run is not None
    run(Path(sys.argv[2]), Path(sys.argv[3]))
