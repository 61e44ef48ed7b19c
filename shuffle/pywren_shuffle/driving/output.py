"""Where a sort's output goes: parts that carry its id, and the manifest that makes them the output.

part-00000-<id>.dat … ──► all complete, and as long as they were written? ──► manifest.json ──► old parts removed
                     └──► or none of them stays
"""

import contextlib
import json
import os
import re
from collections.abc import Sequence

from pywren_runtime.errors import ConfigError, KeyMissing, OutputInUse, ShuffleCorrupt
from pywren_shuffle.phases.merge import Part
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.places.inputs import MANIFEST, MISTYPED, folder_of
from pywren_shuffle.proof import ADVICE, Tally
from pywren_shuffle.records import Source

__all__ = ["Output", "tidy_folder"]

_PART = re.compile(r"part-\d{5,}-[0-9A-Za-z-]+\.[0-9a-z.]+")

_CLOCK = 2.0  # seconds by which a file system's clock may be behind ours, and what it rounds to


class Output:
    """The output of one sort, seen from its driver."""

    def __init__(self, exchange: Exchange, url: str, id: str, suffix: str) -> None:
        self.url = url
        self._exchange = exchange
        self.id = id
        self._suffix = suffix
        self._old: list[str] = []
        self._publishing = False

    def claim(self, sources: Sequence[Source] | None, *, overwrite: bool) -> None:
        """Look what lies there; OutputInUse if that is anything, unless it may be overwritten.

        By nothing it may not: a pattern with a mistake in it would make a good output an empty one.
        """
        found = [key for key, _ in self._exchange.keys(self.url, "")]
        taken = [key for key in found if not key.startswith("shuffles/")]
        if taken and not overwrite:
            raise OutputInUse(
                f"{self.url} is in use: {taken[0]!r}"
                + (f" and {len(taken) - 1:,} more lie" if len(taken) > 1 else " lies")
                + " there. Name another place, or pass overwrite=True, which removes the parts of an earlier sort."
            )
        self._old = [key for key in taken if key == MANIFEST or _PART.fullmatch(key)]
        if self._old and sources is not None and not sources:
            raise ConfigError(
                f"there is nothing to read, and overwrite=True would replace {len(self._old):,} files in {self.url} by"
                f" nothing: remove them yourself if that is meant. {MISTYPED}"
            )
        own = {self.url_of(key) for key in self._old}
        for source in sources or ():
            if _url(source.store, source.key) in own:
                raise OutputInUse(
                    f"{source.key!r} in {source.store} is to be read, and would be removed by overwrite=True. Name"
                    " another place for the output."
                )

    def keys(self, partitions: int) -> list[str]:
        """The keys of all parts, in order."""
        return [f"part-{number:05d}-{self.id}{self._suffix}" for number in range(partitions)]

    def url_of(self, key: str) -> str:
        """The path of a part in a folder, or its URL."""
        return _url(self.url, key)

    def publish(self, parts: Sequence[Part], total: Tally) -> None:
        """Make these parts the output, if they lie there as they were written, and nobody else's with them."""
        lie = dict(self._exchange.keys(self.url, "part-"))
        for part in parts:
            if lie.pop(part.key, None) != part.size:
                raise ShuffleCorrupt(
                    f"the part {part.key!r} in {self.url} is gone, or not of {part.size:,} bytes as it was written."
                    f" {ADVICE}"
                )
        if strangers := sorted(lie.keys() - set(self._old)):
            raise OutputInUse(
                f"{self.url} was used meanwhile: {strangers[0]!r} lies there and did not when this sort began. Let one"
                " sort at a time write there."
            )
        manifest = {
            "id": self.id,
            "records": sum((part.made or part.tally).records for part in parts),
            "bytes": sum((part.made or part.tally).bytes for part in parts),
            "checksum": f"{total.checksum:016x}",
            "parts": [
                {"name": part.key, "size": part.size, "records": what.records, "bytes": what.bytes}
                for part in parts
                for what in [part.made or part.tally]
            ],
        }
        self._publishing = True
        self._exchange.put(self.url, MANIFEST, [json.dumps(manifest, indent=1).encode()])

    def remove_old(self) -> None:
        """Remove the parts of the output that this one replaces."""
        self._exchange.delete(self.url, [key for key in self._old if key != MANIFEST])

    def abandon(self) -> None:
        """Remove what this sort has written there."""
        own = [key for key, _ in self._exchange.keys(self.url, "part-") if self.id in key]
        if self._publishing:  # it may have come to lie there although its writer was told otherwise
            with contextlib.suppress(KeyMissing):
                if self.id.encode() in self._exchange.open(self.url).get(MANIFEST):
                    own.insert(0, MANIFEST)
        self._exchange.delete(self.url, own)


def tidy_folder(url: str, *, made: bool, since: float | None = None) -> None:
    """Remove what a store of files has made there beside its objects; `made` for it, the folder too if empty.

    With `since`, a time, what writers have begun since then and were killed over goes as well: none writes any more.
    """
    folder = folder_of(url)
    if folder is None:
        return
    partial = os.path.join(folder, "~partial")
    if since is not None:
        with contextlib.suppress(OSError), os.scandir(partial) as entries:
            for entry in entries:
                if entry.stat().st_mtime >= since - _CLOCK:
                    os.unlink(entry.path)
    for path, _, _ in os.walk(folder if made else partial, topdown=False):
        with contextlib.suppress(OSError):  # something lies in it
            os.rmdir(path)


def _url(store: str, key: str) -> str:
    folder = folder_of(store)
    if folder is not None:
        return os.path.join(folder, key)
    place, mark, options = store.partition("?")
    return f"{place.rstrip('/')}/{key}{mark}{options}"
