#!/usr/bin/env python3
"""scikit-learn by `requirements=`: how soon a cold worker has it, whether it works, and whether it is for the target.

    packages.py ─► a package index ─► uv ─► pieces ─► local AWS, TLS ─► cold environments, each the deployed zip
       rounds × (a no-op without packages, one with them), the first of each pair in turn, each in a fresh environment
       20 trees, each fitted by a task: the same trees as on workers of this machine
       the same requirement for Python 3.13 on arm64: every binary of the bundle is for that

Figures of time are from Invoke to result, with an open connection: the set was fetched, verified, inflated and laid out
for it. The last lines without a claim say what the set is.
"""

import json
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from contest import NotDone, Verdict, alternated, answered, asking, concluded, ends
from invoke_real import ask, deploy, local_aws, variables

ROUNDS = 7
LIMIT = 120  # seconds for one task
WITHIN = 3.0  # seconds
WANTED = ["scikit-learn"]
TREES = 20
MACHINES = {"x86_64": 62, "arm64": 183}  # e_machine in an ELF header
OTHER = "3.13", "arm64"


def fitting() -> Callable[[int], tuple[float, list[int]]]:
    """A task that travels by value, as one of a script does."""

    def fit(seed: int) -> tuple[float, list[int]]:
        """Score and structure of one tree, which are the same wherever it is fitted."""
        from sklearn.datasets import load_digits
        from sklearn.tree import DecisionTreeClassifier

        images, digits = load_digits(return_X_y=True)
        tree = DecisionTreeClassifier(random_state=seed).fit(images[::2], digits[::2])
        return tree.score(images[1::2], digits[1::2]), tree.tree_.feature.tolist()

    return fit


def first_result(said: dict[str, Any], executor: Any, gets: int) -> float:
    """Seconds until a cold environment has run a no-op, for which it must have fetched so much at least."""
    ask(said, "POST", "/_local/reset", {"environments": True})
    ask(said, "DELETE", "/_proxy/counts")
    began = time.perf_counter()
    value = executor.submit(lambda: 1).result(LIMIT)
    took = time.perf_counter() - began
    seen = sum(entry["kind"] == "GetObject" for entry in ask(said, "GET", "/_proxy/log"))
    if value != 1 or seen != gets:
        raise NotDone(f"the no-op gave {value}, and its worker fetched {seen} objects, not {gets}")
    return took


def binaries(folder: str) -> Iterator[tuple[str, int]]:
    """Each ELF file of a packed set and its machine, without a worker of that platform."""
    from pywren_runtime.packages import Manifest

    manifest = Manifest.decode(Path(folder, "manifest").read_bytes())
    for piece in manifest.pieces:
        data = zlib.decompress(Path(folder, piece.ref.key.rpartition("/")[2]).read_bytes())
        (size,) = struct.unpack_from("<I", data)
        at = 4 + size
        for path, start, length, _ in json.loads(data[4:at]):
            if start == 0 and data[at : at + 4] == b"\x7fELF":
                yield path, struct.unpack_from("<H", data, at + 18)[0]
            at += length


def elsewhere() -> tuple[int, list[str]]:
    """How many binaries a bundle for another platform holds, and those that are not for it."""
    from pywren_ng.packages import prepare
    from pywren_ng.requirements import on_lambda, read

    found = list(binaries(prepare(read(WANTED), on_lambda(*OTHER)).folder))
    tag = f"cpython-{OTHER[0].replace('.', '')}-"
    wrong = [path for path, machine in found if machine != MACHINES[OTHER[1]]]
    wrong += [path for path, _ in found if ".cpython-" in path and tag not in path]
    return len(found), wrong


def measure(rounds: int) -> tuple[list[Verdict], dict[str, Any]]:
    """The claims with their figures, and the raw samples."""
    from pywren_ng import Executor
    from pywren_ng.packages import prepare
    from pywren_ng.requirements import HERE, on_lambda, read

    with tempfile.TemporaryDirectory() as folder, local_aws("--tls") as said:
        os.environ.update(variables(said))
        deploy(Path(folder), said)
        began = time.perf_counter()
        with Executor("lambda", requirements=WANTED, max_workers=2, progress=False) as equipped:
            made = time.perf_counter() - began
            found = prepare(read(WANTED), on_lambda(HERE, "x86_64"))
            pins = [f"{each.name}=={each.version}" for each in found.manifest.distributions]
            with Executor("lambda", progress=False) as plain:
                gets = len(found.manifest.pieces) + 1
                turns = {"with": (equipped, gets), "without": (plain, 0)}
                samples = alternated({name: partial(first_result, said, *one) for name, one in turns.items()}, rounds)
            there = equipped.map(fitting(), range(TREES)).results()
        with Executor("local", requirements=pins, max_workers=2, progress=False) as local:
            here = local.map(fitting(), range(TREES)).results()
    packed = sum(piece.ref.size for piece in found.manifest.pieces)
    about = f"{found.manifest.size / 1e6:.0f} MB, packed {packed / 1e6:.0f} MB in {len(found.manifest.pieces)} pieces"
    print(f"set: {', '.join(pins)}: {about}")
    print(f"executor made in {made:.1f} s, the set found, packed and put (or remembered)")
    return judge(there, here, samples), {"seconds": samples, "made": made, "pins": pins, "packed": packed}


def judge(there: list[Any], here: list[Any], samples: dict[str, list[float]]) -> list[Verdict]:
    """Claim, figures, and whether it is met."""
    same = sum(one == other for one, other in zip(there, here, strict=True))
    count, wrong = elsewhere()
    at = {name: median(of) for name, of in samples.items()}
    trees = f"{same} of {TREES} trees as on this machine, best score {max(score for score, _ in there):.3f}"
    bundle = f"{count} binaries for Python {OTHER[0]} on {OTHER[1]}, not for that: {', '.join(wrong[:3]) or 'none'}"
    first = f"first result {at['with']:.2f} s cold, without packages {at['without']:.2f} s"
    return [
        ("2a", trees, same == TREES),
        ("2b", bundle, count > 0 and not wrong),
        ("2c", first, at["with"] <= WITHIN),
    ]


def main() -> int:
    asked = answered(asking(__doc__, ROUNDS), "uv", "obstore")
    os.environ.pop("PYWREN_NG_INVOKE", None)
    verdicts, samples = measure(asked.rounds)
    return concluded(asked, verdicts, **samples)


if __name__ == "__main__":
    ends(main)
