"""Where the turns of invoke.py play: the canned Lambda with its certificate, and how a client is led to it."""

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contest import NotDone, without
from invokers import REGION, Service

__all__ = ["canned", "counts", "make_certificate", "surroundings"]

HERE = Path(__file__).parent
HIDDEN = ("AWS_", "PYTHON", "PYWREN_NG_")  # variables that would change whom it is that we measure


def make_certificate(folder: Path) -> None:
    """An authority, and a certificate of its for localhost; clients get the authority and verify."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "stranger.pem"))
    server = authority.issue_cert("localhost", "127.0.0.1")
    server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))


@contextmanager
def canned(folder: Path, **options: Any) -> Iterator[Service]:
    """A canned Lambda, as long as the block lasts."""
    told = {"certificate": str(folder / "server.pem"), "key": key_in(folder), **options}
    command = [sys.executable, str(HERE / "invoke_double.py"), json.dumps(told)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=without(*HIDDEN)
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            port = process.stdout.readline()
            if not port:
                raise NotDone("the canned Lambda did not start; what it said stands above")
            service = Service(int(port), str(folder / "authority.pem"))
            until(lambda: counts(service), 10)
            yield service
        finally:
            process.stdin.close()
            process.wait(10)


def until(ask: Callable[[], Any], seconds: float) -> Any:
    """What it says once it can; the processes of the double begin to listen one after the other."""
    end = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def counts(service: Service) -> dict[str, float]:
    """What the double has seen."""
    context = ssl.create_default_context(cafile=service.authority)
    with urllib.request.urlopen(f"{service.url}/canned", context=context, timeout=10) as answer:
        found: dict[str, float] = json.loads(answer.read())
        return found


def key_in(folder: Path) -> str:
    """The deployment's, made once a run."""
    path = folder / "key"
    if not path.exists():
        path.write_text(os.urandom(32).hex())
    return path.read_text()


def deploy(folder: Path, *, copies: int) -> dict[str, str]:
    """A deployment's file, and the variables by which our executor finds it, its service and its credentials."""
    path = folder / f"deployment-{copies}.toml"
    values = {"region": REGION, "store": f"file://{folder}/store", "key": key_in(folder), "copies": copies}
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    path.chmod(0o600)
    return {"PYWREN_NG_DEPLOYMENT": str(path)}


def surroundings(folder: Path, service: Service, **more: str) -> dict[str, str]:
    """The same for all."""
    aws = {
        "AWS_ACCESS_KEY_ID": "AKCANNED",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CA_BUNDLE": service.authority,
        "AWS_ENDPOINT_URL_LAMBDA": service.url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return without(*HIDDEN) | aws | deploy(folder, copies=service.copies) | {"TMPDIR": str(folder)} | more
