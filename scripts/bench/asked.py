"""What a benchmark in rounds is asked for."""

import argparse
from pathlib import Path

__all__ = ["asked"]

LEAST = 5


def asked(about: str | None, rounds: int) -> argparse.Namespace:
    """The command line's `rounds` and `json`; `about` is the benchmark's docstring."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: %(default)s; at least {LEAST}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the samples there")
    options = parser.parse_args()
    if options.rounds < LEAST:
        parser.error(f"a median of fewer than {LEAST} says nothing")
    return options
