"""cloudpickle's pickler, watched: what will be imported when the pickle is loaded?"""

import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from pywren_runtime.pickling import ATOMS
from pywren_runtime.strict import StrictPickler


class Pickler(StrictPickler):
    """Notes the names of the modules that the pickle refers to, and the code that it carries."""

    def __init__(self, names: set[str | None], codes: list[CodeType], *args: Any, **options: Any) -> None:
        self._names = names
        self._codes = codes
        super().__init__(*args, **options)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType):
            self._codes.append(obj.__code__)
            self._names.add(obj.__module__)
        elif isinstance(obj, ModuleType):
            self._names.add(obj.__name__)
        elif callable(obj):
            self._names.add(getattr(obj, "__module__", None))
        return super().reducer_override(obj)


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
