"""Redis for tests: real servers on this machine's loopback, alone, as a cluster, or behind TLS and a password."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest
import trustme

__all__ = ["SECRET", "Redis", "RedisCluster", "cluster", "encrypted", "standalone"]

SECRET = "a-secret-of-the-tests"
PATIENCE = 20.0
SLOTS = 16384
_places = count()


class Redis:
    """One server, whose process can be ended and started again with nothing in its memory."""

    scheme = "redis"

    def __init__(self, folder: Path, *options: str, tls: tuple[str, ...] = (), password: str = "") -> None:
        self.port = _free_port()
        self._password = password
        self._tls = ("--tls", *tls) if tls else ()
        ports = ("--port", "0", "--tls-port", str(self.port)) if tls else ("--port", str(self.port))
        folder.mkdir(parents=True)
        self._log = folder / "log"
        quiet = ("--bind", "127.0.0.1", "--save", "", "--dir", str(folder), "--logfile", str(self._log))
        self._command = [program("redis-server"), *ports, *quiet, *options]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while self.ask("PING") != "PONG":
            assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()[-2000:]
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does; nothing of what it held is kept."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def url(self, options: str = "") -> str:
        """The URL of an empty store, which no other test has."""
        return f"{self.scheme}://127.0.0.1:{self.port}/0/{_place()}{options}"

    def ask(self, *command: str) -> str:
        """What redis-cli says."""
        asked = [program("redis-cli"), "-p", str(self.port), *self._tls, *command]
        environ = os.environ | ({"REDISCLI_AUTH": self._password} if self._password else {})
        return subprocess.run(asked, env=environ, capture_output=True, text=True, check=False).stdout.strip()

    def size(self) -> int:
        """DBSIZE: how many keys lie there, whoever put them."""
        return int(self.ask("DBSIZE"))


class RedisTls(Redis):
    """One that speaks TLS only, with a certificate of an authority of its own, and wants a password."""

    scheme = "rediss"

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        folder.mkdir(parents=True)
        self.ca = folder / "ca.pem"
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(str(key))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(self.ca))
        super().__init__(
            folder / "server",
            *(*files, "--tls-auth-clients", "no", "--requirepass", SECRET),
            tls=("--cacert", str(self.ca)),
            password=SECRET,
        )

    def url(self, options: str = "") -> str:
        return f"{super().url()}?ca={self.ca}{options.replace('?', '&')}"


class RedisCluster:
    """Three servers that share the keys between them."""

    def __init__(self, folder: Path) -> None:
        mode = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        self.nodes = [Redis(folder / str(number), *mode) for number in range(3)]

    def start(self) -> None:
        """Return when each of them knows where all slots are."""
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            node.start()
            slots = range(SLOTS * number // 3, SLOTS * (number + 1) // 3)
            assert node.ask("CLUSTER", "ADDSLOTS", *map(str, slots)) == "OK"
            assert node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1)) == "OK"
        for node in others:
            assert node.ask("CLUSTER", "MEET", "127.0.0.1", str(first.port)) == "OK"
        deadline = time.monotonic() + PATIENCE
        while not all("cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in self.nodes):
            assert time.monotonic() < deadline, first.ask("CLUSTER", "NODES")
            time.sleep(0.02)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def url(self, options: str = "") -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}/{_place()}{options}"

    def ask(self, *command: str) -> str:
        """What they all say."""
        return "\n".join(node.ask(*command) for node in self.nodes)

    def size(self) -> int:
        return sum(node.size() for node in self.nodes)


@contextmanager
def standalone(*options: str, password: str = "") -> Iterator[Redis]:
    """A server with these options."""
    with _running(lambda folder: Redis(folder / "server", *options, password=password)) as server:
        yield server


@contextmanager
def encrypted() -> Iterator[RedisTls]:
    """A server that wants TLS and a password."""
    with _running(lambda folder: RedisTls(folder / "tls")) as server:
        yield server


@contextmanager
def cluster() -> Iterator[RedisCluster]:
    """A cluster of three."""
    with _running(lambda folder: RedisCluster(folder)) as server:
        yield server


def program(name: str) -> str:
    """Its path; Debian has it in the package redis-server."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here: install Debian's redis-server, or your system's")
    return path


@contextmanager
def _running(make):  # type: ignore[no-untyped-def]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = make(Path(folder))
        stack.callback(server.kill)
        server.start()
        yield server


def _place() -> str:
    return f"store-{os.getpid()}-{next(_places)}"


def _free_port() -> int:
    """One that is free now, and so is the port 10,000 above it, on which a cluster's nodes talk."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        if port < 55_000:
            try:
                socket.create_server(("127.0.0.1", port + 10_000)).close()
            except OSError:
                continue
            return port
