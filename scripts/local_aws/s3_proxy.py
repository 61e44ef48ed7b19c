"""Stands before an S3 server, counts every request, and injects the faults that it is told to.

    client ─► read_request ─► answer ─┬► log: who asked for what         ┌► upstream ─┐
                                      └► rules: is this one to be hit? ──┤            ├─► write_answer ─► client
                                                                         └► a fault ──┘
    control: /_proxy/counts  /_proxy/log  /_proxy/faults  /_proxy/rates

Embedded, `await proxy.answer(request, upstream)` gives an Answer to write, or raises `Cut` where the connection is to
be reset; `proxy.control` answers what is asked below /_proxy. Alone, it is a server on the loopback interface:

    python -m local_aws.s3_proxy --upstream http://127.0.0.1:4566 --port 0

    GET    /_proxy/counts?key=REGEX&bucket=…&access_key=…&agent=…   sums over what fits; without a query, over all
    DELETE /_proxy/counts                                           from zero again; rules keep their counters
    GET    /_proxy/log?…                                            each request that fits
    POST   /_proxy/faults   {"kind": "PutObject", "fault": "503", "fraction": 0.05, "seed": 1}
    GET    /_proxy/faults   DELETE /_proxy/faults                   each rule with what it injected; none any more
    POST   /_proxy/rates    {"puts": 35, "gets": 55, "bandwidth": 750000}     a slow store, see s3_rates
    GET    /_proxy/rates    DELETE /_proxy/rates                    what it is held to; as fast as it can be again

What the proxy itself does wrong shows: an upstream out of reach is a 502 whose text says so.
"""

import argparse
import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .s3_rates import BadRates, Rates, rates_of
from .s3_requests import Answer, Asked, Cut, Request, asked_of
from .s3_rules import FAULTS, BadRule, Rule, rule_of
from .s3_wire import BadRequest, Upstreams, read_request, reset, write_answer

__all__ = ["LARGEST", "PREFIX", "S3Proxy", "Seen", "serve"]

PREFIX = "/_proxy/"
LARGEST = 64 * 1024 * 1024  # bytes of one request's body
LOGGED = 1_000_000
FILTERS = ("key", "bucket", "access_key", "agent", "kind")

Place = tuple[str, int]


@dataclass(slots=True)
class Seen:
    """One request as the log has it; bytes out and status follow as the answer leaves, 0 is no answer."""

    asked: Asked
    bytes_in: int
    bytes_out: int = 0
    status: int = 0
    fault: str = ""

    def shown(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self.asked) | {
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "status": self.status,
            "fault": self.fault,
        }


class S3Proxy:
    """Counts, and injects faults by rules; belongs to one event loop, holds connections to upstream until `close`.

    A request is in the log before any of it goes on, so whoever has an answer finds it counted.
    """

    def __init__(self) -> None:
        self._upstreams = Upstreams()
        self._log: list[Seen] = []
        self._unlogged = 0
        self._rules: list[Rule] = []
        self._rates: Rates | None = None
        self._numbers = 0

    async def answer(self, request: Request, upstream: Place) -> Answer:
        """Upstream's answer or the fault's; Cut, at once or within the body, means: reset the client's connection.

        Cancelling this, or the iteration over the body, lets upstream go. A `silence` returns only in a Cut, after
        the rule's seconds.
        """
        seen = Seen(asked_of(request), len(request.body))
        self._keep(seen)
        if self._rates is not None:
            await self._rates.admit(request.method, seen.asked.access_key, len(request.body))
        rule = next((rule for rule in self._rules if rule.strike(seen.asked)), None)
        if rule is None:
            return self._counted(seen, await self._forwarded(request, upstream))
        seen.fault = rule.fault
        if rule.fault == "slow":
            await asyncio.sleep(rule.seconds)
        answer = await self._forwarded(request, upstream) if rule.forward else None
        if answer is not None and rule.fault == "slow":
            return self._counted(seen, answer)
        if answer is not None and rule.fault == "truncate" and answer.size != 0 and request.method != "HEAD":
            return self._counted(seen, await _halved(answer))
        if answer is not None:
            await _read(answer)  # upstream is done before the client sees the end of it
        if rule.fault == "silence":
            await asyncio.sleep(rule.seconds)
        status, code, _ = FAULTS[rule.fault]
        if not status:
            raise Cut(rule.fault)
        return self._counted(seen, _error(request, status, code, f"injected by rule {rule.number}"))

    def control(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and JSON for what is asked below /_proxy."""
        path, _, query = target.partition("?")
        words = dict(parse_qsl(query))
        try:
            match method, path.removeprefix(PREFIX):
                case "GET", "counts":
                    return _json(200, self.counts(**_filters(words)))
                case "DELETE", "counts":
                    self._log.clear()
                    self._unlogged = 0
                    return _json(200, {})
                case "GET", "log":
                    return _json(200, [seen.shown() for seen in self._fitting(_filters(words))])
                case "GET", "faults":
                    return _json(200, [rule.shown() for rule in self._rules])
                case "POST", "faults":
                    return _json(200, self.inject(json.loads(body)).shown())
                case "DELETE", "faults":
                    self._rules.clear()
                    return _json(200, {})
                case "GET", "rates":
                    return _json(200, self._rates.shown() if self._rates else {})
                case "POST", "rates":
                    self._rates = rates_of(json.loads(body))
                    return _json(200, self._rates.shown())
                case "DELETE", "rates":
                    self._rates = None
                    return _json(200, {})
        except (BadRates, BadRule, TypeError, ValueError, re.error) as bad:
            return _json(400, {"error": str(bad)})
        return _json(404, {"error": f"{method} {path}: there are counts, log, faults and rates below {PREFIX}"})

    def inject(self, wish: dict[str, Any]) -> Rule:
        """Adds a rule, which has its say after those before it; BadRule if it makes no sense."""
        self._numbers += 1
        rule = rule_of(self._numbers, wish)
        self._rules.append(rule)
        return rule

    def counts(self, **filters: str) -> dict[str, Any]:
        """Requests by kind, by client and by client and kind, with bytes and answers, of those that fit."""
        kinds: Counter[str] = Counter()
        statuses: Counter[str] = Counter()
        faults: Counter[str] = Counter()
        clients: dict[tuple[str, str], Counter[str]] = {}
        total = {"requests": 0, "bytes_in": 0, "bytes_out": 0}
        for seen in self._fitting(filters):
            kinds[seen.asked.kind] += 1
            statuses[str(seen.status)] += 1
            clients.setdefault((seen.asked.access_key, seen.asked.agent), Counter())[seen.asked.kind] += 1
            if seen.fault:
                faults[seen.fault] += 1
            total["requests"] += 1
            total["bytes_in"] += seen.bytes_in
            total["bytes_out"] += seen.bytes_out
        who = [{"access_key": key, "agent": agent, "kinds": of_one} for (key, agent), of_one in clients.items()]
        shown = {"kinds": kinds, "statuses": statuses, "faults": faults, "clients": who, "unlogged": self._unlogged}
        return total | shown

    def close(self) -> None:
        """Lets upstream go."""
        self._upstreams.close()

    def _keep(self, seen: Seen) -> None:
        if len(self._log) < LOGGED:
            self._log.append(seen)
        else:
            self._unlogged += 1

    def _fitting(self, filters: dict[str, str]) -> Iterator[Seen]:
        patterns = [(name, re.compile(pattern)) for name, pattern in filters.items()]
        for seen in self._log:
            if all(pattern.search(getattr(seen.asked, name)) for name, pattern in patterns):
                yield seen

    async def _forwarded(self, request: Request, upstream: Place) -> Answer:
        try:
            return await self._upstreams.send(request, upstream)
        except OSError as failed:
            text = f"the proxy cannot reach S3 at {upstream[0]}:{upstream[1]}: {failed}"
            return _error(request, 502, "BadGateway", text)

    def _counted(self, seen: Seen, answer: Answer) -> Answer:
        seen.status = answer.status
        body = answer.body if self._rates is None else self._rates.paced(seen.asked.access_key, answer.body)
        return Answer(answer.status, answer.reason, answer.headers, _counting(seen, body), answer.size)


async def _counting(seen: Seen, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async for piece in body:
        seen.bytes_out += len(piece)
        yield piece


async def _read(answer: Answer) -> bytes:
    return b"".join([piece async for piece in answer.body])


async def _halved(answer: Answer) -> Answer:
    """The same promise of a length, and a cut after half of it."""
    whole = await _read(answer)

    async def half() -> AsyncGenerator[bytes, None]:
        yield whole[: len(whole) // 2]
        raise Cut("truncate")

    return Answer(answer.status, answer.reason, answer.headers, half(), answer.size)


def _error(request: Request, status: int, code: str, text: str) -> Answer:
    inner = f"<Code>{code}</Code><Message>{text}</Message>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'.encode()

    async def whole() -> AsyncGenerator[bytes, None]:
        if request.method != "HEAD":
            yield body

    reason = re.sub(r"(?<!^)(?=[A-Z])", " ", code)
    return Answer(status, reason, [("Content-Type", "application/xml")], whole(), len(body))


def _filters(words: dict[str, str]) -> dict[str, str]:
    if unknown := sorted(words.keys() - set(FILTERS)):
        raise BadRule(f"{', '.join(unknown)}: there are {', '.join(FILTERS)}")
    return words


def _json(status: int, value: object) -> tuple[int, bytes]:
    return status, json.dumps(value).encode()


# Alone.


async def serve(proxy: S3Proxy, upstream: Place, *, port: int = 0) -> asyncio.Server:
    """Serves the proxy on 127.0.0.1; the port is in `sockets`."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _one(proxy, upstream, reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        except Cut:
            reset(writer)
        finally:
            writer.close()

    return await asyncio.start_server(connected, "127.0.0.1", port, limit=256 * 1024, backlog=1024)


async def _one(proxy: S3Proxy, upstream: Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """One request of a connection; whether there may be another."""
    try:
        request = await read_request(reader, writer, LARGEST)
    except BadRequest as bad:
        request = Request("GET", "/", [])
        await write_answer(writer, request, _error(request, bad.status, "InvalidRequest", bad.text), keep=False)
        return False
    if request is None:
        return False
    if request.target.startswith(PREFIX):
        status, body = proxy.control(request.method, request.target, request.body)
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True
    answer = await proxy.answer(request, upstream)
    return await write_answer(writer, request, answer, keep=request.header("connection").lower() != "close")


async def _main(upstream: Place, port: int) -> None:
    proxy = S3Proxy()
    server = await serve(proxy, upstream, port=port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> int:
    """Serves until it is ended; the first line of its output is its address."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upstream", required=True, metavar="URL", help="http://host:port of the S3 server")
    parser.add_argument("--port", type=int, default=0, help="default: a free one, printed")
    asked = parser.parse_args()
    place = urlsplit(asked.upstream)
    if place.scheme != "http" or not place.hostname:
        parser.error(f"--upstream {asked.upstream}: only http://host:port is spoken")
    try:
        asyncio.run(_main((place.hostname, place.port or 80), asked.port))
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
