"""What `scripts/on-local-aws` does: run a command where `Executor("lambda")` works, and end with it."""

import os
import signal
import subprocess
import sys

from support.deployed import deployed
from support.local_aws import LocalAws

SIZES = 2048, 512, 3072  # MB; the first is the deployment's own


def main(command: list[str]) -> int:
    """Run the command; what it exits with. Ctrl-C is the command's own, and the local AWS does not hear it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with LocalAws() as aws, deployed(aws, *SIZES):
        if "PYTHONPATH" in os.environ:  # ours, and not the command's
            kept = os.environ["PYTHONPATH"].split(os.pathsep)[4:]
            os.environ["PYTHONPATH"] = os.pathsep.join(kept)
            if not kept:
                del os.environ["PYTHONPATH"]
        return subprocess.Popen(command, preexec_fn=_hear).wait()


def _hear() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
