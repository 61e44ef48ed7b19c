"""What functions import, compared with what the workers have, before anything is sent.

    names in the pickle ───────┐
    imports that are sure ─────┴─► not there, or another version ──► a table: local | runtime, and what mends it

Only what is sure to be imported counts: what a pickle refers to, and imports at the beginning of a function. What
stands behind an `if` or in a `try` may be meant for elsewhere, and the worker will tell.
"""

import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Final

from pywren_ng.imports import surely_imported
from pywren_ng.places import OURS
from pywren_runtime.errors import PackagesError

__all__ = ["Comparison", "Row", "is_serious", "table"]

_CODES: Final = 4096  # code objects whose imports are remembered


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; what is not there has no version."""

    name: str
    local: str
    runtime: str


def table(rows: Sequence[Row]) -> str:
    """In columns, with what is not there as a dash."""
    cells = [("", "local", "runtime"), *((row.name, row.local or "–", row.runtime or "–") for row in rows)]
    widths = [max(len(cell[column]) for cell in cells) for column in (0, 1)]
    return "\n".join(f"  {name:<{widths[0]}}  {local:<{widths[1]}}  {runtime}" for name, local, runtime in cells)


def is_serious(local: str, runtime: str) -> bool:
    """Whether what one version pickles may be another thing in the other: the first number that is not 0 differs."""
    one, other = local.split("."), runtime.split(".")
    length = 2 if one[0] == "0" else 1
    return one[:length] != other[:length]


def _level_of_user() -> int:
    """How far up the stack the code is that called us."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "pywren_ng":
        level, frame = level + 1, frame.f_back
    return level


class Comparison:
    """Compares for one executor; any thread may ask."""

    def __init__(
        self,
        versions: Mapping[str, tuple[str, str]],
        others: frozenset[str] | None,
        wanted: str,
    ) -> None:
        """`versions`: package and version by top-level module, of what was asked for by `wanted`, in words; `others`:
        what the workers can import besides, or None for all that is installed here."""
        self._versions = versions
        self._others = others
        self._wanted = wanted
        self._codes: dict[int, tuple[CodeType, frozenset[str]]] = {}
        self._rows: dict[str, Row | None] = {}
        self._warned: set[Row] = set()
        self._installed: Mapping[str, list[str]] | None = None

    def check(self, title: str, modules: Iterable[str]) -> None:
        """PackagesError with the table if these top-level modules are not what the workers have.

        A lesser difference is a warning, once.
        """
        rows = [row for row in map(self._row, sorted(modules)) if row is not None]
        serious = [row for row in rows if not row.runtime or is_serious(row.local, row.runtime)]
        if serious:
            raise PackagesError(self._told(title, serious, rows))
        new = [row for row in rows if row not in self._warned]
        if new:
            self._warned.update(new)
            text = f"the workers have other versions than this process:\n\n{table(new)}\n"
            warnings.warn(text, stacklevel=_level_of_user())

    def imports(self, code: CodeType) -> frozenset[str]:
        """The top-level modules that a function is sure to import."""
        known = self._codes.get(id(code))
        if known is None:
            if len(self._codes) >= _CODES:
                self._codes.clear()
            known = self._codes[id(code)] = code, surely_imported(code)  # which keeps its id from being another's
        return known[1]

    def lacks(self, top: str) -> bool:
        """Whether the workers surely cannot import that top-level module, which is installed here."""
        row = self._row(top)
        return row is not None and not row.runtime

    def _row(self, top: str) -> Row | None:
        if top not in self._rows:
            self._rows[top] = self._found(top)
        return self._rows[top]

    def _found(self, top: str) -> Row | None:
        """The line for a module that differs; None where both sides have the same, or that cannot be told."""
        from importlib import metadata

        if top in sys.stdlib_module_names or top in OURS:
            return None
        if top in self._versions:
            name, there = self._versions[top]
            try:
                here = metadata.version(name)
            except metadata.PackageNotFoundError:  # only the function imports it
                return None
            return None if here == there else Row(name, here, there)
        if self._others is None or top in self._others:
            return None
        if self._installed is None:
            self._installed = metadata.packages_distributions()  # reads a file of each package
        names = self._installed.get(top)
        return Row(names[0], metadata.version(names[0]), "") if names else None

    def _told(self, title: str, serious: list[Row], rows: list[Row]) -> str:
        absent = [row.name for row in serious if not row.runtime]
        other = [row for row in serious if row.runtime]
        cures = []
        if absent:
            more = ", ".join(map(repr, absent))
            cures.append(
                f"add to {self._wanted}: {', '.join(absent)}" if self._wanted else f"Executor(…, requirements=[{more}])"
            )
        if other:
            here = " ".join(f"{row.name}=={row.runtime}" for row in other)
            there = ", ".join(f"{row.name}=={row.local}" for row in other)
            cures.append(f"pip install {here}, or ask for {there} in requirements=")
        return (
            f"the imports of {title} are not what the workers have; nothing was sent:\n\n"
            f"{table([Row('Python', *[f'{sys.version_info[0]}.{sys.version_info[1]}'] * 2), *rows])}\n\n"
            f"To mend it: {'; '.join(cures)}. If that is wrong, PYWREN_NG_CHECK_PACKAGES=0 sends it as it is"
        )
