"""One execution environment: a process of awslambdaric, its own Runtime API port, its own ephemeral disk.

start ─► initialising ── GET /next ──► free ── run() ─► busy ── POST /response, then GET /next ──► free
              │ /init/error, exit, 10 s                  │ exit, out of memory or disk, time-out
              └──────────────► Ended, with Lambda's answer ◄┘
"""

import asyncio
import json
import os
import resource
import signal
import subprocess
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from local_aws import processes
from local_aws.functions import Function
from local_aws.http1 import Request, Response, listen

LARGEST_RESPONSE = 6_291_556
API = "/2018-06-01/runtime/"
FILES = 1024
TAIL = 4096


class Ended(Exception):
    """The environment is gone; the payload is what Lambda answers."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.log = b""


@dataclass(slots=True)
class Execution:
    """One event in an environment: what comes out of it, and what it wrote."""

    request_id: str
    body: bytes
    deadline: float
    done: asyncio.Future[tuple[bytes, bool]]
    log: bytearray = field(default_factory=bytearray)
    started: float = 0.0
    seconds: float = 0.0


class Environment:
    """A sandbox of one function. `lost` is called once when it has ended, however that came."""

    def __init__(self, function: Function, python: Path, folder: Path, variables: dict[str, str]) -> None:
        self.function = function
        self.folder = folder
        self.init_seconds: float | None = None
        self.idle_since = 0.0
        self.peak = 0
        self.pid = 0
        self._python = python
        self._variables = variables
        self._current: Execution | None = None
        self._event: asyncio.Future[Execution] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._cause: Ended | None = None
        self._server: asyncio.Server | None = None
        self._log = deque[bytes](maxlen=200)
        self.gone = asyncio.Event()

    async def start(self) -> None:
        """Start the process; `ready` tells when it has asked for its first event."""
        self._server, port = await listen(self._serve)
        (self.folder / "tmp").mkdir(parents=True)
        env = {**self._variables, "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}", "TMPDIR": str(self.folder / "tmp")}
        env["PATH"] = f"{self._python.parent}:{env['PATH']}"
        # Where AWS has a layer's folder `python` on sys.path by other means; it comes after the function's own code.
        if self.function.layers:
            paths = [str(layer / "python") for layer in self.function.layers] + [env.get("PYTHONPATH", "")]
            env["PYTHONPATH"] = ":".join(filter(None, paths))
        env["AWS_LAMBDA_LOG_STREAM_NAME"] = time.strftime(f"%Y/%m/%d/[{self.function.version}]{uuid.uuid4().hex}")
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [self._python, "-m", "awslambdaric", self.function.handler],
            cwd=self.function.code,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
        os.set_blocking(self._process.stdout.fileno(), False)
        self._pidfd = os.pidfd_open(self.pid)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._process.stdout.fileno(), self._read_log)
        loop.add_reader(self._pidfd, self._exited)

    @property
    def busy(self) -> bool:
        """Whether an event is in it, or its initialisation runs."""
        return self._current is not None or not self._ready.done()

    @property
    def log(self) -> bytes:
        """What it wrote last."""
        return b"".join(self._log)

    async def initialised(self, seconds: float) -> None:
        """Wait for the end of initialisation; Ended if it fails or takes longer than AWS and the time-out allow."""
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), seconds + self.function.timeout)
        except TimeoutError:
            self.kill(self._timed_out())
            raise self._cause from None

    def _timed_out(self) -> Ended:
        return Ended("Sandbox.Timedout", f"Error: Task timed out after {self.function.timeout:.2f} seconds")

    async def run(self, execution: Execution) -> tuple[bytes, bool]:
        """Hand an event over: its answer, and whether that is an error; Ended if the environment did not survive it."""
        self._current = execution
        execution.started = time.monotonic()
        self.peak = 0
        self._event.set_result(execution)
        try:
            return await asyncio.wait_for(asyncio.shield(execution.done), self.function.timeout)
        except TimeoutError:
            self.kill(self._timed_out())
            raise self._cause from None
        finally:
            execution.seconds = time.monotonic() - execution.started
            self._read_log()
            if self.pid:
                self.peak = max(self.peak, processes.peak_of(self.pid))

    async def free(self) -> None:
        """Wait until the runtime asks for the next event; only then may it be given one."""
        while self._event is None or self._event.done():
            if self.gone.is_set():
                raise self._cause
            self._turned = asyncio.Event()
            await self._turned.wait()

    def kill(self, cause: Ended | None = None) -> None:
        """End every process of the environment now; what waits for it gets the cause."""
        self._cause = (
            self._cause or cause or Ended("Runtime.ExitError", "Error: Runtime exited with error: signal: killed")
        )
        processes.kill_tree(self.pid)

    async def _serve(self, request: Request) -> Response:
        path = request.path.removeprefix(API)
        if path == "invocation/next":
            return await self._next()
        if path == "init/error":
            answer = json.loads(request.body or b"{}")
            self._cause = self._cause or Ended(answer.get("errorType", ""), answer.get("errorMessage", ""))
            return Response(202)
        _, request_id, what = path.split("/")
        current = self._current
        if current is None or current.request_id != request_id or current.done.done():
            return Response(400, body=b'{"errorType":"InvalidRequestID"}')
        if len(request.body) > LARGEST_RESPONSE:
            text = f"Response payload size exceeded maximum allowed payload size ({LARGEST_RESPONSE} bytes)."
            self._cause = Ended("Function.ResponseSizeTooLarge", text)
            answer = {"errorType": self._cause.kind, "errorMessage": text}
            current.done.set_result((json.dumps(answer).encode(), True))
            return Response(413, body=b'{"errorType":"RequestEntityTooLarge"}')
        current.done.set_result((request.body, what == "error"))
        return Response(202, body=b'{"status":"OK"}')

    async def _next(self) -> Response:
        self._current = None
        self._event = asyncio.get_running_loop().create_future()
        if not self._ready.done():
            self.init_seconds = time.monotonic() - self._began
            self._ready.set_result(None)
        if hasattr(self, "_turned"):
            self._turned.set()
        execution = await self._event
        headers = [
            ("Content-Type", "application/json"),
            ("Lambda-Runtime-Aws-Request-Id", execution.request_id),
            ("Lambda-Runtime-Deadline-Ms", str(int(execution.deadline * 1000))),
            ("Lambda-Runtime-Invoked-Function-Arn", self.function.arn),
            ("Lambda-Runtime-Trace-Id", f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0"),
        ]
        return Response(200, headers, execution.body)

    def _read_log(self) -> None:
        try:
            while piece := os.read(self._process.stdout.fileno(), 65536):
                self._log.append(piece)
                if self._current is not None:
                    self._current.log += piece
                    del self._current.log[: -4 * TAIL]
        except (BlockingIOError, ValueError, OSError):
            return
        asyncio.get_running_loop().remove_reader(self._process.stdout.fileno())

    def _exited(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        processes.kill_group(self.pid)
        self._read_log()
        loop.remove_reader(self._process.stdout.fileno())
        self._process.stdout.close()
        code = self._process.wait()
        self.pid = 0
        self._server.close()
        self._cause = self._cause or Ended("Runtime.ExitError", f"Error: Runtime exited {reason(code)}")
        self._cause.log = self.log
        if not self._ready.done():
            self._ready.set_exception(self._cause)
        if self._current is not None and not self._current.done.done():
            self._current.done.set_exception(self._cause)
        if self._event is not None:
            self._event.cancel()
        self.gone.set()
        if hasattr(self, "_turned"):
            self._turned.set()


def reason(code: int) -> str:
    """How AWS words an exit."""
    if code == 0:
        return "without providing a reason"
    if code < 0:
        return f"with error: signal: {'killed' if code == -signal.SIGKILL else signal.strsignal(-code).lower()}"
    return f"with error: exit status {code}"
