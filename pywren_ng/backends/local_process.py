"""One worker process, seen from its backend: how it is started, fed, listened to, and found dead."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pywren_runtime
from pywren_ng.backends import Event, Order
from pywren_runtime import link, modules
from pywren_runtime.wire import Environment, Outcome, Signer

CHUNK = 1 << 16  # of a pipe, at a time; a larger buffer would be mapped and unmapped for each read
THREADS = (  # variables that size the thread pools of numerical libraries
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
DEPTH = "PYWREN_NG_INTERNAL_DEPTH"  # how many executors a process is inside of


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all workers of an executor share."""

    directory: str  # private to the executor
    store: str  # its URL
    private: bool  # whether only this executor's processes write to that store
    key: bytes
    threads: int  # for numerical libraries, in each worker


@dataclass(frozen=True, slots=True)
class Doom:
    """Why a worker died, as the error that this is for the task that it ran."""

    kind: type[BaseException]
    text: str
    notes: tuple[str, ...] = ()

    def error(self, job: str, task: int) -> BaseException:
        error = self.kind(f"task {task} of job {job}: {self.text}")
        for note in self.notes:
            error.add_note(note)
        return error


_names = itertools.count()


class LocalProcess:
    """A worker process and the Calls that were sent to it and have not come back."""

    def __init__(self, surroundings: Surroundings, environment: Environment) -> None:
        self.environment = environment
        self.sent: dict[int, Order] = {}  # the first is the one that runs
        self.doom: Doom | None = None  # why it was killed, if we did
        self._signer = Signer(surroundings.key)
        self._modules = {unit.name: unit.digest for unit in environment.modules}
        self._done = 0  # outcomes that the running Call has brought
        self._partial = b""
        self._unsent: list[bytes] = []
        self._born = time.monotonic()
        self._began = False  # whether it ever got to run something
        self._start(surroundings)
        greeting = {
            "store": surroundings.store,
            "private": surroundings.private,
            "root": os.path.join(surroundings.directory, "modules"),
            "memory": environment.memory,
        }
        hello = surroundings.key + json.dumps(greeting).encode()
        self._unsent.append(link.CALL.pack(0, len(hello)) + hello)
        self._tickets: list[int] = []
        self.flush()

    def _start(self, surroundings: Surroundings) -> None:
        self._path = path = os.path.join(surroundings.directory, f"worker-{next(_names)}")
        # The worker's ends are closed here in any case, ours only if something cannot be had, such as a descriptor.
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
            # A named pipe can be opened twice for reading: blocking for the worker, not blocking to take tickets back.
            os.mkfifo(path)
            ours.callback(_remove, path)
            self._tickets_back = _kept(ours, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            self._tickets_out = _kept(ours, os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            tickets_in = _kept(its, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            os.unlink(path)
            frames_in, self._frames = _pipe(its, ours)
            self.outcomes, outcomes_out = _pipe(ours, its)
            os.set_blocking(self._frames, False)
            os.set_blocking(self.outcomes, False)
            for fd in (frames_in, outcomes_out):
                _widen(fd)
            board = _kept(its, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            os.ftruncate(board, link.Board.SIZE)
            self.board = link.Board(board)
            ours.callback(self.board.close)
            self.board.rest()
            # What it prints before and after it is ours.
            crash = _kept(its, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
            # It reads what it prints by itself; what it had no time to read before it died is read here.
            self._printed, printed_in = _pipe(ours, its)
            os.set_blocking(self._printed, False)
            given = (frames_in, tickets_in, outcomes_out, board, self._printed, printed_in)
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "pywren_runtime", *map(str, given)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=crash,
                pass_fds=given,
                env=_variables(surroundings, self.environment),
                process_group=0,  # the terminal's Ctrl-C is not for it, and it dies with its children
            )
            ours.pop_all()

    def fits(self, environment: Environment) -> bool:
        """Whether it could run a Call of that environment."""
        own = self.environment
        if own is environment:
            return self.doom is None
        return (
            self.doom is None
            and own.memory == environment.memory
            and own.env == environment.env
            and own.initializer == environment.initializer
            and modules.fits(self._modules, environment.modules)
        )

    def send(self, number: int, order: Order) -> None:
        """Queue a Call for it; `flush` sends it."""
        self.sent[number] = order
        for unit in order.heading.environment.modules:
            self._modules[unit.name] = unit.digest
        frame = self._signer.seal(b"call", order.call.encode())
        self._unsent.append(link.CALL.pack(number, len(frame)) + frame)
        self._tickets.append(number)

    def flush(self) -> bool:
        """Send what is queued, as far as the pipe takes it now. Whether all is sent."""
        if self._unsent:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            try:
                done = os.write(self._frames, data)
            except BlockingIOError:
                done = 0
            except BrokenPipeError:  # it is dead, and its other pipe will say so
                self._unsent.clear()
                return True
            self._unsent = [data[done:]] if done < len(data) else []
        if self._tickets:
            self.allow(self._tickets, {})
            self._tickets = []
        return not self._unsent

    def allow(self, numbers: list[int], orders: dict[int, Order]) -> None:
        """Write tickets; a ticket may overtake its frame, for which the worker then waits."""
        for number in numbers:
            if number in orders:
                self.sent[number] = orders[number]
        os.write(self._tickets_out, b"".join(link.TICKET.pack(number) for number in numbers))

    def take_back(self, most: int) -> list[tuple[int, Order]]:
        """Up to `most` Calls that it has not begun and now will not begin."""
        if most <= 0:
            return []
        try:
            data = os.read(self._tickets_back, link.TICKET.size * most)
        except BlockingIOError:
            return []
        numbers = [number for (number,) in link.TICKET.iter_unpack(data)]
        return [(number, self.sent.pop(number)) for number in numbers if number in self.sent]

    def receive(self) -> list[Event]:
        """The outcomes that have come in. EOFError once it is dead and there are no more."""
        try:
            data = os.read(self.outcomes, CHUNK)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError
        buffer, at, events = self._partial + data if self._partial else data, 0, []
        view = memoryview(buffer)
        while len(buffer) - at >= 4:
            (size,) = link.OUTCOME.unpack_from(buffer, at)
            if len(buffer) - at - 4 < size:
                break
            at += 4
            events.append(self._take(view[at : at + size]))
            at += size
        self._partial = buffer[at:]
        return events

    def _take(self, frame: memoryview) -> Event:
        outcome = Outcome.decode(self._signer.open(b"outcome", frame))
        self._began = True
        for number, order in self.sent.items():
            self._done += 1
            if self._done == len(order.call.tasks):
                del self.sent[number]
                self._done = 0
            break
        return outcome

    def done_of(self, number: int) -> int:
        """How many tasks of a sent Call have brought their outcome."""
        return self._done if number == next(iter(self.sent), None) else 0

    def is_starting(self) -> bool:
        """Whether it has not run anything yet."""
        return not self._began and self.board.running() is None

    def begun(self) -> float:
        """Since when the running task runs."""
        running = self.board.running()
        return running.since if running else time.monotonic() if self._began else self._born

    def time_limit(self) -> float | None:
        for order in self.sent.values():
            return order.heading.head.time_limit
        return None

    def is_dead(self) -> bool:
        return self._popen.poll() is not None

    def kill(self) -> None:
        """End it and the child processes of its task, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.kill()

    def reap(self) -> None:
        """Wait for its end, which is near, note what it left, and give back what it held here."""
        self._popen.wait()
        self._ran = self.board.running()
        rest = b""
        with contextlib.suppress(BlockingIOError):  # a process that it started may go on and print
            rest = os.read(self._printed, CHUNK)
        printed = (self.board.tail() if self._ran else b"") + rest
        self._tail = printed.decode("utf-8", "replace").splitlines()[-10:]
        self._crash = ""
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            file.seek(link.Board.SIZE)
            self._crash = file.read(8192).decode("utf-8", "replace").strip()
            os.unlink(self._path)
        self.board.close()
        for fd in (self._frames, self._tickets_out, self._tickets_back, self.outcomes, self._printed):
            os.close(fd)

    def post_mortem(self) -> tuple[int, int, Doom]:
        """Which task of which Call it ran when it died, and why it died. After `reap`."""
        running, number, position = self._ran, 0, 0
        if running is not None:
            number, position = running.number, running.position
        elif not self._began:  # it never got as far as a task: the first is charged, or it would be started forever
            number, position = next(iter(self.sent), 0), 0
        notes = []
        if self._tail:
            notes.append("the worker printed last:\n" + "\n".join(f"  | {line}" for line in self._tail))
        if self._crash:
            notes.append(f"its last words:\n{self._crash}")
        doom = self.doom or _lost(self._popen.pid, self._popen.returncode, running is not None)
        if self.doom is None and not self._began and running is None:
            doom = _unstarted(self._popen.pid, self._popen.returncode, self.environment.memory)
        return number, position, replace(doom, notes=tuple(notes))


def _unstarted(pid: int, code: int, memory: int | None) -> Doom:
    from pywren_runtime.errors import WorkerLost

    if memory is not None:
        enough = max(256, 2 * memory)
        why = f"memory={memory} is perhaps too small for an interpreter and what it imports; try memory={enough}"
    else:
        why = "perhaps its environment variables (env=, PYTHON…) or its Python installation are wrong"
    how = f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
    return Doom(WorkerLost, f"the worker process {pid} {how} before it could run anything: {why}")


def _lost(pid: int, code: int, running: bool) -> Doom:
    from pywren_runtime.errors import WorkerLost

    when = "while running it" if running else "before it could run it"
    if code >= 0:
        how = f"exited with code {code}"
        why = "the task, or a library that it uses, ended the process (os._exit, or a fatal error)"
    else:
        number = signal.Signals(-code)
        how = f"was killed by {number.name}"
        why = {
            signal.SIGKILL: "mostly, the machine ran out of memory and the system chose it; try fewer workers, "
            "or memory= to let the task fail with an error of its own",
            signal.SIGSEGV: "native code crashed; the Python lines that were running are in the note below",
            signal.SIGABRT: "native code gave up, often for lack of memory",
        }.get(number, "somebody sent it that signal")
    return Doom(WorkerLost, f"the worker process {pid} {how} {when}: {why}")


def _variables(surroundings: Surroundings, environment: Environment) -> dict[str, str]:
    variables = dict(os.environ)
    for name in THREADS:
        variables.setdefault(name, str(surroundings.threads))
    variables[DEPTH] = str(int(variables.get(DEPTH, "0")) + 1)
    home = os.path.dirname(os.path.dirname(os.path.abspath(pywren_runtime.__file__)))
    if not home.endswith("-packages"):  # a checkout: the worker could not find us by itself
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (home, variables.get("PYTHONPATH"))))
    variables.update(environment.env)
    return variables


def _kept(stack: contextlib.ExitStack, fd: int) -> int:
    """The descriptor, which the stack will close."""
    stack.callback(os.close, fd)
    return fd


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe, each end of which the stack of its owner will close."""
    end, beginning = os.pipe()
    return _kept(reader, end), _kept(writer, beginning)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _widen(fd: int) -> None:
    """Let a pipe hold 1 MiB, where the system can do that: fewer turns for large frames."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 1 << 20)
