"""How every benchmark goes: what it is asked for, who has a turn when, what it says and leaves, how it ends.

    asking ─► answered ─► (pinned environment) ─► taking_turns ─► samples ─► medians ─► verdicts ─► concluded: exit code

Samples are kept as they were measured, and nothing is said without a run. Exit codes: 0 every claim met, 1 one is not,
2 the run could not be done (a rival is missing, a value is wrong), 3 a partial run, which is not comparable.
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from pinned import enter, environment_of

__all__ = [
    "NotDone",
    "Verdict",
    "alternated",
    "answered",
    "asking",
    "chosen",
    "concluded",
    "ends",
    "left_by",
    "played",
    "scratch",
    "served",
    "taking_turns",
    "versions_of",
    "without",
]

Verdict = tuple[str, str, bool]  # claim, its figures beside its thresholds, whether it is met


class NotDone(Exception):
    """The run cannot be done or went wrong; its text is for the reader."""


# ── what is asked ──


def asking(about: str | None, rounds: int, *, pinned: str = "") -> argparse.ArgumentParser:
    """The command line of all; `about` is the benchmark's docstring, `pinned` the name of its environment if any."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help=f"fewer than {rounds} are not comparable")
    parser.add_argument("--quick", action="store_true", help="one round of less work, which is not comparable")
    parser.add_argument("--json", type=Path, metavar="FILE", help="raw samples, versions and verdicts")
    parser.set_defaults(pinned=pinned, comparable=rounds)
    if pinned:
        parser.add_argument("--venv", type=Path, default=environment_of(pinned), help="default: %(default)s")
        parser.add_argument("--here", action="store_true", help="in this environment, with what is installed")
    return parser


def answered(parser: argparse.ArgumentParser, *packages: str) -> argparse.Namespace:
    """What was asked for, whether that `is_partial`, too little to judge, and the `versions` of what it stands on.

    In an environment that has what is pinned, if the benchmark has one: there the script starts over.
    """
    asked = parser.parse_args()
    asked.rounds = 1 if asked.quick else max(1, asked.rounds)
    asked.is_partial = asked.quick or asked.rounds < asked.comparable
    asked.json = asked.json and asked.json.absolute()
    if asked.pinned and not asked.here and not getattr(asked, "turn", None):
        enter(asked.venv, f"requirements-{asked.pinned}.txt")
    asked.versions = versions_of(*packages)
    return asked


def chosen(text: str | None, known: Iterable[str]) -> list[str]:
    """Some of those that are known, by their names with commas between; all where nothing is said."""
    names = text.split(",") if text else list(known)
    if unknown := [name for name in names if name not in known]:
        raise NotDone(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def versions_of(*packages: str) -> dict[str, str]:
    """Each one's version; NotDone names those that are missing."""
    found, missing = {"python": platform.python_version()}, []
    for package in dict.fromkeys(packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        raise NotDone(f"not installed here: {', '.join(missing)}. A run without one shows nothing.")
    return found


# ── turns ──


def taking_turns(names: Sequence[str], rounds: int, what: str | None = "") -> Iterator[str]:
    """All contestants as often as there are rounds, each of which begins with the next one; None is silent."""
    for number in range(rounds):
        shift = number % max(1, len(names))
        for name in [*names[shift:], *names[:shift]]:
            if what is not None:
                print(f"{what}round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            yield name


def alternated(turns: Mapping[str, Callable[[], float]], rounds: int, what: str | None = "") -> dict[str, list[float]]:
    """The samples of contestants that stay alive; nothing is kept of what happens for the first time."""
    for turn in turns.values():
        turn()
    samples: dict[str, list[float]] = {name: [] for name in turns}
    for name in taking_turns(list(turns), rounds, what):
        samples[name].append(turns[name]())
    return samples


def played(command: Sequence[str], *, limit: float, **surroundings: Any) -> str:
    """What a contestant's process prints; NotDone if it fails. `surroundings` are those of `subprocess.run`."""
    ran: subprocess.CompletedProcess[str] = subprocess.run(
        command, timeout=limit, capture_output=True, text=True, **surroundings
    )
    if ran.returncode:
        said = (ran.stdout + ran.stderr)[-4_000:]
        raise NotDone(f"{shlex.join(command)[:200]} ended with {ran.returncode}:\n{said}")
    return ran.stdout


def left_by(command: Sequence[str], *, limit: float, **surroundings: Any) -> Any:
    """What a turn, a benchmark's own script in a process of its own, leaves in its `--json` file."""
    with tempfile.TemporaryDirectory(prefix="turn-") as folder:
        answer = Path(folder) / "turn.json"
        played([sys.executable, *command, f"--json={answer}"], limit=limit, **surroundings)
        return json.loads(answer.read_text())


def without(*prefixes: str) -> dict[str, str]:
    """The environment of this process, but for variables that begin so."""
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


@contextmanager
def served(*command: str) -> Iterator[str]:
    """A server, as long as the block lasts; the first line that it prints is its URL."""
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def scratch(folder: Path | None = None) -> Iterator[Path]:
    """A folder for what a run needs, there or where TMPDIR is; its name is short, as sockets lie in it."""
    stage = Path(tempfile.mkdtemp(prefix="pnb-", dir=folder))
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


# ── what is said and left ──


def concluded(
    asked: argparse.Namespace, verdicts: Sequence[Verdict], *, lines: Iterable[str] = (), **samples: Any
) -> int:
    """Prints command, machine, versions, `lines`, verdicts; writes them with the samples to `--json`; the exit code."""
    command = shlex.join([f"scripts/bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    print(f"\n{command}\n{platform.platform()}, {os.cpu_count()} CPUs, {asked.rounds} rounds")
    print(", ".join(f"{name} {version}" for name, version in asked.versions.items()), end="\n\n")
    if shown := [*lines]:
        print(*shown, sep="\n", end="\n\n")
    for claim, said, is_met in verdicts:
        print(f"{claim}  {said}  {'not judged' if asked.is_partial else 'PASS' if is_met else 'FAIL'}")
    if asked.json:
        content = {
            "command": command,
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg(),
            "versions": asked.versions,
            "verdicts": [{"claim": claim, "said": said, "met": is_met} for claim, said, is_met in verdicts],
        }
        asked.json.write_text(json.dumps(content | samples, indent=1, ensure_ascii=False))
    if asked.is_partial:
        print(f"NOT COMPARABLE: rounds that count are {asked.comparable}, with all contestants and all work.")
        return 3
    return 0 if all(is_met for _, _, is_met in verdicts) else 1


def ends(main: Callable[[], int]) -> NoReturn:
    """Runs it; what goes wrong on the way is a run that could not be done, and never a claim that is not met."""
    try:
        sys.exit(main())
    except (NotDone, subprocess.SubprocessError) as failed:
        print(f"{Path(sys.argv[0]).name}: {failed}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    sys.exit(2)
