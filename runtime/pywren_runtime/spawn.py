"""How a worker process is started, and the ends of its pipes that its owner holds.

    owner ── frames, tickets ──► python -m pywren_runtime ── outcomes ──► owner
               the board, a file that both map; what it prints; a file for the interpreter's last words

On Lambda this runs before anything else, and what it imports is what initialisation costs: hence no dataclass and
nothing of `typing` here.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys

import pywren_runtime
from pywren_runtime import link

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


class Surroundings:
    """What all workers of one owner share."""

    __slots__ = ("advice", "directory", "hidden", "key", "most", "packages", "private", "store", "threads")

    def __init__(
        self,
        *,
        directory: str,  # private to the owner
        store: str,  # its URL
        private: bool,  # whether only this executor's processes write to that store
        key: bytes,
        threads: int,  # for numerical libraries, in each worker
        packages: str | None = None,  # where sets of packages are laid out, if not in `directory`
        most: int | None = None,  # MB that there are for one worker, whatever its environment asks for
        hidden: tuple[str, ...] = (),  # variables that a worker has no need of
        advice: str = "try fewer workers, or memory= to let the task fail with an error of its own",  # where it lacks
    ) -> None:
        self.directory: str = directory
        self.store: str = store
        self.private: bool = private
        self.key: bytes = key
        self.threads: int = threads
        self.packages: str | None = packages
        self.most: int | None = most
        self.hidden: tuple[str, ...] = hidden
        self.advice: str = advice


class Spawned:
    """A worker process that was started and greeted, and the owner's ends of what leads to it."""

    __slots__ = (
        "board",
        "frames",
        "key",
        "outcomes",
        "path",
        "popen",
        "printed",
        "tickets_back",
        "tickets_out",
        "unsent",
    )

    popen: "subprocess.Popen[bytes]"
    key: bytes  # of what goes through its pipes, which nobody else has
    path: str  # of the board; behind it lie the interpreter's last words
    board: link.Board
    frames: int
    outcomes: int
    tickets_out: int
    tickets_back: int  # where tickets can be taken back
    printed: int  # it reads what it prints by itself; what it had no time to read before it died is read here
    unsent: bytes  # of its greeting

    def close(self) -> None:
        """Give them back; the process must have ended."""
        self.board.close()
        for fd in (self.frames, self.tickets_out, self.tickets_back, self.outcomes, self.printed):
            os.close(fd)


_names = itertools.count()


def spawn(surroundings: Surroundings, memory: int | None, env: tuple[tuple[str, str], ...]) -> Spawned:
    """Start a worker process and greet it. OSError if something cannot be had, and then nothing is left of it."""
    made = Spawned()
    made.key = os.urandom(32)
    made.path = path = os.path.join(surroundings.directory, f"worker-{next(_names)}")
    # The worker's ends are closed here in any case, ours only if something cannot be had, such as a descriptor.
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as its:
        # A named pipe can be opened twice for reading: blocking for the worker, not blocking to take tickets back.
        os.mkfifo(path)
        ours.callback(_remove, path)
        made.tickets_back = _kept(ours, os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        made.tickets_out = _kept(ours, os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        tickets_in = _kept(its, os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        os.unlink(path)
        frames_in, made.frames = _pipe(its, ours)
        made.outcomes, outcomes_out = _pipe(ours, its)
        made.printed, printed_in = _pipe(ours, its)
        for fd in (made.frames, made.outcomes, made.printed):
            os.set_blocking(fd, False)
        for fd in (frames_in, outcomes_out):
            _widen(fd)
        board = _kept(its, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        os.ftruncate(board, link.Board.SIZE)
        made.board = link.Board(board)
        ours.callback(made.board.close)
        made.board.rest()
        # What it prints before and after it is ours.
        crash = _kept(its, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        given = (frames_in, tickets_in, outcomes_out, board, made.printed, printed_in)
        made.popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "pywren_runtime", *map(str, given)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=crash,
            pass_fds=given,
            env=_variables(surroundings, env),
            process_group=0,  # the terminal's Ctrl-C is not for it, and it dies with its children
        )
        ours.pop_all()
    made.unsent = _greet(made, surroundings, memory)
    return made


def _greet(made: Spawned, surroundings: Surroundings, memory: int | None) -> bytes:
    """Say what it must know. By a pipe, so that no other user can see the key; what did not fit into that, if any."""
    greeting = {
        "store": surroundings.store,
        "private": surroundings.private,
        "root": os.path.join(surroundings.directory, "modules"),
        "packages": surroundings.packages,
        "memory": memory,
        "most": surroundings.most,
    }
    body = made.key + surroundings.key + json.dumps(greeting).encode()
    hello = link.GREETING.pack(len(body)) + body
    try:
        return hello[os.write(made.frames, hello) :]
    except BrokenPipeError:  # it is dead already, and its other pipe will say so
        return b""


def _variables(surroundings: Surroundings, env: tuple[tuple[str, str], ...]) -> dict[str, str]:
    variables = dict(os.environ)
    for name in THREADS:
        variables.setdefault(name, str(surroundings.threads))
    variables[DEPTH] = str(int(variables.get(DEPTH, "0")) + 1)
    home = os.path.dirname(os.path.dirname(os.path.abspath(pywren_runtime.__file__)))
    if not home.endswith("-packages"):  # a checkout, or Lambda: the worker could not find us by itself
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (home, variables.get("PYTHONPATH"))))
    for name in surroundings.hidden:
        variables.pop(name, None)
    variables.update(env)
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
