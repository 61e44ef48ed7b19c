"""The worker as a process of this machine: `python -m pywren_runtime FRAMES TICKETS OUTCOMES BOARD READ PRINT`.

It is started by the local backend, or on Lambda by the supervisor, and is of no use by hand. The first frame is its
greeting: the keys and where the store lies; they come by a pipe so that no other user can see them.
"""

import faulthandler
import json
import os
import signal
import sys
import time

from pywren_runtime import link
from pywren_runtime.batches import Opener, Sealer
from pywren_runtime.blobs import Cache, is_remote
from pywren_runtime.capture import Capture
from pywren_runtime.seal import adopt
from pywren_runtime.stores import open_store
from pywren_runtime.wire import Call, Signer
from pywren_runtime.worker import Worker


def main() -> None:
    frames, tickets, outcomes, board_fd, *pipe = map(int, sys.argv[1:7])
    for fd in (frames, tickets, outcomes, board_fd, *pipe):
        os.set_inheritable(fd, False)  # a child process of a task must not keep them open
    board = link.Board(board_fd)
    board.rest()
    # A handler of Python's and not SIG_IGN, which a task's child processes would inherit.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    parent = os.getppid()

    def die_with_parent() -> None:
        if os.getppid() != parent:
            os.killpg(0, signal.SIGKILL)

    greeting = link.greeting(frames)
    if not greeting:
        return
    pipes, key, fields = greeting[:32], greeting[32:64], json.loads(greeting[64:])
    faulthandler.enable(file=os.dup(2))  # the file that the backend reads after a crash
    limit_memory(fields["memory"], fields["most"])
    capture = Capture(echo=board.echo, watch=die_with_parent, pipe=(pipe[0], pipe[1]))
    opener, sealer = Opener(pipes, b"calls"), Sealer(pipes, b"outcomes")
    adopt(key)
    current = [0, 0]

    def announce(task: object) -> None:
        board.announce(current[0], current[1], time.monotonic())
        current[1] += 1

    if not os.path.isdir(fields["root"]):
        return  # the executor has gone, and its folder must not be made again
    store = open_store(fields["store"])
    store.private = fields["private"]
    cache = Cache(os.path.join(os.path.dirname(fields["root"]), "blobs")) if is_remote(store) else None
    worker = Worker(
        store,
        root=fields["root"],
        packages=fields["packages"],
        take_output=capture.take,
        announce=announce,
        cache=cache,
        memory=fields["memory"],
        signer=Signer(key),
    )
    own = os.getpid()
    for sent in link.calls(frames, tickets, opener):
        current[:] = sent.number, 0
        for outcome in worker.run(Call.decode_tasks(sent.head, sent.tasks, sent.count)):
            if os.getpid() != own:  # a child that a task forked and that came back: the outcome is its parent's
                os._exit(0)
            link.write_all(outcomes, sealer.seal(outcome.encode()))
            board.rest()


def limit_memory(megabytes: int | None, most: int | None) -> None:
    """Let no allocation take this process past its memory: it fails with MemoryError inside the task that asked."""
    if megabytes is not None or most is not None:
        import resource

        size = min(limit for limit in (megabytes, most) if limit is not None) * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


if __name__ == "__main__":
    main()
