"""A listing in order: where it begins, and its pages."""

import re
from typing import Any

__all__ = ["Pages", "first_possible", "start_after"]

_PAGE = 1000  # S3 gives no more at a time

# The client library takes no key with an empty segment.
_SEGMENT = r"(?!\.\.?(?:[^A-Za-z0-9._=-]|\Z))[A-Za-z0-9._=-]+"
_PATH = re.compile(rf"(?:{_SEGMENT}/)*{_SEGMENT}")
_ALPHABET = "-.0123456789=ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"  # in the order of its bytes


def first_possible(prefix: str) -> str:
    """Some key before all that begin so and behind most others: the library lists whole folders only."""
    head, last = prefix[:-1], prefix[-1:]
    if last in ("", "/"):
        return prefix
    before = _ALPHABET.find(last) - 1
    return head if before < 0 else f"{head}{_ALPHABET[before]}zzzzzzzz"


def start_after(root: str, key: str) -> str:
    """The greatest path that can be asked for and lies not behind `root + key`; empty: from the beginning."""
    found = _PATH.match(key)
    return root + found[0] if found else ""


class Pages:
    """A listing that begins again where it was when a request for its next page fails."""

    def __init__(self, folder: str, position: str) -> None:
        self._folder, self._position = folder, position
        self._stream: Any = None

    def turn(self, library: Any, client: Any) -> list[Any]:
        """The next page, and an empty one at the end."""
        if self._stream is None:
            self._stream = library.list(client, self._folder or None, offset=self._position or None, chunk_size=_PAGE)
        try:
            page = list(next(self._stream, ()))
        except BaseException:
            self._stream = None
            raise
        if page:
            self._position = page[-1]["path"]
        return page
