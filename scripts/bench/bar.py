#!/usr/bin/env python3
"""What a bar costs: no-op tasks with one on a terminal, and without, in turns.

    pty ◄── stderr of this process: somebody is looking
    round: with a bar, without; in the next round the other way round ─► tasks/s each ─► ratio of medians

Both executors stay alive for the whole run and their workers are warm; each sample is a map of many no-ops whose
results are checked. The bar must have been drawn: what the terminal received is read and counted.
"""

import fcntl
import os
import pty
import struct
import subprocess
import tempfile
import termios
import time
from functools import partial
from statistics import median

from contest import NotDone, alternated, answered, asking, concluded, ends

ROUNDS = 15
TASKS = 40_000
MOST = 0.05  # of the throughput, that a bar may cost


class Screen:
    """A terminal as stderr; another process reads what it shows, as a terminal's window would."""

    def __init__(self) -> None:
        self._kept = os.dup(2)
        screen, program = pty.openpty()
        fcntl.ioctl(program, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        self._file = tempfile.TemporaryFile()
        self._window = subprocess.Popen(["cat"], stdin=screen, stdout=self._file, stderr=subprocess.DEVNULL)
        os.dup2(program, 2)
        os.close(screen)
        os.close(program)

    def close(self) -> bytes:
        """What it has shown."""
        os.dup2(self._kept, 2)  # the last of the program's ends is closed
        self._window.wait(10)
        self._file.seek(0)
        return self._file.read()


def rate(executor: object) -> float:
    """No-ops a second, one task each, until all results are here."""
    begun = time.perf_counter()
    results = executor.map(int, range(TASKS), chunksize=None).results()  # type: ignore[attr-defined]
    elapsed = time.perf_counter() - begun
    if results != list(range(TASKS)):
        raise NotDone("the results are wrong")
    return TASKS / elapsed


def measure(rounds: int) -> tuple[dict[str, list[float]], bytes]:
    """Samples with and without, and what the terminal got."""
    from pywren_ng import Executor

    screen = Screen()
    try:
        with Executor("local", progress=True) as bar, Executor("local", progress=False) as none:
            samples = alternated({"bar": partial(rate, bar), "none": partial(rate, none)}, rounds, None)
    finally:
        shown = screen.close()
    return samples, shown


def main() -> int:
    asked = answered(asking(__doc__, ROUNDS), "tqdm")
    samples, shown = measure(asked.rounds)
    drawn = shown.count(b"\rint: ")
    ends_shown = shown.count(b" 0 failed, ")
    if drawn < 3 * asked.rounds or ends_shown != asked.rounds + 1:
        raise NotDone(f"a bar was drawn {drawn} times and ended {ends_shown} times: nothing was measured")
    figures = {name: median(values) for name, values in samples.items()}
    cost = 1 - figures["bar"] / figures["none"]
    lines = [
        f"{TASKS:,} no-ops each, drawn {drawn} times",
        f"with a bar {figures['bar']:,.0f} tasks/s, without {figures['none']:,.0f}",
    ]
    said = f"a bar costs {100 * cost:.1f} % of the throughput (< {100 * MOST:.0f} %)"
    return concluded(asked, [("6a", said, cost < MOST)], lines=lines, samples=samples, drawn=drawn)


if __name__ == "__main__":
    ends(main)
