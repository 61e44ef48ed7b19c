"""What the Lambda function's own process does: it keeps a worker process, feeds it Calls, and outlives its death.

    event ─► signed Call ─► Watch ─► worker process (`python -m pywren_runtime`) ─► Outcomes ─► Replies ─► answer
                              └─ deaths, time limits, memory                          Pulse ─► beats; cancelled?

    {"call": base64}                      the outcomes are in the answer: {"outcomes": [base64, …]}
    {"call": base64, "reply": "store"}    they are put_new at their keys: {"stored": n}
    {"call_key": key, …}                  the Call lies in the store
    {"start": [{"function": name, "event": {…}}, …], "stop_key": key}   each is invoked: {"started": n, "failed": […]}

A user's code runs in the worker process only, so a crash, `os._exit`, a time limit, a memory limit or another set of
modules is here what it is on a laptop. What is wrong with an event or the store is raised, and Lambda reports it as
the function's error: then no outcome was lost, for those that were stored count.
"""

import base64
import binascii
import os
import struct
import threading
import time
from dataclasses import replace
from typing import Any, Final

from pywren_runtime.errors import ConfigError, StoreError
from pywren_runtime.process import WorkerProcess
from pywren_runtime.replies import Pulse, Replies, is_there
from pywren_runtime.settings import Settings
from pywren_runtime.spawn import Spawned
from pywren_runtime.stores import Store
from pywren_runtime.watch import LOOK, Watch
from pywren_runtime.wire import Call, Environment, Head, Signer, TaskCall, beat_key, call_key, misplaced, stop_key

LONG: Final = 30.0  # seconds after which a Call's outcomes are stored, whatever was asked
BEAT: Final = 10.0  # seconds between two signs of life
MARGIN: Final = 1.0  # seconds before the function's end in which outcomes are brought home


class Supervisor:
    """One for the life of a Lambda environment; it runs one event at a time."""

    def __init__(self, settings: Settings, spawned: Spawned | None = None) -> None:
        self._settings = settings
        self._surroundings = settings.surroundings
        self._signer = Signer(self._surroundings.key)
        self._opening = threading.Lock()
        self._store: Store | None = None
        self._number = 0
        self._process: WorkerProcess | None = None
        if spawned is not None:
            self._process = WorkerProcess(self._surroundings, self._effective(Environment()), spawned)

    def answer(self, event: object, left: float) -> dict[str, Any]:
        """Do what an event asks, in the seconds that are left."""
        ends = time.monotonic() + left
        if not isinstance(event, dict):
            raise ConfigError(f"the event is no JSON object but a {type(event).__name__}; {_WHOSE}")
        if "start" in event:
            return self._start(event, ends)
        call, head, environment = self._read(self._frame_of(event))
        _refuse_other(event, head.job, call.tasks[0])
        return self._run(call, head, environment, is_stored=event.get("reply") == "store", ends=ends)

    def close(self) -> None:
        """End the worker process. For tests: Lambda ends an environment without a word."""
        self._dismiss()

    # events

    def _frame_of(self, event: dict[str, Any]) -> bytes:
        try:
            if "call" in event:
                return base64.b64decode(event["call"], validate=True)
            key: str = event["call_key"]
        except (KeyError, TypeError, binascii.Error) as error:
            raise ConfigError(f"the event holds no Call that could be read ({error!r}); {_WHOSE}") from error
        return self._open_store().get(key)

    def _read(self, frame: bytes) -> tuple[Call, Head, Environment]:
        """The Call in a signed frame. SignatureError if it is not signed, VersionError if it is of another release."""
        body = self._signer.open(b"call", frame)
        try:
            call = Call.decode(body)
            head = Head.decode(call.head)
            if not call.tasks:
                raise ValueError("it holds no task")
            return call, head, self._effective(Environment.decode(head.environment))
        except (struct.error, ValueError, TypeError) as error:
            raise ConfigError(
                f"a signed Call could not be read ({error!r}): client and worker come from different releases of "
                "pywren-ng; bring both to the same one"
            ) from error

    def _effective(self, environment: Environment) -> Environment:
        """With the memory that there really is."""
        sizes = [size for size in (environment.memory, self._settings.memory) if size is not None]
        return replace(environment, memory=min(sizes, default=None))

    def _open_store(self) -> Store:
        """Opened when it is first needed: a synchronous Call of short tasks never does. Any thread may ask."""
        with self._opening:
            if self._store is None:
                from pywren_runtime.stores import open_store

                self._store = open_store(self._surroundings.store)
            return self._store

    def _start(self, event: dict[str, Any], ends: float) -> dict[str, Any]:
        from pywren_runtime import aws, starter

        entries = starter.entries_of(event)
        from pywren_runtime.invoker import Invoker

        region = aws.region_of() or ""
        invoker = Invoker(aws.endpoint_of("lambda", region), region, aws.from_environment)
        try:
            return starter.start(
                entries,
                invoker,
                until=ends - MARGIN * self._settings.scale,
                is_stopped=lambda: self._is_there(event.get("stop_key")),
                every=BEAT * self._settings.scale,
                scale=self._settings.scale,
            )
        finally:
            invoker.close()

    def _is_there(self, key: str | None) -> bool:
        """Whether a stop marker lies there; a store that does not say is no reason to stop."""
        try:
            return key is not None and is_there(self._open_store(), key)
        except StoreError:
            return False

    # Calls

    def _run(self, call: Call, head: Head, environment: Environment, *, is_stored: bool, ends: float) -> dict[str, Any]:
        now, scale = time.monotonic(), self._settings.scale
        process = self._process_for(environment)
        self._number += 1
        watch = Watch(
            process,
            self._signer,
            call,
            head,
            number=self._number,
            ends=ends,
            margin=MARGIN * scale,
            look=min(LOOK, max(0.01, LOOK * scale)),
        )
        replies = Replies(self._open_store, is_stored=is_stored, long_from=now + LONG * scale)
        first = call.tasks[0]
        pulse = Pulse(
            self._open_store,
            beat=beat_key(head.job, first.index, first.attempt),
            stop=stop_key(head.job),
            every=BEAT * scale,
            begins=now + BEAT * scale,
        )
        try:
            for framed in watch.run(environment):
                for outcome, outcome_frame in framed:
                    replies.add(outcome, outcome_frame)
                    _log(outcome.output)
                now = time.monotonic()
                replies.look(now)
                pulse.look(now)
                if pulse.is_stopped:
                    watch.stop()
            if watch.is_over:
                self._process = self._hire(environment)  # the next Call finds it ready
            return replies.answer()
        except BaseException:
            self._dismiss()  # it may be in the middle of the Call
            raise
        finally:
            pulse.close()
            replies.close()

    def _process_for(self, environment: Environment) -> WorkerProcess:
        process = self._process
        if process is not None and not process.is_dead() and _fits(process, environment):
            return process
        self._dismiss()
        self._process = self._hire(environment)
        if self._process is None:  # now the error is of use
            self._process = WorkerProcess(self._surroundings, environment)
        return self._process

    def _hire(self, environment: Environment) -> WorkerProcess | None:
        """A new worker process, not waited for. None if there cannot be one now."""
        try:
            return WorkerProcess(self._surroundings, environment)
        except OSError:
            return None

    def _dismiss(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.dismiss()


def _refuse_other(event: dict[str, Any], job: str, first: TaskCall) -> None:
    """A Call that was signed for another place in the store is not the one that was asked for."""
    own = call_key(job, first.index, first.attempt)
    if "call" not in event and event["call_key"] != own:
        raise misplaced(own, event["call_key"])


def _fits(process: WorkerProcess, environment: Environment) -> bool:
    if process.fits(environment):
        return True
    own = process.environment
    if process.is_new() and (own.memory, own.env) == (environment.memory, environment.env):
        process.environment = environment  # it has run nothing yet, and takes any initializer
        return process.fits(environment)
    return False


def _log(printed: bytes) -> None:
    """Into Lambda's log."""
    if printed:
        try:
            os.write(1, printed if printed.endswith(b"\n") else printed + b"\n")
        except OSError:  # nobody reads it
            pass


_WHOSE: Final = "whoever invokes this function should be pywren-ng, of the release that deployed it"
