"""What overhead.py measures and what it must show: one table, and the judge who reads it.

    samples[row][contestant] = one list per round ──► median of medians ──► Target ──► one verdict per claim

No threshold is a time: each is a ratio to what a rival, or another row, did in the same run.
"""

import json
import operator
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from contestants import OURS

__all__ = ["ROWS", "Figures", "Row", "Samples", "Target", "figures_of", "judge", "table", "write"]

Samples = dict[str, dict[str, list[list[float]]]]
Figures = dict[str, dict[str, float]]

RELATIONS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "≤": operator.le,
    "≥": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Target:
    """Our figure is in this relation to a multiple of another one; without a rival, to the number itself."""

    relation: str
    factor: float
    rival: str = ""
    row: str = ""

    def __str__(self) -> str:
        times = "" if self.factor == 1 and self.rival else f"{self.factor:g}{'× ' if self.rival else ''}"
        return f"{self.relation} {times}{'its ' + self.row if self.rival == OURS else self.rival}"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work; `claim` is its number in the issue, and a row without targets is for the reader."""

    name: str
    claim: str
    title: str
    unit: str
    scale: float = 1.0
    targets: tuple[Target, ...] = ()

    def text(self, figure: float) -> str:
        shown = figure * self.scale
        return f"{shown:,.0f} {self.unit}" if shown >= 1_000 else f"{shown:.3g} {self.unit}"


ROWS = (
    Row("submit", "3a", "submit → result", "ms", 1e3, (Target("≤", 1, "processpool"),)),
    Row("noops", "3b", "no-ops, one task each", "/s", 1, (Target("≥", 4, "processpool"),)),
    Row("first", "3c", "script start → first result", "s", 1, (Target("≤", 1, "loky"),)),
    Row(
        *("array", "3d", "100 MB array to one task", "s", 1),
        targets=(Target("<", 1, "processpool"), Target("≤", 2, "ray")),
    ),
    # The hundred tasks sum a hundredth each: together the arithmetic of the one task, so that the ratio shows
    # what sharing costs. A hundred whole sums take a second of CPU whoever does them: a row for the reader.
    Row("shared", "3e", "the same array to 100 tasks", "s", 1, (Target("<", 2, OURS, "array"),)),
    Row("stored", "3e", "how often it was stored", "times", 1, (Target("≥", 1), Target("<", 1.5))),
    Row("summed", "", "100 tasks, each sums all of it", "s"),
    Row("results", "3f", "100 tasks return 1 MB each", "s", 1, (Target("≤", 1, "ray"),)),
)


def figures_of(samples: Samples) -> Figures:
    """The median over the rounds of each round's median."""
    return {
        row: {name: median(median(part) for part in rounds) for name, rounds in of_row.items()}
        for row, of_row in samples.items()
    }


def table(figures: Figures, contestants: list[str], rows: Sequence[Row] = ROWS) -> Iterator[str]:
    """The medians, a line for each row."""
    yield f"{'':34}" + "".join(f"{name:>14}" for name in contestants)
    for row in rows:
        cells = figures.get(row.name, {})
        shown = [row.text(cells[name]) if name in cells else "–" for name in contestants]
        yield f"{row.title:34}" + "".join(f"{cell:>14}" for cell in shown)


def judge(figures: Figures, rows: Sequence[Row] = ROWS) -> Iterator[tuple[str, str, bool]]:
    """Claim, its figures against its thresholds, and whether all are met; KeyError if a figure is missing."""
    for claim in sorted({row.claim for row in rows if row.claim}):
        parts, is_met = [], True
        for row in rows:
            if row.claim == claim:
                ours = figures[row.name][OURS]
                met = [_meets(row, target, figures) for target in row.targets]
                is_met = is_met and all(met)
                said = ", ".join(_said(row, target, figures) for target in row.targets)
                parts.append(f"{row.title} {row.text(ours)} ({said})")
        yield claim, "; ".join(parts), is_met


def _reference(row: Row, target: Target, figures: Figures) -> float:
    return figures[target.row or row.name][target.rival] if target.rival else 1.0


def _meets(row: Row, target: Target, figures: Figures) -> bool:
    limit = target.factor * _reference(row, target, figures)
    return RELATIONS[target.relation](figures[row.name][OURS], limit)


def _said(row: Row, target: Target, figures: Figures) -> str:
    reference = _reference(row, target, figures)
    return f"{target} {row.text(reference)}" if target.rival else str(target)


def write(
    path: Path,
    command: str,
    versions: dict[str, str],
    samples: Samples,
    figures: Figures,
    verdicts: Sequence[tuple[str, str, bool]],
    rows: Sequence[Row] = ROWS,
) -> None:
    """All raw samples as JSON, one list per round, with what else says where they come from."""
    content = {
        "command": command,
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": versions,
        "rows": [asdict(row) for row in rows],
        "samples": samples,
        "medians": figures,
        "verdicts": [{"claim": claim, "said": said, "met": is_met} for claim, said, is_met in verdicts],
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))
