"""What contestants are compared by and what it must show: rows of one table, and the judge who reads it.

    samples[row][contestant] = one list per round ──► median of medians ──► Target ──► one verdict per claim

A threshold is a ratio to what a rival, or another row, did in the same run; a few are numbers, and none is a time.
"""

import argparse
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from contest import Verdict, concluded

__all__ = ["OURS", "Figures", "Row", "Samples", "Target", "compared", "judge"]

OURS = "pywren_ng"
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
    """One kind of work; `claim` is its number in `scripts/claims`, and a row without targets is for the reader."""

    name: str
    claim: str
    title: str
    unit: str
    scale: float = 1.0
    targets: tuple[Target, ...] = ()

    def text(self, figure: float) -> str:
        shown = figure * self.scale
        return f"{shown:,.0f} {self.unit}" if shown >= 1_000 else f"{shown:.3g} {self.unit}"


def figures_of(samples: Samples) -> Figures:
    """The median over the rounds of each round's median."""
    return {
        row: {name: median(median(part) for part in rounds) for name, rounds in of_row.items()}
        for row, of_row in samples.items()
    }


def compared(
    asked: argparse.Namespace,
    samples: Samples,
    rows: Sequence[Row],
    contestants: Sequence[str],
    *,
    note: str = "",
    judged: Callable[[Figures, Sequence[Row]], Iterable[Verdict]] | None = None,
) -> int:
    """The end of a run: medians in a table, verdicts if it was a whole one, all of it kept; the exit code."""
    figures = figures_of(samples)
    verdicts = [] if asked.is_partial else list((judged or judge)(figures, rows))
    lines = [*filter(None, [note]), *table(figures, contestants, rows)]
    return concluded(asked, verdicts, lines=lines, samples=samples, medians=figures)


def table(figures: Figures, contestants: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """The medians, a line for each row, and what times ours the others' are."""
    yield f"{'':38}" + "".join(f"{name:>20}" for name in contestants)
    for row in rows:
        shown = [_cell(row, name, figures.get(row.name, {})) for name in contestants]
        yield f"{row.title:38}" + "".join(f"{cell:>20}" for cell in shown)


def _cell(row: Row, name: str, figures: dict[str, float]) -> str:
    if name not in figures:
        return "–"
    ours = figures.get(OURS, 0.0)
    return row.text(figures[name]) + (f" {figures[name] / ours:6.2f}×" if ours and name != OURS else "")


def judge(figures: Figures, rows: Sequence[Row]) -> Iterator[Verdict]:
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
