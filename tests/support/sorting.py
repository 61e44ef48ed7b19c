"""What the tests of sorts share: inputs and the oracle of the benchmarks, and the places where data lies."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from support.local_aws import SCRIPTS, LocalAws

sys.path.insert(0, str(SCRIPTS / "bench"))

import plan_paper
import sort_memory
import sort_requests
import sortcheck
import sortgen

__all__ = [
    "FIXED",
    "KINDS",
    "Between",
    "Bucket",
    "Folder",
    "Place",
    "assert_sorted",
    "fill",
    "kinds_of",
    "parts_of",
    "plan_paper",
    "sort_memory",
    "sort_requests",
    "sortcheck",
    "sortgen",
]

FIXED = "fixed:100:10"
KINDS = sortgen.KINDS
KEYED = ("PutObject", "GetObject", "GetRange", "HeadObject", "CreateMultipartUpload", "UploadPart")
"""Requests that name an object, and not only the bucket that many share."""
_numbers = count()


class Place(Protocol):
    """A folder or a part of a bucket, with inputs below `in` and outputs below `out`."""

    def url(self, name: str) -> str:
        """What a user writes for that name below it."""

    def put(self, name: str, data: bytes) -> None:
        """Put an object there."""

    def get(self, name: str) -> bytes:
        """An object's content."""

    def names(self, below: str = "") -> list[str]:
        """All objects below, in order."""

    def remove(self, name: str) -> None:
        """Remove an object."""


class Between(Executor):
    """Another executor, and something that is done once before a phase's first task is submitted."""

    def __init__(self, inner: Executor, phase: str, act: Callable[[], object]) -> None:
        self._inner, self._phase, self._act = inner, phase, act
        self._max_workers = 4
        self.acted = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn.__name__ == self._phase and not self.acted:
            self.acted += 1
            self._act()
        return self._inner.submit(fn, *args, **kwargs)


class Folder:
    """A place on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def url(self, name: str) -> str:
        return str(self.path / name)

    def put(self, name: str, data: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def names(self, below: str = "") -> list[str]:
        """Empty folders are there, too, with a slash."""
        found = [path for path in (self.path / below).rglob("*") if path.is_file() or not any(path.iterdir())]
        return sorted(f"{path.relative_to(self.path)}{'/' if path.is_dir() else ''}" for path in found)

    def remove(self, name: str) -> None:
        (self.path / name).unlink()


class Bucket:
    """A place in the bucket of a deployment on the local AWS; looking at it counts as nobody's request."""

    def __init__(self, aws: LocalAws, bucket: str) -> None:
        self._aws = aws
        self._client = aws.client("s3")
        self._bucket = bucket
        self.prefix = f"sort-{next(_numbers)}"

    def url(self, name: str) -> str:
        return f"s3://{self._bucket}/{self.prefix}/{name}"

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self.prefix}/{name}", Body=data)

    def get(self, name: str) -> bytes:
        return self._client.get_object(Bucket=self._bucket, Key=f"{self.prefix}/{name}")["Body"].read()

    def names(self, below: str = "") -> list[str]:
        where = f"{self.prefix}/{below}"
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=where)
        return [item["Key"].removeprefix(f"{self.prefix}/") for page in pages for item in page.get("Contents", [])]

    def remove(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"{self.prefix}/{name}")

    def unfinished(self) -> list[str]:
        """Uploads that were begun and are neither complete nor given up."""
        found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=self.prefix)
        return [upload["Key"] for upload in found.get("Uploads", [])]

    def asked(self, key: str = "") -> Counter[str]:
        """Requests for objects of this place, and for what sorts have on the way, by kind; not those of the tests."""
        pattern = quote(key or f"^{self.prefix}/|shuffles/")
        return Counter(self._aws.ask("GET", f"/_proxy/counts?key={pattern}&agent=^object_store")["kinds"])


def fill(place: Place, kind: str, records: int, *, files: int = 1, seed: int = 0) -> sortcheck.Summary:
    """Inputs `in/00.dat` and so on, and what they sum up to."""
    bounds = [records * number // files for number in range(files + 1)]
    summaries = []
    for number, (begin, end) in enumerate(pairwise(bounds)):
        data = sortgen.records(kind, begin, end - begin, seed=seed)
        place.put(f"in/{number:02}.dat", data)
        summaries.append(sortcheck.summary_of(data))
    return sortcheck.joined(summaries)


def assert_sorted(place: Place, result: Any, source: sortcheck.Summary, *, out: str = "out") -> None:
    """The oracle's word on an output, which is all that lies there; and what the result says of it."""
    parts = parts_of(place, result)
    output = sortcheck.joined(sortcheck.summary_of(place.get(part)) for part in parts)
    sortcheck.check(output, source, stable=True)
    assert (result.records, result.bytes) == (source.records, source.records * sortgen.RECORD)
    assert place.names(out) == sorted([f"{out}/manifest.json", *parts])


def parts_of(place: Place, result: Any) -> list[str]:
    """The names of a sort's parts, in order."""
    before = len(place.url("x")) - 1
    return [part[before:] for part in result.parts]


def kinds_of(requests: Iterable[tuple[str, int]] | dict[str, int]) -> dict[str, int]:
    """Those that name an object, as the result counts them, to be compared with what a bucket was asked."""
    return {kind: number for kind, number in dict(requests).items() if kind in KEYED and number}
