"""The command `pywren-ng`: a first job (`hello`), which settings apply here (`config`), AWS (`cli_aws`), `clean`.

Exit codes: 0 done, 1 an error of ours (one line on stderr, a traceback with --debug), 2 a wrong command line,
130 Ctrl-C. Nothing of the client is imported before a command needs it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pywren_ng import cli_aws, cli_clean

if TYPE_CHECKING:
    from pywren_ng.config import Setting
    from pywren_ng.job import Job

__all__ = ["main"]

BELOW = 10_000_000  # hello counts the primes below this number
STEP = 100_000  # and each of its tasks those among so many


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    parser = _parser()
    asked = parser.parse_args(argv)
    if asked.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code: int | None = asked.run(asked)
        sys.stdout.flush()
        return code or 0
    except KeyboardInterrupt:
        print("pywren-ng: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from pywren_runtime.errors import PywrenError

        if asked.debug or not isinstance(error, PywrenError):
            raise
        print(f"pywren-ng: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    from pywren_runtime import __version__

    shared = argparse.ArgumentParser(add_help=False)
    debug = "show the traceback of an error"
    shared.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=debug)
    parser = argparse.ArgumentParser(
        prog="pywren-ng", description="A concurrent.futures executor on clean worker processes."
    )
    parser.add_argument("--version", action="version", version=f"pywren-ng {__version__}")
    parser.add_argument("--debug", action="store_true", help=debug)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    hello = "run a first job: count primes in worker processes, and say what happened"
    commands.add_parser("hello", parents=[shared], help=hello, description=hello).set_defaults(run=_hello)
    config = "show every setting, its value, and where that came from"
    commands.add_parser("config", parents=[shared], help=config, description=config).set_defaults(run=_config)
    cli_aws.add(commands, shared)
    cli_clean.add(commands, shared)
    return parser


def _config(asked: argparse.Namespace) -> None:
    from pywren_ng import config

    print(config.render(config.load({})))


def _hello(asked: argparse.Namespace) -> None:
    from time import perf_counter

    from pywren_ng import Executor, __version__, config
    from pywren_ng.progress import is_watched

    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without these characters is no reason to fail
    settings = config.load({})
    shown = settings["progress"].value
    if shown is None and is_watched():
        shown = True  # at once: half a second may be all there is to see
    begun = perf_counter()
    with Executor(progress=shown, name="hello") as ex:
        workers = f"{ex._max_workers} worker process{'' if ex._max_workers == 1 else 'es'}"
        print(f"Hello from pywren_ng {__version__}!")
        print(f"Counting the primes below {BELOW:,} with {workers} …", flush=True)
        job = ex.map(_count_of_primes(), range(0, BELOW, STEP), range(STEP, BELOW + STEP, STEP))
        found = sum(job.results())
    print(f"\n{_report(job, perf_counter() - begun)}\n")
    print(f"There are {found:,} primes below {BELOW:,}.\n")
    print(_settings(settings))
    print(YOUR_TURN)


def _count_of_primes() -> Callable[[int, int], int]:
    """A function that lives in no module: it travels by value, as one typed at a prompt does."""

    def primes(start: int, stop: int) -> int:
        sieve = bytearray([1]) * (stop - start)
        for divisor in range(2, int(stop**0.5) + 1):
            first = max(divisor * divisor, -(-start // divisor) * divisor)
            for multiple in range(first, stop, divisor):
                sieve[multiple - start] = 0
        return sum(sieve) - (2 if start == 0 else 0)  # 0 and 1 are none

    return primes


def _report(job: "Job[int]", seconds: float) -> str:
    """Which process did how much, and which task took longest."""
    attempts = list(job.stats)
    workers: dict[int, list[float]] = {}
    for attempt in attempts:
        workers.setdefault(attempt.worker, []).append(attempt.seconds)
    busiest = max(sum(spent) for spent in workers.values())
    lines = []
    for worker, spent in sorted(workers.items()):
        bar = "█" * max(1, round(30 * sum(spent) / busiest))
        lines.append(f"  process {worker:<8}{bar:<30}  {len(spent)} tasks, {sum(spent):.2f} s")
    work = sum(attempt.seconds for attempt in attempts)
    slowest = max(attempts, key=lambda attempt: attempt.seconds)
    lines += [
        "",
        f"{len(job)} tasks, {work:.2f} s of work: done in {seconds:.2f} s, and the workers have ended.",
        f"The slowest was task {slowest.task}: {1e3 * slowest.seconds:.0f} ms, {slowest.peak / 1e6:.0f} MB.",
    ]
    return "\n".join(lines)


def _settings(settings: "Mapping[str, Setting]") -> str:
    """In one line, what was set and where."""
    chosen = [
        f"{key} = {setting.shown} ({setting.source})"
        for key, setting in settings.items()
        if setting.source != "default"
    ]
    if not chosen:
        return "Settings: all defaults; `pywren-ng config` shows them."
    return f"Settings: {', '.join(chosen)}; the rest are defaults, which `pywren-ng config` shows."


YOUR_TURN = """
Your turn:

    from pywren_ng import Executor

    with Executor() as ex:
        print(list(ex.map(lambda x: x * x, range(10))))
"""
