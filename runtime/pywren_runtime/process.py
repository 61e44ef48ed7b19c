"""One worker process, seen from whoever feeds it: how it is started, fed, listened to, and found dead.

The local backend has many of them and sends Calls ahead (`pywren_ng.backends.local_process`); on Lambda the supervisor
has one and gives it one Call at a time (`pywren_runtime.supervisor`).
"""

import contextlib
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass, replace

from pywren_runtime import link, modules
from pywren_runtime.batches import CHUNK, Opener, Sealer
from pywren_runtime.spawn import Spawned, Surroundings, spawn
from pywren_runtime.wire import Call, Environment


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


class WorkerProcess:
    """A worker process and the pipes and the board that lead to it. One thread owns it."""

    def __init__(self, surroundings: Surroundings, environment: Environment, spawned: Spawned | None = None) -> None:
        self.environment = environment
        self.doom: Doom | None = None  # why it was killed, if we did
        self.began: bool = False  # whether it ever got to run something
        self.printed_last: bytes = b""  # after `reap`
        self.last_words: str = ""  # of the interpreter, after `reap`
        self.peak: int = 0  # bytes resident at most, after `reap`, where that could be told
        self._modules = {unit.name: unit.digest for unit in environment.modules}
        self._queued: list[bytes] = []
        self._weight = 0  # bytes of that
        self._head = b""  # of the Call queued last
        self._tickets: list[int] = []
        self._born = time.monotonic()
        self._is_new = True
        self._advice = surroundings.advice
        self._ends = ends = spawned or spawn(surroundings, environment.memory, environment.env)
        self._popen = ends.popen
        self._sealer, self._opener = Sealer(ends.key, b"calls"), Opener(ends.key, b"outcomes")
        self._unsent = [ends.unsent] if ends.unsent else []
        self.frames: int = ends.frames
        self.outcomes: int = ends.outcomes
        self.board: link.Board = ends.board
        self._tickets_out, self._tickets_back = ends.tickets_out, ends.tickets_back

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
            and own.packages == environment.packages
            and modules.fits(self._modules, environment.modules)
        )

    def queue(self, number: int, call: Call, environment: Environment) -> None:
        """Queue a Call for it; `flush` signs and sends it."""
        for unit in environment.modules:
            self._modules[unit.name] = unit.digest
        head, tasks = b"" if call.head == self._head else call.head, call.encode_tasks()
        self._queued.append(link.CALL.pack(number, len(call.tasks), len(head), len(tasks)) + head + tasks)
        self._head = call.head
        self._weight += len(tasks)
        self._tickets.append(number)
        self._is_new = False
        if self._weight >= CHUNK:  # it can begin with none of a batch before it has all
            self._seal()

    def flush(self) -> bool:
        """Send what is queued, as far as the pipe takes it now. Whether all is sent."""
        if self._queued:
            self._seal()
        if self._unsent:
            data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            try:
                done = os.write(self.frames, data)
            except BlockingIOError:
                done = 0
            except BrokenPipeError:  # it is dead, and its other pipe will say so
                self._unsent.clear()
                return True
            self._unsent = [data[done:]] if done < len(data) else []
        if self._tickets:
            self._allow(self._tickets)
            self._tickets = []
        return not self._unsent

    def _seal(self) -> None:
        self._unsent.append(self._sealer.seal(b"".join(self._queued)))
        self._queued.clear()
        self._weight = 0

    def _allow(self, numbers: list[int]) -> None:
        """Write tickets; a ticket may overtake its frame, for which the worker then waits."""
        os.write(self._tickets_out, b"".join(link.TICKET.pack(number) for number in numbers))

    def receive_bodies(self) -> list[memoryview]:
        """The outcomes that have come in, still encoded. EOFError once it is dead and there are no more.

        SignatureError if anybody else wrote there, and then nothing that comes from it can be relied on.
        """
        try:
            data = os.read(self.outcomes, self._opener.wants)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError
        bodies = self._opener.open(data)
        if bodies:
            self.began = True
        return bodies

    def is_starting(self) -> bool:
        """Whether it has not run anything yet."""
        return not self.began and self.board.running() is None

    def is_new(self) -> bool:
        """Whether it was sent nothing yet."""
        return self._is_new

    def begun(self) -> float:
        """Since when the running task runs."""
        running = self.board.running()
        return running.since if running else time.monotonic() if self.began else self._born

    @property
    def pid(self) -> int:
        """The system's number of the process."""
        return self._popen.pid

    def is_dead(self) -> bool:
        return self._wait(os.WNOHANG)

    def kill(self) -> None:
        """End it and the child processes of its task, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        if not self.is_dead():
            os.kill(self._popen.pid, signal.SIGKILL)

    def dismiss(self) -> None:
        """End it, and give back what it held."""
        self.kill()
        self.reap()

    def reap(self) -> None:
        """Wait for its end, which is near, note what it left, and give back what it held here."""
        self._wait(0)
        self._ran = self.board.running()
        rest = b""
        with contextlib.suppress(BlockingIOError):  # a process that it started may go on and print
            rest = os.read(self._ends.printed, CHUNK)
        self.printed_last = (self.board.tail() if self._ran else b"") + rest
        with contextlib.suppress(FileNotFoundError), open(self._ends.path, "rb") as file:
            file.seek(link.Board.SIZE)
            self.last_words = file.read(8192).decode("utf-8", "replace").strip()
            os.unlink(self._ends.path)
        self._ends.close()

    def _wait(self, options: int) -> bool:
        """Take leave of it as `Popen` would, but learn what it used. Whether it is dead."""
        if self._popen.returncode is None:
            try:
                pid, status, usage = os.wait4(self._popen.pid, options)
            except ChildProcessError:  # somebody else in this process took its exit code
                return self._popen.poll() is not None
            if pid:
                self._popen.returncode = os.waitstatus_to_exitcode(status)
                # Linux counts what this process held when it forked as the child's: what is not above says nothing.
                if usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
                    self.peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return self._popen.returncode is not None

    @property
    def exit_code(self) -> int:
        """How it ended, as `subprocess` says it: below 0 for a signal. After `reap`."""
        code: int = self._popen.returncode
        return code

    def post_mortem(self, first: int) -> tuple[int, int, Doom]:
        """Which task of which Call it ran when it died, and why it died. After `reap`.

        `first` is the Call with which it would have begun: if it never got as far as a task, that one's first is
        charged, or it would be started forever.
        """
        running, number, position = self._ran, 0, 0
        if running is not None:
            number, position = running.number, running.position
        elif not self.began:
            number = first
        notes = []
        tail = self.printed_last.decode("utf-8", "replace").splitlines()[-10:]
        if tail:
            notes.append("the worker printed last:\n" + "\n".join(f"  | {line}" for line in tail))
        if self.last_words:
            notes.append(f"its last words:\n{self.last_words}")
        doom = self.doom or _lost(self._popen.pid, self.exit_code, running is not None, self._advice)
        if self.doom is None and not self.began and running is None:
            doom = _unstarted(self._popen.pid, self.exit_code, self.environment.memory)
        return number, position, replace(doom, notes=tuple(notes))


def too_long(ran: float, limit: float) -> Doom:
    """What becomes of a task that is over its time limit."""
    from pywren_runtime.errors import TaskTimeout

    return Doom(
        TaskTimeout,
        f"it ran for {ran:.3g} s, over its time limit of {limit:g} s, and was stopped; "
        "give it more with options(time_limit=…), or less to do",
    )


def _unstarted(pid: int, code: int, memory: int | None) -> Doom:
    from pywren_runtime.errors import WorkerLost

    if memory is not None:
        enough = max(256, 2 * memory)
        why = f"memory={memory} is perhaps too small for an interpreter and what it imports; try memory={enough}"
    else:
        why = "perhaps its environment variables (env=, PYTHON…) or its Python installation are wrong"
    how = f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
    return Doom(WorkerLost, f"the worker process {pid} {how} before it could run anything: {why}")


def _lost(pid: int, code: int, running: bool, advice: str) -> Doom:
    from pywren_runtime.errors import WorkerLost

    when = "while running it" if running else "before it could run it"
    if code >= 0:
        how = f"exited with code {code}"
        why = "the task, or a library that it uses, ended the process (os._exit, or a fatal error)"
    else:
        number = signal.Signals(-code)
        how = f"was killed by {number.name}"
        why = {
            signal.SIGKILL: f"mostly, the machine ran out of memory and the system chose it; {advice}",
            signal.SIGSEGV: "native code crashed; the Python lines that were running are in the note below",
            signal.SIGABRT: "native code gave up, often for lack of memory",
        }.get(number, "somebody sent it that signal")
    return Doom(WorkerLost, f"the worker process {pid} {how} {when}: {why}")
