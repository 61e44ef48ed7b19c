#!/usr/bin/env python3
"""What an Invoke costs our client, beside boto3 in threads and Lithops' own invoker, in one run.

    invoke.py ─► pinned environment ─► a canned Lambda behind TLS (invoke_double.py), its certificate verified
       rates   ─► rounds × contestants, rotated ─► turn: a fresh process, one client ─► cold, then warm
       starts  ─► 4,096 asynchronous starts, round trips of 50 ms, the ramp of AWS ─► with and without the tree
       real    ─► 4,096 tasks over at most 64 environments of the local AWS, which run our deployed code
              ─► medians ─► thresholds ─► PASS / FAIL

The workers of `rates` and `starts` are CANNED: the double answers at once and runs no function. What is measured is
the client, in seconds of its processor (getrusage, with encoding and settling), and every value is checked.
"""

import argparse
import json
import os
import resource
import ssl
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import invoke_real
from contest import NotDone, answered, asking, chosen, ends, left_by, scratch, taking_turns, versions_of
from invoke_stage import canned, counts, make_certificate, surroundings
from invokers import ENTRANTS, Ours, Service, double
from rows import OURS, Row, Samples, Target, compared

ROUNDS = 5
BATCH = 2_048  # Invokes of a sample
WARM = 2  # batches after the first
STARTED = 4_096
STRANGE = 3  # seconds in which whoever does not verify would have invoked
LIMIT = 300  # seconds for one turn: past it something hangs
ROUND_TRIP = 0.05
COLD = 0.25  # what a trivial environment takes on Lambda
RAMP = 1_000  # new environments of one function at once, and more every ten seconds
COPIES = 5
BOTO3 = ("boto3-8", "boto3-16", "boto3-32")
RATES = (OURS, "invoker", *BOTO3, "lithops")
STARTS = (OURS, "direct", "boto3-32")
QUICKER = (Target("≥", 3_000), *(Target("≥", 4, name) for name in BOTO3))
ROWS = (
    Row("warm", "5a", "Invokes per second of CPU, warm", "/s", 1, QUICKER),
    Row("cold", "", "… from opening, with handshakes", "/s"),
    Row("elapsed", "", "Invokes per second of time, warm", "/s"),
    Row("starts", "", "4,096 starts, five functions", "s"),
    Row("found", "", "… and until every outcome is here", "s"),
    Row("ramp", "", "4,096 starts, one function", "s"),
    Row("right", "5b", "right of 4,096, 64 real environments", "values", 1, (Target("≥", STARTED),)),
    Row("most", "5b", "… environments at once at most", "", 1, (Target("≥", 1), Target("≤", invoke_real.MOST))),
)


# A turn: one contestant in a process of its own.


def check(is_right: bool, what: str) -> None:
    if not is_right:
        raise NotDone(f"a wrong value came back: {what}")


def spent() -> float:
    """Seconds of processor of this process with all its threads, and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def play_rates(name: str, service: Service) -> dict[str, list[float]]:
    """Batches of Invokes: the first from opening the client, the others on its connections."""
    samples: dict[str, list[float]] = {"cold": [], "warm": [], "elapsed": []}
    begun, start = spent(), time.perf_counter()
    contestant = ENTRANTS[name].open(service)
    try:
        for number in range(1 + WARM):
            numbers = range(number * BATCH, (number + 1) * BATCH)
            before = counts(service) if number else {"invokes": 0.0}
            if number:
                begun, start = spent(), time.perf_counter()
            values = contestant.run(numbers)
            cpu, seconds = spent() - begun, time.perf_counter() - start
            after = counts(service)
            check(values == [] if ENTRANTS[name].only_starts else values == doubled(numbers), f"of {name}")
            arrived = after["invokes"] - before["invokes"]
            check(arrived == BATCH, f"{name}: {arrived:.0f} Invokes arrived, and there were {BATCH}")
            samples["warm" if number else "cold"].append(BATCH / cpu)
            if number:
                samples["elapsed"].append(BATCH / seconds)
        check(counts(service)["unsigned"] == 0, f"{name} sent what was not signed")
    finally:
        contestant.close()
    return samples


def play_starts(name: str, service: Service) -> dict[str, list[float]]:
    """From the first Invoke's call to the last environment's start, by the clock that all processes share."""
    contestant = ENTRANTS[name].open(replace(service, later=True))
    try:
        begun = time.monotonic()
        values = contestant.run(range(STARTED))
        found = time.monotonic() - begun
        seen = until_started(service)
        check(seen["started"] == STARTED, f"{name}: {seen['started']:.0f} starts of {STARTED}")
        if not isinstance(contestant, Ours):
            check(values == [], f"of {name}")
            return {"starts": [seen["last"] - begun]}
        check(values == doubled(range(STARTED)), f"of {name}")
        is_tree = seen["starters"] > 0
        check(is_tree == (name == OURS), f"{name} used {seen['starters']:.0f} starters")
        return {"starts": [seen["last"] - begun], "found": [found]}
    finally:
        contestant.close()


def doubled(numbers: Iterable[int]) -> list[int]:
    return [double(number) for number in numbers]


def until_started(service: Service) -> dict[str, float]:
    """What the double has seen once it has started all."""
    end = time.monotonic() + LIMIT
    while (seen := counts(service))["started"] < STARTED and time.monotonic() < end:
        time.sleep(0.1)
    return seen


def play_stranger(name: str, service: Service) -> dict[str, list[float]]:
    """Who trusts another authority only must get nothing through: neither an Invoke nor an answer."""
    told = replace(service, authority=os.environ["AWS_CA_BUNDLE"])
    # In a thread, for Lithops never gives up.
    threading.Thread(target=lambda: ENTRANTS[name].open(told).run([1]), daemon=True).start()
    time.sleep(STRANGE)
    invokes = counts(service)["invokes"]
    check(invokes == 0, f"{name} sent {invokes:.0f} Invokes to a server whose certificate it cannot trust")
    return {}


def play_real(name: str, service: Service) -> dict[str, list[float]]:
    return invoke_real.play(Path(tempfile.mkdtemp()), STARTED)


PLAYS = {"rates": play_rates, "stranger": play_stranger, "starts": play_starts, "real": play_real}


def turn(section: str, name: str, service: Service, folder: Path, **more: str) -> dict[str, list[float]]:
    """One contestant's part of a section, in a fresh process."""
    told = (__file__, f"--turn={section}:{name}", f"--service={json.dumps(asdict(service))}")
    samples: dict[str, list[float]] = left_by(told, limit=LIMIT, env=surroundings(folder, service, **more))
    return samples


# The run.


def rates(names: list[str], rounds: int, folder: Path) -> Samples:
    """All rounds, each turn with a fresh double; then whether everybody verifies certificates."""
    samples: Samples = {"warm": {}, "cold": {}, "elapsed": {}}
    names = [name for name in RATES if name in names]
    for name in taking_turns(names, rounds, "rates, "):
        with canned(folder, concurrency=BATCH) as service:
            found = turn("rates", name, service, folder, PYWREN_NG_INVOKE="sync")
        for row, values in found.items():
            samples[row].setdefault(name, []).append(values)
    for name in taking_turns(names, 1, "strangers, "):
        with canned(folder) as service:
            turn("stranger", name, service, folder, AWS_CA_BUNDLE=str(folder / "stranger.pem"))
    return samples


def starts(names: list[str], rounds: int, folder: Path) -> Samples:
    """Under the ramp of AWS: five functions hold all at once, one function lets them wait."""
    samples: Samples = {"starts": {}, "found": {}, "ramp": {}}
    names = [name for name in STARTS if name in names]
    ramped = [name for name in STARTS[:2] if name in names]
    told = {"processes": 1, "round_trip": ROUND_TRIP, "cold": COLD, "ramp": RAMP, "concurrency": STARTED + 100}
    for row, copies, of_row, times in (("starts", COPIES, names, min(3, rounds)), ("ramp", 1, ramped, 1)):
        for name in taking_turns(of_row, times, f"{row}, "):
            with canned(folder, store=f"file://{folder}/store", **told) as service:
                service = replace(service, copies=copies)
                found = turn("starts", name, service, folder, PYWREN_NG_INVOKE="async")
            samples[row].setdefault(name, []).append(found["starts"])
            if "found" in found and copies == COPIES:
                samples["found"].setdefault(name, []).append(found["found"])
    return samples


def real(names: list[str], rounds: int, folder: Path) -> Samples:
    """The local AWS runs the deployed code: once, for what it shows is not a time."""
    found = turn("real", OURS, Service(0, ""), folder)
    return {row: {OURS: [values]} for row, values in found.items()}


SECTIONS = {"rates": rates, "starts": starts, "real": real}


def main() -> int:
    parser = asking(__doc__, ROUNDS, pinned="invoke")
    parser.add_argument("--only", metavar="A,B", help="some contestants, which is not comparable")
    parser.add_argument("--sections", metavar="A,B", help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--turn", metavar="SECTION:NAME", help=argparse.SUPPRESS)
    parser.add_argument("--service", help=argparse.SUPPRESS)
    asked = answered(parser, "boto3", "botocore", "urllib3", "trustme")
    if asked.turn:
        section, _, name = asked.turn.partition(":")
        asked.json.write_text(json.dumps(PLAYS[section](name, Service(**json.loads(asked.service)))))
        if section == "stranger":
            os._exit(0)  # what it left behind still tries
        return 0
    sections, names = chosen(asked.sections, SECTIONS), chosen(asked.only, ENTRANTS)
    asked.is_partial |= len(sections) < len(SECTIONS) or len(names) < len(ENTRANTS)
    packages = [ENTRANTS[name].distribution for name in names]
    asked.versions |= versions_of(*packages) | {"openssl": ssl.OPENSSL_VERSION}
    samples: Samples = {}
    with scratch() as folder:
        make_certificate(folder)
        for section in sections:
            samples |= SECTIONS[section](names, asked.rounds, folder)
    note = "The workers of all rows but the last two are canned: they answer at once and run nothing."
    return compared(asked, samples, ROWS, names, note=note)


if __name__ == "__main__":
    ends(main)
