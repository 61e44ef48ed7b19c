"""Bars are drawn for whoever looks, cost the engine nothing, and leave nothing behind."""

import fcntl
import io
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from pywren_ng import Executor, Job
from pywren_ng.progress import Bars, Counts


class Watched:
    """A job whose counts the test sets."""

    title = "title"

    def __init__(self, **counts: int | bool | None) -> None:
        start = {"total": 4, "done": 0, "running": 0, "failed": 0, "cancelled": 0, "retried": 0, "is_over": False}
        self.now = Counts(**{**start, **counts})  # type: ignore[arg-type]

    def counts(self) -> Counts:
        return self.now

    def ended(self) -> str:
        return "the last line"


def until(is_so: Callable[[], bool]) -> None:
    """Wait for a condition, for half a minute at most."""
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def drawing() -> list[threading.Thread]:
    """Our thread that draws, and tqdm's own that watches."""
    threads = threading.enumerate()
    return [each for each in threads if each.name == "pywren-progress" or type(each).__name__ == "TMonitor"]


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal of 120 columns: the screen to read, and the side for a program."""
    screen, program = pty.openpty()
    fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    yield screen, program
    os.close(screen)


def read_until(screen: int, wanted: str) -> str:
    """What the screen has shown when `wanted` has appeared."""
    shown = ""
    while wanted not in shown:
        shown += os.read(screen, 4096).decode()
    return shown


def start(source: str, where: Path, stderr: int) -> subprocess.Popen[str]:
    script = where / "script.py"
    script.write_text(source)
    return subprocess.Popen([sys.executable, str(script)], cwd=where, stdout=subprocess.PIPE, stderr=stderr, text=True)


# ── what a bar shows ──


def test_a_bar_shows_what_is_done_failed_and_retried(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(True)
    watched = Watched(done=3, failed=2, retried=1)
    bars.watch(watched)
    bars.close()
    shown = capsys.readouterr().err
    assert "title" in shown and "3/4" in shown
    assert "failed=2" in shown and "retried=1" in shown and "cancelled" not in shown and "running" not in shown


def test_no_more_run_than_there_are_workers(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(True, 8)
    bars.watch(Watched(running=20))  # some were sent ahead
    bars.close()
    assert "running=8" in capsys.readouterr().err


def test_below_a_bar_stands_what_came_of_its_job(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(True)
    watched = Watched()
    bars.watch(watched)
    watched.now = Watched(done=4, is_over=True).now
    bars.watch(watched)
    bars.watch(watched)
    assert capsys.readouterr().err.endswith("\nthe last line\n")
    bars.close()
    assert capsys.readouterr().err == ""


def test_a_job_too_short_for_a_bar_has_its_line_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pywren_ng.progress.is_watched", lambda: True)
    caplog.set_level(logging.INFO, "pywren_ng.progress")
    bars = Bars(None)
    watched = Watched()
    bars.watch(watched)
    watched.now = Watched(done=4, is_over=True).now
    bars.watch(watched)
    bars.close()
    assert [record.getMessage() for record in caplog.records] == ["the last line"]
    assert capsys.readouterr().err == ""


def test_a_bar_follows_its_job_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(True)
    watched = Watched()
    bars.watch(watched)
    assert "0/4" in capsys.readouterr().err
    watched.now = Watched(done=4, is_over=True).now
    until(lambda: not drawing())
    assert "4/4" in capsys.readouterr().err
    bars.close()


def test_a_length_that_becomes_known_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(True)
    watched = Watched(total=None, done=2)
    bars.watch(watched)
    assert "2task" in capsys.readouterr().err
    watched.now = Watched(total=9, done=9, is_over=True).now
    bars.close()
    assert "9/9" in capsys.readouterr().err


def test_a_job_of_no_tasks_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(True)
    bars.watch(Watched(total=0, is_over=True))
    bars.close()
    assert capsys.readouterr().err == ""


def test_a_vanished_stderr_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    bars = Bars(True)
    watched = Watched()
    bars.watch(watched)
    stderr.close()
    watched.now = Watched(done=4, is_over=True).now
    until(lambda: not drawing())
    bars.watch(watched)
    bars.close()


# ── for whom ──


@pytest.mark.parametrize("wanted", [None, False])
def test_nothing_happens_where_nobody_looks(wanted: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(wanted)
    bars.watch(Watched())
    assert drawing() == []
    bars.close()
    assert capsys.readouterr().err == ""


def test_a_worker_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYWREN_NG_INTERNAL_DEPTH", "1")
    Bars(True).watch(Watched())
    assert drawing() == []


def test_a_pipe_gets_no_bar_and_tqdm_is_not_imported(tmp_path: Path) -> None:
    source = (
        "import sys\nfrom pywren_ng import Executor\n"
        "with Executor('inline') as ex: print(sum(ex.map(abs, range(5))), 'tqdm' in sys.modules)\n"
    )
    ran = start(source, tmp_path, subprocess.PIPE)
    assert ran.communicate(timeout=60) == ("10 False\n", "")


def test_a_terminal_gets_a_bar_if_the_job_takes_a_while(tmp_path: Path, terminal: tuple[int, int]) -> None:
    """The task ends when the test has seen the bar of its job."""
    seen = tmp_path / "seen"
    source = f"""
import os, time
from pywren_ng import Executor

def patient(x):
    while not os.path.exists({str(seen)!r}):
        time.sleep(0.01)
    return x

with Executor(max_workers=1) as ex:
    print(ex.map(patient, range(3)).results())
"""
    screen, program = terminal
    ran = start(source, tmp_path, program)
    os.close(program)
    assert "patient:   0%" in read_until(screen, "0/3")
    assert "running=1" in read_until(screen, "running=1")
    seen.touch()
    last = read_until(screen, ", job local-")
    assert "3/3" in last and "patient: 3 tasks in " in last
    out, _ = ran.communicate(timeout=60)
    assert out == "[0, 1, 2]\n"


# ── with an executor ──


@pytest.mark.parametrize("backend", ["inline", "local"])
def test_failures_and_retries_are_counted(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    def halve(x: int) -> float:
        return 1 / x

    with Executor(backend, max_workers=1, progress=True, name="halves", retries=1, retry_on=ZeroDivisionError) as ex:
        ex.map(halve, [1, 0, 2]).results(return_exceptions=True)
    shown = capsys.readouterr().err
    assert "halves" in shown and "3/3" in shown and "failed=1" in shown and "retried=1" in shown
    assert drawing() == []


@pytest.mark.parametrize("take", [lambda job: job.results(), list], ids=["results", "iteration"])
def test_a_bar_is_at_its_end_before_the_next_line(
    take: Callable[[Job[int]], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    with Executor(max_workers=1, progress=True) as ex:
        assert take(ex.map(abs, range(3))) == [0, 1, 2]
        shown = capsys.readouterr().err
        assert "3/3" in shown and shown.endswith("\n")


def test_a_failure_ends_the_bar_before_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with Executor(max_workers=1, progress=True) as ex:
        with pytest.raises(ZeroDivisionError):
            ex.map(lambda x: 1 / x, [1, 0, 2]).results()
        assert capsys.readouterr().err.endswith("\n")


def test_what_is_run_again_has_a_bar_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The second time, the task ends when the test has seen that there is a bar."""
    failed, seen = tmp_path / "failed", tmp_path / "seen"

    def fail_once(x: int) -> int:
        if not failed.exists():
            failed.touch()
            raise ValueError
        while not seen.exists():
            time.sleep(0.01)
        return x

    with Executor(max_workers=1, progress=True) as ex:
        job = ex.map(fail_once, [1])
        job.results(return_exceptions=True)
        assert "1/1" in capsys.readouterr().err
        job.retry_failed()
        assert "0/1" in capsys.readouterr().err
        seen.touch()
        assert job.results() == [1]
        assert "1/1" in capsys.readouterr().err


def test_a_cancelled_task_is_not_counted_as_done(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def endless(path: Path) -> None:
        path.touch()
        while True:
            time.sleep(0.01)

    with Executor(max_workers=1, progress=True) as ex:
        job = ex.map(endless, [tmp_path / "0", tmp_path / "1"])
        until((tmp_path / "0").exists)
        job.cancel()
    shown = capsys.readouterr().err
    assert "cancelled=2" in shown and "0/2" in shown and "2/2" not in shown


def test_a_dropped_job_ends_its_bar() -> None:
    with Executor("inline", progress=True) as ex:
        job = ex.map(abs, count(), buffersize=2)
        assert next(job) == 0
        assert len(drawing()) == 1
        del job
        until(lambda: not drawing())


def test_input_that_raises_ends_the_bar() -> None:
    with Executor("inline", progress=True) as ex:
        with pytest.raises(ZeroDivisionError):
            ex.map(abs, (1 // x for x in [1, 1, 0]))
        until(lambda: not drawing())


def test_shutdown_ends_a_bar_whose_job_nobody_finished() -> None:
    ex = Executor("inline", progress=True)
    job = ex.map(abs, count(), buffersize=2)
    ex.shutdown(wait=True)
    assert drawing() == []
    assert next(job) == 0


def test_the_end_of_the_interpreter_is_quiet(tmp_path: Path) -> None:
    """The script ends with a job on its way: it is done, its bar is too, and nothing else is said."""
    source = "from pywren_ng import Executor\nex = Executor(progress=True)\njob = ex.map(abs, range(50))\n"
    ran = start(source, tmp_path, subprocess.PIPE)
    _, shown = ran.communicate(timeout=60)
    assert ran.returncode == 0
    assert "50/50" in shown
    assert all("abs" in line for line in shown.replace("\r", "\n").split("\n") if line.strip())
