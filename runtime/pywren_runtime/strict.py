"""cloudpickle's pickler, but for what it would send as something else without a word.

It imports cloudpickle, so it is itself imported where something is pickled, and not before.
"""

import io
import sys
from collections import ChainMap
from pickle import PicklingError
from typing import TYPE_CHECKING, Any

import cloudpickle

if TYPE_CHECKING:
    from pickle import Pickler as _Pickler  # of which cloudpickle's, without types, is one
else:
    _Pickler = cloudpickle.Pickler


def _reduce_text_file(file: io.TextIOWrapper) -> tuple[Any, ...]:
    """Let the process's own streams travel by name, and no other text file.

    cloudpickle reads a file that is open for reading and sends a StringIO: a copy that looks like the file, however
    long, and that is not it.
    """
    for name in ("stdout", "stderr"):
        if file is getattr(sys, name, None):
            return getattr, (sys, name)
    raise PicklingError("cannot pickle an open file")


class _Reducers(ChainMap[type, Any]):
    """Asked for nearly every object, and mostly in vain: no exception for each map that lacks it."""

    def __getitem__(self, kind: type) -> Any:
        for table in self.maps:
            if kind in table:
                return table[kind]
        raise KeyError(kind)


class StrictPickler(_Pickler):
    """Refuses open text files, as pickle does."""

    # cloudpickle's own maps, not copies: what somebody adds to them later counts.
    dispatch_table: ChainMap[type, Any] = _Reducers(
        {io.TextIOWrapper: _reduce_text_file}, *cloudpickle.Pickler.dispatch_table.maps
    )
