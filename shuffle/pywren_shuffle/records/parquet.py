"""Parquet files as a shuffle reads and writes them: rows by places in the bytes, and bytes as soon as there are some.

Only what works on tables imports this module, and with it pyarrow.
"""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pywren_runtime.errors import RecordError
from pywren_runtime.stores import Buffer
from pywren_shuffle.records import Piece, Reader, Source
from pywren_shuffle.records.columns import width_of

__all__ = ["GroupWriter", "ParquetObject"]

ROWS = 16 << 10  # decoded together at least, and
TOGETHER = 1 << 20  # bytes of them, about: a batch costs something, however few it has
WIDE = 64  # bytes of a value of no fixed width, where they are counted so
WHOLE = 32 << 20  # bytes of a row group that is fetched at once; a larger one is read page by page
GROUP = 32 << 20  # bytes of rows in memory that become a row group
PAGES = 1 << 20  # bytes read together of a large row group


class ParquetObject:
    """A Parquet file, wherever it lies."""

    def __init__(self, source: Source, reader: Reader) -> None:
        self.name = f"{source.key!r} in {source.store}"
        self._file = _Bytes(source, reader)
        try:
            self._metadata = pq.read_metadata(self._file)
            self.schema = self._metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise RecordError(
                f"{self.name} is no Parquet file that can be read ({_first(error)}): leave it out, or name"
                " its format in records=."
            ) from error

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return int(self._metadata.num_rows)

    @property
    def codec(self) -> str:
        """How its first column is compressed, as pyarrow's writer calls it."""
        groups = self._metadata.num_row_groups
        found = str(self._metadata.row_group(0).column(0).compression).lower() if groups else "snappy"
        return "none" if found == "uncompressed" else found

    def ends(self) -> list[int]:
        """Where each row group's bytes end."""
        return [sum(_stretch(self._metadata.row_group(number))) for number in range(self._metadata.num_row_groups)]

    def within(self, piece: Piece) -> Iterator[tuple[int, int, int]]:
        """Row groups, and from which to which row they belong to that piece of the file."""
        for number in range(self._metadata.num_row_groups):
            group = self._metadata.row_group(number)
            begin, length = _stretch(group)
            start, stop = (
                min(group.num_rows, max(0, -((begin - at) * group.num_rows // length)))
                for at in (piece.start, piece.stop)
            )
            if start < stop:
                yield number, start, stop

    def batches(self, group: int, start: int, stop: int, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Rows of a group, some at a time; what lies before them is decoded, too."""
        whole = _stretch(self._metadata.row_group(group))[1] <= WHOLE
        file = pq.ParquetFile(
            self._file,
            metadata=self._metadata,
            pre_buffer=whole,
            buffer_size=0 if whole else PAGES,
            page_checksum_verification=True,
        )
        rows = _rows_together(file.schema_arrow, columns)
        at = 0
        try:
            for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                if at + len(batch) > start:
                    yield batch.slice(max(0, start - at), min(stop, at + len(batch)) - max(start, at))
                at += len(batch)
                if at >= stop:
                    return
        except (pa.ArrowException, OSError) as error:
            raise RecordError(
                f"row group {group} of {self.name} is damaged ({_first(error)}): make that file anew."
            ) from error


def _rows_together(schema: Any, columns: Sequence[str] | None) -> int:
    """How many rows are decoded at a time."""
    kinds = [field.type for field in schema if columns is None or field.name in columns]
    return max(ROWS, TOGETHER // max(1, sum(width_of(kind) or WIDE for kind in kinds)))


class GroupWriter:
    """Makes a Parquet file of tables, of which it holds one row group at most."""

    def __init__(self, schema: Any, codec: str) -> None:
        self._schema = schema
        self._codec = codec
        self._out = _Chunks()
        self._writer: Any = None
        self._held: list[Any] = []
        self._bytes = 0

    def write(self, table: Any) -> Iterator[Buffer]:
        """The bytes that are complete with these rows."""
        self._held.append(table)
        self._bytes += table.nbytes
        if self._bytes >= GROUP:
            self._flush()
        return self._out.taken()

    def close(self) -> Iterator[Buffer]:
        """The rest of the file."""
        self._flush()
        self._writer.close()
        return self._out.taken()

    def _flush(self) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._out, self._schema, compression=self._codec, write_page_checksum=True)
        if self._held:
            table = pa.concat_tables(self._held).cast(self._schema)
            self._held, self._bytes = [], 0
            self._writer.write_table(table, row_group_size=len(table))


class _Bytes(io.RawIOBase):
    """An object as a file, for pyarrow."""

    def __init__(self, source: Source, reader: Reader) -> None:
        self._source = source
        self._reader = reader
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._source.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> Any:
        stop = self._source.size if size < 0 else min(self._source.size, self._at + size)
        found = self._reader.read([Piece(self._source, self._at, stop)])
        self._at = stop
        return found


class _Chunks(io.RawIOBase):
    """A file that keeps what was written until it is taken."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        self._at += len(data)
        return len(data)

    def taken(self) -> Iterator[Buffer]:
        chunks, self._chunks = self._chunks, []
        return iter(chunks)


def _first(error: Exception) -> str:
    """The first sentence of a message of pyarrow's."""
    return str(error).partition(". ")[0].strip().rstrip(".")


def _stretch(group: Any) -> tuple[int, int]:
    """Where a row group's bytes begin, and how many they are."""
    columns = [group.column(number) for number in range(group.num_columns)]
    begins = [
        min(filter(None, (column.dictionary_page_offset, column.data_page_offset)), default=0) for column in columns
    ]
    return min(begins, default=0), max(1, sum(column.total_compressed_size for column in columns))
