"""Who is told how a job goes: an observer by frozen values, everybody else by one line, and nobody twice."""

import dataclasses
import logging
import math
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pywren_ng import Executor
from pywren_ng.observers import Attempt, AttemptEnded, Event, JobEnded, JobStarted, TaskSettled
from pywren_ng.page import page
from pywren_ng.pricing import Cost
from pywren_ng.progress import Counts
from pywren_ng.report import AttemptLog, Failures
from pywren_runtime.wire import STATS, Outcome, Status

Log = pytest.LogCaptureFixture


def halve(x: int) -> float:
    return 1 / x


def lines(caplog: Log) -> list[str]:
    """What was logged at INFO about jobs."""
    return [record.getMessage() for record in caplog.records if record.name == "pywren_ng.progress"]


# -- Observers


@pytest.mark.parametrize("backend", ["inline", "local"])
def test_an_observer_is_told_all_in_order(backend: str) -> None:
    events: list[Event] = []
    with Executor(backend, max_workers=1, progress=events.append, retries=1, retry_on=ZeroDivisionError) as ex:
        job = ex.map(halve, [1, 0])
        job.results(return_exceptions=True)
    attempts = [event.attempt for event in events if isinstance(event, AttemptEnded)]
    settled = [(event.task, event.ending) for event in events if isinstance(event, TaskSettled)]
    assert events[0] == JobStarted(job.id, "halve", 2)
    assert attempts == list(job.stats)
    assert [(each.task, each.ended) for each in attempts] == [(0, "ok"), (1, "raised"), (1, "raised")]
    assert settled == [(0, "ok"), (1, "failed")]
    assert isinstance(events[-1], JobEnded) and sum(isinstance(event, JobEnded) for event in events) == 1
    ended = events[-1]
    assert (ended.tasks, ended.failed, ended.cancelled, ended.retried, ended.cold) == (2, 1, 0, 1, 1)
    assert ended.p50 == ended.p99 == attempts[0].seconds
    assert ended.seconds >= ended.p50 and ended.cost is None and ended.job == job.id


def test_events_are_frozen() -> None:
    started = JobStarted("job", "name", 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        started.tasks = 2  # type: ignore[misc]


def test_a_single_task_is_a_job_to_an_observer() -> None:
    events: list[Event] = []
    with Executor("inline", progress=events.append) as ex:
        ex.submit(abs, -1).result()
        ex.submit(halve, 0).exception()
        ex.submit(abs, threading.Lock()).exception()  # never sent
    assert [type(event).__name__ for event in events] == [
        *("JobStarted", "AttemptEnded", "TaskSettled", "JobEnded"),
        *("JobStarted", "AttemptEnded", "TaskSettled", "JobEnded"),
        *("JobStarted", "TaskSettled", "JobEnded"),
    ]


def test_what_is_run_again_ends_again() -> None:
    events: list[Event] = []
    with Executor("inline", progress=events.append) as ex:
        job = ex.map(halve, [0])
        job.results(return_exceptions=True)
        job.retry_failed().results(return_exceptions=True)
        job.results(return_exceptions=True)  # nothing new
    assert sum(isinstance(event, JobEnded) for event in events) == 2


def test_a_job_without_tasks_ends_too() -> None:
    events: list[Event] = []
    with Executor("inline", progress=events.append) as ex:
        assert ex.map(abs, []).results() == []
        assert list(ex.map(abs, iter([]), buffersize=1)) == []
    assert [type(event).__name__ for event in events] == ["JobStarted", "JobEnded"] * 2
    assert str(events[1]).startswith("abs: 0 tasks in –, 0 failed, 0 cold starts, job ")


@pytest.mark.parametrize("backend", ["inline", "local"])
def test_an_observer_that_raises_is_logged_once_and_hurts_nobody(backend: str, caplog: Log) -> None:
    def observer(event: Event) -> None:
        raise KeyError("an observer's own fault")

    with Executor(backend, max_workers=1, progress=observer) as ex:
        assert ex.map(abs, range(20)).results() == list(range(20))
        assert ex.submit(abs, -1).result() == 1
    told = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(told) == 1 and "the job goes on" in told[0].getMessage()
    assert told[0].exc_info is not None and told[0].exc_info[0] is KeyError


def test_an_observer_holds_up_no_task_and_may_use_the_executor() -> None:
    """It waits for what it submitted itself: in the engine's thread that would wait for ever."""
    answers: list[int] = []
    asked, answered = iter([True]), threading.Event()

    def observer(event: Event) -> None:
        if isinstance(event, TaskSettled) and next(asked, False):
            answers.append(ex.submit(abs, -7).result(timeout=20))
            answered.set()

    with Executor("local", max_workers=1, progress=observer) as ex:
        assert ex.map(abs, range(5)).results() == list(range(5))
        assert answered.wait(20)
    assert answers == [7]


def test_an_observer_gets_no_bar_and_a_worker_tells_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    with Executor("inline", progress=events.append) as ex:
        ex.map(abs, range(3)).results()
    monkeypatch.setenv("PYWREN_NG_INTERNAL_DEPTH", "1")
    before = len(events)
    with Executor("inline", progress=events.append) as ex:
        ex.map(abs, range(3)).results()
    assert before > 0 and len(events) == before
    assert capsys.readouterr().err == ""


# -- The last line


def test_without_a_terminal_the_last_line_is_logged_at_info(caplog: Log) -> None:
    caplog.set_level(logging.INFO, "pywren_ng")
    with Executor("local", max_workers=2, name="mine") as ex:
        job = ex.map(halve, [1, 0, 2, 4])
        assert len(list(job.as_completed())) == 4
        ex.submit(abs, -1).result()  # a single task is not worth a line
    (line,) = lines(caplog)
    assert re.fullmatch(
        r"mine: 4 tasks in [\d.]+ m?s, 1 failed, p50 [\d.]+ [mµ]?s, p99 [\d.]+ [mµ]?s, [12] cold starts?, job "
        + job.id,
        line,
    )


def test_a_failure_says_what_was_cancelled(caplog: Log) -> None:
    caplog.set_level(logging.INFO, "pywren_ng")
    with Executor("inline") as ex, pytest.raises(ZeroDivisionError):
        ex.map(halve, [0, 1, 2, 3], buffersize=2).results()
    assert len(lines(caplog)) == 1 and " 1 failed" in lines(caplog)[0]


def test_nothing_is_logged_and_nothing_watched_unless_somebody_listens(caplog: Log) -> None:
    with Executor("inline") as ex:
        job = ex.map(abs, range(3))
        assert job.results() == [0, 1, 2]
        assert job._tasks.watcher is job._shelf  # nothing stands between the engine and the job
    assert caplog.records == []


def test_the_library_configures_no_logging(tmp_path: Path) -> None:
    source = (
        "import logging\nfrom pywren_ng import Executor\n"
        "with Executor('inline') as ex: ex.map(abs, range(5)).results()\n"
        "loggers = [logging.getLogger(name) for name in (None, 'pywren_ng', 'pywren_ng.progress')]\n"
        "print([(each.handlers, each.level) for each in loggers])\n"
    )
    ran = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("[([], 30), ([], 0), ([], 0)]\n", "")


def test_the_line_says_everything() -> None:
    cost = Cost(12.3456, 3000, 7.0, 0.0, 0, 0, 0, "2026-11")
    ended = JobEnded("job-1", "train", 3000, 2, 1, 4, 0.0123, 61.5, 40, 1234.5, cost)
    assert str(ended) == (
        "train: 3,000 tasks in 1,234 s, 2 failed, 1 cancelled, 4 retried, p50 12.3 ms, p99 61.5 s, 40 cold starts, "
        "$12.35, job job-1"
    )
    bare = JobEnded("job-1", "train", 1, 0, 0, 0, math.nan, math.nan, 1, math.nan, None)
    assert str(bare) == "train: 1 task in –, 0 failed, 1 cold start, job job-1"


# -- What the statistics come to


def test_the_table_for_pandas() -> None:
    with Executor("local", max_workers=1) as ex:
        job = ex.map(halve, [1, 0])
        job.results(return_exceptions=True)
    frame = job.to_pandas()
    assert list(frame.columns) == [*(field.name for field in dataclasses.fields(Attempt)), "seconds"]
    assert list(frame["ended"]) == [each.ended for each in job.stats] == ["ok", "raised"]
    assert list(frame["seconds"]) == pytest.approx([each.seconds for each in job.stats])
    assert str(frame["started"].dtype).startswith("datetime64") and str(frame["started"].dt.tz) == "UTC"
    assert frame["started"][0].timestamp() == pytest.approx(job.stats[0].started, abs=1e-5)
    assert frame["cold"].dtype == bool and list(frame["cold"]) == [True, False]


def test_an_empty_table_has_its_columns() -> None:
    with Executor("inline") as ex:
        frame = ex.map(abs, []).to_pandas()
    assert len(frame) == 0 and "seconds" in frame.columns


def test_without_pandas_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with Executor("inline") as ex, pytest.raises(ImportError, match="pip install pandas"):
        ex.map(abs, [1]).to_pandas()


# -- What a notebook shows


class Page(HTMLParser):
    """The rows of each table by its caption; what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: set[str] = set()
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open.append(tag)
        self.tags.add(tag)
        if tag == "tr":
            self.tables[next(reversed(self.tables))].append([])
        elif tag in ("td", "th"):
            self.tables[next(reversed(self.tables))][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1] == "caption":
            self.tables[data] = []
        else:
            self.tables[next(reversed(self.tables))][-1][-1] += data


def test_a_job_shows_counts_times_the_slowest_and_errors_by_cause() -> None:
    def task(number: int) -> float:
        if number in (1, 2):
            raise ValueError(f"<script>row {number}</script> & more")
        return 1 / (number - 7)

    with Executor("inline", name="<b>fit</b>") as ex:
        job = ex.map(task, range(9))
        job.results(return_exceptions=True)
    tables = Page(job._repr_html_()).tables
    counts, slowest, errors = tables[f"Job {job.id}"], tables["Slowest"], tables["Errors"]
    assert dict(zip(*counts, strict=True)) | {"p50": "", "p99": "", "time": ""} == {
        "done": "9 of 9",
        "failed": "3",
        "p50": "",
        "p99": "",
        "cold starts": "1",
        "time": "",
    }
    rows = [each.task for each in sorted(job.stats, key=lambda each: -each.seconds)[:5]]
    assert [row[0] for row in slowest[1:]] == [str(task) for task in rows]
    assert errors[1:] == [
        ["2 ×", "1, 2", "ValueError: <script>row 1</script> & more"],
        ["1 ×", "7", "ZeroDivisionError: division by zero"],
    ]


def test_a_page_has_no_colour_of_its_own_and_no_style_sheet() -> None:
    """What names a colour is unreadable in one of light and dark; sheets are taken out where nobody trusts them."""
    with Executor("inline") as ex:
        text = ex.map(halve, [1, 0])._repr_html_()
    assert Page(text).tags <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    named = set(re.findall(r"(?:color|background|border[a-z-]*):([^;\"]+)", text))
    assert named <= {
        "inherit",
        "none",
        "0",
        "collapse",
        "1px solid currentColor",
        "color-mix(in srgb,currentColor 25%,transparent)",
    }


def test_a_job_that_has_done_nothing_has_a_page_too() -> None:
    with Executor("inline") as ex:
        tables = Page(ex.map(halve, [])._repr_html_()).tables
    assert [next(iter(row), "") for table in tables.values() for row in table] == ["done", "0 of 0"]


def test_an_error_that_cannot_be_shown_spoils_no_page() -> None:
    class Shy(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not my text")

    text = page(COUNTS, ENDED, [], [Failures(Shy(), (3,)), Failures(ValueError("x" * 1000), tuple(range(9)))])
    first, second = Page(text).tables["Errors"][1:]
    assert first == ["1 ×", "3", "Shy"]
    assert second[1] == "0, 1, 2, 3, 4, …" and len(second[2]) < 310


COUNTS = Counts(total=None, done=3, running=2, failed=1, cancelled=0, retried=0, is_over=False)
ENDED = JobEnded("job-1", "fit", 3, 1, 0, 0, 0.5, 0.5, 1, 2.0, Cost(0.25, 1, 1.0, 0.0, 0, 0, 0, "2026-11"))


def test_a_job_under_way_on_lambda_shows_what_runs_and_what_it_costs() -> None:
    (name,) = tables = Page(page(COUNTS, ENDED, [], [])).tables
    assert name == "Job job-1"
    assert dict(zip(*tables[name], strict=True)) == {
        "done": "3 of ?",
        "failed": "1",
        "running": "2",
        "p50": "500 ms",
        "p99": "500 ms",
        "cold starts": "1",
        "time": "2 s",
        "cost": "$0.25",
    }


# -- What all attempts come to


def attempts(*seconds: float, status: Status = Status.PLAIN, cold: bool = False) -> AttemptLog:
    """One after the other, a second apart, the first queued at 100."""
    log = AttemptLog()
    for task, each in enumerate(seconds):
        stats = STATS.pack(101.0 + task, 0, 0, 0, 101.0 + task + each, 0, 0, 1, cold)
        log.note(Outcome("job", task, 0, 1, status, b"", b"", stats), 100.0 + task)
    return log


def test_quantiles_are_attempts_that_were(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = attempts(*(number / 128 for number in range(100, 0, -1))).digest()
    assert (digest.p50, digest.p99, digest.cold) == (50 / 128, 99 / 128, 0)
    assert digest.seconds == 100 + 1 / 128  # from 100 to the end of the last
    monkeypatch.setattr("pywren_ng.report.SAMPLED", 20)
    sampled = attempts(*(number / 128 for number in range(100, 0, -1))).digest()
    assert (sampled.p50, sampled.p99) == (50 / 128, 100 / 128)
    assert sampled.seconds == digest.seconds


def test_times_are_of_what_succeeded_and_an_end_of_what_was_lost_is_not_known() -> None:
    log = attempts(0.25, cold=True)
    log.note_lost(1, 0, 1, 100.0)
    log._rows += attempts(9.0, status=Status.RAISED)._rows
    digest = log.digest()
    assert (digest.p50, digest.p99, digest.cold, digest.seconds) == (0.25, 0.25, 1, 10.0)
    assert [each.task for each in log.slowest(5)] == [0, 0]
    lost = AttemptLog()
    lost.note_lost(0, 0, 1, 100.0)
    assert math.isnan(lost.digest().p50) and math.isnan(lost.digest().seconds)
