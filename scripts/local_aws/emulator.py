"""Ministack, started as a process of its own on a private loopback port; it ends when its standard input does."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from local_aws.credentials import ACCOUNT

WRAPPED = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
sys.argv = ["ministack"]
from ministack.app import main
from ministack.services import lambda_svc
lambda_svc._LAMBDA_STATE_TRANSITION_DELAY = 0.05  # a new function is Pending that long; half a second without this
main()
"""
PATIENCE = 60


def start(folder: Path, region: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start it, and wait until it answers; its log lies in the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3,iam,sts,cloudformation,lambda,cloudwatch,logs",
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "MINISTACK_REGION": region,
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "STATE_DIR": tempfile.mkdtemp(dir=folder),
        "S3_DATA_DIR": str(folder / "s3"),
    }
    with open(folder / "log", "wb") as log:
        command = [sys.executable, "-c", WRAPPED]
        process = subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=5).read()
            return process, port
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError(f"ministack does not answer ({error}):\n{(folder / 'log').read_text()}") from None
            time.sleep(0.02)
