#!/usr/bin/env python3
"""What the signatures in the workers' pipes cost: no-ops of this release, beside a copy that signs nothing there.

    copy as it is ─────────┐
                           ├─► a process each, one map in turns ─► the quickest quarter of each ─► PASS / FAIL
    copy with `_EDITS` ────┘

The copies differ in nothing but these edits, which must fit the text. Both executors check every value. What else runs
on the machine only ever adds: so the quarter of the maps that it disturbed least is compared, of hundreds in turns.

Exit codes: 0 the claim is met, 1 it is not, 2 the run could not be done.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles

PACKAGES = ("pywren_ng", "pywren_runtime", "pywren_shuffle")
LIMIT = 0.03
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
            sys.exit(f"an edit does not fit batches.py any more: {old!r}")
        text = text.replace(old, new)
    batches.write_text(text)
    return made


class Runner:
    """A process with an executor of one of the copies, which maps when it is told to."""

    def __init__(self, copy: Path, options: argparse.Namespace) -> None:
        paths = os.pathsep.join([str(copy), *filter(None, sys.path[1:])])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYWREN_NG_")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", TURN, str(options.tasks), str(options.workers)],
            env=kept | {"PYTHONPATH": paths},
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
            sys.exit(2)  # it has said why
        return float(line)

    def close(self) -> None:
        self._process.communicate(timeout=60)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=800)  # half of them lie within a tenth of the truth
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the samples there")
    options = parser.parse_args()
    samples: dict[str, list[float]] = {"signed": [], "unsigned": []}
    with tempfile.TemporaryDirectory(prefix="signing-") as folder:
        runners = {kind: Runner(copy, options) for kind, copy in copies(Path(folder)).items()}
        for number in range(-WARM, options.rounds):
            for kind in sorted(runners, reverse=number % 2 == 1):
                seconds = runners[kind].map()
                if number >= 0:
                    samples[kind].append(seconds)
        for runner in runners.values():
            runner.close()
    ratios = [bare / signed for signed, bare in zip(samples["signed"], samples["unsigned"], strict=True)]
    cost = 1 - quantiles(samples["unsigned"], n=4)[0] / quantiles(samples["signed"], n=4)[0]
    raw = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "command": sys.argv,
        "samples": samples,
    }
    print(json.dumps(raw))
    if options.json:
        options.json.write_text(json.dumps(raw))
    said = ", ".join(f"{kind} {options.tasks / median(found):,.0f}/s" for kind, found in samples.items())
    low, _, high = quantiles(ratios, n=4)
    verdict = "PASS" if cost < LIMIT else "FAIL"
    print(
        f"signing  {said}: costs {cost:.1%} of the throughput of no-ops "
        f"(median of the rounds {1 - median(ratios):.1%}, half of them from {1 - high:.1%} to {1 - low:.1%})  {verdict}"
    )
    return 0 if verdict == "PASS" else 1


if __name__ == "__main__":
    sys.exit(main())
