"""What a record is: one Protocol, one file for each format, found by its name.

    open_format("fixed:100:10")   fixed_records.open_format("100:10")      100 bytes, of which the first 10 are the key
    open_format("text")           text_records.open_format("")             lines
    open_format("<name>:<rest>")  <name>_records.open_format("<rest>", key=…, reverse=…)

The phases know records by these methods only:

    driver      format.prepare ── cut ──► pieces
    partition   pieces ──► format.load ──► Batch ── sort ── bound, origin ──► slices ── encode, sums ──►
    merge       slices ──► format.decode ──► Batch, Batch, … ── format.join ── sort ──► format.writer().write ──► part

A format is a frozen value that plain pickle can take, unless the user's own key function cannot. Its module imports
numpy or pyarrow inside itself, and only it does: `open_format` says which extra is missing.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import Buffer
from pywren_shuffle.proof import Tally

__all__ = ["Batch", "Format", "Made", "Piece", "Reader", "Reducer", "Source", "Witness", "Writer", "open_format"]

Key = Any
"""What records are sorted by: anything with `<` and `==` that plain pickle can take. Bytes where that is enough."""


@dataclass(frozen=True, slots=True)
class Source:
    """One input object."""

    store: str  # a store's URL: file:///a/folder, s3://bucket/prefix
    key: str  # of a folder, the path below it: any name that files may have
    size: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes from `start` to `stop` of an input object, as far as a split is concerned.

    A format says what belongs to it: lines that begin there, row groups that begin there.
    """

    source: Source
    start: int
    stop: int


class Reader(Protocol):
    """How a format gets at bytes, in a worker."""

    def read(self, pieces: Sequence[Piece]) -> memoryview:
        """All these bytes, one piece after another, contiguous, read-only.

        One piece of a file is a mapping of it: it costs memory only while it is looked at. What lies elsewhere comes
        by several requests at once. A piece that ends beyond its object is an error.
        """
        ...


class Batch(Protocol):
    """Some records in memory, in an order. Nothing that it returns but batches keeps it alive."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """How many bytes its records have, as the proof counts them: the same before, between and after the phases."""
        ...

    def sort(self) -> "Batch":
        """The same records by key, stably: of equal ones the earlier first (with `reverse`, too, as in `sorted`)."""
        ...

    def key(self, index: int) -> Key:
        """The key of one record."""
        ...

    def bound(self, key: Key, *, after: bool) -> int:
        """Of a sorted batch: how many records come before `key`; with `after`, how many do not come after it."""
        ...

    def origin(self, index: int) -> int:
        """The place that a record of a sorted batch had before `sort`; its own index in any other batch."""
        ...

    def part(self, start: int, stop: int) -> "Batch":
        """The records from `start` to `stop`, without a copy."""
        ...

    def sums(self, cuts: Sequence[int]) -> list[int]:
        """The checksum of each stretch between neighbours in `cuts`, which begins with 0 and ends with `len(self)`.

        The checksum of records is the sum, modulo 2**64, of a hash of each whole record (not its key alone). The hash
        is not linear, so that what two records exchange shows; it is the same in every process, and of a sorted batch
        is taken of the records as they were loaded.
        """
        ...

    def encode(self) -> Iterator[Buffer]:
        """The records as bytes for `Format.decode`. A buffer may be used again for the next one.

        Two encoded batches, one behind the other, are an encoded batch.
        """
        ...


@runtime_checkable
class Witness(Protocol):
    """A batch that is told by its writer what left: `sums` of what was not sorted yet are of that, once all has left.

    So the merge looks at each record once, and not as it is read and again as it is written.
    """

    def left(self, start: int, hashes: Any) -> None:
        """The records from `start` have left, with these hashes."""
        ...


class Writer(Protocol):
    """Makes one output part of sorted batches, and takes the measure of what it makes."""

    def write(self, batch: Batch) -> Iterable[Buffer]:
        """The next bytes of the part; a buffer may be used again for the next one."""
        ...

    def close(self) -> Iterable[Buffer]:
        """The last bytes of the part: what ends a file of that kind, also one without records."""
        ...

    @property
    def tally(self) -> Tally:
        """What was written so far, measured in the bytes that went out as far as the format can.

        Its `in_order` says whether each record had a key not below that of the one before.
        """
        ...


@dataclass(frozen=True, slots=True)
class Made:
    """What lies in a part that was made of its records, instead of these."""

    records: int
    bytes: int
    of: int  # so many records of the input


@runtime_checkable
class Reducer(Protocol):
    """A writer that asks for its batches, and writes what it makes of them."""

    @property
    def tally(self) -> Tally:
        """What was asked for so far, measured as a Writer measures."""
        ...

    @property
    def made(self) -> Made:
        """What was written."""
        ...

    def reduce(self, batches: Iterator[Batch]) -> Iterator[Buffer]:
        """The bytes of a part. It lets go of each batch before it asks for the next one, and asks for all."""
        ...


class Format(Protocol):
    """A kind of records. Frozen, and picklable."""

    @property
    def suffix(self) -> str:
        """What the names of output parts end in: `.dat`."""
        ...

    @property
    def expansion(self) -> float:
        """How many bytes of memory beside the input itself a loaded, sorted and encoded byte of input takes."""
        ...

    @property
    def decoded_expansion(self) -> float:
        """The same for a byte of what `encode` gave, which may be many times as long as its input."""
        ...

    @property
    def record_size(self) -> int:
        """How many bytes a record has, about; a guess where they differ."""
        ...

    def prepare(self, sources: Sequence[Source], reader: Reader) -> "Format":
        """This format with what it learned of the inputs: how they expand, `record_size`, a schema.

        Runs in the driver, before anything else, and looks at a little of the largest object.
        """
        ...

    def cut(self, source: Source, size: int, reader: Reader) -> Iterable[Piece]:
        """Pieces of about `size` bytes, none much larger, that together are the whole object.

        Runs in the driver. What no record can be made of (a size that is no multiple of a record's) is a RecordError
        that names the object.
        """
        ...

    def sample(self, pieces: Sequence[Piece], count: int, places: int, reader: Reader) -> Batch:
        """The keys of about `count` records of a split, in the order in which they lie there; of any if there are any.

        They come from `places` places, spread evenly, as many neighbours from each: where a place costs a request
        there are few. The batch needs `key`, `sort`, `bound`, `origin` and its length only, and should be no larger
        than keys are; plain pickle must be able to take it.
        """
        ...

    def load(self, pieces: Sequence[Piece], reader: Reader) -> Batch:
        """All records of a split, in the order in which they lie there."""
        ...

    def decode(self, data: memoryview) -> tuple[Batch, int]:
        """The whole records at the beginning of what `encode` gave, and how many bytes these are.

        The rest comes again in front of the next bytes. The batch may use `data` for as long as it lives.
        """
        ...

    def join(self, batches: Sequence[Batch]) -> Batch:
        """The records of all batches, one behind the other; of samples, too. `sort` of that is their merge."""
        ...

    def writer(self) -> "Writer | Reducer":
        """A new part."""
        ...


def open_format(records: str, *, key: object = None, reverse: object = False) -> Format:
    """The format that goes by this name; `key` and `reverse` mean what it says they do, mostly as for `sorted`.

    ConfigError if there is none, if it cannot be so, or if what it needs is not installed.
    """
    made: Format = _module(records).open_format(records.partition(":")[2], key=key, reverse=reverse)
    return made


def is_table(records: str) -> bool:
    """Whether these are tables, of which columns and not functions say the key; ConfigError as for `open_format`."""
    return _module(records).__name__ == f"{__name__}.table_records"


def _module(records: object) -> ModuleType:
    """What knows this kind of records."""
    from importlib import import_module

    name = records.partition(":")[0] if isinstance(records, str) else ""
    module = f"{__name__}.{name}_records"
    if not name.isidentifier():
        raise _unknown(records)
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise _unknown(records) from None
        extra = _EXTRAS.get(name)
        how = f"pip install 'pywren-ng[{extra}]'" if extra else f"pip install {error.name}"
        raise ConfigError(
            f"records={records!r} needs the package {error.name!r}, which is not installed here: {how}"
        ) from error


_EXTRAS = {"fixed": "sort", "table": "arrow"}


def _unknown(records: object) -> ConfigError:
    from pkgutil import iter_modules

    files = {module.name for module in iter_modules(__path__)}
    names = sorted(name.removesuffix("_records") for name in files if name.endswith("_records"))
    return ConfigError(
        f"records={records!r}: there is no such format; there are {', '.join(names)}."
        " Lines are 'text', Parquet files 'table:COLUMN', Python objects 'rows', and records of 100 bytes of which the"
        " first 10 are the key 'fixed:100:10'."
    )
