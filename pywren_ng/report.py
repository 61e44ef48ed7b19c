"""What a job cost: one compact row for each attempt, a list of them, and the failures grouped by cause."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

from pywren_runtime.wire import STATS, Outcome, Status

_FRONT = struct.Struct("<IHHB7xd")
ROW = _FRONT.size + STATS.size
_NO_STATS = STATS.pack(*[float("nan")] * 6, 0, 0, False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of one task. Times are seconds since the epoch, not-a-number where it did not get that far."""

    task: int
    round: int
    attempt: int
    ended: str  # "ok", "raised", "failed" or "lost"
    queued: float
    started: float
    function_loaded: float
    arguments_loaded: float
    ran: float
    stored: float
    cpu: float  # processor seconds of this task
    peak: int  # bytes resident at most while this task ran
    worker: int
    cold: bool  # the worker's first task

    @property
    def seconds(self) -> float:
        """How long the worker was busy with it."""
        return self.stored - self.started


_ENDED = {
    Status.PLAIN: "ok",
    Status.VALUE: "ok",
    Status.RAISED: "raised",
    Status.RETRY: "raised",
    Status.LOST: "lost",
}


class AttemptLog(Sequence[Attempt]):
    """All attempts of a job, in the order in which they ended; about a hundred bytes each."""

    def __init__(self) -> None:
        self._rows = bytearray()

    def note(self, outcome: Outcome, queued: float) -> None:
        front = _FRONT.pack(outcome.task, outcome.round, outcome.attempt, outcome.status, queued)
        self._rows += front + outcome.stats

    def note_lost(self, task: int, round: int, attempt: int, queued: float) -> None:
        self._rows += _FRONT.pack(task, round, attempt, Status.LOST, queued) + _NO_STATS

    def __len__(self) -> int:
        return len(self._rows) // ROW

    @overload
    def __getitem__(self, index: int) -> Attempt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Attempt]: ...
    def __getitem__(self, index: int | slice) -> Attempt | list[Attempt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index] * ROW
        task, round, attempt, status, queued = _FRONT.unpack_from(self._rows, at)
        stats = STATS.unpack_from(self._rows, at + _FRONT.size)
        return Attempt(task, round, attempt, _ENDED.get(status, "failed"), queued, *stats)

    def __iter__(self) -> Iterator[Attempt]:
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
