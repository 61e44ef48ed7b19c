#!/usr/bin/env python3
"""Tells whether files are a sorted copy of others, after the rules of valsort. Only the standard library is used.

    files ─► Summary of each ─► joined, in the order given ─► records, sum of CRC32s, order, duplicate keys

Two sets of files hold the same records if count and sum agree: the sum is over each record's CRC32, whatever their
order, so it sees two payloads that changed places.

    sortcheck.py OUT/part-*.dat --like IN/*.dat --stable         exit 1 if anything is wrong

`--stable` looks at the numbers that sortgen.py writes into its records: where keys are equal they must rise.
"""

import argparse
import json
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import reduce
from itertools import starmap
from operator import eq, gt, itemgetter
from pathlib import Path
from zlib import crc32

__all__ = ["Layout", "NotSorted", "Summary", "check", "summary_of", "summary_of_files"]

AT_ONCE = 50_000  # records
BIG = 50_000_000  # bytes from which it pays to look at files in processes of their own


class NotSorted(Exception):
    """What is wrong with the output."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How long a record is and its key, which comes first, and between where sortgen.py writes its number."""

    record: int = 100
    key: int = 10
    number: tuple[int, int] = (12, 44)


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of a row of records; `disorder` counts neighbours in the wrong order, `unstable` equal ones."""

    records: int = 0
    checksum: int = 0
    duplicates: int = 0
    disorder: int = 0
    unstable: int = 0
    first: bytes = b""
    last: bytes = b""

    def then(self, other: "Summary", layout: Layout) -> "Summary":
        """Both, one after the other, with the seam between them."""
        if not self.records or not other.records:
            return other if other.records else self
        seam = _of_neighbours([self.last, other.first], layout)
        return Summary(
            self.records + other.records,
            self.checksum + other.checksum,
            self.duplicates + other.duplicates + seam.duplicates,
            self.disorder + other.disorder + seam.disorder,
            self.unstable + other.unstable + seam.unstable,
            self.first,
            other.last,
        )

    def shown(self) -> dict[str, object]:
        """As JSON has it."""
        return asdict(self) | {"checksum": f"{self.checksum:x}", "first": self.first.hex(), "last": self.last.hex()}


def _of_neighbours(found: Sequence[bytes], layout: Layout) -> Summary:
    keys = list(map(itemgetter(slice(0, layout.key)), found))
    duplicates = sum(map(eq, keys, keys[1:]))
    unstable = 0
    if duplicates:
        numbers = list(map(itemgetter(slice(*layout.number)), found))
        pairs = zip(keys, keys[1:], numbers, numbers[1:], strict=False)
        unstable = sum(one == other and number >= follower for one, other, number, follower in pairs)
    return Summary(duplicates=duplicates, disorder=sum(map(gt, keys, keys[1:])), unstable=unstable)


def summary_of(data: bytes, layout: Layout = Layout()) -> Summary:
    """Of records that lie in memory; NotSorted if the last one is cut."""
    if len(data) % layout.record:
        raise NotSorted(f"{len(data)} bytes are no whole number of records of {layout.record}")
    if not data:
        return Summary()
    unpacked = list(struct.iter_unpack(f"{layout.record}s", data))
    found = list(map(itemgetter(0), unpacked))
    seen = _of_neighbours(found, layout)
    total = sum(starmap(crc32, unpacked))
    return replace(seen, records=len(found), checksum=total, first=found[0], last=found[-1])


def _blocks(path: Path, layout: Layout) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(AT_ONCE * layout.record):
            yield block


def summary_of_file(path: Path, layout: Layout = Layout()) -> Summary:
    """Of one file, read piece by piece."""
    return joined((summary_of(block, layout) for block in _blocks(path, layout)), layout)


def joined(summaries: Iterable[Summary], layout: Layout = Layout()) -> Summary:
    """Of all of them, one after the other."""
    return reduce(lambda before, after: before.then(after, layout), summaries, Summary())


def summary_of_files(paths: Sequence[Path], layout: Layout = Layout()) -> Summary:
    """Of files in this order."""
    if sum(path.stat().st_size for path in paths) < BIG:
        return joined((summary_of_file(path, layout) for path in paths), layout)
    with ProcessPoolExecutor() as pool:
        return joined(pool.map(summary_of_file, paths, [layout] * len(paths)), layout)


def check(output: Summary, source: Summary, *, stable: bool = False) -> None:
    """NotSorted says all that is wrong, if anything is."""
    faults = []
    if output.records != source.records:
        faults.append(f"{output.records:,} records came out of {source.records:,}")
    if output.checksum != source.checksum:
        faults.append(f"the sum of all CRC32s is {output.checksum:x} and was {source.checksum:x}")
    if output.disorder:
        faults.append(f"{output.disorder:,} neighbours are in the wrong order")
    if stable and output.unstable:
        faults.append(f"{output.unstable:,} neighbours with equal keys have changed places")
    if faults:
        raise NotSorted("; ".join(faults))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path, nargs="*", help="the sorted files, in their order")
    parser.add_argument("--like", type=Path, nargs="+", default=None, metavar="FILE", help="what was to be sorted")
    parser.add_argument("--record", type=int, default=100)
    parser.add_argument("--key", type=int, default=10)
    parser.add_argument("--stable", action="store_true")
    asked = parser.parse_args()
    layout = Layout(asked.record, asked.key)
    try:
        output = summary_of_files(asked.output, layout)
        print(json.dumps(output.shown()))
        source = output if asked.like is None else summary_of_files(asked.like, layout)
        check(output, source, stable=asked.stable)
    except NotSorted as wrong:
        print(f"NOT SORTED: {wrong}")
        return 1
    print(f"SORTED: {output.records:,} records, {output.duplicates:,} duplicate keys")
    return 0


if __name__ == "__main__":
    sys.exit(main())
