"""What a sort leaves when its driver was killed, and how that is told from one that runs.

    a sort that runs   shuffles/<id>/…, part-…-<id>…    and every 5 minutes a sign: shuffles/<id>/alive-<time>
    clean              the last sign of each id (its own time is the first) ──► older than 15 minutes? it goes

Parts go only where intermediate data of their sort still lies: what was published has none, nor has what somebody
copied elsewhere. Clocks of two machines may differ by minutes; AWS refuses requests where they differ by more.
"""

import json
import os
import re
from calendar import timegm
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import gmtime, strftime, strptime, time
from typing import Final

from pywren_runtime.errors import ConfigError, KeyMissing
from pywren_runtime.stores import Store, without_password
from pywren_shuffle.driving.output import tidy_folder
from pywren_shuffle.places.inputs import MANIFEST, folder_of, store_url

__all__ = ["EVERY", "INTERMEDIATE", "SILENT", "Left", "find_left", "new_id", "remove", "sign_key", "sort_of"]

EVERY: Final = 300.0  # seconds between a sort's signs of life
SILENT: Final = 900.0  # seconds without one, and its driver is dead
INTERMEDIATE: Final = "~shuffle"  # the folder below a target that is a folder
_TIME: Final = "%Y%m%dT%H%M%S"
_BLOCK = re.compile(r"shuffles/(?:[0-9a-f]{2}/)?(\d{8}T\d{6}-[0-9a-f]{8})/(?:alive-(\d{8}T\d{6}))?")
_PART = re.compile(r"part-\d{5,}-(\d{8}T\d{6}-[0-9a-f]{8})\.")


@dataclass(slots=True)
class Left:
    """What lies of one sort in one place."""

    place: str
    id: str
    last_sign: float  # seconds since the epoch
    keys: list[str] = field(default_factory=list)
    bytes: int = 0

    def runs(self, now: float, silent: float) -> bool:
        """Whether its driver may be alive."""
        return now - self.last_sign < silent


def sort_of(name: str) -> str | None:
    """The sort whose part, or whose block, has that name; None for what no sort writes."""
    match = _PART.match(name) or _BLOCK.match(name)
    return match and match[1]


def new_id() -> str:
    """A sort's name, which says when it began."""
    return f"{_said(time())}-{os.urandom(4).hex()}"


def sign_key(id: str, now: float) -> str:
    """Where a sort says that it was alive then."""
    return f"shuffles/{id}/alive-{_said(now)}"


def find_left(places: Iterable[str | os.PathLike[str]], open_store: Callable[[str], Store]) -> list[Left]:
    """What lies at these places of sorts that are not over, or were not when their drivers were killed.

    It should go in this order: what says that the rest is left comes last.
    """
    found: list[Left] = []
    stores = []
    for place in places:
        url = store_url(place)
        folder = folder_of(url)
        if folder is not None and not os.path.isdir(folder):
            raise ConfigError(f"there is no folder {folder!r} to look for what sorts have left: correct the path.")
        store = open_store(url)
        url = without_password(url)
        stores.append((url, store))
        found += _blocks(url, store)
        if folder is not None and os.path.isdir(os.path.join(folder, INTERMEDIATE)):
            inside = f"{url}/{INTERMEDIATE}"
            found += _blocks(inside, open_store(inside))
    signs = {left.id: max(one.last_sign for one in found if one.id == left.id) for left in found}
    for url, store in stores:
        found = _parts(url, store, signs) + found
        tidy_folder(url, made=False)
    return found


def remove(left: Left, open_store: Callable[[str], Store]) -> None:
    """Remove all of it, and the folder that was made for it."""
    open_store(left.place).delete_many(left.keys)
    tidy_folder(left.place, made=left.place.endswith(INTERMEDIATE))


def _blocks(place: str, store: Store) -> list[Left]:
    found: dict[str, Left] = {}
    for key, size in store.keys("shuffles/"):
        match = _BLOCK.match(key)
        if match is not None:
            id, sign = match.groups()
            left = found.setdefault(id, Left(place, id, _when(id)))
            left.keys.append(key)
            left.bytes += size
            left.last_sign = max(left.last_sign, _when(sign or id))
    return list(found.values())


def _parts(place: str, store: Store, signs: dict[str, float]) -> list[Left]:
    """Parts of these sorts that no manifest names; of one that was published, the parts that it was to replace."""
    keys = [(key, size, match[1]) for key, size in store.keys("part-") if (match := _PART.match(key))]
    if not any(id in signs for _, _, id in keys):
        return []
    published = _published(store)
    found: dict[str, Left] = {}
    for key, size, id in keys:
        owner = id if id in signs and id != published else published if id != published and published in signs else None
        if owner is not None:
            left = found.setdefault(owner, Left(place, owner, signs[owner]))
            left.keys.append(key)
            left.bytes += size
    return list(found.values())


def _published(store: Store) -> str | None:
    """The sort whose parts are the output there."""
    try:
        return str(json.loads(store.get(MANIFEST))["id"])
    except (KeyMissing, ValueError, TypeError, LookupError):
        return None


def _said(moment: float) -> str:
    return strftime(_TIME, gmtime(moment))


def _when(said: str) -> float:
    return float(timegm(strptime(said[:15], _TIME)))
