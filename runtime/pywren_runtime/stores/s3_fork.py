"""An extension module once more, for a forked child whose parent has used it.

A fork copies a library's memory and none of its threads: whoever waits for them hangs, also in objects made anew, for
the threads belong to the library. A copy of its file is another library to the linker, with threads of its own.
"""

import shutil
import sys
from importlib import import_module
from importlib.machinery import ExtensionFileLoader, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from tempfile import NamedTemporaryFile
from types import ModuleType

__all__ = ["load_again"]


def load_again(package: str, extension: str) -> ModuleType:
    """The package over a fresh copy of its extension module; who holds the old one keeps it."""
    name = f"{package}.{extension}"
    for loaded in [loaded for loaded in sys.modules if loaded == package or loaded.startswith(f"{package}.")]:
        # Never collected: to let go of what waits for lost threads would be to wait for them, too.
        _kept.append(sys.modules.pop(loaded))
    found = PathFinder.find_spec(package)
    inner = PathFinder.find_spec(name, found.submodule_search_locations) if found else None
    if inner is None or inner.origin is None:
        raise ImportError(f"the file of {name} is gone", name=name)
    with NamedTemporaryFile(suffix=".so") as copy, open(inner.origin, "rb") as original:
        shutil.copyfileobj(original, copy)
        copy.flush()
        spec = spec_from_file_location(name, copy.name, loader=ExtensionFileLoader(name, copy.name))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = module_from_spec(spec)
        spec.loader.exec_module(module)
    return import_module(package)


_kept: list[ModuleType] = []
