"""cloudpickle's pickler, watched: what will be imported when the pickle is loaded?"""

import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from pywren_runtime.pickling import ATOMS
from pywren_runtime.strict import StrictPickler


class Needs:
    """What a pickle needs of modules: those that it names, those of them that are imported when it is loaded, and the
    code that it carries, which may import more."""

    __slots__ = ("codes", "imported", "named")

    def __init__(self) -> None:
        self.named: set[str | None] = set()
        self.imported: set[str | None] = set()
        self.codes: list[CodeType] = []


class Pickler(StrictPickler):
    """Notes what the pickle needs of modules."""

    def __init__(self, needs: Needs, *args: Any, **options: Any) -> None:
        self._needs = needs
        super().__init__(*args, **options)

    def reducer_override(self, obj: Any) -> Any:
        needs, reduced = self._needs, super().reducer_override(obj)
        if isinstance(obj, ModuleType):
            needs.named.add(obj.__name__)
            needs.imported.add(obj.__name__)
        elif callable(obj):
            name = getattr(obj, "__module__", None)
            needs.named.add(name)
            if isinstance(obj, FunctionType):
                needs.codes.append(obj.__code__)
            if reduced is NotImplemented and isinstance(obj, FunctionType | type):
                needs.imported.add(name)
        return reduced


def fingerprint(fn: object) -> tuple[Any, ...] | None:
    """What the pickle of a function depends on, if that can be told at a glance; None if it cannot.

    So it is for a function whose globals are modules and whose other parts are numbers and text: it holds nothing
    that somebody could change between two jobs.
    """
    if type(fn) is not FunctionType or fn.__closure__ or fn.__kwdefaults__ or fn.__dict__ or fn.__annotations__:
        return None
    defaults = fn.__defaults__ or ()
    used = fn.__code__.co_names
    variables = fn.__globals__
    found = tuple((name, variables[name].__name__) for name in used if _goes_by_name(variables.get(name)))
    if len(found) < sum(name in variables for name in used) or any(type(value) not in ATOMS for value in defaults):
        return None
    if any(type(const) is CodeType for const in fn.__code__.co_consts):  # its inner functions have globals of their own
        return None
    kinds = tuple(map(repr, defaults))  # 1 is 1.0, and 0.0 is -0.0, as far as == can tell
    return fn.__code__, fn.__module__, fn.__qualname__, fn.__name__, fn.__doc__, defaults, kinds, found


def _goes_by_name(value: object) -> bool:
    """Whether this is a module that is imported where the pickle is loaded; others travel with what they hold."""
    if type(value) is not ModuleType or sys.modules.get(value.__name__) is not value:
        return False
    by_value = cloudpickle.list_registry_pickle_by_value()
    return not any(value.__name__ == name or value.__name__.startswith(f"{name}.") for name in by_value)
