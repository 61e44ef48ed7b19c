"""What Calls cost, noted on their jobs' usage as it becomes known. Pure.

posted ─► answered, with a REPORT line: what AWS bills
             └─ accepted only ─► outcomes brought ─► over: what their worker's clock says, or untold
"""

import base64
import re
from collections.abc import Container, Iterable, Sequence

from pywren_ng.backends.lambda_flights import Flight
from pywren_ng.pricing import Usage
from pywren_runtime.invoker import Answer
from pywren_runtime.wire import STATS, Outcome

_TAIL = 1 << 10  # characters at the end of a log, in base64, among which its REPORT line is
_REPORT = re.compile(rb'\tBilled Duration: (\d+) ms\tMemory Size: (\d+) MB|"billedDurationMs": ?(\d+)')


def posted(flight: Flight) -> None:
    """An Invoke of it was sent, from here or by a starter."""
    if (usage := flight.order.heading.usage) is not None:
        usage.invokes += 1
        flight.unbilled += 1


def answered(flight: Flight, answer: Answer) -> None:
    """It was answered, perhaps with what it is billed."""
    usage = flight.order.heading.usage
    if usage is None or not flight.unbilled:
        return
    if 400 <= answer.status < 500 or not (answer.status or answer.sent):  # refused, or not sent
        usage.invokes -= 1
        flight.unbilled -= 1
    elif _bill(usage, answer, flight.memory):
        flight.unbilled -= 1


def planted(group: Sequence[Flight], answer: Answer, left: Container[int]) -> None:
    """A starter was answered, and has sent all but those; it is its first Call's job that pays for it."""
    for place, flight in enumerate(group):
        if place not in left:
            posted(flight)
    usage = group[0].order.heading.usage
    if usage is not None and answer.sent and not 400 <= answer.status < 500:
        usage.invokes += 1
        usage.untold += not _bill(usage, answer, group[0].memory)


def brought(flight: Flight, outcome: Outcome) -> None:
    """An outcome of it is here."""
    usage = flight.order.heading.usage
    if usage is not None and flight.watched:
        usage.writes += 1
        usage.reads += 1
    if flight.unbilled:
        started, stored = STATS.unpack(outcome.stats)[:5:4]
        flight.began, flight.ended = min(flight.began, started), max(flight.ended, stored)


def listed(flights: Iterable[Flight]) -> None:
    """There was a look into the store for these."""
    for flight in flights:
        if (usage := flight.order.heading.usage) is not None:
            usage.writes += 1  # at the same price
        return


def over(flight: Flight) -> None:
    """Nothing more will be heard of it."""
    usage = flight.order.heading.usage
    if usage is None:
        return
    usage.writes += flight.beats
    flight.beats = 0
    if flight.unbilled and flight.ended >= flight.began:
        usage.seemed(flight.ended - flight.began, flight.memory)
        flight.unbilled -= 1
    usage.untold += flight.unbilled
    flight.unbilled = 0


def _bill(usage: Usage, answer: Answer, memory: int) -> bool:
    """Take it from the log's REPORT line, whether that is text or JSON."""
    log = answer.headers.get("x-amz-log-result", "")
    try:
        found = _REPORT.search(base64.b64decode(log[-_TAIL:])) if len(log) % 4 == 0 else None
    except ValueError:
        return False
    if found is None:
        return False
    usage.billed(int(found[1] or found[3]), int(found[2] or memory))
    return True
