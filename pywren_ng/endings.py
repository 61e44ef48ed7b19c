"""How tasks ended, unpacked in the thread that asks, and what their outcomes stored, deleted once it is read."""

import contextlib
import functools
import mmap
import pickle
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Any

from pywren_ng.deploy import grants
from pywren_ng.tracker import Cancelled, Forgotten, Opened, Task
from pywren_runtime import blobs, failures
from pywren_runtime.errors import StoreError
from pywren_runtime.pickling import CLASS_STATE, Bytes, Ref, loads, refs_of
from pywren_runtime.stores import Store
from pywren_runtime.wire import Outcome, Status

MAPPINGS = 200  # results that are mapped at a time: each holds a descriptor as long as its value lives; others are read


class Endings:
    """Opens the endings of one executor's tasks. Any thread may ask."""

    def __init__(self, store: Store, is_foreign: Callable[[], bool]) -> None:
        self._store = store
        self._is_foreign = is_foreign
        self._mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._opening = threading.RLock()  # a stored result can be unpacked only once

    def open(self, task: Task) -> Opened:
        """A settled task's value or error, unpacked once."""
        ending = task.ending
        if isinstance(ending, Opened):
            return ending
        with self._opening:
            ending = task.ending
            if isinstance(ending, Outcome):
                opened = task.ending = self._unpack(ending)
                self.discard(ending)  # now, and not where Ctrl-C broke the unpacking off: it can be asked for again
                return opened
            elif isinstance(ending, BaseException):
                opened = Opened(None, ending)
            elif isinstance(ending, Opened):
                return ending
            elif isinstance(ending, Forgotten):
                raise LookupError(
                    f"the result of task {task.index} of job {task.tasks.job} was handed out by the iteration and is "
                    "gone; ask for futures or results() before iterating"
                )
            elif isinstance(ending, Cancelled):
                opened = Opened(None, CancelledError())
            else:
                raise RuntimeError(f"task {task.index} of job {task.tasks.job} has not settled")
            task.ending = opened
        return opened

    def _unpack(self, outcome: Outcome) -> Opened:
        try:
            if outcome.status <= Status.VALUE:
                return Opened(loads(outcome.payload, self._fetch, Unpickler), None)
            return Opened(None, self.rebuild(outcome))
        except Exception as error:
            error.add_note(f"raised here, while the result of task {outcome.task} of job {outcome.job} was unpacked")
            return Opened(None, error)

    def rebuild(self, outcome: Outcome) -> BaseException:
        """The error of a failed outcome, with a note of what only the client knows."""
        error = failures.rebuild(outcome, lambda packed: loads(packed, self._fetch, Unpickler))
        with contextlib.suppress(Exception):  # a user's __str__ may do anything
            if denied := grants.advice(f"{error}\n{error.__cause__}"):
                error.add_note(denied)
        if isinstance(error, ModuleNotFoundError) and (advice := _lacking(error.name or "", self._store.private)):
            error.add_note(advice)
        return error

    def _fetch(self, ref: Ref) -> Bytes:
        data = blobs.fetch(self._store, ref, mapped=len(self._mapped) < MAPPINGS)
        if isinstance(data, mmap.mmap):
            self._mapped.add(data)
        return data

    def discard(self, outcome: Outcome) -> None:
        """Delete what a late, superseded or unpacked outcome has stored."""
        if outcome.payload[:1] == b"\1":
            self.delete([ref.key for ref in refs_of(outcome.payload)])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete what nobody needs. What cannot be deleted stays: no task is worse for it."""
        if not self._is_foreign():
            with contextlib.suppress(StoreError):
                self._store.delete_many(keys)


class Unpickler(pickle.Unpickler):
    """Leaves classes of this process as they are.

    An instance of a class that was defined at a prompt or in a cell comes back with its class, and cloudpickle would
    set the class's methods anew: they would no longer see what is redefined here later.
    """

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module.startswith("cloudpickle") and name == CLASS_STATE.decode():
            return functools.partial(_complete, found)
        return found


def _complete(set_state: Callable[[type, Any], type], cls: type, state: Any) -> type:
    own = vars(cls)
    return cls if all(name in own for name in state[0]) else set_state(cls, state)


def _lacking(name: str, is_own: bool) -> str:
    """What to do about a module that a worker lacks, one of this machine or of another."""
    top = name.partition(".")[0]
    if top and not _is_here(top):
        return (
            f"{top!r} is installed neither in the worker nor here: install it, or give it to the workers, by its name "
            f"on PyPI: Executor(…, requirements=[{top!r}])"
        )
    if not top or is_own:
        return ""
    return (
        f"{name!r} is installed here and not in the worker, which has only what it was given: "
        f"Executor(…, requirements=[{top!r}])"
    )


def _is_here(name: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
