#!/usr/bin/env python3
"""What a bar costs: no-op tasks with one on a terminal, and without, in turns.

    pty ◄── stderr of this process: somebody is looking
    round: with a bar, without; in the next round the other way round ─► tasks/s each ─► ratio of medians

Both executors stay alive for the whole run and their workers are warm; each sample is a map of many no-ops whose
results are checked. The bar must have been drawn: what the terminal received is read and counted.

Exit codes: 0 the claim is met, 1 it is not, 2 the run could not be done.
"""

import argparse
import fcntl
import json
import os
import platform
import pty
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from statistics import median

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


def rate(executor: object, tasks: int) -> float:
    """No-ops a second, one task each, until all results are here."""
    begun = time.perf_counter()
    results = executor.map(int, range(tasks), chunksize=None).results()  # type: ignore[attr-defined]
    elapsed = time.perf_counter() - begun
    if results != list(range(tasks)):
        raise SystemExit("bar.py: the results are wrong")
    return tasks / elapsed


def measure(rounds: int, tasks: int) -> tuple[dict[str, list[float]], bytes]:
    """Samples with and without, and what the terminal got."""
    from pywren_ng import Executor

    samples: dict[str, list[float]] = {"bar": [], "none": []}
    screen = Screen()
    try:
        with Executor("local", progress=True) as bar, Executor("local", progress=False) as none:
            executors = {"bar": bar, "none": none}
            for executor in executors.values():
                rate(executor, tasks)
            for number in range(rounds):
                for name in sorted(executors, reverse=bool(number % 2)):
                    samples[name].append(rate(executors[name], tasks))
    finally:
        shown = screen.close()
    return samples, shown


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="raw samples")
    asked = parser.parse_args()
    samples, shown = measure(asked.rounds, asked.tasks)
    drawn = shown.count(b"\rint: ")
    ends = shown.count(b" 0 failed, ")
    if drawn < 3 * asked.rounds or ends != asked.rounds + 1:
        print(f"bar.py: a bar was drawn {drawn} times and ended {ends} times: nothing was measured", file=sys.stderr)
        return 2
    figures = {name: median(values) for name, values in samples.items()}
    cost = 1 - figures["bar"] / figures["none"]
    is_met = cost < MOST
    print(f"{shlex.join(['scripts/bench/bar.py', *sys.argv[1:]])}\n{platform.platform()}, {os.cpu_count()} CPUs")
    print(f"python {platform.python_version()}, {asked.rounds} pairs of {asked.tasks:,} no-ops, drawn {drawn} times")
    print(f"with a bar {figures['bar']:,.0f} tasks/s, without {figures['none']:,.0f}")
    verdict = "PASS" if is_met else "FAIL"
    print(f"6a  a bar costs {100 * cost:.1f} % of the throughput (< {100 * MOST:.0f} %)  {verdict}")
    if asked.json:
        content = {"samples": samples, "medians": figures, "drawn": drawn, "load": os.getloadavg()}
        asked.json.write_text(json.dumps(content, indent=1))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
