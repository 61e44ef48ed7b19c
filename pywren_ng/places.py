"""Which modules are the user's own, and where their sources lie.

Local is what does not come with Python or from site-packages: files beside the script or notebook, packages
in the working directory or anywhere on sys.path, editable installs. Python's finders are asked; nothing is imported.
"""

import importlib
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["OURS", "SETTLED_NS", "Place", "Places"]

OURS = frozenset({"pywren_ng", "pywren_runtime", "pywren_shuffle", "__main__", "__mp_main__"})
# A younger file may change again within a tick of its clock: its stat proves nothing ("racily clean" in git).
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where the source of one local top-level module lies."""

    name: str
    roots: tuple[str, ...]  # one file, or a package's directory; a namespace package may have several
    is_package: bool


class Places:
    """Knows which top-level modules are local and where they lie; asks Python's finders, imports nothing."""

    def __init__(self, now: Callable[[], int]) -> None:
        import site

        major, minor = sys.version_info[:2]
        own = [os.path.dirname(os.__file__), site.getusersitepackages(), *site.getsitepackages()]
        own.append(os.path.join(sys.base_exec_prefix, sys.platlibdir, f"python{major}.{minor}"))
        self._installed = tuple({path + os.sep for each in own for path in (each, os.path.realpath(each))})
        self._now = now
        self._path: list[str] = []
        self._local_entries: list[str] = []
        self._listings: dict[str, tuple[frozenset[str], int | None]] = {}
        self._foreign = set(OURS)
        self._absent: set[str] = set()
        self._known: dict[str, tuple[str | None, tuple[str, ...] | None, Place]] = {}

    def foreign(self) -> set[str]:
        """Full and top-level names that are known not to be local; begun anew when sys.path has changed."""
        if self._path != sys.path:
            self._foreign, self._absent, self._path = set(OURS), set(), list(sys.path)
            self._local_entries = [entry for entry in self._path if not self._is_installed(entry)]
        return self._foreign

    def find(self, top: str, name: str) -> Place | None:
        """Where the module `top` lies if it is local; else None, and `name` is foreign if `top` exists."""
        if top in self._foreign:
            self._foreign.add(name)
            return None
        imported = sys.modules.get(top)
        if imported is not None:
            origin, locations = _whereabouts(imported)
        else:
            spec = self._spec(top)
            if spec is None:
                return None
            origin, locations = spec.origin if spec.has_location else None, spec.submodule_search_locations
        parts = None if locations is None else tuple(locations)
        known = self._known.get(top)
        if known is not None and known[0] == origin and known[1] == parts:
            return known[2]
        place = self._local(top, origin, parts)
        if place is None:
            self._foreign.update((top, name))
        else:
            self._known[top] = (origin, parts, place)
        return place

    def _spec(self, top: str) -> importlib.machinery.ModuleSpec | None:
        appeared = self._appeared(top)
        if top in self._absent:
            if not appeared:
                return None
            importlib.invalidate_caches()  # Python's listing of the directory may be older than the file
        spec = _find_spec(top)
        if spec is None and appeared:
            importlib.invalidate_caches()
            spec = _find_spec(top)
        if spec is None:
            self._absent.add(top)
        else:
            self._absent.discard(top)
        return spec

    def _appeared(self, top: str) -> bool:
        """Whether a local directory on sys.path has a file of that name: asks the disk, not a cache."""
        return any(top in self._stems(entry or os.getcwd()) for entry in self._local_entries)

    def _stems(self, directory: str) -> frozenset[str]:
        """What its files are called up to the first dot; listed again when the directory changed."""
        try:
            changed = os.stat(directory).st_mtime_ns
            stems, listed = self._listings.get(directory, (frozenset(), None))
            if changed != listed:
                stems = frozenset(name.partition(".")[0] for name in os.listdir(directory))
                if self._now() - changed > SETTLED_NS:
                    self._listings[directory] = (stems, changed)
        except OSError:  # no directory: a zip archive, or nothing
            return frozenset()
        return stems

    def _local(self, top: str, origin: str | None, locations: tuple[str, ...] | None) -> Place | None:
        roots: tuple[str, ...] = () if origin is None else (origin,)
        if locations is not None:
            is_regular = origin is not None and os.path.basename(origin).startswith("__init__.")
            roots = (os.path.dirname(str(origin)),) if is_regular else locations
        roots = tuple(
            root
            for root in map(os.path.normpath, roots)
            if os.path.isabs(root)  # else made up: "<string>"
            and os.path.isdir(os.path.dirname(root))  # else inside a zip archive
            and not self._is_installed(root)
            and not self._is_installed(os.path.realpath(root))
        )
        return Place(top, roots, locations is not None) if roots else None

    def _is_installed(self, path: str) -> bool:
        if path.startswith(self._installed) or path + os.sep in self._installed:
            return True
        parts = path.split(os.sep)
        return "site-packages" in parts or "dist-packages" in parts


def _whereabouts(module: object) -> tuple[str | None, Iterable[str] | None]:
    """The file and the search locations of an imported module; neither for one made in memory."""
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return spec.origin if spec.has_location else None, spec.submodule_search_locations
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not os.path.isfile(file):
        return None, None
    return file, getattr(module, "__path__", None)


def _find_spec(top: str) -> importlib.machinery.ModuleSpec | None:
    import importlib.util

    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None  # blocked by None in sys.modules, or a finder of someone's own
