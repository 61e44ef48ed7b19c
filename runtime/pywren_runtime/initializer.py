"""What an initializer leaves behind for the tasks: the globals that it set.

A function of a script or a notebook travels by value and gets globals of its own, so that no job sees another's.
`global model` in an initializer would then be lost on every task. What it set is therefore handed on to each
function of the same module, when that function is loaded.
"""

from collections.abc import Callable, Mapping
from typing import Any

_MISSING = object()


def run(initializer: Callable[..., object], args: tuple[Any, ...]) -> dict[str, dict[str, object]]:
    """Run it, and say which globals it has set, by module."""
    variables = _globals_of(initializer)
    before = dict(variables)
    initializer(*args)
    made = {name: value for name, value in variables.items() if value is not before.get(name, _MISSING)}
    made.pop("__builtins__", None)  # set by the first call of any function
    return {variables["__name__"]: made} if made and "__name__" in variables else {}


def hand_on(made: Mapping[str, Mapping[str, object]], function: Callable[..., object]) -> None:
    """Let a function see what the initializer of its module has set."""
    if made:
        variables = _globals_of(function)
        variables.update(made.get(variables.get("__name__", ""), {}))


def _globals_of(function: object) -> dict[str, Any]:
    """The globals of a function, also below partials and methods; of anything else, none."""
    while function is not None:
        variables: dict[str, Any] | None = getattr(function, "__globals__", None)
        if variables is not None:
            return variables
        function = getattr(function, "func", None) or getattr(function, "__func__", None)
    return {}
