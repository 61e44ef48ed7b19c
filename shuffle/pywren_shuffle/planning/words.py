"""A plan, and what came of a run, in words and numbers for people."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pywren_shuffle.planning.plan import Layer, Plan, Step, requests_of
from pywren_shuffle.planning.terms import fleet_of

__all__ = ["Written", "bytes_in_words", "words_of"]


class Written:
    """What came of a run, as text: what was done, and where it lies."""

    __slots__ = ()
    parts: tuple[str, ...]
    seconds: float
    notices: tuple[str, ...]

    def told(self, done: str) -> str:
        """What was done, and what all of them say besides."""
        where = ""
        if self.parts:
            where = f": {_number(len(self.parts), 'part')} in {self.parts[0][: self.parts[0].rfind('/part-')]}"
        return "\n".join([f"{done}, in {_seconds(self.seconds)}{where}", *self.notices])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # as the last line of a notebook's cell
        printer.text(str(self))


def words_of(plan: Plan) -> str:
    """All that was decided, expected and rejected, and what came of it."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    if plan.to_all is not None:
        yield (
            f"{plan.what} {bytes_in_words(plan.bytes)}: {bytes_in_words(plan.to_all)} of one side go to each of"
            f" {_number(plan.steps[0].tasks, 'task')} for the other, and nothing lies between"
        )
    else:
        yield from _exchange(plan)
    if plan.why:
        yield f"  why: {plan.why}"
    yield from _table(plan)
    if plan.rejected:
        yield "not taken:"
    for option in plan.rejected:
        took = "" if option.seconds is None else f" ({_seconds(option.seconds)}, {_dollars(option.dollars)})"
        yield f"  {option.name}{took}: {option.why}"


def _exchange(plan: Plan) -> Iterator[str]:
    """How data is divided, and where it lies between the phases."""
    whole = f"what comes of {_number(plan.items, 'item')}" if plan.items else bytes_in_words(plan.bytes)
    of = "" if plan.items else f" of {bytes_in_words(plan.split)} at most"
    yield (
        f"{plan.what} {whole}: {_number(plan.splits, 'split')}{of},"
        f" {_number(plan.partitions, 'partition')}, {_number(plan.levels, 'level')} of exchange on {_tiers(plan)},"
        f" {plan.at_once:,} tasks at once with {bytes_in_words(plan.memory)} each for data"
    )
    yield from (f"  layer {number}: {_layer(layer, plan, number)}" for number, layer in enumerate(plan.layers))
    if plan.rounds > 1:
        yield f"  in {plan.rounds} rounds, each of which fills and empties {plan.tier}"
    if plan.prefixes > 1:
        yield f"  keys spread over {plan.prefixes} prefixes"


def _layer(layer: Layer, plan: Plan, number: int) -> str:
    finer = plan.layers[number + 1].ranges if number + 1 < plan.levels else plan.partitions
    slices = finer // layer.ranges if number else finer
    whose = "one of each split" if not number else f"{layer.groups:,} groups of the input × {layer.ranges:,} ranges"
    return f"{_number(layer.objects, 'object')} on {layer.tier}, {whose}, with about {_number(slices, 'slice')} each"


def _tiers(plan: Plan) -> str:
    return " and ".join(dict.fromkeys(layer.tier for layer in plan.layers))


def _table(plan: Plan) -> Iterator[str]:
    """Expected beside actual, step by step and in all; only what is known."""
    actual = plan.actual
    done = {step.name: step for step in actual.steps} if actual else {}
    known = plan.seconds is not None
    beside = "actual" if actual else ""
    rows: list[tuple[str, ...]] = [
        ("", "tasks", "expected", beside, "bytes expected", beside, "requests expected", beside)
    ]
    for step in plan.steps:
        was = done.get(step.name)
        own = was or step
        rows.append(
            (
                step.name,
                f"{own.tasks:,}",
                _seconds(step.seconds) if known else "–",
                _seconds(was.seconds) if was else "",
                _read(step) or "–" * bool(was and was.bytes),
                _read(was) if was else "",
                _asked(step.requests),
                _asked(was.requests) if was else "",
            )
        )
    seconds = _seconds(plan.seconds), _seconds(actual.seconds) if actual else ""
    total = _asked(plan.requests), _asked(requests_of(actual.steps)) if actual else ""
    rows.append(("in all", "", *seconds, "", "", *total))
    if plan.dollars is not None:
        rows.append(("dollars", "", _dollars(plan.dollars), _dollars(actual.dollars) if actual else "", *[""] * 4))
    widths = [max(len(row[column]) for row in rows[1:]) for column in range(len(rows[0]))]
    widths = [width and max(width, len(title)) for width, title in zip(widths, rows[0], strict=True)]
    for row in rows:  # what has nothing to show is left out
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width]
        yield ("  " + "  ".join(cells)).rstrip()
    if plan.unpriced:
        fleet = fleet_of(plan.bytes)
        yield (
            f"  – without what {plan.tier} costs by the hour, which nobody knows here: ElastiCache would take"
            f" {_dollars(fleet.per_hour)} for {fleet.number:,} {fleet.kind}"
        )
    if plan.seconds is None:
        yield "  – nothing is known of how fast a folder is"


_KINDS: Final = ("GET", "PUT", "LIST", "HEAD", "DELETE")
_SHORT: Final = {"GetRange": "GET", "GetObject": "GET", "ListObjectsV2": "LIST", "HeadObject": "HEAD"}


def _read(step: Step) -> str:
    """How much it reads."""
    return bytes_in_words(step.bytes) if step.bytes else ""


def _asked(requests: Mapping[str, int]) -> str:
    """By what is paid for: an upload in parts is as many PUTs as it has parts, and two."""
    found: Counter[str] = Counter()
    for kind, number in requests.items():
        if kind != "hedges":  # they are among the others
            found["DELETE" if kind.startswith("Delete") else _SHORT.get(kind, "PUT")] += number
    return ", ".join(f"{found[kind]:,} {kind}" for kind in _KINDS if found[kind])


def bytes_in_words(number: float) -> str:
    """`10 MB`, `1.52 TB`: three digits and a unit."""
    if number == 1:
        return "1 byte"
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 0.01:
        return "< 0.01 s" if seconds else "0 s"
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def _dollars(dollars: float | None) -> str:
    if dollars is None:
        return "–"
    if dollars >= 0.1:
        return f"${dollars:,.2f}"
    return f"${dollars:.6f}".rstrip("0").rstrip(".")
