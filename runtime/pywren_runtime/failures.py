"""How an exception gets from a worker to the client, as itself wherever that can be done.

worker: error ── pack ──► RAISED: a pickle of (error, its traceback as text), tried out before it is sent
                     └──► FAILED: ["RemoteError" or another of our errors, text], where a pickle cannot be had
client: rebuild ──► the error, with a RemoteTraceback as its cause and a note of what it did and printed
"""

import copyreg
import json
import linecache
import pickle
import re
import traceback
from collections.abc import Callable
from types import WrapperDescriptorType
from typing import Any, cast

from pywren_runtime import errors
from pywren_runtime.wire import STATS, Outcome, Stats

PACKED = b"\0\1"  # how a packed object begins; the text of an error of ours begins with a bracket
SHOWN = 10  # lines of output in an error's note


class RemoteTraceback(Exception):
    """The traceback of a worker, as text; it stands as the cause of the error that arrives."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""' if self.args else ""


class Unread(Exception):
    """What a reducer was to read could not be read; the cause says why. It is not the user's function that failed."""


def text_of(error: BaseException) -> str:
    """The traceback as the worker sees it, without the worker's own frames at its top."""
    own = __file__.rpartition("failures")[0]
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(own):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def pack_raised(
    error: BaseException, dumps: Callable[[object], bytes], loads: Callable[[bytes], object]
) -> bytes | None:
    """`error` with its notes, causes and traceback; None if it does not survive the journey, tried both ways here."""
    text = text_of(error)
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        link.__traceback__ = None
    others = dict(copyreg.dispatch_table)
    try:
        _make_picklable(chain)
        packed = dumps((error, text))
        rebuilt = loads(packed)
    except Exception:
        return None
    finally:  # the table is everybody's in this interpreter
        copyreg.dispatch_table.clear()
        copyreg.dispatch_table.update(others)
    same = isinstance(rebuilt, tuple) and type(rebuilt[0]).__qualname__ == type(error).__qualname__
    return packed if same else None


def _make_picklable(chain: list[BaseException]) -> None:
    """Let exceptions of these types be pickled with their notes and causes, whatever their `__init__` takes."""
    from tblib import pickling_support

    pickling_support.install(*chain)
    for kind in list(copyreg.dispatch_table):
        # tblib rebuilds without `__init__`; where that is Python's own, it keeps what lies in no `__dict__`
        # (SystemExit.code, UnicodeDecodeError.reason, StopIteration.value), and `args` are what it takes.
        if issubclass(kind, BaseException) and isinstance(kind.__init__, WrapperDescriptorType):
            copyreg.pickle(kind, _reduced)


def _reduced(error: BaseException) -> tuple[Any, ...]:
    from tblib.pickling_support import unpickle_exception

    reduced: Any = error.__reduce__()
    rebuild, args, *more = reduced
    notes = getattr(error, "__notes__", None)
    links = error.__cause__, error.__traceback__, error.__context__, error.__suppress_context__
    return unpickle_exception, (rebuild, args, *links, notes), *more


def pack_ours(name: str, message: str, text: str = "") -> bytes:
    """One of our own errors, by the name of its class: no pickle."""
    return json.dumps([name, message, text]).encode()


def rebuild(outcome: Outcome, loads: Callable[[bytes], Any]) -> BaseException:
    """The exception that a failed outcome stands for."""
    if outcome.payload[0] in PACKED:
        try:
            error, text = loads(outcome.payload)
        except (pickle.UnpicklingError, ImportError, AttributeError, TypeError, ValueError) as cause:
            error = errors.RemoteError(f"the exception of {_title(outcome)} could not be rebuilt here: {cause!r}")
            text = ""
    else:
        name, message, text = json.loads(outcome.payload)
        error = getattr(errors, name)(f"{_title(outcome)}: {message}")
    if text:
        remote = RemoteTraceback(_with_source(text))
        remote.__cause__ = error.__cause__
        context = error.__context__, error.__suppress_context__
        error.__cause__ = remote
        error.__context__, error.__suppress_context__ = context[0], True
    error.add_note(note_of(outcome))
    return cast(BaseException, error)


def _title(outcome: Outcome) -> str:
    return f"task {outcome.task} of job {outcome.job}"


def note_of(outcome: Outcome) -> str:
    """What an error's note says: task, attempt, memory, and the last lines that the task printed."""
    stats = Stats(*STATS.unpack(outcome.stats))
    note = f"{_title(outcome)}, attempt {outcome.attempt}, {stats.peak / 1e6:.0f} MB at its peak, worker {stats.worker}"
    lines = outcome.output.decode("utf-8", "replace").splitlines()[-SHOWN:]
    return "\n".join([note + ("; it printed last:" if lines else ""), *(f"  | {line}" for line in lines)])


_FRAME = re.compile(r'\s+File "(.+)", line (\d+)')


def _with_source(text: str) -> str:
    """Fill in source lines that only the client has, such as those of notebook cells."""
    lines = text.splitlines()
    filled = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        filled.append(line)
        frame = _FRAME.match(line)
        if frame and not after.startswith(line[: len(line) - len(line.lstrip())] + "  "):
            source = linecache.getline(frame[1], int(frame[2])).strip()
            if source:
                filled.append(f"    {source}")
    return "\n".join(filled) + "\n"
