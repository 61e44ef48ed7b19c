"""The same records in the formats of sort.py's rivals, and what came out of these as records again.

part-*.dat ──► part-*.parquet: a column `key`, a column `payload`
part-*.dat, part-*.txt, *.parquet, out.txt ──► Summary (sortcheck.py)
"""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import sortcheck
import sortgen
from numpy.typing import NDArray

__all__ = ["summary_of_output", "write_parquet"]

ROW_GROUP = 122_880  # DuckDB's own
TEXT_AT_ONCE = 50_000_000  # bytes

Piece = tuple[Path, int, int]  # of a file, the row group; or from byte to byte


def write_parquet(source: Path, target: Path, *, compression: str) -> None:
    """Each file of records as one of Parquet; keys and payloads are bytes."""
    target.mkdir()
    paths = sorted(source.iterdir())
    into = [target / f"{path.stem}.parquet" for path in paths]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write_parquet, paths, into, [compression] * len(paths)))


def _write_parquet(path: Path, into: Path, compression: str) -> None:
    records = np.fromfile(path, np.uint8).reshape(-1, sortgen.RECORD)
    columns = [_column(records[:, : sortgen.KEY]), _column(records[:, sortgen.KEY :])]
    table = pa.table(columns, names=["key", "payload"])
    # Nearly every value is another one: a dictionary only costs.
    pq.write_table(table, into, compression=compression, use_dictionary=False, row_group_size=ROW_GROUP)


def _column(values: NDArray[np.uint8]) -> pa.Array:
    count, width = values.shape
    offsets = np.arange(0, (count + 1) * width, width, dtype=np.int32)
    data = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def summary_of_output(folder: Path) -> sortcheck.Summary:
    """Of all files there that a name makes an output, in the order of their names."""
    pieces = [piece for path in sorted(folder.rglob("*")) for piece in _pieces(path)]
    with ProcessPoolExecutor() as pool:
        return sortcheck.joined(pool.map(_summary_of_piece, pieces))


def _pieces(path: Path) -> Iterator[Piece]:
    match path.suffix:
        case ".parquet":
            groups: int = pq.ParquetFile(path).num_row_groups
            yield from ((path, group, group + 1) for group in range(groups))
        case ".dat" | ".txt":
            size = path.stat().st_size
            record = sortgen.RECORD if path.suffix == ".dat" else _line(path)
            step = TEXT_AT_ONCE // sortgen.RECORD * record
            yield from ((path, start, min(start + step, size)) for start in range(0, size, step))


def _line(path: Path) -> int:
    """How long the lines of a text are: that of records, or without the carriage return."""
    with open(path, "rb") as file:
        return len(file.readline())


def _summary_of_piece(piece: Piece) -> sortcheck.Summary:
    path, start, stop = piece
    if path.suffix == ".parquet":
        return sortcheck.summary_of(_row_group(path, start))
    with open(path, "rb") as file:
        file.seek(start)
        data = file.read(stop - start)
    if path.suffix == ".txt":
        data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return sortcheck.summary_of(data)


def _row_group(path: Path, group: int) -> bytes:
    table = pq.ParquetFile(path).read_row_group(group, columns=["key", "payload"])
    values = [table.column(name).cast(pa.binary()).combine_chunks() for name in ("key", "payload")]
    joined = pa.compute.binary_join_element_wise(*values, pa.scalar(b"", pa.binary()))
    chunks = joined.chunks if isinstance(joined, pa.ChunkedArray) else [joined]
    return b"".join(_content(chunk) for chunk in chunks)


def _content(values: pa.Array) -> bytes:
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]
    return memoryview(values.buffers()[2])[offsets[0] : offsets[-1]].tobytes() if len(values) else b""
