"""The parts of an executor, put together: store, packer, backend and engine, shared by all its views.

It ends in one of four ways: `close`, its last executor being collected, the interpreter's end, or a kill, after which
the next executor of this user removes what it left on disk.
"""

import contextlib
import importlib
import itertools
import os
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any

from pywren_ng.audience import Audience
from pywren_ng.backends import Backend
from pywren_ng.credentials import Access, open_store
from pywren_ng.engine import Engine
from pywren_ng.environment import LocalModules
from pywren_ng.packing import Packer
from pywren_ng.progress import Bars, uploading
from pywren_ng.scratch import Scratch
from pywren_ng.tracker import Pace
from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import Store

if TYPE_CHECKING:
    from pywren_ng.comparison import Comparison
    from pywren_ng.observers import Observer
    from pywren_ng.packages import PackageSet, Told
    from pywren_ng.pricing import Usage
    from pywren_runtime.pickling import Ref

DEPTH = "PYWREN_NG_INTERNAL_DEPTH"  # set in workers: how many executors this process is inside of
PACES = 1000
_NO_KEY = re.compile(r"[^A-Za-z0-9._=-]+")


class Assembly:
    """What the views of one executor share."""

    def __init__(
        self,
        backend: str,
        *,
        store: str | None,
        max_workers: int | None,
        access: Access,
        requirements: Any,
        compares: bool,  # what functions import with what the workers have
        progress: "bool | Observer | None",
    ) -> None:
        depth = int(os.environ.get(DEPTH, "0"))
        if backend == "local" and depth:
            # An executor inside a task has one worker, and one inside that has none: twice the workers is the most.
            backend, max_workers = ("local", 1) if depth == 1 else ("inline", None)
        self.backend = backend
        self.access = access
        self.name: str = f"{backend}-{os.urandom(8).hex()}"  # a job signed for one is nobody else's, ever
        self._jobs = itertools.count(1)
        self._paces: dict[object, Pace] = {}
        if max_workers is not None and max_workers <= 0:
            raise ConfigError(f"max_workers must be greater than 0, not {max_workers}")
        with contextlib.ExitStack() as undo:
            self.scratch: Scratch = Scratch()
            undo.callback(self.scratch.close)
            module = backend_module(backend)
            self.store: Store = open_store(store, access) if store else module.own_store(self.scratch.path, access)
            arch, memory = module.billed(access) if hasattr(module, "billed") else ("", None)
            self.arch: str = arch
            self.memory: int | None = memory  # MB of workers for tasks that ask for none
            packages, comparison = _packages(
                module, access, requirements, self.store, compares=compares, told=uploading(progress)
            )
            self.packages: Ref | None = packages.ref if packages is not None else None
            modules = None if backend == "inline" else LocalModules()
            self.packer: Packer = Packer(self.store, modules, packages, comparison)
            made: Backend = module.make(self.store, directory=self.scratch.path, max_workers=max_workers, access=access)
            undo.callback(made.close)
            self.engine: Engine = Engine(made, self.store, self.packer)
            undo.pop_all()
        self.audience: Audience = Audience(progress, self.engine.workers)
        self._end = weakref.finalize(self, _finish, self.engine, self.audience.bars, self.store, self.scratch)

    def check_open(self) -> None:
        """RuntimeError where nothing can be submitted any more; BrokenExecutor where nothing can run."""
        engine = self.engine
        if engine.broken is not None:
            raise engine.broken
        if engine.closing:
            raise RuntimeError(
                "cannot schedule new futures after shutdown: make a new Executor, or submit inside its `with`"
            )
        engine.check_own()

    def new_job(self, name: str | None) -> str:
        """A name for a job that no other job has, and that can be part of a key, whatever the user calls it."""
        own = _NO_KEY.sub("-", name or "")[:60].strip("-.")
        return "-".join(filter(None, (own, self.name, str(next(self._jobs)))))

    def usage(self) -> "Usage | None":
        """Where what a new job costs is to be counted; None where nothing is paid for."""
        if not self.arch:
            return None
        from pywren_ng.pricing import Usage

        return Usage(self.arch)

    def pace(self, fn: object) -> Pace:
        """How long this function's tasks take, as far as its earlier jobs have shown."""
        key = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
        pace = self._paces.get(key)
        if pace is None:
            if len(self._paces) >= PACES:
                self._paces.clear()
            pace = self._paces[key] = Pace()
        return pace

    def close(self, *, wait: bool = True, cancel: bool = False, kill: bool = False) -> None:
        """See `Engine.close`; with `wait`, no process and no file is left when it returns."""
        self.engine.close(wait=wait, cancel=cancel, kill=kill)
        if wait and not self.engine.is_foreign():
            self.audience.bars.close()
            if self._end.detach() is not None:
                _clear(self.engine, self.store, self.scratch)


def _packages(
    module: Any, access: Access, requirements: Any, store: Store, *, compares: bool, told: "Told"
) -> "tuple[PackageSet | None, Comparison | None]":
    """The set that was asked for, in the store, and what compares with it what functions import.

    Workers of a backend that has no target, and those on this machine if nothing was asked for, have what is here.
    """
    target = module.target(access) if hasattr(module, "target") else None
    if target is None or not (requirements or target.others):
        return None, None
    found, asked = None, ""
    if requirements:
        from pywren_ng.packages import prepare
        from pywren_ng.requirements import read

        read_ones = read(requirements)
        asked = str(read_ones)
        found = prepare(read_ones, target)
        found.put(store, told)
    if not compares:
        return found, None
    from pywren_ng.comparison import Comparison

    return found, Comparison(found.versions() if found else {}, target.others, asked)


def _finish(engine: Engine, bars: Bars, store: Store, scratch: Scratch) -> None:
    """The executor was collected or the interpreter ends: do what was submitted, unless an error ended the script."""
    if engine.is_foreign():
        return  # a forked child ends: nothing of it is its own
    by_error = getattr(sys, "last_value", None) is not None and not hasattr(sys, "ps1")
    engine.close(wait=True, kill=by_error)
    bars.close()
    _clear(engine, store, scratch)


def _clear(engine: Engine, store: Store, scratch: Scratch) -> None:
    """Remove what lies on the disk; where results have not been asked for yet, with the last who can ask for them."""
    store.close()  # it opens again for who asks for a result later
    if scratch.has_results():
        weakref.finalize(engine, scratch.close)
    else:
        scratch.close()


def backend_module(name: str) -> Any:
    """The backend of that name: a module of ours, or an entry point in the group `pywren_ng.backends`.

    It has `own_store(directory, access)`, the store if the user names none, and `make(store, *, directory,
    max_workers, access)`; one whose workers can be given packages has `target(access)`, the Python and platform on
    which they run; one that is paid for has `billed(access)`, by which processor's price, and for how many MB.
    """
    if not name.isidentifier():
        raise _unknown(name)
    try:
        return importlib.import_module(f"pywren_ng.backends.{name}_backend")
    except ModuleNotFoundError as error:
        if error.name != f"pywren_ng.backends.{name}_backend":
            raise
    from importlib.metadata import entry_points

    for found in entry_points(group="pywren_ng.backends", name=name):
        return found.load()
    raise _unknown(name)


def _unknown(name: str) -> ConfigError:
    from importlib.metadata import entry_points

    folder = os.path.join(os.path.dirname(__file__), "backends")
    known = sorted(file.removesuffix("_backend.py") for file in os.listdir(folder) if file.endswith("_backend.py"))
    known += [point.name for point in entry_points(group="pywren_ng.backends")]
    return ConfigError(f"there is no backend {name!r}; there are: {', '.join(known)}")
