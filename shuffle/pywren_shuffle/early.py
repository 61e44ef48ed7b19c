"""Workers that begin, and import what tables need, while the driver imports it as well and looks at the input.

driver   ─ begin ─► import pyarrow ─► sizes, schema, plan ─► splits ─► …
workers      └─► start ─► import pyarrow ──────────────────────┘

For executors whose workers are processes of this machine: elsewhere, what this saves would be paid for.
"""

import contextlib
import importlib
from collections.abc import Sequence
from concurrent.futures import Executor
from math import ceil
from typing import Final

from pywren_shuffle.places.inputs import find, folder_of, store_url
from pywren_shuffle.sizes import SMALL

__all__ = ["begin"]

TABLES: Final = (
    "pywren_shuffle.tables.groups",
    "pywren_shuffle.tables.join",
    "pywren_shuffle.objects.spill",
    "pywren_shuffle.phases.merge",
)


def begin(executor: Executor, records: str, places: Sequence[str], workers: int) -> None:
    """Let as many workers as will have something to read prepare for it; nobody asks what becomes of that.

    Only where files of this machine are read as tables: other formats import little, and to list a store costs
    requests.
    """
    if not isinstance(records, str) or records.partition(":")[0] != "table":  # what is none, `open_format` will say
        return
    if any(folder_of(store_url(place)) is None for place in places):
        return
    size = sum(source.size for source in find(places, _Nowhere()))
    for _ in range(min(workers, ceil(size / SMALL))):
        executor.submit(prepare)


def prepare() -> None:
    """In a worker: import it, and leave it to the first task that needs it to say what is missing."""
    for name in TABLES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class _Nowhere:
    """Lists no store."""

    def keys(self, url: str, prefix: str) -> list[tuple[str, int]]:
        """See Listing."""
        return []
