#!/usr/bin/env python3
"""What our executor leaves when it works for long: nothing may be lost, grow, or stay behind.

    staying.py [jobs] [long-map] [threads] [raise]      all four unless some are named

    levels (memory, stored bytes, threads, open files, processes) ─► a line for each tenth ─► PASS / FAIL

Runs in the environment it is started in, which has pywren-ng and psutil. The last line of a section is its
figure; the exit code is 0 only if all sections pass.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil

from pywren_ng import Executor

JOBS = 1_000
TASKS = 100_000
BYTES_A_TASK = 1_024
WAIT = 120  # seconds for any one result: past it, it is lost
EXIT = 10  # seconds for a script that raised


def triple(number: int) -> int:
    return 3 * number


def scratch_of(url: str) -> Path:
    """The folder of an executor that was given no store: its store lies in it."""
    return Path(unquote(urlsplit(url).path)).parent


def stored_below(folder: Path) -> int:
    """Bytes of the files below; what goes while we look counts as gone."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


@dataclass(frozen=True, slots=True)
class Levels:
    """What this process and its children hold at one moment."""

    stored: int
    threads: int
    files: int
    processes: int

    @classmethod
    def of(cls, executor: Executor) -> "Levels":
        me = psutil.Process()
        stored = stored_below(scratch_of(executor.store.url))
        return cls(stored, me.num_threads(), me.num_fds(), len(me.children(recursive=True)))

    def higher(self, other: "Levels") -> "Levels":
        """The higher one of each."""
        return Levels(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


# How far a later tenth may lie over the first: a pool of threads, or a file, that some moment did not need.
SLACK = Levels(stored=1_000_000, threads=2, files=8, processes=1)


class Tenths:
    """Notes levels as the work goes on, prints them every tenth, and says at the end whether they rose."""

    def __init__(self, executor: Executor, total: int) -> None:
        self._executor = executor
        self._scratch = scratch_of(executor.store.url)
        self._every = max(1, total // 100)
        self._tenth = total // 10
        self._highest: list[Levels] = []
        self._current: Levels | None = None

    def note(self, done: int) -> None:
        """Called after each piece of work; looks a hundred times in all."""
        if done % self._every:
            return
        seen = Levels.of(self._executor)
        self._current = seen.higher(self._current) if self._current else seen
        if done % self._tenth == 0:
            high = self._current
            print(
                f"{done:>9,} done: {high.stored:,} bytes stored, {high.threads} threads, {high.files} open "
                f"files, {high.processes} processes, {resident() / 1e6:.1f} MB resident",
                flush=True,
            )
            self._highest.append(high)
            self._current = None

    def wrong(self) -> list[str]:
        """What rose above the first tenth in a later one, and what is left after the executor's end."""
        first, *later = self._highest
        left = [f"process {child.pid} is left" for child in psutil.Process().children(recursive=True)]
        if self._scratch.exists():
            left.append(f"{self._scratch} is left")
        return left + [
            f"{f.name} rose from {getattr(first, f.name):,} to {high:,}"
            for f in fields(Levels)
            if (high := max(getattr(seen, f.name) for seen in later)) > getattr(first, f.name) + getattr(SLACK, f.name)
        ]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a section found: its figure, and what is wrong."""

    figure: str
    wrong: list[str]


def resident() -> int:
    """Bytes of memory of this process."""
    return int(psutil.Process().memory_info().rss)


def jobs(_: argparse.Namespace) -> Verdict:
    """Job after job on one executor, ten tasks each."""
    wrong, start = [], time.monotonic()
    with Executor("local") as executor:
        tenths = Tenths(executor, JOBS)
        for number in range(JOBS):
            items = range(number, number + 10)
            if list(executor.map(triple, items, timeout=WAIT)) != [3 * item for item in items]:
                wrong.append(f"job {number} came back wrong")
            tenths.note(number + 1)
    elapsed = time.monotonic() - start
    return Verdict(f"{JOBS:,} jobs of 10 tasks in {elapsed:.1f} s", wrong + tenths.wrong())


def long_map(_: argparse.Namespace) -> Verdict:
    """One map of many tasks, iterated: memory is what the client has more of at its highest than before."""
    wrong, start = 0, time.monotonic()
    with Executor("local") as executor:
        assert list(executor.map(triple, range(1_000), timeout=WAIT))  # workers and imports are there
        tenths = Tenths(executor, TASKS)
        before = highest = resident()
        for number, value in enumerate(executor.map(triple, range(TASKS), timeout=None)):
            wrong += value != 3 * number
            if number % 50 == 0:
                highest = max(highest, resident())
            tenths.note(number + 1)
        came = number + 1
    each = (highest - before) / TASKS
    return Verdict(
        f"{each:,.0f} bytes of memory a task, at most {BYTES_A_TASK:,}; {came:,} tasks in "
        f"{time.monotonic() - start:.1f} s",
        [f"{wrong} values came back wrong"] * (wrong > 0)
        + [f"{TASKS - came} tasks are lost"] * (came != TASKS)
        + ["memory grows too much"] * (each > BYTES_A_TASK)
        + tenths.wrong(),
    )


def threads(asked: argparse.Namespace) -> Verdict:
    """Eight threads submit, and map in between, for as long as asked."""
    end, settled, wrong = time.monotonic() + asked.seconds, [0] * 8, list[str]()

    def work(executor: Executor, mine: int) -> None:
        first = mine * 1_000_000
        try:
            while time.monotonic() < end:
                numbers = range(first + settled[mine], first + settled[mine] + 20)
                sent: list[Future[int]] = [executor.submit(triple, number) for number in numbers]
                if [future.result(WAIT) for future in sent] != [3 * number for number in numbers]:
                    wrong.append(f"thread {mine}: submit came back wrong")
                if list(executor.map(triple, numbers, timeout=WAIT)) != [3 * number for number in numbers]:
                    wrong.append(f"thread {mine}: map came back wrong")
                settled[mine] += 2 * len(numbers)
        except BaseException as error:
            wrong.append(f"thread {mine}: {error!r}")

    with Executor("local") as executor:
        tenths = Tenths(executor, 100)
        started = [threading.Thread(target=work, args=(executor, mine)) for mine in range(8)]
        for thread in started:
            thread.start()
        for part in range(1, 101):
            time.sleep(max(0, end - asked.seconds * (100 - part) / 100 - time.monotonic()))
            tenths.note(part)
        for thread in started:
            thread.join(2 * WAIT)
        wrong += [f"{thread.name} hangs" for thread in started if thread.is_alive()]
    per_second = sum(settled) / asked.seconds
    figure = f"{sum(settled):,} tasks from 8 threads in {asked.seconds:g} s, {per_second:,.0f}/s"
    return Verdict(figure, wrong + tenths.wrong() + [f"thread {n} did none" for n in range(8) if not settled[n]])


RAISING = """
import os, sys, time
from pywren_ng import Executor

def sleep(_, data):
    time.sleep(600)

with Executor("local") as executor:
    print(executor.store.url, flush=True)
    print(executor.submit(os.getpid).result(), flush=True)
    job = executor.map(sleep, range(100), [b"x" * 1_000_000] * 100)
    while not any(future.running() for future in job.futures):
        time.sleep(0.01)
    print("raising", flush=True)
    raise RuntimeError("in mid-job")
"""


def raising(_: argparse.Namespace) -> Verdict:
    """A script that raises while its tasks run and wait: afterwards nothing of it may be there."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="staying-") as folder:
        temporary = Path(folder, "tmp")
        temporary.mkdir()
        session, said, error, elapsed = run_raising(Path(folder), {"STAYING_MARK": mark, "TMPDIR": str(temporary)})
        if said[2] != "raising" or "RuntimeError: in mid-job" not in error:
            return Verdict("the script did something else", [f"{said} {error[-2_000:]}"])
        wrong = [f"exited after {elapsed:.1f} s"] * (elapsed > EXIT)
        wrong += [f"{left} still runs" for left in processes_left(session, mark, int(said[1]))]
        places = (scratch_of(said[0]), *temporary.iterdir())
        wrong += [f"{path} is left" for path in places if path.exists()]
    return Verdict(f"exited {elapsed:.2f} s after raising, left or late: {len(wrong)}", wrong)


def run_raising(folder: Path, env: dict[str, str]) -> tuple[int, list[str], str, float]:
    """Its session, the three lines it printed, its stderr, and the seconds from raising to its exit."""
    script, errors = folder / "raising.py", folder / "errors"
    script.write_text(RAISING)
    with errors.open("w") as stderr:  # a file: a worker that lives on would hold a pipe open
        process = subprocess.Popen(
            [sys.executable, str(script)],
            env=os.environ | env,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
    guard = threading.Timer(WAIT, os.killpg, (process.pid, signal.SIGKILL))
    guard.start()
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(3)]
    start = time.monotonic()
    process.wait()
    elapsed = time.monotonic() - start
    guard.cancel()
    process.stdout.close()
    return process.pid, said, errors.read_text(), elapsed


def processes_left(session: int, mark: str, worker: int) -> list[str]:
    """Whoever is of its session, bears its mark, or is the worker we know of, two seconds after the exit."""
    end = time.monotonic() + 2
    while (left := list(_belonging(session, mark, worker))) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def _belonging(session: int, mark: str, worker: int) -> Iterator[str]:
    for process in psutil.process_iter(["pid", "cmdline"]):
        try:
            is_marked = process.environ().get("STAYING_MARK") == mark
            is_ours = process.pid == worker or is_marked or os.getsid(process.pid) == session
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                yield f"process {process.pid} ({' '.join(process.info['cmdline'] or [])[:80]})"
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue  # it ended while we looked, or belongs to somebody else


SECTIONS: dict[str, Callable[[argparse.Namespace], Verdict]] = {
    "jobs": jobs,
    "long-map": long_map,
    "threads": threads,
    "raise": raising,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=60, help="how long the threads submit (%(default)g)")
    asked = parser.parse_intermixed_args()  # options may stand between sections
    if unknown := set(asked.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    sections = asked.sections or list(SECTIONS)
    if len(sections) > 1:  # each in a process of its own: no section grows into what another has left free
        again = [sys.executable, __file__, "--seconds", str(asked.seconds)]
        return max(subprocess.run([*again, name]).returncode != 0 for name in sections)
    (name,) = sections
    verdict = SECTIONS[name](asked)
    print(*verdict.wrong[:20], sep="\n", end="\n" if verdict.wrong else "")
    print(f"{name}: {verdict.figure}: {'FAIL' if verdict.wrong else 'PASS'}")
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
