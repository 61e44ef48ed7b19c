"""What every worker does with a Call, on this machine and on Lambda alike.

Call ─► environment ─► function ─► for each task: announce ─► arguments ─► run ─► pack, store ─► Outcome
        (modules, variables,  (unpickled once       │                                               │
         initializer: once)    a job and worker)    └── Capture, Meter ─────────────────────────────┘
"""

import contextlib
import itertools
import os
import pickle
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pywren_runtime import blobs, failures, initializer
from pywren_runtime.capture import Meter
from pywren_runtime.errors import KeyMissing, PywrenError, StoreError, StoreFull
from pywren_runtime.modules import Installed, Unit
from pywren_runtime.packages import Packages
from pywren_runtime.pickling import (
    INLINE,
    Bytes,
    Ref,
    digest_of,
    dumps,
    dumps_plain,
    has_pieces,
    is_plain,
    loads,
    refs_of,
    set_apart,
)
from pywren_runtime.stores import Store
from pywren_runtime.wire import (
    KEEP,
    REDUCE,
    STATS,
    Call,
    Environment,
    Head,
    Outcome,
    Signer,
    Status,
    TaskCall,
    misplaced,
    module_key,
    notice_key,
    result_key,
)

if TYPE_CHECKING:
    from pywren_runtime.results import Landed

Function = tuple[Callable[..., Any], tuple[type[BaseException], ...], int]  # with what it retries on, and its role

RIDES = 1024  # bytes of a result that is kept in the store which its Outcome has all the same
_NOTHING = contextlib.nullcontext()


class Worker:
    """Runs Calls one after the other and keeps, between them, bytes and modules but no user's object.

    The function is the exception: it is unpickled once a job, or once a task where it carries large pieces, for a
    task may change these in place.
    """

    def __init__(
        self,
        store: Store,
        *,
        root: str,
        packages: str | None = None,  # where sets of them are laid out; beside `root` if not said
        take_output: Callable[[], bytes],
        announce: Callable[[TaskCall], object] = lambda task: None,
        cache: blobs.Cache | None = None,
        memory: int | None = None,  # MB that this process may take, where the environment does not say
        signer: Signer | None = None,  # whose notices it believes
    ) -> None:
        self._signer = signer
        self._store = store
        self._cache = cache
        self._memory = memory
        self._root = root
        self._take_output = take_output
        self._announce = announce
        self._meter = Meter()
        self._modules = Installed()
        self._packages = Packages(packages or os.path.join(os.path.dirname(root), "packages"))
        self._head_bytes = b""
        self._head: Head
        self._environment_bytes = b""
        self._environment: Environment
        self._function: Function | None = None
        self._initialized: bytes | None = None
        self._made: dict[str, dict[str, object]] = {}  # the globals that the initializer set
        self._arguments: object = None  # of the task that has just run
        self._cold = True

    def run(self, call: Call) -> Iterator[Outcome]:
        """One Outcome for each task of the Call, as each ends. Raises nothing that a task can cause."""
        if call.head != self._head_bytes:
            self._head, self._head_bytes = Head.decode(call.head), call.head
            self._function = None
            if self._head.environment != self._environment_bytes:
                self._environment_bytes = self._head.environment
                self._environment = Environment.decode(self._environment_bytes)
        fault = self._get_packages(self._environment)
        for task in call.tasks:
            self._announce(task)
            env = self._environment.env
            with _variables(env) if env else _NOTHING:
                outcome = self._attempt(self._head, task, fault)
            yield outcome
            self._arguments = None  # to unmap large ones takes time, and the outcome is on its way

    def _get_packages(self, environment: Environment) -> BaseException | None:
        """Before any task is announced, whose time runs from then on. Why they cannot be had."""
        try:
            if environment.packages is not None:
                self._packages.install(environment.packages, self._fetch)
        except BaseException as error:
            return error
        return None

    def _attempt(self, head: Head, task: TaskCall, fault: BaseException | None) -> Outcome:
        self._meter.reset()
        clock = time.perf_counter
        begun, marks = clock(), []
        started = time.time()
        phase = "getting ready"
        try:
            if fault is not None:
                raise fault
            self._prepare(self._environment)
            phase = "loading its function"
            function, _, role = self._load_function(head)
            marks.append(clock())
            phase = "loading its arguments"
            args, kwargs = loads(task.arguments, self._fetch)
            marks.append(clock())
            phase = ""
            value = self._reduce(function, *args) if role & REDUCE else function(*args, **kwargs)
            marks.append(clock())
            phase = "packing its result"
            status, payload = self._pack_value(head.job, task, value, keeps=bool(role & KEEP))
            self._arguments = args, kwargs
        except BaseException as error:
            status, payload = self._pack_error(head, task, error, phase)
        marks += [clock()] * (4 - len(marks))
        cpu, peak = self._meter.read()
        times = (started + mark - begun for mark in marks)
        stats = STATS.pack(started, *times, cpu, peak, os.getpid(), self._cold)
        self._cold = False
        return Outcome(head.job, task.index, task.round, task.attempt, status, payload, self._take_output(), stats)

    def _prepare(self, environment: Environment) -> None:
        if environment.modules:
            self._modules.install(environment.modules, self._fetch_module, self._root)
        if environment.initializer and environment.initializer != self._initialized:
            try:
                self._made = initializer.run(*loads(environment.initializer, self._fetch))
            except _Missing:
                raise
            except BaseException as error:
                raise _Broken from error
            self._initialized = environment.initializer

    def _load_function(self, head: Head) -> Function:
        if self._function is not None:
            return self._function
        function, retry_on, *role = loads(head.function, self._fetch)
        loaded: Function = function, retry_on, role[0] if role else 0
        initializer.hand_on(self._made, loaded[0])
        if not has_pieces(head.function):
            self._function = loaded
        return loaded

    def _reduce(self, function: Callable[..., Any], landed: bytes) -> object:
        """Run a function over the results of other tasks."""
        from pywren_runtime.results import AHEAD, Landed, Results

        memory = self._memory or self._environment.memory
        ahead = AHEAD if memory is None else min(AHEAD, memory * 1_000_000 // 8)
        with Results(Landed.decode(landed), self._fetch, self._hear, ahead=ahead) as results:
            return function(results)

    def _hear(self, job: str, number: int) -> "Landed | None":
        from pywren_runtime.results import Landed

        key = notice_key(job, number)
        try:
            frame = self._store.get(key)
        except KeyMissing:
            return None
        assert self._signer is not None  # where all runs in one thread, nothing is announced
        landed = Landed.decode(self._signer.open(b"notice", frame))
        if (landed.job, landed.number) != (job, number):
            raise misplaced(notice_key(landed.job, landed.number), key)
        return landed

    def _fetch_module(self, unit: Unit) -> bytes:
        key = module_key(unit.digest)
        try:
            return self._store.get(key)
        except KeyMissing as error:
            raise self._missing(key, error) from error

    def _fetch(self, ref: Ref) -> Bytes:
        try:
            if self._cache is not None:
                return self._cache.fetch(self._store, ref)
            return blobs.fetch(self._store, ref)
        except KeyMissing as error:
            raise self._missing(ref.key, error) from error

    def _missing(self, key: str, error: KeyMissing) -> Exception:
        """What was put once may have gone by a rule of the store's, and who put it can do so again."""
        return error if self._store.private else _Missing(key)

    def _all_missing(self, first: str, head: Head, task: TaskCall) -> list[str]:
        """The keys of all that is gone, so that one more attempt is enough."""
        missing = {first: None}
        initializer = self._environment.initializer
        for ref in itertools.chain.from_iterable(
            map(refs_of, filter(None, (initializer, head.function, task.arguments)))
        ):
            try:
                self._fetch(ref)
            except _Missing as error:
                missing[error.args[0]] = None
            except Exception:  # it will be met again, and told then
                pass
        return list(missing)

    def _pack_value(self, job: str, task: TaskCall, value: object, *, keeps: bool) -> tuple[Status, bytes]:
        if is_plain(value) and not keeps:
            packed = dumps_plain(value)
            if len(packed) < 65536:
                return Status.PLAIN, packed
        try:
            return Status.VALUE, self._dumps(job, task, value, keeps=keeps)
        except (StoreError, MemoryError):
            raise
        except Exception as error:
            from pywren_runtime.diagnose import explain

            raise _Unpackable(explain(value, "the result", error)) from error

    def _dumps(self, job: str, task: TaskCall, value: object, *, keeps: bool = False) -> bytes:
        from pywren_runtime.strict import StrictPickler  # it imports cloudpickle: not before a result needs that

        number = itertools.count()

        def store(data: memoryview) -> Ref:
            digest = bytes(32) if self._store.private else digest_of(data)
            for part in number:
                key = result_key(job, task.index, task.round, task.attempt, part)
                # What lies there is a second delivery's of the same attempt, which need not have had the same result.
                if self._store.put_new(key, data) or digest_of(memoryview(self._store.get(key))) == digest:
                    return Ref(key, len(data), digest)
            raise AssertionError

        packed = dumps(value, store, StrictPickler, inline=RIDES if keeps else INLINE)
        return set_apart(packed, store) if keeps else packed

    def _pack_error(self, head: Head, task: TaskCall, error: BaseException, phase: str) -> tuple[Status, bytes]:
        if isinstance(error, failures.Unread) and error.__cause__ is not None:
            error, phase = error.__cause__, str(error)
        if isinstance(error, _Missing):
            return Status.MISSING, "\n".join(self._all_missing(error.args[0], head, task)).encode()
        text = failures.text_of(error.__cause__ or error if isinstance(error, _Broken | _Unpackable) else error)
        memory = self._memory if self._memory is not None else self._environment.memory
        if isinstance(error, _Broken):
            return Status.BROKEN, failures.pack_ours(
                "InitializerError", f"the initializer failed: {error.__cause__!r}", text
            )
        if isinstance(error, _Unpackable):
            return Status.FAILED, failures.pack_ours("PackingError", str(error), text)
        if isinstance(error, MemoryError) and memory is not None:
            peak = self._meter.read()[1] / 1e6
            message = (
                f"it needed more than its memory of {memory} MB ({peak:.0f} MB were resident at the peak, and the next "
                f"allocation failed{f': {error}' if str(error) else ''}); give it more with "
                f"options(memory={2 * memory}), or give it less to do at a time"
            )
            return Status.FAILED, failures.pack_ours("TaskOutOfMemory", message, text)
        if isinstance(error, PywrenError) and phase:
            status = (
                Status.LOST if isinstance(error, StoreError) and not isinstance(error, StoreFull) else Status.FAILED
            )
            return status, failures.pack_ours(type(error).__name__, f"{phase}: {error}", text)
        if phase:
            error.add_note(f"raised in the worker while {phase}")
        retry = self._function is not None and isinstance(error, self._function[1])
        packed = failures.pack_raised(error, lambda value: self._dumps(head.job, task, value), self._loads)
        if packed is None:
            message = f"it raised {type(error).__qualname__}, which cannot be pickled and rebuilt: {_safe_text(error)}"
            return (Status.RETRY if retry else Status.FAILED), failures.pack_ours("RemoteError", message, text)
        return (Status.RETRY if retry else Status.RAISED), packed

    def _loads(self, packed: bytes) -> object:
        return loads(packed, self._fetch)


@contextlib.contextmanager
def _variables(wanted: tuple[tuple[str, str], ...]) -> Iterator[None]:
    """Environment variables for one task; afterwards they are what they were."""
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


class _Missing(Exception):
    """Something that the client had put lies in the store no more; its key."""


class _Broken(Exception):
    """The initializer failed; its own exception is the cause."""


class _Unpackable(pickle.PicklingError):
    """The result cannot be pickled; the text says which part."""


def _safe_text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:
        return f"(its text cannot be had either: {second!r})"
