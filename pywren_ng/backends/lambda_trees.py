"""Workers that start workers: many Calls go out at once through a few that each start their share. Pure.

client ──► √n starters ──► √n Calls each        two levels, and never a third
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from pywren_ng.backends.lambda_flights import Flight
from pywren_runtime.invoker import Answer
from pywren_runtime.wire import stop_key

LEAST = 512  # Calls at once from which on it is quicker than to start each from here
ROOM = 5_000_000  # bytes that one starter is handed

Load = tuple[Flight, bytes]  # a flight, and the body of its Invoke


def share(loads: Sequence[Load]) -> list[list[Load]]:
    """The loads of each starter."""
    size = math.ceil(math.sqrt(len(loads)))
    groups: list[list[Load]] = [[]]
    held = 0
    for load in loads:
        if groups[-1] and (len(groups[-1]) >= size or held + len(load[1]) > ROOM):
            groups.append([])
            held = 0
        groups[-1].append(load)
        held += len(load[1]) + 100
    return groups


def starter(group: Sequence[Load]) -> bytes:
    """The body of a starter's Invoke."""
    entries = b",".join(b'{"function":"%b","event":%b}' % (flight.function.encode(), body) for flight, body in group)
    return b'{"start":[%b],"stop_key":"%b"}' % (entries, stop_key(group[0][0].job).encode())


def failed(answer: Answer, size: int) -> set[int]:
    """Which of its share a starter could not start; all of it, if it does not say."""
    if answer.status != 200 or "x-amz-function-error" in answer.headers:
        return set(range(size))
    try:
        told: Any = json.loads(answer.body)
        left = {int(place) for place in told["failed"]}
        return left if int(told["started"]) + len(left) == size else set(range(size))
    except (ValueError, KeyError, TypeError):
        return set(range(size))
