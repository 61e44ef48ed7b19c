"""How a claim is shown: a command run away from the checkout, and how its figure is read from the output.

    Stage (wheel, environments) ─► Claim.run ─► Ran (exit code, output) ─► Claim.read ─► Row (figure, verdict)

A topic is one module here with a list CLAIMS.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PASS, FAIL, NOT_RUN = "PASS", "FAIL", "NOT-RUN"
NOT_COPIED = (".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left: its exit code and all that it printed."""

    code: int
    output: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report; `why` is said on the way if there is something to say."""

    figure: str
    verdict: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """One numbered claim, NOT-RUN without the files it needs; braces in `command` name places of a Stage."""

    id: str
    what: str
    threshold: str
    command: tuple[str, ...]
    read: Callable[[Ran], tuple[str, bool]]
    needs: tuple[str, ...] = ()

    def run(self, stage: "Stage") -> Row:
        if missing := [name for name in self.needs if not (stage.root / name).exists()]:
            return Row(f"no {', '.join(missing)}", NOT_RUN)
        ran = stage.run(self.command)
        try:
            figure, is_met = self.read(ran)
        except (LookupError, ValueError) as unread:
            return Row(f"exit {ran.code}, no figure", FAIL, f"{unread!r} in\n{tail(ran.output)}")
        return Row(figure, PASS if is_met else FAIL, "" if is_met else tail(ran.output))


@dataclass
class Stage:
    """Where claims are run: a copy of the checkout, the wheel built from it, environments made from these."""

    root: Path
    home: Path
    _done: dict[tuple[str, ...], Ran] = field(default_factory=dict)

    def run(self, command: tuple[str, ...]) -> Ran:
        """Run in an empty directory, outside the import path of the checkout; the same command runs once."""
        if command not in self._done:
            places = Places(self)
            argv = [part.format_map(places) for part in command]
            empty = self.home / "empty"
            shutil.rmtree(empty, ignore_errors=True)
            empty.mkdir(parents=True)
            self._done[command] = self._run(argv, cwd=empty)
        return self._done[command]

    def _run(self, argv: list[str], *, cwd: Path) -> Ran:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYWREN_NG_"))}
        ran = subprocess.run(
            argv,
            cwd=cwd,
            env=kept | {"CI": "true"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return Ran(ran.returncode, ran.stdout.decode(errors="replace"))

    @cached_property
    def source(self) -> Path:
        """A copy of the checkout, so that nothing left over from an older build gets into the wheel."""
        copy = self.home / "source"
        shutil.rmtree(copy, ignore_errors=True)
        return Path(shutil.copytree(self.root, copy, ignore=shutil.ignore_patterns(*NOT_COPIED)))

    @cached_property
    def results(self) -> Path:
        """Where raw samples stay when the run is over."""
        folder = self.root / "build" / "show"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def wheel(self) -> Path:
        folder = self.home / "wheel"
        shutil.rmtree(folder, ignore_errors=True)
        self._pip(Path(sys.executable), "wheel", "--no-deps", "-w", str(folder), str(self.source))
        return next(folder.glob("*.whl"))

    @cached_property
    def python(self) -> Path:
        """The interpreter of the main environment: the wheel with what tests and benchmarks need."""
        rivals = [f"-r{path}" for path in sorted(self.source.glob("scripts/bench/requirements*.txt"))]
        return self._environment("main", f"{self.wheel}[test]", *rivals)

    @cached_property
    def base(self) -> Path:
        """The interpreter of an environment made by a plain `pip install .`."""
        return self._environment("base", str(self.source))

    @cached_property
    def other(self) -> Path:
        """The interpreter of another environment that has the wheel and nothing else."""
        return self._environment("other", str(self.wheel))

    def _environment(self, name: str, package: str, *others: str) -> Path:
        folder = self.home / name
        python = folder / "bin" / "python"
        if python.exists():  # kept by --reuse: only our own package can have changed
            self._pip(python, "install", "--no-deps", "--force-reinstall", package)
        else:
            self._must([sys.executable, "-m", "venv", str(folder)])
            self._pip(python, "install", package, *others)
        return python

    def _pip(self, python: Path, *arguments: str) -> None:
        self._must([str(python), "-m", "pip", "--disable-pip-version-check", "-qq", *arguments])

    def _must(self, argv: list[str]) -> None:
        ran = self._run(argv, cwd=self.home)
        if ran.code:
            raise SystemExit(f"{' '.join(argv)} failed:\n{tail(ran.output)}")


class Places(dict[str, str]):
    """`{python}`, `{base}`, `{other}`, `{root}`, … in a command: made when first named."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def __missing__(self, name: str) -> str:
        return str(getattr(self._stage, name))


def tail(text: str, lines: int = 25) -> str:
    """The last lines of a long output."""
    return "\n".join(text.strip().splitlines()[-lines:])
