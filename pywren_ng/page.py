"""A Job as a notebook shows it: plain HTML in the notebook's own colours, so that it is readable in light and dark."""

import html
from collections.abc import Sequence

from pywren_ng.observers import Attempt, JobEnded, duration
from pywren_ng.progress import Counts
from pywren_ng.report import Failures

__all__ = ["page"]

MOST = 5  # groups of errors that are shown
LONG = 300  # characters of an error
# Inherited colours, and nothing but inline styles: style sheets are taken out where a notebook is not trusted.
_CELL = "padding:2px 12px 2px 0;text-align:left;vertical-align:top;color:inherit;background:none;border:0"
_LINE = "border-top:1px solid currentColor;border-top-color:color-mix(in srgb,currentColor 25%,transparent)"
_TABLE = "border-collapse:collapse;border:0;margin:4px 0 8px;color:inherit;background:none;font-size:inherit"


def page(counts: Counts, ended: JobEnded, slowest: Sequence[Attempt], failures: Sequence[Failures]) -> str:
    """Counts, times, the slowest attempts, and errors by cause."""
    total = "?" if counts.total is None else f"{counts.total:,}"
    facts = [("done", f"{counts.done:,} of {total}"), ("failed", f"{counts.failed:,}")]
    facts += [
        (word, f"{count:,}")
        for word, count in (
            ("running", 0 if counts.is_over else counts.running),
            ("cancelled", counts.cancelled),
            ("retried", counts.retried),
        )
        if count
    ]
    facts += [("p50", duration(ended.p50)), ("p99", duration(ended.p99)), ("cold starts", f"{ended.cold:,}")]
    facts += [("time", duration(ended.seconds))]
    facts += [("cost", str(ended.cost))] if ended.cost is not None else []
    parts = [_table(f"Job {ended.job}", [name for name, _ in facts], [[value for _, value in facts]])]
    if slowest:
        parts.append(_table("Slowest", ["task", "time", "CPU", "peak", "worker", ""], map(_row, slowest)))
    if failures:
        rows = [[f"{len(each.tasks):,} ×", _tasks(each.tasks), _error(each.error)] for each in failures[:MOST]]
        more = len(failures) - MOST
        rows += [[f"and {more} more kinds", "", "job.errors() has them all"]] if more > 0 else []
        parts.append(_table("Errors", ["", "tasks", "error"], rows))
    return f'<div style="color:inherit;overflow-x:auto">{"".join(parts)}</div>'


def _row(attempt: Attempt) -> list[str]:
    memory = f"{attempt.peak / 1e6:,.0f} MB"
    words = ([] if attempt.ended == "ok" else [attempt.ended]) + (["cold"] if attempt.cold else [])
    times = [duration(attempt.seconds), duration(attempt.cpu)]
    return [f"{attempt.task:,}", *times, memory, str(attempt.worker), ", ".join(words)]


def _tasks(tasks: Sequence[int]) -> str:
    return ", ".join(map(str, tasks[:MOST])) + (", …" if len(tasks) > MOST else "")


def _error(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # a user's __str__ may do anything
        text = type(error).__name__
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def _table(title: str, heads: Sequence[str], rows: "Sequence[Sequence[str]] | map[list[str]]") -> str:
    caption = f'<caption style="{_CELL};caption-side:top;font-weight:bold">{html.escape(title)}</caption>'
    head = "".join(
        f'<th scope="col" style="{_CELL};opacity:.75;font-weight:normal">{html.escape(h)}</th>' for h in heads
    )
    lines = "".join(
        '<tr style="background:none">'
        + "".join(f'<td style="{_CELL};{_LINE};white-space:pre-wrap">{html.escape(cell)}</td>' for cell in row)
        + "</tr>"
        for row in rows
    )
    head = f'<thead><tr style="background:none">{head}</tr></thead>'
    return f'<table style="{_TABLE}">{caption}{head}<tbody>{lines}</tbody></table>'
