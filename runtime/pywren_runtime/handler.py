"""AWS Lambda's entry point: one Call in the event, its Outcomes in the answer.

    {"call": base64 of a signed Call} ──► run ──► {"outcomes": [base64 of a signed Outcome, …]}

Importing it pulls in the standard library only; everything else is paid for by the first task that needs it.
"""

import base64
import functools
import os
import sys
import tempfile
from typing import Any


@functools.cache
def _worker() -> Any:
    from pywren_runtime.capture import Capture
    from pywren_runtime.stores import open_store
    from pywren_runtime.wire import Signer
    from pywren_runtime.worker import Worker

    log = os.dup(1)
    capture = Capture(echo=lambda data: os.write(log, data))
    store = open_store(os.environ["PYWREN_NG_INTERNAL_STORE"])
    root = os.path.join(tempfile.gettempdir(), "pywren-modules")
    signer = Signer(bytes.fromhex(os.environ["PYWREN_NG_INTERNAL_KEY"]))
    return Worker(store, root=root, take_output=capture.take), signer


def handle(event: dict[str, str], _: object = None) -> dict[str, list[str]]:
    """Run the event's Call. An error here means that no task of it was run."""
    from pywren_runtime.wire import Call

    worker, signer = _worker()
    call = Call.decode(signer.open(b"call", base64.b64decode(event["call"])))
    frames = (signer.seal(b"outcome", outcome.encode()) for outcome in worker.run(call))
    answer = [base64.b64encode(frame).decode() for frame in frames]
    sys.stdout.flush()
    return {"outcomes": answer}
