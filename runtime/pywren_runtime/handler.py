"""AWS Lambda's entry point; all that happens is in `pywren_runtime.supervisor`.

initialisation ──► the worker process is started, and no more is imported than that takes
first event ─────► the supervisor is imported while the worker process imports what it needs
"""

import functools
import os

TYPE_CHECKING = False  # type checkers know the name; to import `typing` would take as long as to start the worker
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pywren_runtime.settings import Settings
    from pywren_runtime.spawn import Spawned
    from pywren_runtime.supervisor import Supervisor

    class Invocation(Protocol):
        """What Lambda says about one Invoke."""

        def get_remaining_time_in_millis(self) -> int:
            """Until Lambda ends this environment."""
            ...


@functools.cache
def _begin() -> "tuple[Settings, Spawned]":
    from pywren_runtime import settings

    found = settings.read(os.environ)
    return found, found.spawn()


@functools.cache
def _supervisor() -> "Supervisor":
    settings, spawned = _begin()
    from pywren_runtime.supervisor import Supervisor

    return Supervisor(settings, spawned)


def handle(event: object, invocation: "Invocation") -> "dict[str, Any]":
    """Do what the event asks. An error here means that no outcome was lost, but that perhaps none was made."""
    return _supervisor().answer(event, invocation.get_remaining_time_in_millis() / 1000)


if "AWS_LAMBDA_RUNTIME_API" in os.environ:
    _begin()
