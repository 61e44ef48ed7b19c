#!/usr/bin/env python3
"""What the signatures in the workers' pipes cost: no-ops of this release, beside a copy that signs nothing there.

    copy as it is ─────────┐
                           ├─► a process each, one map in turns ─► the quickest quarter of each ─► PASS / FAIL
    copy with `_EDITS` ────┘

The copies differ in nothing but these edits, which must fit the text. Both executors check every value. What else runs
on the machine only ever adds: so the quarter of the maps that it disturbed least is compared, of hundreds in turns.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles

from contest import NotDone, Verdict, answered, asking, concluded, ends, taking_turns, without

PACKAGES = ("pywren_ng", "pywren_runtime", "pywren_shuffle")
LIMIT = 0.03
ROUNDS = 800  # half of them lie within a tenth of the truth
TASKS = 5000
WORKERS = os.cpu_count() or 1
WARM = 3  # rounds that do not count
_UNSIGNED = bytes(32)
_EDITS = (  # where something goes into a pipe, and where it comes out
    (
        "        self._inner.update(self._last + batch)\n        self._last = self._sign()\n"
        "        return batch + self._last\n",
        f"        return batch + {_UNSIGNED!r}\n",
    ),
    ("            self._check(view[: at - SIGNATURE], data[at - SIGNATURE : at])\n", "            pass\n"),
)
TURN = """
import sys, time
from pywren_ng import Executor

def same(x):
    return x

tasks, workers = map(int, sys.argv[1:])
with Executor(max_workers=workers, progress=False) as ex:
    for line in sys.stdin:
        begun = time.perf_counter()
        results = ex.map(same, range(tasks)).results()
        print(time.perf_counter() - begun, flush=True)
        assert results == list(range(tasks))
"""


def copies(folder: Path) -> dict[str, Path]:
    """The installed packages as they are, and without signatures."""
    made = {}
    for kind in ("signed", "unsigned"):
        made[kind] = folder / kind
        for package in PACKAGES:
            source = subprocess.run(
                [sys.executable, "-c", f"import {package}; print({package}.__path__[0])"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            shutil.copytree(source, made[kind] / package, ignore=shutil.ignore_patterns("__pycache__"))
    batches = made["unsigned"] / "pywren_runtime" / "batches.py"
    text = batches.read_text()
    for old, new in _EDITS:
        if text.count(old) != 1:
            raise NotDone(f"an edit does not fit batches.py any more: {old!r}")
        text = text.replace(old, new)
    batches.write_text(text)
    return made


class Runner:
    """A process with an executor of one of the copies, which maps when it is told to."""

    def __init__(self, copy: Path) -> None:
        paths = os.pathsep.join([str(copy), *filter(None, sys.path[1:])])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", TURN, str(TASKS), str(WORKERS)],
            env=without("PYWREN_NG_") | {"PYTHONPATH": paths},
            cwd=copy,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def map(self) -> float:
        """Seconds of one map."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise NotDone("a runner has ended, and said why")
        return float(line)

    def close(self) -> None:
        self._process.communicate(timeout=60)


def main() -> int:
    asked = answered(asking(__doc__, ROUNDS))
    samples: dict[str, list[float]] = {"signed": [], "unsigned": []}
    with tempfile.TemporaryDirectory(prefix="signing-") as folder:
        runners = {kind: Runner(copy) for kind, copy in copies(Path(folder)).items()}
        for kind in taking_turns(list(runners), WARM + asked.rounds, None):
            samples[kind].append(runners[kind].map())
        for runner in runners.values():
            runner.close()
    samples = {kind: seconds[WARM:] for kind, seconds in samples.items()}
    return concluded(asked, [judged(samples)], samples=samples)


def judged(samples: dict[str, list[float]]) -> Verdict:
    """What the quickest quarters say, and beside it what the rounds do."""
    ratios = [bare / signed for signed, bare in zip(samples["signed"], samples["unsigned"], strict=True)]
    quickest = {kind: min(found) if len(found) < 4 else quantiles(found, n=4)[0] for kind, found in samples.items()}
    cost = 1 - quickest["unsigned"] / quickest["signed"]
    said = ", ".join(f"{kind} {TASKS / median(found):,.0f}/s" for kind, found in samples.items())
    said += f": costs {cost:.1%} of the throughput of no-ops (median of the rounds {1 - median(ratios):.1%})"
    return "signing", said, cost < LIMIT


if __name__ == "__main__":
    ends(main)
