#!/usr/bin/env python3
"""How long a random forest takes to grow through joblib on the local backend, beside loky.

    forest.py ─► pinned environment ─► rounds × contestants, rotated ─► medians ─► thresholds ─► PASS / FAIL
                  └─► turn: a fresh process, one pool: a first forest, then a second one with warm workers

100 trees on 50,000 × 50 numbers, once from cold (workers start and import scikit-learn) and once warm. Every forest
must be, node for node, the one that scikit-learn grows in threads of one process with the same seed. What our client
wrote for the first, into its store and pipes, is counted by the system.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contest import NotDone, answered, asking, ends, left_by, taking_turns, without
from rows import OURS, Row, Samples, Target, compared

RIVAL, LOCAL = "loky", "threads"
ROUNDS, COLUMNS = 3, 50
TREES, LINES = 100, 50_000
FEW = 20, 5_000  # for a quick look
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


def run(rounds: int, *, quick: bool) -> Samples:
    """All rounds; every forest is compared with one grown in threads."""

    def taken(name: str) -> dict[str, Any]:
        told = [__file__, f"--turn={name}", *["--quick"] * quick]
        found: dict[str, Any] = left_by(told, limit=LIMIT, env=without("PYWREN_NG_"))
        return found

    like = taken(LOCAL)["digest cold"]
    samples: Samples = {row.name: {} for row in ROWS}
    for name in taking_turns((OURS, RIVAL), rounds):
        found = taken(name)
        if (found["digest cold"], found["digest warm"]) != (like, like):
            raise NotDone(f"{name} grew other trees than scikit-learn in threads, with the same seed")
        for row in ROWS:
            if row.name in ("cold", "warm") or name == OURS:
                samples[row.name].setdefault(name, []).append([found[row.name]])
    return samples


def main() -> int:
    parser = asking(__doc__, ROUNDS, pinned="forest")
    parser.add_argument("--turn", choices=(OURS, RIVAL, LOCAL), help=argparse.SUPPRESS)
    asked = answered(parser, *PACKAGES)
    if asked.turn:
        asked.json.write_text(json.dumps(turn(asked.turn, *(FEW if asked.quick else (TREES, LINES)))))
        return 0
    samples = run(asked.rounds, quick=asked.quick)
    return compared(asked, samples, ROWS, [OURS, RIVAL])


if __name__ == "__main__":
    ends(main)
