"""The command `clean`: remove what sorts have left whose drivers were killed."""

import argparse
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pywren_shuffle.clean import Left

__all__ = ["add"]


def add(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add it to a parser."""
    text = "remove what sorts have left that were killed: intermediate data, and parts of no output"
    parser = commands.add_parser("clean", parents=[shared], help=text, description=text)
    parser.set_defaults(run=_clean)
    add = parser.add_argument
    add("place", nargs="*", help="a sort's target or store: a folder, s3://bucket/prefix; always: the settings' stores")
    add("--dry-run", action="store_true", help="only show what would go")
    add("--silent", type=float, default=15.0, metavar="MINUTES", help="whose last sign is older is dead (default: 15)")


def _clean(asked: argparse.Namespace) -> None:
    from time import time

    from pywren_ng.credentials import open_store
    from pywren_shuffle.clean import find_left, remove

    opened = functools.cache(open_store)
    places = list(dict.fromkeys([*asked.place, *_stores()]))
    now = time()
    found = find_left(places, opened)
    for left in found:
        runs = left.runs(now, 60 * asked.silent)
        if not runs and not asked.dry_run:
            remove(left, opened)
        print(_line(left, now, "may run: left alone" if runs else "would go" if asked.dry_run else "removed"))
    if not found:
        print(f"Nothing is left of any sort in {', '.join(places) or 'any place: name one, such as a target'}.")


def _stores() -> Iterator[str]:
    """Where the settings say that sorts put their data: in the store, and in the deployment's."""
    import os

    from pywren_ng import config, deployment

    settings = config.load({})
    if settings["store"].value:
        yield str(settings["store"].value)
    file = settings["deployment"].value
    if os.path.exists(os.path.expanduser(file or deployment.default_file())):
        yield deployment.load(file).store


def _line(left: "Left", now: float, what: str) -> str:
    minutes = (now - left.last_sign) / 60
    ago = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    size = f"{len(left.keys)} objects, {left.bytes / 1e6:.1f} MB"
    return f"{left.place}: sort {left.id}, {size}, last sign {ago} ago: {what}"
