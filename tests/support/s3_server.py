"""S3 for tests: a real server process that speaks HTTP on this machine's loopback, and what to write to reach it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

__all__ = ["KEYS", "S3Server", "double", "ministack"]

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""What a client needs in its environment: neither server looks at it, but nothing is sent without."""


class S3Server:
    """A running server with one bucket."""

    bucket = "tests"

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._numbers = count()

    def url(self) -> str:
        """The URL of an empty store, which no other test has."""
        place = f"{self.bucket}/store-{os.getpid()}-{next(self._numbers)}"
        return f"s3://{place}?endpoint={quote(self.endpoint, safe=':/')}&region=us-east-1"


@contextmanager
def ministack() -> Iterator[S3Server]:
    """An emulator of AWS of which only S3 is up."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    quiet = {"IOT_MTLS_ENABLED": "0", "SFTP_ENABLED": "0", "LOG_LEVEL": "ERROR", "S3_PERSIST": "0"}
    environ = os.environ | quiet | {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SERVICES": "s3"}
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "log"), "w+") as log:
        command = [sys.executable, "-m", "ministack"]
        process = subprocess.Popen(command, env=environ, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            server = S3Server(f"http://127.0.0.1:{port}")
            deadline = time.monotonic() + PATIENCE
            while not _make_bucket(server):
                assert process.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()[-2000:]
                time.sleep(0.02)
            yield server
        finally:
            process.kill()
            process.wait()


@contextmanager
def double() -> Iterator[S3Server]:
    """The server that benchmarks use."""
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "s3_double.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            yield S3Server(process.stdout.readline().strip())
        finally:
            process.kill()


def _make_bucket(server: S3Server) -> bool:
    request = urllib.request.Request(f"{server.endpoint}/{server.bucket}", method="PUT")
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5)
    except OSError:  # not up yet
        return False
    return True
