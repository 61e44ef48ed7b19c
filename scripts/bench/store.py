#!/usr/bin/env python3
"""What a small object costs through our S3 store, beside boto3, on one machine.

    store.py ─► s3_double.py, a process of its own ◄── turns: fresh processes, 16 threads each, rounds alternated

Each turn puts objects of 1 KB whose bytes nobody else has, puts them again where something must lie already, gets
all and compares every byte. Ours goes through the whole store (keys checked, conditions, retries), boto3 through one
client shared by the threads, with a connection for each and no checksums that the server does not ask for. Beside
them stands what the server takes from a bare socket: it must not be what is measured.
"""

import argparse
import json
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

from contest import NotDone, answered, asking, ends, left_by, served, taking_turns
from rows import OURS, Row, Samples, Target, compared

THREADS = 16
SIZE = 1_000
ROUNDS = 5
COUNTS = {OURS: 16_000, "boto3": 1_600, "wire": 40_000}
"""How many objects a turn has: for each enough for a second or more."""
QUICKER = (Target("≥", 10, "boto3"),)
ROWS = (
    Row("put", "5c", "PUT", "/s", 1, QUICKER),
    Row("put CPU", "", "… of the client's processor, each", "ms"),
    Row("put_new", "", "PUT of what is new", "/s"),
    Row("put_new, lost", "", "… where something lies", "/s"),
    Row("get", "5c", "GET", "/s", 1, QUICKER),
    Row("get CPU", "", "… of the client's processor, each", "ms"),
    Row("open", "", "client opened", "ms"),
)
LIMIT = 300
REGION = "us-east-1"


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


OPENERS = {OURS: open_ours, "boto3": open_boto3}


def measured(pool: ThreadPoolExecutor, count: int, one: Callable[[int], bool]) -> tuple[float, float]:
    """Calls a second, and ms of processor each, of `count` by all threads, of which each takes a stretch."""

    def stretch(thread: int) -> bool:
        return all(one(number) for number in range(thread, count, THREADS))

    usage, start = getrusage(RUSAGE_SELF), time.perf_counter()
    right = all(list(pool.map(stretch, range(THREADS))))
    seconds = time.perf_counter() - start
    after = getrusage(RUSAGE_SELF)
    if not right:
        raise NotDone("a wrong answer came back: a body that is not what was put, or a condition that did not hold")
    spent = after.ru_utime - usage.ru_utime + after.ru_stime - usage.ru_stime
    return count / seconds, spent / count * 1e3


def turn(name: str, endpoint: str, count: int) -> dict[str, float]:
    """All rows of one contestant."""
    if name == "wire":
        return wire(endpoint, count)
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
    speeds = {kind: per_second for kind, (per_second, _) in found.items()}
    return speeds | {f"{kind} CPU": found[kind][1] for kind in ("put", "get")} | {"open": opened * 1e3}


def wire(endpoint: str, count: int) -> dict[str, float]:
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
        found[name] = asked * batch * THREADS / (time.perf_counter() - start)
        for each in sockets:
            each.close()
    return found


# ── the run ──


def run(rounds: int, counts: dict[str, int]) -> Samples:
    """All rounds, each turn in a fresh process."""
    environ = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
    environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    samples: Samples = {row.name: {} for row in ROWS}
    with served(str(Path(__file__).with_name("s3_double.py"))) as endpoint:
        for name in taking_turns(list(counts), rounds):
            told = [__file__, f"--turn={name}", f"--endpoint={endpoint}", f"--count={counts[name]}"]
            for row, value in left_by(told, limit=LIMIT, env=environ).items():
                samples[row].setdefault(name, []).append([value])
    return samples


def main() -> int:
    parser = asking(__doc__, ROUNDS)
    parser.add_argument("--turn", choices=COUNTS, help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    asked = answered(parser, "obstore", "boto3", "botocore", "urllib3")
    if asked.turn:
        asked.json.write_text(json.dumps(turn(asked.turn, asked.endpoint, asked.count)))
        return 0
    counts = {name: count // 10 if asked.quick else count for name, count in COUNTS.items()}
    samples = run(asked.rounds, counts)
    note = f"{THREADS} threads, {SIZE} bytes; wire is what the server takes"
    return compared(asked, samples, ROWS, list(COUNTS), note=note)


if __name__ == "__main__":
    ends(main)
