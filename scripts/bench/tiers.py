#!/usr/bin/env python3
"""Where a sort's intermediate data lies: in a folder, on S3 (ministack), in Redis; 16 and 64 splits and partitions.

    files ──► partition ──► folder · S3 · Redis ──► merge ──► files        4 workers, all on this machine

Input and output are files for each tier, so that only what lies in between differs. A turn is a whole sort by workers
that were warmed up, in rounds that begin with another tier each time; the figure is the median. The order of what comes
out, and every byte, is checked by `sortcheck.py`, and Redis's requests are counted at the server. CPU is that of driver
and workers, and beside it that of the server.

`client` reads ranges of one large value by 16 requests in flight, by our store and by bare redis-py with hiredis: once
each thread of sixteen asks for one, as a sort does, and once one thread for all of them.

No server here is as fast as AWS's: what can be learnt is what each tier costs the client, and that Redis is not slower.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from statistics import median
from typing import Any

import sortcheck
import sortgen
from contest import NotDone, Verdict, answered, asking, chosen, concluded, ends, played, scratch, taking_turns

WORKERS = 4
ROUNDS = 3
SIZE = 128 << 20  # bytes that are sorted
RECORDS = SIZE // sortgen.RECORD
TIERS = ("folder", "s3", "redis")
SPLITS = (16, 64)
MEMORY = 256.0  # MB for a worker
FIXED = "fixed:100:10"
PATIENCE = 30.0
LIMIT = 120  # seconds for one turn of a client
KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_REGION": "us-east-1"}
BLOCKS = (64 << 10, 1 << 20, 8 << 20)
AT_ONCE = 16
SHAPES = ("threads", "pipeline")
VALUE = 64 << 20
READ = 512 << 20  # bytes for each size of a block
SAME = 0.9  # of the rival's bytes a second, at least


class Server:
    """A process on a free port."""

    def __init__(self, command: Callable[[int], list[str]], environ: dict[str, str], folder: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        variables = os.environ | {name: text.format(port=self.port) for name, text in environ.items()}
        with open(os.path.join(folder, "log"), "w") as log:
            self.process = subprocess.Popen(
                command(self.port), env=variables, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise NotDone(f"{self.process.args} does not come up: {error}") from error
                time.sleep(0.02)

    def cpu(self) -> float:
        """Seconds that it has used."""
        import psutil

        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def redis_server(port: int) -> list[str]:
    program = shutil.which("redis-server")
    if program is None:
        raise NotDone("there is no redis-server here: install Debian's redis-server, or your system's")
    return [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


@contextmanager
def servers() -> Iterator[dict[str, Server]]:
    """S3 and Redis."""
    quiet = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": "{port}", "SERVICES": "s3", "LOG_LEVEL": "ERROR"}
    quiet |= {"IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0", "S3_PERSIST": "0"}
    with ExitStack() as stack:
        found = {}
        for name, command, environ in (
            ("s3", lambda port: [sys.executable, "-m", "ministack"], quiet),
            ("redis", redis_server, {}),
        ):
            found[name] = Server(command, environ, stack.enter_context(tempfile.TemporaryDirectory()))
            stack.callback(found[name].close)
        bucket = urllib.request.Request(f"http://127.0.0.1:{found['s3'].port}/bench", method="PUT")
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(bucket, timeout=PATIENCE)
        yield found


# ── a sort ──


def place_of(tier: str, server: Server | None) -> str | None:
    if server is None:
        return None
    endpoint = f"127.0.0.1:{server.port}"
    return f"redis://{endpoint}/0" if tier == "redis" else f"s3://bench/between?endpoint=http://{endpoint}"


def turn(pool: Any, folder: Path, tier: str, server: Server | None, splits: int) -> dict[str, Any]:
    """One sort, checked; what it took."""
    from pywren_shuffle.sort import sort

    out = folder / "out"
    shape = {"partitions": splits, "splits": splits, "levels": 1, "memory": MEMORY}
    before, own, served = commands(tier, server), cpu(), server.cpu() if server else 0.0
    begun = time.monotonic()
    result = sort(
        pool,
        str(folder / "in" / "*"),
        str(out),
        records=FIXED,
        intermediate=place_of(tier, server),
        hedging=False,
        **shape,
    )
    seconds = time.monotonic() - begun
    busy, served = cpu() - own, (server.cpu() if server else 0.0) - served
    asked = {kind: number - before.get(kind, 0) for kind, number in commands(tier, server).items()}
    if result.notices or result.splits != splits:
        raise NotDone(f"{result.splits} splits; the sort says: {result.notices}")
    found = sortcheck.joined(sortcheck.summary_of(Path(part).read_bytes()) for part in result.parts)
    sortcheck.check(found, sortcheck.summary_of((folder / "in" / "all.dat").read_bytes()), stable=True)
    shutil.rmtree(out)
    return {
        "seconds": seconds,
        "bytes_per_second": 2 * SIZE / seconds,  # written and read between the phases
        "cpu": busy,
        "server_cpu": served,
        "requests": result.requests,
        "at_server": asked,
    }


def cpu() -> float:
    """Seconds that this process and its live and dead workers have used."""
    import psutil

    own, gone = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    found = own.ru_utime + own.ru_stime + gone.ru_utime + gone.ru_stime
    for child in psutil.Process().children(recursive=True):
        if "pywren_runtime" in " ".join(child.cmdline()):
            times = child.cpu_times()
            found += times.user + times.system
    return found


def commands(tier: str, server: Server | None) -> dict[str, int]:
    """How often Redis has been asked for what; S3 does not say."""
    if tier != "redis" or server is None:
        return {}
    said = told_by(server, "INFO", "commandstats")
    return {name.upper(): int(calls) for name, calls in re.findall(r"cmdstat_(\w+):calls=(\d+)", said)}


def told_by(server: Server, *command: str) -> str:
    """What Redis answers."""
    return played(["redis-cli", "-p", str(server.port), *command], limit=PATIENCE).strip()


Turns = dict[str, dict[str, list[dict[str, Any]]]]


def sorts(rounds: int) -> tuple[Turns, list[str], Verdict]:
    """All samples by number of splits and tier, their medians in words, and what is not as it should be."""
    from pywren_ng import Executor

    samples: Turns = {str(splits): {tier: [] for tier in TIERS} for splits in SPLITS}
    with servers() as found, scratch() as folder, Executor("local", max_workers=WORKERS) as pool:
        (folder / "in").mkdir()
        (folder / "in" / "all.dat").write_bytes(sortgen.records("uniform", 0, RECORDS))
        for tier in TIERS:  # everybody's first sort makes connections and imports
            turn(pool, folder, tier, found.get(tier), SPLITS[0])
        for splits in SPLITS:
            for tier in taking_turns(TIERS, rounds, f"P={splits}, "):
                samples[str(splits)][tier].append(turn(pool, folder, tier, found.get(tier), splits))
        left = told_by(found["redis"], "DBSIZE")
    wrong = [] if left == "0" else [f"{left} keys are left in Redis"]
    for of_tier in samples.values():
        for one in of_tier["redis"]:
            said, asked = one["requests"], one["at_server"]
            if (said["PutObject"], said["GetRange"]) != (asked["SET"], asked["GETRANGE"]):
                wrong.append(f"the result says {said}, Redis {asked}")
    verdict = ("sorts", "; ".join(wrong) or "all values right, requests as Redis counts them", not wrong)
    return samples, [*said_of(samples)], verdict


def said_of(samples: Turns) -> Iterator[str]:
    for splits, of_tier in samples.items():
        for tier, turns in of_tier.items():
            middle = {name: median(one[name] for one in turns) for name in ("seconds", "cpu", "server_cpu")}
            asked = turns[0]["requests"]
            yield (
                f"P={splits:3} {tier:7} {middle['seconds']:6.2f} s {2 * SIZE / middle['seconds'] / 1e6:6.0f} MB/s"
                f"  CPU {middle['cpu']:5.2f} s + server {middle['server_cpu']:5.2f} s"
                f"  {asked.get('PutObject', 0):4} PUT {asked.get('GetRange', 0):6,} ranges"
            )


# ── the client ──


def clients(rounds: int) -> tuple[dict[str, dict[str, list[float]]], list[str], Verdict]:
    """Bytes a second by client, shape and size of a block, their medians in words, and whether ours is as fast."""
    samples: dict[str, dict[str, list[float]]] = {"ours": {}, "redis-py": {}}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(redis_server, {}, folder)
        try:
            for who in taking_turns(list(samples), rounds, "client, "):
                code = f"import tiers; tiers.read_all({who!r}, {server.port})"
                said = played([sys.executable, "-c", code], limit=LIMIT, cwd=Path(__file__).parent)
                for way, speed in json.loads(said).items():
                    samples[who].setdefault(way, []).append(speed)
        finally:
            server.close()
    lines, is_met = [], True
    for way in samples["ours"]:
        own, other = (median(samples[who][way]) for who in samples)
        is_met = is_met and own >= SAME * other
        lines.append(
            f"client {way:>17}  ours {own / 1e9:5.2f} GB/s, redis-py with hiredis {other / 1e9:5.2f}"
            f" ({own / other:.2f}×)"
        )
    return samples, lines, ("client", f"ours at least {SAME} times as fast as redis-py with hiredis", is_met)


def read_all(who: str, port: int) -> None:
    """In a process of its own: ranges of one value, 16 in flight; prints bytes a second for each shape and size."""
    data = os.urandom(1 << 20) * (VALUE >> 20)
    one, many = own_client(port, data) if who == "ours" else rival(port, data)
    found = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for block in BLOCKS:
            starts = [at % VALUE for at in range(0, READ, block)]
            together = [starts[at : at + AT_ONCE] for at in range(0, len(starts), AT_ONCE)]

            def checked(start: int, got: bytes, block: int = block) -> None:
                if len(got) != block or got[:64] != data[start : start + 64]:
                    raise NotDone("what was read is not what was written")

            def by_threads(starts: list[int], block: int = block) -> None:
                list(pool.map(lambda start: checked(start, one(start, block)), starts))

            def by_one(starts: list[int], block: int = block) -> None:
                list(map(checked, starts, many(starts, block)))

            for shape, read, batches in zip(SHAPES, (by_threads, by_one), ([starts], together), strict=True):
                read(together[0])
                begun = time.perf_counter()
                for batch in batches:
                    read(batch)
                found[f"{shape} {block >> 10} KiB"] = READ / (time.perf_counter() - begun)
    print(json.dumps(found))


One = Callable[[int, int], bytes]
Many = Callable[[list[int], int], list[bytes]]


def own_client(port: int, data: bytes) -> tuple[One, Many]:
    from pywren_runtime.stores.redis_faults import Patience
    from pywren_runtime.stores.redis_links import Links, Unit
    from pywren_runtime.stores.redis_settings import parse
    from pywren_runtime.stores.redis_store import RedisStore

    url = f"redis://127.0.0.1:{port}"
    store, links = RedisStore(url), Links(parse(url), Patience())
    store.put("value", data)

    def many(starts: list[int], block: int) -> list[bytes]:
        asked = [(b"GETRANGE", b"value", b"%d" % start, b"%d" % (start + block - 1)) for start in starts]
        return [got for (got,) in links.ask([Unit([command], b"value") for command in asked], "read")]

    return lambda start, block: store.get_range("value", start, block), many


def rival(port: int, data: bytes) -> tuple[One, Many]:
    import hiredis  # noqa: F401 - without it redis-py is half as fast
    import redis

    client = redis.Redis(port=port)
    client.set("value", data)

    def many(starts: list[int], block: int) -> list[bytes]:
        pipeline = client.pipeline(transaction=False)
        for start in starts:
            pipeline.getrange("value", start, start + block - 1)
        found: list[bytes] = pipeline.execute()
        return found

    return lambda start, block: client.getrange("value", start, start + block - 1), many


SECTIONS: dict[str, Callable[[int], tuple[Any, list[str], Verdict]]] = {"sorts": sorts, "client": clients}


def main() -> int:
    parser = asking(__doc__, ROUNDS)
    parser.add_argument("section", nargs="*", metavar="SECTION", help=f"some of {', '.join(SECTIONS)}")
    asked = answered(parser, "numpy", "ministack", "redis", "hiredis", "obstore")
    os.environ.update(KEYS)
    asked.versions["redis-server"] = played([redis_server(0)[0], "--version"], limit=PATIENCE).strip()
    samples, lines, verdicts = {}, [], []
    for name in chosen(",".join(asked.section), SECTIONS):
        samples[name], said, verdict = SECTIONS[name](asked.rounds)
        lines += said
        verdicts.append(verdict)
    return concluded(asked, verdicts, lines=lines, **samples)


if __name__ == "__main__":
    ends(main)
