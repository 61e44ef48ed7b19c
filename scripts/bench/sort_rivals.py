#!/usr/bin/env python3
"""Who takes part in sort.py: each one's own way from files to files, run as a process of its own.

    sort_rivals.py NAME SOURCE TARGET        a folder with inputs in its format, an empty one for the output

The settings were tried out, one by one, on the work of sort.py; each function says which others there were. All have
four threads or processes. A new rival is one function and one line in RIVALS.
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
    """16 splits and 64 parts; 4 and 4, 4 and 16, 32 and 128 take as long or longer."""
    import sort_floor

    sort_floor.two_phases(source, target)


def numpy_in_memory(source: Path, target: Path) -> None:
    """An order of 64-bit prefixes; sorting rows as strings of bytes takes three times as long."""
    import sort_floor

    sort_floor.in_memory(source, target)


def duckdb_parquet(source: Path, target: Path) -> None:
    """Snappy to snappy; LZ4 is as fast, without compression it takes half as long again."""
    table = f"read_parquet('{source}/*.parquet')"
    _duckdb(f"COPY (SELECT * FROM {table} ORDER BY key) TO '{target}/out.parquet' (FORMAT parquet, COMPRESSION snappy)")


def duckdb_text(source: Path, target: Path) -> None:
    """Whole lines: of records that are text, the key comes first."""
    shape = r"columns={'line': 'VARCHAR'}, delim='\x01', header=false, quote='', escape='', new_line='\r\n'"
    table = f"read_csv('{source}/*.dat', {shape}, auto_detect=false)"
    written = "FORMAT csv, HEADER false, QUOTE '', DELIM '\x01'"
    _duckdb(f"COPY (SELECT * FROM {table} ORDER BY line) TO '{target}/out.txt' ({written})")


def _duckdb(statement: str) -> None:
    import duckdb

    duckdb.connect(config={"threads": WORKERS}).execute(statement)


def polars(source: Path, target: Path) -> None:
    """In memory, LZ4; the streaming engine and Arrow files are as fast at best."""
    os.environ["POLARS_MAX_THREADS"] = str(WORKERS)
    import polars

    table = polars.scan_parquet(f"{source}/*.parquet").sort("key")
    table.sink_parquet(target / "out.parquet", compression="lz4", engine="in-memory")


def ray_data(source: Path, target: Path) -> None:
    """Sixteen blocks; four and sixty-four take longer."""
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
    """What runs a contestant."""
    if RIVALS[name].run is not None:
        return [sys.executable, __file__, name, str(source), str(target)]
    inputs = [str(path) for path in sorted(source.iterdir())]
    return ["sort", f"--parallel={WORKERS}", "-S", "50%", "-T", str(target), "-o", str(target / "out.txt"), *inputs]


if __name__ == "__main__":
    run = RIVALS[sys.argv[1]].run
    assert run is not None
    run(Path(sys.argv[2]), Path(sys.argv[3]))
