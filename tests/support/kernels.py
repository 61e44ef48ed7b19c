"""A Jupyter kernel as a notebook drives it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client import BlockingKernelClient, KernelManager

__all__ = ["Shown", "kernel_in", "run_cell"]

PATIENCE = 30


class Shown:
    """What a cell showed: its value by kind, what it printed, and the error it ended with."""

    def __init__(self) -> None:
        self.value: dict[str, str] = {}
        self.printed = {"stdout": "", "stderr": ""}
        self.error = ""
        self.traceback = ""

    def add(self, message: dict[str, Any]) -> None:
        """A message of the kernel's."""
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            self.printed[content["name"]] += content["text"]
        elif kind == "execute_result":
            self.value = content["data"]
        elif kind == "error":
            self.error, self.traceback = f"{content['ename']}: {content['evalue']}", "\n".join(content["traceback"])


@contextmanager
def kernel_in(folder: Path, env: Mapping[str, str]) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A kernel of this interpreter that works in that folder, and a client of it."""
    started = KernelManager(kernel_name="python3", transport="ipc", connection_file=str(folder / "k.json"))
    started.ip = str(folder / "k")
    started.kernel_spec.argv[:1] = [sys.executable]
    started.start_kernel(env={**env, "IPYTHONDIR": str(folder / "ipython")}, cwd=str(folder))
    client = started.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        yield started, client
    finally:
        client.stop_channels()
        started.shutdown_kernel(now=True)


def run_cell(client: BlockingKernelClient, source: str) -> Shown:
    """Run a cell to its end."""
    shown = Shown()
    client.execute_interactive(source, timeout=PATIENCE, output_hook=shown.add)
    return shown
