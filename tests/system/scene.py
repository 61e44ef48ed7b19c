"""What the system tests share: gates that hold tasks up, lifelines that tell who lives, scripts run as a user would.

Nothing of it needs `/proc` or pytest: tasks use it in the workers, scripts in processes of their own.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 30
"""Seconds after which a wait is given up; only a failing test ever waits so long."""


# -- What tasks do


def note(path: str, word: object) -> object:
    """Add a line to a file; the system keeps lines of many processes apart."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{word}\n".encode())
    os.close(fd)
    return word


def pass_gate(gate: tuple[str, str], value: object = None) -> object:
    """Say that the task has come, and stay until it is let go."""
    came, go = gate
    with open(came, "wb", buffering=0) as out, open(go, "rb", buffering=0) as into:
        out.write(b"c")
        into.read(1)
    return value


def hold(lifeline: str) -> int:
    """Hang on a lifeline as long as this process lives; its child processes may be given the descriptor."""
    fd = os.open(lifeline, os.O_WRONLY)
    os.write(fd, b"h")
    return fd


def hold_with_child(lifeline: str) -> int:
    """Hang on it together with a child process that would never end."""
    fd = hold(lifeline)
    child = "import os, sys, time; os.write(int(sys.argv[1]), b'h'); time.sleep(10**6)"
    return subprocess.Popen([sys.executable, "-c", child, str(fd)], pass_fds=[fd]).pid


def hang(lifeline: str) -> None:
    """Hang on it and never return."""
    hold(lifeline)
    while True:
        time.sleep(3600)


def act(what: str, bucket: str, key: str) -> object:
    """Do something in S3 as any library in a task would."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        region=os.environ["AWS_REGION"],
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )
    if what == "get":
        return bytes(obstore.get(store, key).bytes())
    if what == "put":
        return obstore.put(store, key, b"put") is not None
    if what == "delete":
        return obstore.delete(store, key)
    return [each["path"] for page in obstore.list(store, key) for each in page]


# -- What their tests do


def lines(path: str | Path) -> list[str]:
    """The lines that were noted, in order; none where nothing was."""
    return Path(path).read_text().splitlines() if os.path.exists(path) else []


def until(is_so: Callable[[], object]) -> bool:
    """Look again and again, and say whether it came true while patience lasted."""
    end, pause = time.monotonic() + PATIENCE, 0.002
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)  # what it looks at may have work to do
    return True


class Gate:
    """The test's side of `pass_gate`."""

    def __init__(self, folder: Path) -> None:
        number = len(list(folder.glob("came*")))
        self.paths = (str(folder / f"came{number}"), str(folder / f"go{number}"))
        for path in self.paths:
            os.mkfifo(path)
        # Open for both directions, so that neither opening nor writing ever waits for the other side.
        self._came, self._go = (os.open(path, os.O_RDWR | os.O_NONBLOCK) for path in self.paths)

    def wait_for_task(self) -> None:
        assert select.select([self._came], [], [], PATIENCE)[0], "the task never started"
        os.read(self._came, 1)

    def let_go(self, tasks: int = 1) -> None:
        os.write(self._go, b"g" * tasks)


class Lifeline:
    """Who holds on to it is alive: a pipe whose end comes when the last holder has died, however it died."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / f"lifeline{len(list(folder.glob('lifeline*')))}")
        os.mkfifo(self.path)
        self._end = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self._seen = 0

    def wait_for_holders(self, count: int) -> None:
        assert until(lambda: self._count() >= count), f"only {self._seen} of {count} ever took hold"

    def _count(self) -> int:
        try:
            self._seen += len(os.read(self._end, 1000))
        except BlockingIOError:
            pass  # held, and nothing new
        return self._seen

    def is_held(self) -> bool:
        try:
            while os.read(self._end, 1000):
                pass
        except BlockingIOError:
            return True
        return False

    def wait_for_death(self) -> None:
        assert self._seen, "nobody ever held it: wait for the holders first"
        assert until(lambda: not self.is_held()), "somebody who should be dead still lives"


def script(folder: Path, text: str) -> list[str]:
    """The command that runs a script of that text."""
    path = folder / f"script{len(list(folder.glob('script*.py')))}.py"
    path.write_text(text)
    return [sys.executable, str(path)]


def surroundings(**more: str) -> dict[str, str]:
    """Environment variables with which a script, and its workers, can import this module."""
    paths = [os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(command, cwd=folder, env=surroundings(), capture_output=True, text=True, timeout=PATIENCE)


def launch(command: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command as a terminal would: leader of a process group of its own."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=surroundings(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
