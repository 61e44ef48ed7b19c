"""A worker that starts workers: one Invoke carries many Calls, and each is invoked from here, asynchronously.

    {"start": [{"function": name, "event": {…}}, …]} ──► Invoker ─┬► 202 ─────────────────────► started
                     ▲                                            ├► 429, 5xx, no answer ─► later, until the end is near
                     └── the job's stop marker: then none ────────┴► anything else ───────────► failed

An Invoke of which nobody knows whether it arrived is sent again: whatever runs twice, the first outcome counts.
"""

import heapq
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from pywren_runtime.errors import ConfigError
from pywren_runtime.invoker import Answer, Invoker

PAUSE: Final = 0.2  # seconds before the second attempt; doubles with each
LONGEST: Final = 5.0
SILENCE: Final = 10.0  # seconds after which an Invoke without an answer is sent again


def entries_of(event: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Functions, and what each is to be given. ConfigError if one would start others in its turn."""
    entries = []
    try:
        if not isinstance(event["start"], list):
            raise TypeError("it is no list")
        for entry in event["start"]:
            if "start" in entry["event"]:
                raise ConfigError(
                    "a worker that was started by a worker cannot start others: a tree of Invokes has two levels, or "
                    "it could grow without end; nothing was started"
                )
            entries.append((str(entry["function"]), json.dumps(entry["event"]).encode()))
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"what is to be started could not be read ({error!r}); whoever invokes this function should be pywren-ng, "
            "of the release that deployed it"
        ) from error
    return entries


def start(
    entries: Sequence[tuple[str, bytes]],
    invoker: Invoker,
    *,
    until: float,  # of the monotonic clock
    is_stopped: Callable[[], bool],
    every: float,  # seconds between two looks whether the job was cancelled
    scale: float = 1.0,
) -> dict[str, Any]:
    """Invoke each; how many were, and the places of those that were not."""
    left = set(range(len(entries)))
    tries = [0] * len(entries)
    due = [(0.0, place) for place in left]
    look = 0.0
    while left and (now := time.monotonic()) < until:
        if now >= look:
            if is_stopped():
                break
            look = now + every
        while due and due[0][0] <= now:
            place = heapq.heappop(due)[1]
            function, body = entries[place]
            invoker.send(place, function, body, event=True, silence=max(SILENCE * scale, 1.0))
        soonest = min(until, look, due[0][0] if due else until)
        for answer in invoker.collect(invoker.wait(max(0.0, soonest - now))):
            place = cast(int, answer.tag)
            if not answer.fault and answer.status == 202:
                left.discard(place)
            elif _is_final(answer):
                heapq.heappush(due, (until, place))  # it would be the same again
            else:
                tries[place] += 1
                pause = min(LONGEST, PAUSE * 2 ** tries[place]) * random.uniform(0.5, 1.0) * scale
                heapq.heappush(due, (time.monotonic() + pause, place))
        if len(due) == len(left) and all(at >= until for at, _ in due):
            break
    return {"started": len(entries) - len(left), "failed": sorted(left)}


def _is_final(answer: Answer) -> bool:
    """Whether it would be the same again."""
    if answer.fault:
        return answer.fault in ("tls", "proxy", "credentials")
    return answer.status < 500 and answer.status not in (409, 429)
