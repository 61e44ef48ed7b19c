"""The command `clean`: remove what sorts have left whose drivers were killed."""

import argparse
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pywren_ng.config import Setting
    from pywren_ng.credentials import Access
    from pywren_shuffle.driving.clean import Left

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

    from pywren_ng.credentials import Access, open_store
    from pywren_shuffle.driving.clean import find_left, remove

    settings = _settings()
    access = Access(settings["profile"].value, settings["region"].value)
    opened = functools.cache(functools.partial(open_store, access=access))
    places = list(dict.fromkeys([*asked.place, *_stores(settings)]))
    now = time()
    found = find_left(places, opened)
    for left in found:
        runs = left.runs(now, 60 * asked.silent)
        if not runs and not asked.dry_run:
            remove(left, opened)
        print(_line(left, now, _what(runs, asked)))
    signs = {left.id: max(one.last_sign for one in found if one.id == left.id) for left in found}
    uploads = [line for place in places for line in _end_uploads(place, access, signs, now, asked)]
    for line in uploads:
        print(line)
    if not found and not uploads:
        print(f"Nothing is left of any sort in {', '.join(places) or 'any place: name one, such as a target'}.")


def _end_uploads(
    place: str, access: "Access", signs: dict[str, float], now: float, asked: argparse.Namespace
) -> Iterator[str]:
    """End what sorts have begun to upload there and are too dead to end; what was done about each."""
    if not place.startswith("s3:"):
        return
    from botocore.exceptions import BotoCoreError, ClientError

    from pywren_ng.uploads import Uploads
    from pywren_shuffle.driving.clean import sort_of

    try:
        uploads = Uploads(place, access)
        for upload in uploads:
            id = sort_of(upload.name)
            if id is None:
                continue
            runs = now - max(upload.begun, signs.get(id, 0.0)) < 60 * asked.silent
            if not runs and not asked.dry_run:
                uploads.end(upload)
            yield f"{place}: sort {id}, an upload of {upload.name}: {_what(runs, asked)}"
    except (BotoCoreError, ClientError) as error:
        yield f"{place}: uploads that never ended could not be looked at ({error})"


def _what(runs: bool, asked: argparse.Namespace) -> str:
    if runs:
        return "may run: left alone (if you know that it is over: --silent 0)"
    return "would go" if asked.dry_run else "removed"


def _settings() -> "dict[str, Setting]":
    from pywren_ng import config

    return config.load({})


def _stores(settings: "dict[str, Setting]") -> Iterator[str]:
    """Where the settings say that sorts put their data: in the store, and in the deployment's."""
    import os

    from pywren_ng import deployment

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
