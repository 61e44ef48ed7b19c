#!/usr/bin/env python3
"""What an Invoke costs our client, beside boto3 in threads and Lithops' own invoker, in one run.

    invoke.py ─► pinned environment ─► a canned Lambda behind TLS (invoke_double.py), its certificate verified
       rates   ─► rounds × contestants, rotated ─► turn: a fresh process, one client ─► cold, then warm
       starts  ─► 4,096 asynchronous starts, round trips of 50 ms, the ramp of AWS ─► with and without the tree
       real    ─► 4,096 tasks over at most 64 environments of the local AWS, which run our deployed code
              ─► medians ─► thresholds ─► PASS / FAIL

The workers of `rates` and `starts` are CANNED: the double answers at once and runs no function. What is measured is
the client, in seconds of its processor (getrusage, with encoding and settling), and every value is checked.

Exit codes: 0 every claim met, 1 one is not, 2 the run could not be done, 3 a partial run: not comparable.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

import invoke_real
from invoke_stage import NotDone, canned, counts, make_certificate, surroundings
from invokers import ENTRANTS, OURS, Ours, Service, double
from pinned import enter, environment_of
from rows import Figures, Row, Samples, Target, figures_of, judge, table

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
SECTIONS = ("rates", "starts", "real")
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
    answer = folder / "turn.json"
    answer.unlink(missing_ok=True)
    told = [f"--turn={section}:{name}", f"--service={json.dumps(asdict(service))}", f"--json={answer}"]
    ran = subprocess.run(
        [sys.executable, __file__, "--here", *told],
        env=surroundings(folder, service, **more),
        timeout=LIMIT,
        capture_output=True,
        text=True,
    )
    if ran.returncode or not answer.exists():
        raise NotDone(f"{section} of {name} ended with {ran.returncode}:\n{(ran.stdout + ran.stderr)[-4_000:]}")
    samples: dict[str, list[float]] = json.loads(answer.read_text())
    return samples


# The run.


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    sections: list[str]
    contestants: list[str]
    rounds: int
    json: Path | None

    @property
    def is_partial(self) -> bool:
        is_whole = set(self.sections) == set(SECTIONS) and set(self.contestants) == set(ENTRANTS)
        return not is_whole or self.rounds < ROUNDS

    def of(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self.contestants]


def rates(options: Options, folder: Path) -> Samples:
    """All rounds, each beginning with the next contestant and with a fresh double."""
    samples: Samples = {"warm": {}, "cold": {}, "elapsed": {}}
    names = options.of(RATES)
    for number in range(options.rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            print(f"rates, round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True)
            with canned(folder, concurrency=BATCH) as service:
                found = turn("rates", name, service, folder, PYWREN_NG_INVOKE="sync")
            for row, values in found.items():
                samples[row].setdefault(name, []).append(values)
    for name in names:
        print(f"whether {name} verifies certificates", file=sys.stderr, flush=True)
        with canned(folder) as service:
            turn("stranger", name, service, folder, AWS_CA_BUNDLE=str(folder / "stranger.pem"))
    return samples


def starts(options: Options, folder: Path) -> Samples:
    """Under the ramp of AWS: five functions hold all at once, one function lets them wait."""
    samples: Samples = {"starts": {}, "found": {}, "ramp": {}}
    plan = [("starts", COPIES, options.of(STARTS), min(3, options.rounds)), ("ramp", 1, options.of(STARTS[:2]), 1)]
    told = {"processes": 1, "round_trip": ROUND_TRIP, "cold": COLD, "ramp": RAMP, "concurrency": STARTED + 100}
    for row, copies, names, rounds in plan:
        for number in range(rounds):
            shift = number % max(1, len(names))
            for name in names[shift:] + names[:shift]:
                print(f"{row}, round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
                with canned(folder, store=f"file://{folder}/store", **told) as service:
                    service = replace(service, copies=copies)
                    found = turn("starts", name, service, folder, PYWREN_NG_INVOKE="async")
                samples[row].setdefault(name, []).append(found["starts"])
                if "found" in found and copies == COPIES:
                    samples["found"].setdefault(name, []).append(found["found"])
    return samples


def real(options: Options, folder: Path) -> Samples:
    """The local AWS runs the deployed code: once, for what it shows is not a time."""
    print("real", file=sys.stderr, flush=True)
    found = turn("real", OURS, Service(0, ""), folder)
    return {row: {OURS: [values]} for row, values in found.items()}


def versions_of(contestants: list[str]) -> dict[str, str]:
    """Each one's version, and those of what they stand on; NotDone names those that are missing."""
    wanted = dict.fromkeys([ENTRANTS[name].distribution for name in contestants] + ["boto3", "botocore", "urllib3"])
    found, missing = {"python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION}, []
    for distribution in [*wanted, "trustme"]:
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            missing.append(distribution)
    if missing:
        raise NotDone(f"not installed here: {', '.join(missing)}. A run without one shows nothing.")
    return found


def run(options: Options, folder: Path) -> Samples:
    make_certificate(folder)
    samples: Samples = {}
    for section in options.sections:
        samples |= {"rates": rates, "starts": starts, "real": real}[section](options, folder)
    return samples


def report(options: Options, samples: Samples, versions: dict[str, str]) -> int:
    """Prints medians and verdicts, writes the JSON file; the exit code."""
    figures = figures_of(samples)
    command = shlex.join(["scripts/bench/invoke.py", *sys.argv[1:]])
    print(f"\n{command}\n{platform.platform()}, {os.cpu_count()} CPUs, medians of {options.rounds} rounds")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print("The workers of all rows but the last two are canned: they answer at once and run nothing.", end="\n\n")
    print(*table(figures, options.contestants, ROWS), sep="\n", end="\n\n")
    verdicts = [] if options.is_partial else list(judge(figures, ROWS))
    for claim, said, is_met in verdicts:
        print(f"{claim}  {said}  {'PASS' if is_met else 'FAIL'}")
    if options.json:
        write(options.json, command, versions, samples, figures, verdicts)
    if options.is_partial:
        print(f"NOT COMPARABLE: a run needs all of {', '.join(ENTRANTS)}, all sections and {ROUNDS} rounds.")
        return 3
    return 0 if all(is_met for _, _, is_met in verdicts) else 1


def write(
    path: Path,
    command: str,
    versions: dict[str, str],
    samples: Samples,
    figures: Figures,
    verdicts: list[tuple[str, str, bool]],
) -> None:
    """All raw samples, one list per round."""
    content = {
        "command": command,
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": versions,
        "batch": BATCH,
        "rows": [asdict(row) for row in ROWS],
        "samples": samples,
        "medians": figures,
        "verdicts": [{"claim": claim, "said": said, "met": is_met} for claim, said, is_met in verdicts],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="raw samples, versions and verdicts")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} or more, else not comparable")
    parser.add_argument("--only", metavar="A,B", help="a quick look at some, which is not comparable")
    parser.add_argument("--sections", metavar="A,B", help=f"some of {', '.join(SECTIONS)}")
    parser.add_argument("--venv", type=Path, default=environment_of("invoke"), help="default: %(default)s")
    parser.add_argument("--here", action="store_true", help="in this environment, with what is installed")
    parser.add_argument("--turn", metavar="SECTION:NAME", help=argparse.SUPPRESS)
    parser.add_argument("--service", help=argparse.SUPPRESS)
    return parser


def chosen(asked: str | None, known: tuple[str, ...]) -> list[str]:
    names = asked.split(",") if asked else list(known)
    if unknown := [name for name in names if name not in known]:
        raise NotDone(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def main() -> int:
    asked = parser().parse_args()
    if asked.turn:
        section, _, name = asked.turn.partition(":")
        asked.json.write_text(json.dumps(PLAYS[section](name, Service(**json.loads(asked.service)))))
        if section == "stranger":
            os._exit(0)  # what it left behind still tries
        return 0
    sections, contestants = chosen(asked.sections, SECTIONS), chosen(asked.only, tuple(ENTRANTS))
    if not asked.here:
        enter(asked.venv, with_project=True, requirements="requirements-invoke.txt")
    options = Options(sections, contestants, max(1, asked.rounds), asked.json and asked.json.absolute())
    versions = versions_of(contestants)
    with tempfile.TemporaryDirectory(prefix="pnb-") as folder:
        samples = run(options, Path(folder))
    return report(options, samples, versions)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (NotDone, OSError, subprocess.SubprocessError) as failed:
        print(f"invoke.py: {failed}", file=sys.stderr)
        sys.exit(2)
