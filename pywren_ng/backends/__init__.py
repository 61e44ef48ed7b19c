"""How a Call is started: one Protocol, one file for each place where workers run.

A backend is found by its name: `local` is `local_backend.LocalBackend`; a new one is a new file here, or an entry
point in the group `pywren_ng.backends`. The contract tests find it by the same rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pywren_ng.tracker import Heading, Lost
from pywren_runtime.wire import Call, Environment, Outcome, Signer

Event = Outcome | Lost


@dataclass(frozen=True, slots=True)
class Order:
    """A Call to be started, with the heading that it encodes."""

    call: Call
    heading: Heading


class Backend(Protocol):
    """Starts Calls and brings back what becomes of them. One call at a time, but for `wait` and `wake`."""

    workers: int  # how many Calls can run at once
    longest: float | None  # seconds that no task can outlast, whatever its job allows
    signer: Signer  # what it signs, its workers believe
    threaded: (
        bool  # whether the engine has a thread of its own; if not, tasks run in `collect`, in the thread that submits
    )

    def prepare(self, environment: Environment) -> None:
        """Work for that environment is about to come: what takes long may begin."""
        ...

    def room(self, environment: Environment, seconds: float | None) -> int:
        """How many Calls of that environment, whose tasks are known to take so long, it would take now."""
        ...

    def start(self, orders: Sequence[Order]) -> None:
        """Start Calls of one environment. It never blocks, and what goes wrong comes back as an event."""
        ...

    def wait(self, timeout: float) -> object:
        """Wait until something has happened, `wake` was called, or the time is over. Other calls may be under way
        meanwhile. What it returns goes to `collect` and is not None."""
        ...

    def collect(self, waited: object) -> list[Event]:
        """What has happened: at least one Outcome or Lost for each task started, perhaps more than one."""
        ...

    def balance(self) -> None:
        """Nothing more is ready: what was started may move to where it begins sooner."""
        ...

    def wake(self) -> None:
        """Let `wait` return. Any thread may call it."""
        ...

    def recall(self, job: str) -> list[Order]:
        """Take back what of that job was started but has not begun, in input order."""
        ...

    def stop(self, job: str) -> None:
        """Stop what runs of that job and forget what waits. Other jobs come to no harm, though their tasks may be
        started anew, uncharged."""
        ...

    def close(self) -> None:
        """End all workers, at once; afterwards nothing of them is left."""
        ...
