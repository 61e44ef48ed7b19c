"""One Lambda environment: AWS's own client for Python, a deployed folder, and the little of AWS that it talks to."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PATIENCE = 30
"""Seconds after which a wait is given up; only a failing test ever waits so long."""


class Deployed:
    """A process of `awslambdaric` in the folder of an unpacked zip, and the Runtime API that it polls.

    It sees nothing of the checkout: only the folder is on its path, and only these variables are set.
    """

    def __init__(self, folder: Path, handler: str, variables: dict[str, str]) -> None:
        self.begun = time.perf_counter()
        self.polled_at = 0.0  # when it was first ready for an event
        self.init_error: dict[str, Any] | None = None
        self._events: queue.Queue[tuple[str, bytes, int]] = queue.Queue()
        self._answers: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._ready = threading.Event()
        self._count = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._requests())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"127.0.0.1:{self._server.server_address[1]}"
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", handler],
            cwd=folder,
            env={
                "PATH": os.environ.get("PATH", ""),
                "AWS_LAMBDA_RUNTIME_API": address,
                "LAMBDA_TASK_ROOT": str(folder),
                "AWS_LAMBDA_FUNCTION_NAME": "tested",
                **variables,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def _requests(self) -> type[BaseHTTPRequestHandler]:
        deployed = self

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer leaves in one piece

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):  # it was killed
                    super().handle()

            def do_GET(self) -> None:
                if not deployed._ready.is_set():
                    deployed.polled_at = time.perf_counter()
                    deployed._ready.set()
                number, body, deadline = deployed._events.get()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", number)
                self.send_header("Lambda-Runtime-Deadline-Ms", str(deadline))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-test-1:1:function:tested")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                body = self._body()
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()
                if self.path.endswith("/init/error"):
                    deployed.init_error = json.loads(body)
                    deployed._ready.set()
                else:
                    deployed._answers.put((self.path.rpartition("/")[2], body))

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                while self.rfile.readline().strip():
                    pass  # trailers
                return b"".join(parts)

            def log_message(self, *args: object) -> None:
                pass

        return Requests

    def wait(self) -> float:
        """Until it polls for its first event or gives up; seconds since its start."""
        assert self._ready.wait(PATIENCE), "it never asked for an event"
        return self.polled_at - self.begun

    def invoke(self, event: object, *, left: float = PATIENCE) -> Any:
        """Its answer to an event. RuntimeError(type, text) if it says that the function failed."""
        self._count += 1
        deadline = int((time.time() + left) * 1000)
        self._events.put((f"request-{self._count}", json.dumps(event).encode(), deadline))
        kind, body = self._answers.get(timeout=PATIENCE)
        answer = json.loads(body)
        if kind == "error":
            raise RuntimeError(answer["errorType"], answer["errorMessage"])
        return answer

    def close(self) -> str:
        """End it as Lambda does, without a word; what it logged."""
        self.process.kill()
        log, _ = self.process.communicate(timeout=PATIENCE)
        self._server.shutdown()
        self._server.server_close()
        return log.decode("utf-8", "replace")
