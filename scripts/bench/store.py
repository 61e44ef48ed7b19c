#!/usr/bin/env python3
"""What a small object costs through our S3 store, beside boto3, on one machine.

    store.py ─► s3_double.py, a process of its own ◄── turns: fresh processes, 16 threads each, rounds alternated

Each turn puts objects of 1 KB whose bytes nobody else has, puts them again where something must lie already, gets
all and compares every byte. Ours goes through the whole store (keys checked, conditions, retries), boto3 through one
client shared by the threads, with a connection for each and no checksums that the server does not ask for. Beside
them stands what the server takes from a bare socket: it must not be what is measured.

Exit codes: 0 both claims met, 1 one is not, 2 the run could not be done, 3 a partial run: not comparable.
"""

import argparse
import functools
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

HERE = Path(__file__).parent
THREADS = 16
SIZE = 1_000
ROUNDS = 5
FACTOR = 10.0
COUNTS = {"ours": 16_000, "boto3": 1_600, "wire": 40_000}
"""How many objects a turn has: for each enough for a second or more."""
CLAIMED = ("put", "get")
LIMIT = 300
REGION = "us-east-1"


class NotDone(Exception):
    """The run cannot be done or went wrong; its text is for the reader."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One kind of request in one turn."""

    per_second: float
    cpu_ms: float  # of the client's process, each


@dataclass(frozen=True, slots=True)
class Client:
    """How a contestant puts, puts only what is new, and gets."""

    put: Callable[[str, bytes], object]
    put_new: Callable[[str, bytes], bool]
    get: Callable[[str], bytes]


def body_of(salt: str, number: int) -> bytes:
    """Bytes of which no two objects have the same."""
    return f"{salt}/{number:09d}/".encode().ljust(SIZE, b"%d" % (number % 10))


# ── a turn: one contestant in a fresh process ──


def open_ours(endpoint: str) -> Client:
    from pywren_runtime.stores import open_store

    store = open_store(f"s3://bench/ours?endpoint={endpoint}&region={REGION}")
    return Client(store.put, store.put_new, store.get)


def open_boto3(endpoint: str) -> Client:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError

    settings = Config(
        max_pool_connections=THREADS,
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name=REGION, config=settings)

    def put(key: str, data: bytes) -> None:
        s3.put_object(Bucket="bench", Key=f"boto3/{key}", Body=data)

    def put_new(key: str, data: bytes) -> bool:
        try:
            s3.put_object(Bucket="bench", Key=f"boto3/{key}", Body=data, IfNoneMatch="*")
            return True
        except ClientError as error:
            if error.response["Error"]["Code"] != "PreconditionFailed":
                raise
            return False

    def get(key: str) -> bytes:
        body: bytes = s3.get_object(Bucket="bench", Key=f"boto3/{key}")["Body"].read()
        return body

    return Client(put, put_new, get)


OPENERS = {"ours": open_ours, "boto3": open_boto3}


def measured(pool: ThreadPoolExecutor, count: int, one: Callable[[int], bool]) -> Sample:
    """`count` calls by all threads, each of which takes a stretch of the numbers."""

    def stretch(thread: int) -> bool:
        return all(one(number) for number in range(thread, count, THREADS))

    usage, start = getrusage(RUSAGE_SELF), time.perf_counter()
    right = all(list(pool.map(stretch, range(THREADS))))
    seconds = time.perf_counter() - start
    after = getrusage(RUSAGE_SELF)
    if not right:
        raise NotDone("a wrong answer came back: a body that is not what was put, or a condition that did not hold")
    spent = after.ru_utime - usage.ru_utime + after.ru_stime - usage.ru_stime
    return Sample(count / seconds, spent / count * 1e3)


def turn(name: str, endpoint: str, count: int) -> dict[str, Sample]:
    begun = time.perf_counter()
    client = OPENERS[name](endpoint)
    opened = time.perf_counter() - begun
    salt = os.urandom(8).hex()
    with ThreadPoolExecutor(THREADS) as pool:
        measured(pool, THREADS * 20, lambda n: client.put(f"warm/{n}", b"x") is None)
        found = {
            "put": measured(pool, count, lambda n: client.put(f"{salt}/{n}", body_of(salt, n)) is None),
            "put_new": measured(pool, count, lambda n: client.put_new(f"{salt}/new/{n}", body_of(salt, -n))),
            "put_new, lost": measured(pool, count, lambda n: not client.put_new(f"{salt}/{n}", b"")),
            "get": measured(pool, count, lambda n: client.get(f"{salt}/{n}") == body_of(salt, n)),
        }
        # What was put under a condition is looked at too, untimed.
        measured(pool, count, lambda n: client.get(f"{salt}/new/{n}") == body_of(salt, -n))
    return found | {"open": Sample(1 / opened, opened * 1e3)}


def wire(endpoint: str, count: int) -> dict[str, Sample]:
    """What the server takes and gives when nobody thinks: requests in batches on one socket for each thread."""
    host, _, port = endpoint.removeprefix("http://").partition(":")
    batch = 25
    asked = count // (THREADS * batch)
    put = b"PUT /bench/wire HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (SIZE, b"x" * SIZE)
    found = {}
    for name, request in (("put", put), ("get", b"GET /bench/wire HTTP/1.1\r\nHost: x\r\n\r\n")):
        sockets = [socket.create_connection((host, int(port))) for _ in range(THREADS)]
        for each in sockets:
            each.sendall(request)
        size = len(sockets[0].recv(1 << 16))
        for each in sockets[1:]:
            each.recv(1 << 16)

        def drive(each: socket.socket, request: bytes = request, size: int = size) -> None:
            for _ in range(asked):
                each.sendall(request * batch)
                left = size * batch
                while left:
                    left -= len(each.recv(min(left, 1 << 20)))

        start = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(drive, sockets))
        found[name] = Sample(asked * batch * THREADS / (time.perf_counter() - start), 0.0)
        for each in sockets:
            each.close()
    return found


# ── the run ──


def start_turn(name: str, endpoint: str, count: int) -> dict[str, Sample]:
    environ = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
    environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    done = subprocess.run(
        [sys.executable, __file__, "--turn", name, "--endpoint", endpoint, "--count", str(count)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode:
        raise NotDone(f"a turn of {name} failed:\n{done.stderr}")
    return {kind: Sample(**values) for kind, values in json.loads(done.stdout).items()}


def run(rounds: int, scale: float) -> dict[str, dict[str, list[Sample]]]:
    """Samples by contestant and kind; each round begins with the next contestant."""
    samples: dict[str, dict[str, list[Sample]]] = {name: {} for name in COUNTS}
    names = list(COUNTS)
    with subprocess.Popen([sys.executable, str(HERE / "s3_double.py")], stdout=subprocess.PIPE, text=True) as double:
        try:
            assert double.stdout is not None
            endpoint = double.stdout.readline().strip()
            for number in range(rounds):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    found = start_turn(name, endpoint, int(COUNTS[name] * scale))
                    shown = (f"{kind} {one.per_second:,.0f}/s {one.cpu_ms:.3f} ms" for kind, one in found.items())
                    print(f"round {number + 1}  {name:6}  {'  '.join(shown)}", flush=True)
                    for kind, sample in found.items():
                        samples[name].setdefault(kind, []).append(sample)
        finally:
            double.kill()
    return samples


def report(samples: dict[str, dict[str, list[Sample]]]) -> bool:
    """Prints medians and verdicts; whether both claims are met."""

    def middle(name: str, kind: str) -> Any:
        found = samples[name].get(kind)
        return found and Sample(median(one.per_second for one in found), median(one.cpu_ms for one in found))

    print(f"\n{'median':14} {'ours':>24} {'boto3':>24} {'ratio':>7} {'the server alone':>18}")
    met = True
    for kind in samples["ours"]:
        ours, boto3, alone = (middle(name, kind) for name in ("ours", "boto3", "wire"))
        ratio = ours.per_second / boto3.per_second
        if kind == "open":
            print(f"{kind:14} {ours.cpu_ms:>21.0f} ms {boto3.cpu_ms:>21.0f} ms {ratio:>6.1f}×")
            continue
        shown = [f"{one.per_second:,.0f}/s, {one.cpu_ms:.3f} ms" for one in (ours, boto3)]
        limit = f"{alone.per_second:,.0f}/s" if alone else ""
        verdict = ""
        if kind in CLAIMED:
            met = met and ratio >= FACTOR
            verdict = f"   ≥ {FACTOR:g}×: {'PASS' if ratio >= FACTOR else 'FAIL'}"
        print(f"{kind:14} {shown[0]:>24} {shown[1]:>24} {ratio:>6.1f}× {limit:>18}{verdict}")
    return met


def versions() -> str:
    names = ("obstore", "boto3", "botocore", "urllib3")
    installed = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {installed}; {THREADS} threads, {SIZE} bytes"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--scale", type=float, default=1.0, help="times the number of objects")
    parser.add_argument("--json", type=Path, help="where to write every sample")
    parser.add_argument("--turn", choices=COUNTS, help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.turn:
        work = wire if given.turn == "wire" else functools.partial(turn, given.turn)
        found = work(given.endpoint, given.count)
        print(json.dumps({kind: asdict(sample) for kind, sample in found.items()}))
        return 0
    print(versions(), flush=True)
    try:
        samples = run(given.rounds, given.scale)
    except (NotDone, subprocess.TimeoutExpired, OSError) as error:
        print(f"NOT DONE: {error}", file=sys.stderr)
        return 2
    met = report(samples)
    if given.json:
        raw = {
            name: {kind: [asdict(one) for one in found] for kind, found in kinds.items()}
            for name, kinds in samples.items()
        }
        given.json.write_text(json.dumps({"versions": versions(), "samples": raw}, indent=1))
    if given.rounds < ROUNDS or given.scale < 1:
        print("NOT COMPARABLE: a partial run")
        return 3
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
