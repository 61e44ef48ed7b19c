#!/usr/bin/env python3
"""Counts the requests of whole sorts on S3 at a proxy, and times reads while one in a hundred stalls.

    s3_double.py ◄── s3_proxy: counts, stalls ◄── threads that sort, or read
                        └─► exactly P PUT and P² ranged GET of intermediate objects, with two levels 2P and 2P√P, with
                            three 3P and 3P∛P; what the plan said, and what the result says

Run it with the project installed. Sections: `64`, `256` (splits, and as many partitions), `64x2`, `256x2`, `64x3` (the
same with more levels), `own` (the plan's own numbers for partitions that are no squares), `stalls`; default: all.
"""

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sortcheck
import sortgen
from contest import NotDone, Verdict, answered, asking, chosen, concluded, ends, served

from pywren_runtime.stores import Store, open_store
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.planning.plan import Plan
from pywren_shuffle.planning.terms import Terms, Workers, tier_named
from pywren_shuffle.records import Piece, Source
from pywren_shuffle.sort import sort

HERE = Path(__file__).parent
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
FIXED = "fixed:100:10"
WORKERS = 8
EACH = 12  # records of a slice on average: hardly one is empty
READS, READ_SIZE = 20_000, 4_000
STALLED, STALL = 0.01, 3.0  # of all reads, and for so many seconds
SLOWEST, HEDGED = 0.5, 0.02  # seconds of p99.9, and hedges of all GETs
TERMS = Terms(Workers(1, bandwidth=75e6), tier_named("s3"), tier_named("s3"), (tier_named("s3"),))
SORTS = {"64": (64, 1), "256": (256, 1), "64x2": (64, 2), "256x2": (256, 2), "64x3": (64, 3)}
WANTED = {
    "64": {"PutObject": 64, "GetRange": 4096},
    "256": {"PutObject": 256, "GetRange": 65_536},
    "64x2": {"PutObject": 128, "GetRange": 1024},
    "256x2": {"PutObject": 512, "GetRange": 8192},
    "64x3": {"PutObject": 192, "GetRange": 768},
}
KEYED = ("PutObject", "GetObject", "GetRange", "HeadObject", "CreateMultipartUpload", "UploadPart")


class Stage:
    """An S3 whose requests are counted."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._options = f"?endpoint={quote(endpoint, safe=':/')}&region=us-east-1"

    def url(self, name: str) -> str:
        return f"s3://bench/{name}{self._options}"

    def store(self, name: str) -> Store:
        return open_store(self.url(name))

    def ask(self, method: str, path: str, wish: object = None) -> Any:
        """The proxy's control."""
        body = None if wish is None else json.dumps(wish).encode()
        request = urllib.request.Request(f"{self.endpoint}/_proxy/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def counted(self, key: str = "") -> dict[str, int]:
        """Requests by kind for keys of that pattern, among those that name an object."""
        kinds: dict[str, int] = self.ask("GET", f"counts?key={quote(key)}")["kinds"]
        return {kind: number for kind, number in kinds.items() if kind in KEYED}


@contextmanager
def staged() -> Iterator[Stage]:
    """The double, and the proxy before it."""
    with (
        served(str(HERE / "s3_double.py")) as upstream,
        served("-m", "local_aws.s3_proxy", "--upstream", upstream) as endpoint,
    ):
        yield Stage(endpoint)


def whole_sort(stage: Stage, partitions: int, levels: int, wanted: dict[str, int] | None = None) -> tuple[str, bool]:
    """A sort with as many splits as partitions; what was counted, and whether it is what should be, and was planned."""
    records = EACH * partitions * partitions
    data = sortgen.records("uniform", 0, records)
    place = f"{partitions}x{levels}"
    stage.store(f"{place}/in").put("all.dat", data)
    stage.ask("DELETE", "counts")
    with ThreadPoolExecutor(WORKERS) as pool:
        result = sort(
            pool,
            stage.url(f"{place}/in/*.dat"),
            stage.url(f"{place}/out"),
            records=FIXED,
            partitions=partitions,
            levels=levels,
            splits=partitions,
            terms=TERMS,
            hedging=False,
        )
    between, all_keys = stage.counted("shuffles/"), stage.counted(f"^{place}/")
    said = {kind: number for kind, number in result.requests.items() if kind in KEYED and number}
    output = stage.store(f"{place}/out")
    names = [part.partition("?")[0].rpartition("/")[2] for part in result.parts]
    found = sortcheck.joined(sortcheck.summary_of(bytes(output.get(name))) for name in names)
    sortcheck.check(found, sortcheck.summary_of(data), stable=True)
    planned = between_of(result.plan)
    text = f"{between.get('PutObject', 0)} PUT, {between.get('GetRange', 0):,} ranged GET of intermediate objects"
    text += f"; the result says {said}, the proxy {all_keys}" if said != all_keys else "; the result says the same"
    text += f"; planned were {planned}" if planned != between else ", as did the plan"
    return text, between == planned == (wanted or planned) and said == all_keys


def between_of(plan: Plan) -> dict[str, int]:
    """What a plan expects to be asked of intermediate objects."""
    asked = {step.name: step.requests for step in plan.steps}
    reads = sum(number["GetRange"] for name, number in asked.items() if name.startswith(("regroup", "merge")))
    return {"PutObject": sum(layer.objects for layer in plan.layers), "GetRange": reads}


def own(stage: Stage) -> tuple[str, bool]:
    """The plan's own numbers, where partitions are neither a square nor a cube."""
    texts, is_met = [], True
    for partitions in (7, 50, 97):
        for levels in (2, 3):
            said, met = whole_sort(stage, partitions, levels)
            texts.append(f"{partitions} by {levels} levels {said.partition(' of inter')[0]}{'' if met else ' ' + said}")
            is_met = is_met and met
    return "; ".join(texts), is_met


def stalls(stage: Stage) -> tuple[str, bool]:
    """Reads of which one in a hundred stalls."""
    objects = 50
    store = stage.store("stalls")
    body = os.urandom(READS // objects * READ_SIZE)
    for number in range(objects):
        store.put(f"{number:02}", body)
    stage.ask("DELETE", "counts")
    stage.ask("POST", "faults", {"fault": "slow", "kind": "GetRange", "fraction": STALLED, "seconds": STALL, "seed": 1})
    took: list[float] = []
    exchange = Exchange(hedging=True)
    for number in range(objects):
        source = Source(stage.url("stalls"), f"{number:02}", len(body))
        room = memoryview(bytearray(len(body)))
        flights = []
        for start in range(0, len(body), READ_SIZE):
            flights += exchange.fill(Piece(source, start, start + READ_SIZE), room[start : start + READ_SIZE])
        for flight in flights:
            flight.done.add_done_callback(lambda _, flight=flight: took.append(time.monotonic() - flight.tries[0]))  # type: ignore[misc]
        for flight in flights:
            flight.result()
        if room != body:
            raise NotDone("what was read is not what was written")
    stalled = sum(rule["injected"] for rule in stage.ask("GET", "faults"))
    stage.ask("DELETE", "faults")
    gets, hedges = stage.counted("^stalls/")["GetRange"], exchange.requests["hedges"]
    took.sort()
    slowest = took[len(took) * 999 // 1000]
    text = f"{len(took):,} reads, {stalled} of them stalled {STALL:g} s: p50 {took[len(took) // 2] * 1e3:.1f} ms,"
    text += f" p99.9 {slowest:.3f} s, {hedges} hedges of {gets:,} GETs ({hedges / gets:.2%})"
    is_met = len(took) >= READS and gets - len(took) == hedges and slowest < SLOWEST and hedges <= HEDGED * gets
    return text, is_met and stalled >= READS * STALLED / 2


def main() -> int:
    parser = asking(__doc__, 1)
    sections = [*SORTS, "own", "stalls"]
    parser.add_argument("section", nargs="*", metavar="SECTION", help=f"some of {', '.join(sections)}")
    asked = answered(parser, "numpy", "obstore")
    os.environ.update(KEYS)
    verdicts: list[Verdict] = []
    with staged() as stage:
        for section in chosen(",".join(asked.section), sections):
            if section in SORTS:
                said = whole_sort(stage, *SORTS[section], WANTED[section])
            else:
                said = stalls(stage) if section == "stalls" else own(stage)
            verdicts.append((section, *said))
    return concluded(asked, verdicts)


if __name__ == "__main__":
    ends(main)
