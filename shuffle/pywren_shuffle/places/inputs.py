"""Where data lies: what is found under a path or a pattern, and the store that a place means.

/data/in/*.dat      file:///data/in           s3://bucket/in/*.dat?region=eu-west-1
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import translate
from typing import Final, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import without_password
from pywren_shuffle.records import Source

__all__ = ["MANIFEST", "MISTYPED", "Listing", "find", "folder_of", "store_url"]

MANIFEST: Final = "manifest.json"
MISTYPED: Final = "Correct the path or the pattern. Names that begin with '.', '_' or '~' are not looked at."
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:")
_WILD = re.compile(r"[*?\[]")
_SOME = re.compile(r"[*?]")
_PART = re.compile(r"part-\d{5,}-")


class Listing(Protocol):
    """What lists stores, and counts how often."""

    def keys(self, url: str, prefix: str) -> list[tuple[str, int]]:
        """Keys and sizes of all that lies there under a prefix, in order."""
        ...


def store_url(place: str | os.PathLike[str]) -> str:
    """A store's URL for what a user calls a place: a path becomes `file:///…`."""
    text = os.fspath(place) if isinstance(place, str | os.PathLike) else ""
    if not isinstance(text, str) or not text:
        raise ConfigError(f"{place!r} is no place: write a path, file:///a/folder or s3://bucket/prefix.")
    if _SCHEME.match(text):
        return text
    return "file://" + quote_from_bytes(os.fsencode(os.path.abspath(os.path.expanduser(text))))


def folder_of(url: str) -> str | None:
    """The path that a `file:` URL means, or None for any other."""
    if not url.startswith("file:"):
        return None
    path = url.removeprefix("file:").removeprefix("//")
    return os.fsdecode(unquote_to_bytes(path)) if "%" in path else path


def find(places: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], listing: Listing) -> list[Source]:
    """The objects at these places, each place's in the order of their names, none twice.

    A place is an object, a folder (all that lies below it; names that begin with `.`, `_` or `~` are left out, as is a
    manifest beside its parts) or a pattern with `*`, `?` and `[…]` in its last part or parts, and `**` for any folders.
    A path that is not there is an error; a pattern, a folder or a prefix may have nothing below it.
    """
    found: dict[tuple[str, str], Source] = {}
    for place in [places] if isinstance(places, str | os.PathLike) or not isinstance(places, Iterable) else places:
        url = store_url(place)
        folder = folder_of(url)
        here = _without_manifests(_in_folder(folder) if folder is not None else _in_store(url, listing))
        for source in here:
            found.setdefault((source.store, source.key), source)
    return list(found.values())


def _without_manifests(sources: Iterable[Source]) -> list[Source]:
    """Without what a shuffle wrote beside the parts of an output."""
    kept = list(sources)
    outputs = {_split(source.key)[0] for source in kept if _PART.match(_split(source.key)[1])}
    return [source for source in kept if _split(source.key)[1] != MANIFEST or _split(source.key)[0] not in outputs]


def _split(key: str) -> tuple[str, str]:
    folder, _, name = key.rpartition("/")
    return folder, name


def _in_folder(path: str) -> Iterator[Source]:
    wild = _WILD.search(path)
    if wild is not None and not _SOME.search(path) and os.path.exists(path):
        wild = None  # brackets in a name
    if wild is None and os.path.isfile(path):
        folder, name = os.path.split(path)
        yield Source(store_url(folder), name, os.path.getsize(path))
        return
    folder = path if wild is None else path[: path.rfind("/", 0, wild.start()) + 1]
    folder = folder.rstrip("/") or "/"
    if not os.path.isdir(folder):
        kind = "no file or folder" if wild is None else "no folder"
        raise ConfigError(f"there is {kind} {folder!r} to read from: correct the path.")
    fits = _fitting(path[len(folder) :].lstrip("/") if wild else "")
    url = store_url(folder)
    for name, size in sorted(_walk(folder, "")):
        if fits(name):
            yield Source(url, name, size)


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(os.path.join(folder, prefix)) as entries:
        for entry in entries:
            if entry.name.startswith((".", "_", "~")):
                continue
            if entry.is_dir():
                yield from _walk(folder, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, entry.stat().st_size


def _in_store(url: str, listing: Listing) -> Iterator[Source]:
    place, options = _parted(url)
    scheme, _, rest = place.partition("://")
    if scheme.startswith("redis"):
        raise ConfigError(
            f"{without_password(url)!r}: inputs do not lie in Redis; it is for what lies between the phases"
            " (intermediate=). Put them into a folder or on S3."
        )
    bucket, _, path = rest.partition("/")
    wild = _WILD.search(path)
    folder = path[: path.rfind("/", 0, wild.start()) + 1] if wild else path
    root = f"{scheme}://{bucket}{options}"
    fits = _fitting(path[len(folder) :] if wild else "")
    prefix = path[: wild.start()] if wild else folder
    # What could not be read must not be passed over.
    strict = f"{root}{'&' if options else '?'}names=strict" if scheme == "s3" else root
    for key, size in listing.keys(strict, prefix):
        inside = key[len(folder) :]
        if wild is None and inside and not (folder.endswith("/") or not folder or inside.startswith("/")):
            continue  # `in2/x` does not lie in `in`
        names = inside.split("/")
        if any(name.startswith((".", "_", "~")) for name in names) or not fits(inside):
            continue
        yield Source(root, key, size)


def _parted(url: str) -> tuple[str, str]:
    """The place and the options of a URL: a `?` in a pattern stands before none with a `=`."""
    head, mark, tail = url.rpartition("?")
    return (head, mark + tail) if mark and "=" in tail and "/" not in tail.partition("=")[0] else (url, "")


def _fitting(pattern: str) -> Callable[[str], bool]:
    if not pattern:
        return lambda name: True
    *folders, last = pattern.split("/")
    compiled = re.compile(
        "".join("(?:[^/]+/)*" if part == "**" else _within(part) + "/" for part in folders)
        + (".*" if last == "**" else _within(last))
    )
    return lambda name: compiled.fullmatch(name) is not None


def _within(part: str) -> str:
    """One part of a pattern: its `*` stays within its folder."""
    return translate(part).replace(".*", "[^/]*").removeprefix("(?s:").removesuffix(")\\Z")
