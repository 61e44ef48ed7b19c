#!/usr/bin/env python3
"""Makes records to sort, after the rules of gensort: 100 bytes each, of which the first 10 are the key.

    record ┬ key 10 ┬ 00 11 ┬ number, 32 hex digits ┬ 88 99 AA BB ┬ 12 letters, each 4 times ┬ CC DD EE FF
    ascii  └ key 10 └ 2 × ␠ └ number, 32 hex digits └ 2 × ␠       └ 13 letters, each 4 times └ CR LF

A record is a function of seed and number, so any range of them can be made by itself, and no two are alike. The
numbers of the records rise in each file and from file to file: where keys are equal, a stable sort keeps them rising.

    sortgen.py --kind zipf --records 1000000 --files 4 FOLDER      part-00000.dat … in it
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEY", "KINDS", "RECORD", "make_files", "records"]

RECORD, KEY = 100, 10
KINDS = ("uniform", "ascii", "sorted", "reversed", "equal", "zipf")
RANKS = 1_000_000  # different keys of Zipf's law; the first has 5 % of all records
AT_ONCE = 100_000
HEX = np.frombuffer("".join(f"{byte:02X}" for byte in range(256)).encode(), np.uint16)
LETTERS = np.frombuffer(b"0123456789ABCDEF", np.uint8)

Numbers = NDArray[np.uint64]
Bytes = NDArray[np.uint8]


def records(kind: str, first: int, count: int, *, seed: int = 0) -> bytes:
    """So many records of one of KINDS, from this number on."""
    numbers = np.arange(first, first + count, dtype=np.uint64)
    made = np.empty((count, RECORD), np.uint8)
    made[:, :KEY] = _keys(kind, numbers, seed)
    made[:, 12:28] = HEX[np.frombuffer(seed.to_bytes(8, "big"), np.uint8)].view(np.uint8)
    made[:, 28:44] = HEX[_big_endian(numbers)].view(np.uint8)
    filler = LETTERS[_big_endian(_mixed(numbers, seed, 3)) & 15]
    if kind == "ascii":
        made[:, 10:12] = made[:, 44:46] = ord(" ")
        made[:, 46:98] = np.repeat(np.concatenate([filler, filler[:, :5]], axis=1), 4, axis=1)
        made[:, 98:] = np.frombuffer(b"\r\n", np.uint8)
    else:
        made[:, 10:12] = np.frombuffer(b"\x00\x11", np.uint8)
        made[:, 44:48] = np.frombuffer(b"\x88\x99\xaa\xbb", np.uint8)
        made[:, 48:96] = np.repeat(np.concatenate([filler, filler[:, :4]], axis=1), 4, axis=1)
        made[:, 96:] = np.frombuffer(b"\xcc\xdd\xee\xff", np.uint8)
    return made.tobytes()


def _keys(kind: str, numbers: Numbers, seed: int) -> Bytes:
    """Ten bytes for each. Sorted and reversed ones differ only in their last bytes, where a prefix sees nothing."""
    match kind:
        case "uniform":
            return _ten(_mixed(numbers, seed, 1), _mixed(numbers, seed, 2))
        case "ascii":
            return _printable(_mixed(numbers, seed, 1), _mixed(numbers, seed, 2))
        case "sorted":
            return _ten(numbers >> np.uint64(16), numbers << np.uint64(48))
        case "reversed":
            return ~_keys("sorted", numbers, seed)
        case "equal":
            return _ten(_mixed(numbers * np.uint64(0), seed, 1), numbers * np.uint64(0))
        case "zipf":
            evenly = _mixed(numbers, seed, 1).astype(np.float64) / 2.0**64
            ranks = np.exp(evenly * np.log(RANKS)).astype(np.uint64)  # the k-th comes with ln((k + 1)/k)/ln(RANKS)
            return _ten(_mixed(ranks, seed, 4), _mixed(ranks, seed, 5))
    raise ValueError(f"no kind is called {kind!r}; there are {', '.join(KINDS)}")


def _mixed(numbers: Numbers, seed: int, stream: int) -> Numbers:
    """The finisher of SplitMix64: a bijection that looks like chance."""
    offset = (seed * 0xD1342543DE82EF95 + stream * 0xA0761D6478BD642F) % 2**64
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(offset)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _big_endian(numbers: Numbers) -> Bytes:
    return numbers.astype(">u8").view(np.uint8).reshape(-1, 8)


def _ten(high: Numbers, low: Numbers) -> Bytes:
    """All eight bytes of one and the first two of the other."""
    return np.concatenate([_big_endian(high), _big_endian(low)[:, :2]], axis=1)


def _printable(high: Numbers, low: Numbers) -> Bytes:
    """Ten characters from space to tilde: nine digits to the base 95, and one."""
    keys = np.empty((len(high), KEY), np.uint8)
    for place in range(KEY - 1):
        high, keys[:, place] = high // np.uint64(95), high % np.uint64(95) + np.uint64(32)
    keys[:, KEY - 1] = low % np.uint64(95) + np.uint64(32)
    return keys


def make_files(folder: Path, kind: str, count: int, *, files: int = 1, seed: int = 0) -> list[Path]:
    """Files of equal length, but for the last ones; a file may be empty where there are more files than records."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [count * place // files for place in range(files + 1)]
    paths = [folder / f"part-{place:05}.dat" for place in range(files)]
    jobs = []
    for path, begin, end in zip(paths, bounds, bounds[1:], strict=False):
        path.write_bytes(b"")
        os.truncate(path, (end - begin) * RECORD)
        jobs += [(path, begin, at, min(end, at + AT_ONCE), kind, seed) for at in range(begin, end, AT_ONCE)]
    if len(jobs) < 4:
        for job in jobs:
            _fill(*job)
    else:
        with ProcessPoolExecutor() as pool:
            list(pool.map(_fill, *zip(*jobs, strict=True)))
    return paths


def _fill(path: Path, begin: int, first: int, end: int, kind: str, seed: int) -> None:
    with open(path, "r+b") as file:
        file.seek((first - begin) * RECORD)
        file.write(records(kind, first, end - first, seed=seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="uniform")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for path in make_files(asked.folder, asked.kind, asked.records, files=asked.files, seed=asked.seed):
        print(path)


if __name__ == "__main__":
    main()
