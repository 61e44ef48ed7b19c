"""What became of a job: one compact row for each attempt, what they come to, and the failures grouped by cause."""

import heapq
import math
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import compress
from operator import itemgetter, sub
from typing import TYPE_CHECKING, Any, overload

from pywren_runtime.wire import STATS, Outcome, Status

if TYPE_CHECKING:
    from pandas import DataFrame

    from pywren_ng.observers import Attempt

_FRONT = struct.Struct("<IHHB7xd")
ROW = _FRONT.size + STATS.size
_ROW = struct.Struct(_FRONT.format + STATS.format.lstrip("<"))
SAMPLED = 10_000  # attempts that quantiles are told from
_STATUS, _QUEUED, _STARTED, _STORED = 8, 16, 24, 56  # where they lie in a row, whose last byte is `cold`
_NO_STATS = STATS.pack(*[float("nan")] * 6, 0, 0, False)
_TIMES = ("queued", "started", "function_loaded", "arguments_loaded", "ran", "stored")
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Digest:
    """What all attempts of a job come to."""

    p50: float  # seconds of those that succeeded
    p99: float
    cold: int
    seconds: float  # from the first one queued to the last one done


_ENDED = {
    Status.PLAIN: "ok",
    Status.VALUE: "ok",
    Status.RAISED: "raised",
    Status.RETRY: "raised",
    Status.LOST: "lost",
}


class AttemptLog(Sequence["Attempt"]):
    """All attempts of a job, in the order in which they ended; about a hundred bytes each."""

    def __init__(self) -> None:
        self._rows = bytearray()

    def note(self, outcome: Outcome, queued: float) -> None:
        front = _FRONT.pack(outcome.task, outcome.round, outcome.attempt, outcome.status, queued)
        self._rows += front + outcome.stats

    def note_lost(self, task: int, round: int, attempt: int, queued: float) -> None:
        self._rows += _FRONT.pack(task, round, attempt, Status.LOST, queued) + _NO_STATS

    def digest(self) -> Digest:
        """As quickly as can be without numpy, for a bar's last line waits for it: of many attempts every so-manieth
        tells the quantiles, `SAMPLED` or more of them."""
        rows = bytes(self._rows)  # a copy, for the engine goes on writing
        if not rows:
            return Digest(_NAN, _NAN, 0, _NAN)
        stored, statuses = _column(rows, _STORED), rows[_STATUS::ROW]
        # Of those that were lost there is no time, and only of them.
        done = max(stored) if Status.LOST not in statuses else max((t for t in stored if t == t), default=_NAN)
        step = max(1, len(self) // SAMPLED)
        ok = bytes(map(Status.VALUE.__ge__, statuses[::step]))
        times = map(sub, _column(rows, _STORED, step), _column(rows, _STARTED, step))
        ordered = sorted(times if all(ok) else compress(times, ok))
        cold, begun = sum(rows[ROW - 1 :: ROW]), min(_column(rows, _QUEUED))
        return Digest(quantile(ordered, 0.5), quantile(ordered, 0.99), cold, done - begun)

    def slowest(self, count: int) -> "list[Attempt]":
        """Those that kept their worker busiest, the longest first, and of equal ones the earlier."""
        rows = enumerate(_ROW.iter_unpack(bytes(self._rows)))
        known = ((row[9] - row[5], at) for at, row in rows if row[9] == row[9])
        return [self[at] for _, at in heapq.nlargest(count, known, key=itemgetter(0))]

    def to_pandas(self) -> "DataFrame":
        """One row for each attempt, its fields as columns, with `seconds`; times are in UTC. ImportError says how to
        get pandas."""
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas, which is not installed here: pip install pandas") from error
        from pywren_ng.observers import Attempt

        names = [field.name for field in fields(Attempt)]
        columns: list[Any] = list(zip(*_ROW.iter_unpack(bytes(self._rows)), strict=True)) or [()] * len(names)
        table = dict(zip(names, columns, strict=True))
        frame = pandas.DataFrame(table)
        frame["ended"] = frame["ended"].map(lambda status: _ENDED.get(status, "failed")).astype(str)
        frame["seconds"] = frame["stored"] - frame["started"]
        for name in _TIMES:
            frame[name] = pandas.to_datetime(frame[name], unit="s", utc=True)
        return frame

    def __len__(self) -> int:
        return len(self._rows) // ROW

    @overload
    def __getitem__(self, index: int) -> "Attempt": ...
    @overload
    def __getitem__(self, index: slice) -> "list[Attempt]": ...
    def __getitem__(self, index: int | slice) -> "Attempt | list[Attempt]":
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        from pywren_ng.observers import Attempt  # here, for the first result of a script waits for what is imported

        at = range(len(self))[index] * ROW
        task, round, attempt, status, queued = _FRONT.unpack_from(self._rows, at)
        stats = STATS.unpack_from(self._rows, at + _FRONT.size)
        return Attempt(task, round, attempt, _ENDED.get(status, "failed"), queued, *stats)

    def __iter__(self) -> "Iterator[Attempt]":
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} attempts>"


@dataclass(frozen=True, slots=True)
class Failures:
    """Tasks of a job that failed for the same reason."""

    error: BaseException  # one of them
    tasks: tuple[int, ...]

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.tasks[:5])) + (", …" if len(self.tasks) > 5 else "")
        plural = "task" if len(self.tasks) == 1 else f"{len(self.tasks)} tasks"
        return f"{plural} ({shown}): {type(self.error).__name__}: {self.error}"


def _column(rows: bytes, at: int, step: int = 1) -> "array[float]":
    """A number of each row, one byte of all rows at a time: a loop over the rows takes several times as long."""
    size = step * ROW
    packed = bytearray(8 * -(-len(rows) // size))
    for byte in range(8):
        packed[byte::8] = rows[at + byte :: size]
    column = array("d")
    column.frombytes(packed)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def quantile(ordered: Sequence[float], part: float) -> float:
    """The smallest of these that so great a part of them does not exceed; not-a-number of none."""
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)] if ordered else _NAN


def group(errors: dict[int, BaseException]) -> list[Failures]:
    """Failures with the same type, and the same text but for its numbers, together; the most frequent first."""
    groups: dict[tuple[type, str], list[int]] = {}
    for task, error in errors.items():
        text = "".join("0" if char.isdigit() else char for char in str(error))
        while "00" in text:
            text = text.replace("00", "0")
        groups.setdefault((type(error), text), []).append(task)
    found = [Failures(errors[tasks[0]], tuple(tasks)) for tasks in groups.values()]
    return sorted(found, key=lambda failures: -len(failures.tasks))
