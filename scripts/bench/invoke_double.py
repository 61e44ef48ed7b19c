"""A canned Lambda: answers Invokes over TLS as the service and our workers would, and runs nobody's code.

    Invoke {"call": …}                    ─► the Call decoded ─► twice each argument, signed ─► {"outcomes": […]}
           {"call": …, "reply": "store"}  ─► 202, and later the same put into the store
           {"start": […]}                 ─► each entry started as a starter's own Invokes would, some time later
           {"number": n}                  ─► {"number": 2n}: what a rival asks for, in the lightest way there is
           {"call_ids": […]}              ─► 202: Lithops, which looks for its results elsewhere

Its workers are canned: one "starts" a round trip and a cold start after its Invoke left, ends at once, and costs no
processor here but its own. What is real is the transport: TLS, HTTP/1.1, keep-alive, signed requests (the presence of a
signature is checked, not the signature). With `ramp`, each function has so many environments at once, and as many more
every ten seconds; nothing is refused, starts wait, as those of asynchronous Invokes do.

Run as a program, it serves from several processes that share a port, prints that, and ends with its standard input.
"""

import asyncio
import base64
import json
import multiprocessing
import re
import socket
import ssl
import sys
import time
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pywren_runtime.pickling import dumps_plain, loads
from pywren_runtime.stores import Store, open_store
from pywren_runtime.wire import STATS, Call, Head, Outcome, Signer, Status, outcome_key

__all__ = ["FIGURES", "Canned"]

FIGURES = ("invokes", "tasks", "accepted", "started", "starters", "unsigned", "first", "last")  # the last two: clocks
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
LATER = re.compile(rb"\r\nx-amz-invocation-type: *event\r", re.I)
INVOKED = re.compile(r"/2015-03-31/functions/([^/]+)/invocations")
NO_STATS = STATS.pack(*[0.0] * 6, 0, 0, False)


@dataclass(frozen=True, slots=True)
class Canned:
    """What it is told to be."""

    certificate: str  # a PEM file with key and chain
    key: str  # of the signatures, in hex
    store: str = ""  # where asynchronous outcomes go
    processes: int = 2
    round_trip: float = 0.0  # seconds
    cold: float = 0.0  # seconds that an environment takes to start
    ramp: int = 0  # environments of one function at once, and more every ten seconds; 0: no limit
    concurrency: int = 1000
    connections: int = 32  # on which a starter starts its share


class Ramp:
    """When new environments of one function can start: `size` now, then as many more every ten seconds."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._full = 0.0  # when the allowance would be whole again

    def next(self, now: float) -> float:
        """The time at which one more starts."""
        if not self._size:
            return now
        start = max(now, self._full - 10.0)
        self._full = max(self._full, now) + 10.0 / self._size
        return start


class Lambda:
    """One process's share of the service."""

    def __init__(self, canned: Canned, figures: Any, place: int) -> None:
        self._canned = canned
        self._figures = figures
        self._place = place * len(FIGURES)
        self._signer = Signer(bytes.fromhex(canned.key))
        self._store: Store | None = open_store(canned.store) if canned.store else None
        self._ramps: dict[str, Ramp] = {}
        self._loop = asyncio.get_running_loop()

    def answer(self, target: str, head: bytes, body: bytes) -> tuple[int, bytes, float]:
        """Status, body, and after how many seconds."""
        if target == "/canned":
            return 200, json.dumps(self._sums()).encode(), 0.0
        trip = self._canned.round_trip
        if b"AWS4-HMAC-SHA256 Credential=" not in head:
            self._count("unsigned")
            return 403, b'{"message":"Missing Authentication Token"}', trip
        if target.startswith("/2016-08-19/account-settings"):
            return 200, json.dumps({"AccountLimit": {"ConcurrentExecutions": self._canned.concurrency}}).encode(), trip
        invoked = INVOKED.match(target)
        if not invoked:
            return 404, b'{"message":"a canned Lambda knows Invoke and nothing else"}', trip
        self._count("invokes")
        return self._invoked(invoked[1], json.loads(body), LATER.search(head) is not None, trip)

    def _invoked(self, function: str, event: dict[str, Any], later: bool, trip: float) -> tuple[int, bytes, float]:
        if later:
            self._count("accepted")
            self._start(function, event, time.monotonic() + trip / 2)
            return 202, b"", trip
        if "start" in event:
            begins = self._environment(function, time.monotonic() + trip / 2)
            ends = self._start_share(event["start"], begins)
            done = json.dumps({"started": len(event["start"]), "failed": []}).encode()
            return 200, done, ends - time.monotonic() + trip / 2
        if "number" in event:
            return 200, b'{"number":%d}' % (2 * event["number"]), trip
        outcomes = [base64.b64encode(frame).decode() for _, frame in self._run(event["call"])]
        return 200, json.dumps({"outcomes": outcomes}).encode(), trip

    def _start_share(self, entries: list[dict[str, Any]], begins: float) -> float:
        """What a starter would do: connect, then a round trip for each, on several connections. When it is done."""
        self._count("starters")
        trip, lanes = self._canned.round_trip, self._canned.connections
        ready = begins + 2 * trip  # TCP and TLS
        for number, entry in enumerate(entries):
            sent = ready + number // lanes * trip
            self._loop.call_at(sent, self._start, entry["function"], entry["event"], sent + trip / 2)
        return ready + -(-len(entries) // lanes) * trip

    def _environment(self, function: str, now: float) -> float:
        """When a new environment is ready."""
        ramp = self._ramps.setdefault(function, Ramp(self._canned.ramp))
        return ramp.next(now) + self._canned.cold

    def _start(self, function: str, event: dict[str, Any], arrives: float) -> None:
        self._loop.call_at(self._environment(function, arrives), self._started, event)

    def _started(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        self._count("started")
        first, last = self._place + FIGURES.index("first"), self._place + FIGURES.index("last")
        self._figures[first] = min(self._figures[first] or now, now)
        self._figures[last] = max(self._figures[last], now)
        if event.get("reply") == "store" and self._store is not None:
            for key, frame in self._run(event["call"]):
                self._store.put_new(key, frame)

    def _run(self, call: str) -> list[tuple[str, bytes]]:
        """Keys and signed frames of the outcomes: twice each task's argument."""
        decoded = Call.decode(self._signer.open(b"call", base64.b64decode(call)))
        head, outcomes = _head(decoded.head), []
        self._count("tasks", len(decoded.tasks))
        for task in decoded.tasks:
            args, _ = loads(task.arguments, _no_fetch)
            payload = dumps_plain(args[0] * 2)
            outcome = Outcome(head.job, task.index, task.round, task.attempt, Status.PLAIN, payload, b"", NO_STATS)
            key = outcome_key(head.job, task.index, task.round)
            outcomes.append((key, self._signer.seal(b"outcome", outcome.encode())))
        return outcomes

    def _count(self, name: str, by: int = 1) -> None:
        self._figures[self._place + FIGURES.index(name)] += by

    def _sums(self) -> dict[str, float]:
        """Over all processes; each writes only its own share."""
        shares = [self._figures[at : at + len(FIGURES)] for at in range(0, len(self._figures), len(FIGURES))]
        sums = {name: sum(share[at] for share in shares) for at, name in enumerate(FIGURES)}
        first = [share[FIGURES.index("first")] for share in shares if share[FIGURES.index("first")]]
        return sums | {"first": min(first, default=0.0), "last": max(share[FIGURES.index("last")] for share in shares)}


@lru_cache(64)
def _head(encoded: bytes) -> Head:
    return Head.decode(encoded)


def _no_fetch(ref: object) -> bytes:
    raise ValueError(f"a canned worker fetches nothing, and was given {ref!r}")


class Connection(asyncio.Protocol):
    """One client's: requests one after the other."""

    def __init__(self, service: Lambda) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        data = self._held + data if self._held else data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[: end + 2]
            found = LENGTH.search(head)
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(data) < whole:
                break
            self._answer(head, data[end + 4 : whole])
            data = data[whole:]
        self._held = data

    def _answer(self, head: bytes, body: bytes) -> None:
        target = head.split(b" ", 2)[1].decode("latin-1")
        status, answer, pause = self._service.answer(target, head, body)
        whole = (
            b"HTTP/1.1 %d -\r\nContent-Type: application/json\r\nx-amzn-RequestId: %b\r\nContent-Length: %d\r\n\r\n%b"
        )
        sent = whole % (status, str(uuid.uuid4()).encode(), len(answer), answer)
        if pause > 0:
            self._loop.call_later(pause, self._transport.write, sent)
        else:
            self._transport.write(sent)


async def _serve(canned: Canned, port: int, figures: Any, place: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(canned.certificate)
    service = Lambda(canned, figures, place)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(service), "127.0.0.1", port, ssl=context, reuse_port=True, backlog=4096
    )
    await server.serve_forever()


def _process(canned: Canned, port: int, figures: Any, place: int) -> None:
    asyncio.run(_serve(canned, port, figures, place))


def main() -> None:
    """Serves until standard input ends; its argument is a Canned as JSON."""
    canned = Canned(**json.loads(sys.argv[1]))
    fork = multiprocessing.get_context("fork")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))  # and never listens: it keeps the port for those that do
        port = taken.getsockname()[1]
        figures = fork.RawArray("d", canned.processes * len(FIGURES))
        shares = [
            fork.Process(target=_process, args=(canned, port, figures, place), daemon=True)
            for place in range(canned.processes)
        ]
        for share in shares:
            share.start()
        print(port, flush=True)
        sys.stdin.read()
        for share in shares:
            share.kill()


if __name__ == "__main__":
    main()
