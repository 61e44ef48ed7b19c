"""cloudpickle's pickler, watched: what will be imported when the pickle is loaded?"""

from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Notes the names of the modules that the pickle refers to, and the code that it carries."""

    def __init__(self, names: set[str], codes: list[CodeType], *args: Any, **options: Any) -> None:
        self._names = names
        self._codes = codes
        super().__init__(*args, **options)

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, ModuleType):
            self._names.add(obj.__name__)
        elif isinstance(obj, FunctionType | type) or callable(obj):
            name = getattr(obj, "__module__", None)
            if isinstance(name, str):
                self._names.add(name)
            if isinstance(obj, FunctionType):
                self._codes.append(obj.__code__)
        return super().reducer_override(obj)
