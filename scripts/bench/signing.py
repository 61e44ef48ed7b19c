#!/usr/bin/env python3
"""What it costs that every Call and every Outcome is signed: no-ops of this release, beside a copy that signs nothing.

    copy as it is ─────────┐
                           ├─► rounds, in turns, a fresh process each ─► median of each round's ratio ─► PASS / FAIL
    copy with `_EDITS` ────┘

The copies differ in nothing but these edits, which must fit the text. Both executors check every value.

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
from statistics import median

PACKAGES = ("pywren_ng", "pywren_runtime", "pywren_shuffle")
LIMIT = 0.03
_EDITS = (
    (
        "        inner = self._inner.copy()\n        inner.update(kind)\n        inner.update(body)\n"
        "        outer = self._outer.copy()\n        outer.update(inner.digest())\n        return outer.digest()\n",
        "        return bytes(SIGNATURE)\n",
    ),
    ("if not compare_digest(self.sign(kind, body), view[:SIGNATURE]):", "if False:"),
)
TURN = """
import json, sys, time
from pywren_ng import Executor

def same(x):
    return x

tasks, repeats, workers = map(int, sys.argv[1:])
with Executor(max_workers=workers, progress=False) as ex:
    found = []
    for turn in range(-2, repeats):
        begun = time.perf_counter()
        results = ex.map(same, range(tasks)).results()
        if turn >= 0:
            found.append(time.perf_counter() - begun)
        assert results == list(range(tasks))
print(json.dumps(found))
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
    wire = made["unsigned"] / "pywren_runtime" / "wire.py"
    text = wire.read_text()
    for old, new in _EDITS:
        if text.count(old) != 1:
            sys.exit(f"an edit does not fit wire.py any more: {old!r}")
        text = text.replace(old, new)
    wire.write_text(text)
    return made


def turn(copy: Path, options: argparse.Namespace) -> list[float]:
    """Seconds of each repeat, in a process of its own."""
    paths = os.pathsep.join([str(copy), *filter(None, sys.path[1:])])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYWREN_NG_")}
    numbers = [str(number) for number in (options.tasks, options.repeats, options.workers)]
    ran = subprocess.run(
        [sys.executable, "-P", "-c", TURN, *numbers],
        env=kept | {"PYTHONPATH": paths},
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if ran.returncode:
        print(ran.stderr, file=sys.stderr)
        sys.exit(2)
    found: list[float] = json.loads(ran.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the samples there")
    options = parser.parse_args()
    samples: dict[str, list[list[float]]] = {"signed": [], "unsigned": []}
    with tempfile.TemporaryDirectory(prefix="signing-") as folder:
        made = copies(Path(folder))
        for number in range(options.rounds):
            for kind in sorted(made, reverse=number % 2 == 1):
                samples[kind].append(turn(made[kind], options))
    rates = {kind: [options.tasks / median(each) for each in rounds] for kind, rounds in samples.items()}
    ratios = [signed / bare for signed, bare in zip(rates["signed"], rates["unsigned"], strict=True)]
    cost = 1 - median(ratios)
    raw = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "command": sys.argv,
        "samples": samples,
        "ratios": ratios,
    }
    print(json.dumps(raw))
    if options.json:
        options.json.write_text(json.dumps(raw))
    said = ", ".join(f"{kind} {median(found):,.0f}/s" for kind, found in rates.items())
    spread = f"rounds from {1 - max(ratios):.1%} to {1 - min(ratios):.1%}"
    verdict = "PASS" if cost < LIMIT else "FAIL"
    print(f"signing  {said}: costs {cost:.1%} of the throughput of no-ops ({spread})  {verdict}")
    return 0 if verdict == "PASS" else 1


if __name__ == "__main__":
    sys.exit(main())
