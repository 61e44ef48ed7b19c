"""cloudpickle's pickler, but for what it would send as something else without a word.

It imports cloudpickle, so it is itself imported where something is pickled, and not before.
"""

import io
import sys
from pickle import PicklingError
from typing import Any

import cloudpickle


def _reduce_text_file(file: io.TextIOWrapper) -> tuple[Any, ...]:
    """Let the process's own streams travel by name, and no other text file.

    cloudpickle reads a file that is open for reading and sends a StringIO: a copy that looks like the file, however
    long, and that is not it.
    """
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name, None):
            return getattr, (sys, name)
    raise PicklingError("cannot pickle an open file")


class StrictPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Refuses open text files, as pickle does."""

    dispatch_table = cloudpickle.Pickler.dispatch_table.new_child({io.TextIOWrapper: _reduce_text_file})
