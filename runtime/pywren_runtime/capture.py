"""What a task prints and what it costs, measured around that task alone.

    fd 1, fd 2 ──► pipe ──► a thread keeps the last 64 KiB ──► Outcome.output
                                └──► echo(text): the board of a local worker, Lambda's log

The descriptors themselves are redirected, not only `sys.stdout`: what C code and child processes print is kept too.
"""

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

KEPT = 64 * 1024


class Capture:
    """Keeps the tail of what each task prints. The thread also calls `watch` twice a second."""

    def __init__(
        self,
        *,
        echo: Callable[[bytes], object],
        watch: Callable[[], object] = lambda: None,
        pipe: tuple[int, int] | None = None,  # one that somebody else can read too, after our death
    ) -> None:
        self._echo = echo
        self._watch = watch
        self._lock = threading.Lock()
        self._tail = bytearray()
        self._dropped = 0
        self._read, write = pipe or os.pipe()
        os.set_blocking(self._read, False)
        for fd in (1, 2):
            os.dup2(write, fd)
        os.close(write)
        self._streams: list[TextIO] = [_unbuffered(1), _unbuffered(2)]
        sys.stdout, sys.stderr = self._streams
        threading.Thread(target=self._drain_always, name="pywren-capture", daemon=True).start()

    def _drain_always(self) -> None:
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        while True:
            if poll.poll(500):
                self._drain()
            self._watch()

    def _drain(self) -> None:
        with self._lock:
            try:
                while data := os.read(self._read, KEPT):
                    self._echo(data)
                    self._tail += data
                    if len(self._tail) > 2 * KEPT:
                        self._cut()
            except BlockingIOError:
                return

    def _cut(self) -> None:
        excess = len(self._tail) - KEPT
        self._dropped += excess
        del self._tail[:excess]

    def take(self) -> bytes:
        """What was printed since the last call: at most the last 64 KiB, said so in its first line when cut."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (ValueError, OSError, AttributeError):  # the task closed it, or put something else there
                sys.stdout, sys.stderr = self._streams = [_unbuffered(1), _unbuffered(2)]
        self._drain()
        if not self._tail:
            return b""
        with self._lock:
            if len(self._tail) > KEPT:
                self._cut()
            output = bytes(self._tail)
            if self._dropped:
                output = b"[%d bytes before this were dropped]\n" % self._dropped + output
            self._tail.clear()
            self._dropped = 0
        return output


def _unbuffered(fd: int) -> TextIO:
    # Line by line, so that the last words of a worker that is killed have left it.
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


class Meter:
    """Processor seconds and peak memory since `reset`, of this process and that stretch only.

    Linux lets a process put its high-water mark back. Elsewhere a task that stays below an earlier one's peak is
    reported with the size that the worker had at its start: a lower bound. To read the mark takes as long as a
    trivial task: one that was quick is reported with what was resident before it.
    """

    QUICK = 0.001  # seconds

    def __init__(self) -> None:
        try:
            # Not from getrusage: there the mark begins with the size of the process that started this one.
            self._mark: int | None = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._mark = None
        self._floor = self._resting = self._peak()
        self._moved = False  # whether memory may have changed since it was last looked at
        self._begun = self._cpu = 0.0

    def _peak(self) -> int:
        if self._mark is not None:
            status = os.pread(self._status, 4096, 0)
            at = status.index(b"VmHWM:") + 6
            return int(status[at : status.index(b"kB", at)]) * 1024
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def reset(self) -> None:
        """From here on."""
        if self._moved:
            if self._mark is not None:
                os.write(self._mark, b"5")
            self._resting = self._peak()
            self._moved = False
        self._begun, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, int]:
        """Processor seconds, and bytes resident at most."""
        cpu = time.process_time() - self._cpu
        if time.perf_counter() - self._begun < self.QUICK:
            return cpu, self._resting if self._mark is not None else self._floor
        self._moved = True
        peak = self._peak()
        if self._mark is None and peak == self._resting:
            peak = self._floor
        return cpu, peak
