#!/usr/bin/env python3
"""How long a random forest takes to grow through joblib on the local backend, beside loky.

    forest.py ─► pinned environment ─► rounds × contestants, rotated ─► medians ─► thresholds ─► PASS / FAIL
                  └─► turn: a fresh process, one pool: a first forest, then a second one with warm workers

100 trees on 50,000 × 50 numbers, once from cold (workers start and import scikit-learn) and once warm. Every forest
must be, node for node, the one that scikit-learn grows in threads of one process with the same seed. What our client
wrote for the first, into its store and pipes, is counted by the system.

Exit codes: 0 every claim met, 1 one is not, 2 the run could not be done, 3 a partial run: not comparable.
"""

import argparse
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from pinned import enter, environment_of
from rows import Row, Samples, Target, figures_of, judge, table

OURS, RIVAL, LOCAL = "pywren_ng", "loky", "threads"
ROUNDS, TREES, LINES, COLUMNS = 3, 100, 50_000, 50
WORKERS = 4
LIMIT = 900  # seconds for one turn
PACKAGES = ("joblib", "scikit-learn", "scipy", "numpy")
ONCE = (Target("≥", 1), Target("<", 1.5))
ROWS = (
    Row("cold", "2", "a forest, from cold", "s", 1, (Target("≤", 1.1, RIVAL),)),
    Row("warm", "2", "a forest, workers warm", "s", 1, (Target("≤", 1.1, RIVAL),)),
    Row("stored", "2", "how often its data was stored", "times", 1, ONCE),
    Row("written", "2", "bytes written, by its data's", "times", 1, ONCE),
)


class NotDone(Exception):
    """The run cannot be done or went wrong; its text is for the reader."""


# A turn, in a process of its own.


@contextmanager
def entered(name: str) -> Iterator[Any]:
    """joblib told to use this contestant; our executor, or nothing."""
    import joblib

    if name == OURS:
        import pywren_ng.joblib  # noqa: F401
        from pywren_ng import Executor

        with Executor("local", max_workers=WORKERS) as executor:
            with joblib.parallel_config(backend="pywren_ng", executor=executor):
                yield executor
    else:  # its defaults map large arrays from /dev/shm; the other modes of mapping are no faster
        with joblib.parallel_config(backend="loky" if name == RIVAL else "threading", n_jobs=WORKERS):
            yield None


def turn(name: str, trees: int, lines: int) -> dict[str, Any]:
    """Seconds of a first and a second forest, what they are, and what was stored for both and written for the first."""
    import numpy as np
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    data, labels = make_classification(lines, COLUMNS, n_informative=20, random_state=0)
    data = data.astype(np.float32)
    size = data.nbytes + labels.size * 8  # scikit-learn makes floats of the labels
    found: dict[str, Any] = {}
    with entered(name) as executor:
        for kind in ("cold", "warm")[: 1 if name == LOCAL else 2]:
            before, begun = written(), time.perf_counter()
            forest = RandomForestClassifier(n_estimators=trees, random_state=7, n_jobs=-1).fit(data, labels)
            found[kind] = time.perf_counter() - begun
            found.setdefault("written", (written() - before) / size)
            found[f"digest {kind}"] = digest_of(forest)
        if executor is not None:
            found["stored"] = sum(stored for _, stored in executor.store.keys("blobs/")) / size
    return found


def written() -> int:
    """Bytes that this process has written, wherever to."""
    return int(Path("/proc/self/io").read_text().split("wchar:")[1].split()[0])


def digest_of(forest: Any) -> str:
    """Of all nodes of all trees, and what stands in them."""
    whole = hashlib.sha256()
    for tree in forest.estimators_:
        state = tree.tree_.__getstate__()
        whole.update(state["nodes"].tobytes())
        whole.update(state["values"].tobytes())
    return whole.hexdigest()


# The run.


def taken(name: str, trees: int, lines: int) -> dict[str, Any]:
    """What a turn found; NotDone if it failed."""
    command = [sys.executable, __file__, "--turn", name, "--trees", str(trees), "--lines", str(lines)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYWREN_NG_")}
    ran = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=LIMIT)
    if ran.returncode:
        raise NotDone(f"{name} ended with {ran.returncode}:\n{(ran.stdout + ran.stderr)[-4_000:]}")
    found: dict[str, Any] = json.loads(ran.stdout)
    shown = ", ".join(f"{key} {value:.2f}" for key, value in found.items() if isinstance(value, float))
    print(f"{name}: {shown}", file=sys.stderr, flush=True)
    return found


def run(rounds: int, trees: int, lines: int) -> Samples:
    """All rounds, each beginning with the next contestant; every forest is compared with one grown in threads."""
    like = taken(LOCAL, trees, lines)["digest cold"]
    samples: Samples = {row.name: {} for row in ROWS}
    for number in range(rounds):
        for name in ((OURS, RIVAL), (RIVAL, OURS))[number % 2]:
            found = taken(name, trees, lines)
            if (found["digest cold"], found["digest warm"]) != (like, like):
                raise NotDone(f"{name} grew other trees than scikit-learn in threads, with the same seed")
            for row in ROWS:
                if row.name in ("cold", "warm") or name == OURS:
                    samples[row.name].setdefault(name, []).append([found[row.name]])
    return samples


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="raw samples, versions and verdicts")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS} or more, else not comparable")
    parser.add_argument("--trees", type=int, default=TREES, help="fewer are not comparable")
    parser.add_argument("--lines", type=int, default=LINES, help="fewer are not comparable")
    parser.add_argument("--venv", type=Path, default=environment_of("forest"), help="default: %(default)s")
    parser.add_argument("--here", action="store_true", help="in this environment, with what is installed")
    parser.add_argument("--turn", choices=(OURS, RIVAL, LOCAL), help=argparse.SUPPRESS)
    return parser


def main() -> int:
    asked = parser().parse_args()
    if asked.turn:
        print(json.dumps(turn(asked.turn, asked.trees, asked.lines)))
        return 0
    if not asked.here:
        enter(asked.venv, with_project=True, requirements="requirements-forest.txt")
    try:
        versions = {name: metadata.version(name) for name in PACKAGES} | {"python": platform.python_version()}
    except metadata.PackageNotFoundError as missing:
        raise NotDone(f"{missing.name} is not installed here; a run without it shows nothing") from None
    samples = run(max(1, asked.rounds), asked.trees, asked.lines)
    is_partial = asked.rounds < ROUNDS or (asked.trees, asked.lines) != (TREES, LINES)
    figures = figures_of(samples)
    verdicts = list(judge(figures, ROWS))
    line = shlex.join(["scripts/bench/forest.py", *sys.argv[1:]])
    print(f"\n{line}\n{platform.platform()}, {os.cpu_count()} CPUs, medians of {asked.rounds} rounds")
    print(", ".join(f"{name} {version}" for name, version in versions.items()), end="\n\n")
    print(*table(figures, [OURS, RIVAL], ROWS), sep="\n", end="\n\n")
    for claim, said, is_met in verdicts:
        print(f"{claim}  {said}  {'PASS' if is_met else 'FAIL'}")
    if asked.json:
        content = {
            "command": line,
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg(),
            "versions": versions,
            "rows": [asdict(row) for row in ROWS],
            "samples": samples,
            "medians": figures,
            "verdicts": verdicts,
        }
        asked.json.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    if is_partial:
        print(f"NOT COMPARABLE: a run needs {TREES} trees, {LINES:,} lines and {ROUNDS} rounds.")
        return 3
    return 0 if all(is_met for _, _, is_met in verdicts) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (NotDone, subprocess.SubprocessError) as failed:
        print(f"forest.py: {failed}", file=sys.stderr)
        sys.exit(2)
