"""One Call under way in a worker process: fed, timed, and read until its last outcome or the worker's death.

Call ──► pipe ──► worker ──► Outcomes, as they come, each signed for outside
                 board ──► time limit or the function's end near? ──► kill ──► an Outcome that says so
                 death ──────────────────────────────────────────────────────► an Outcome that says how
"""

import select
import signal
import time
from collections.abc import Iterator
from typing import Final

from pywren_runtime.process import Doom, WorkerProcess, too_long
from pywren_runtime.wire import STATS, Call, Environment, Head, Outcome, Signer, Status

LOOK: Final = 0.5  # seconds between two looks at the board and at the process
NEARLY: Final = 0.8  # of its memory: who had so much and was killed was killed for it

Framed = tuple[Outcome, bytes]


class Watch:
    """Runs one Call. Afterwards the process is ready for the next one, or `is_over` says that it is dead and buried."""

    def __init__(
        self,
        process: WorkerProcess,
        signer: Signer,
        call: Call,
        head: Head,
        *,
        number: int,
        ends: float,  # of the monotonic clock: when Lambda ends the function
        margin: float,  # seconds before that in which outcomes are brought home
        look: float = LOOK,
    ) -> None:
        self.is_over = False
        self._process = process
        self._signer = signer
        self._call = call
        self._head = head
        self._number = number
        self._began = time.monotonic()
        self._ends = ends
        self._last = ends - min(margin, (ends - self._began) / 4)
        self._interval = look
        self._done = 0
        self._is_late = False  # whether it was killed because the function ends
        self._is_stopped = False

    def run(self, environment: Environment) -> Iterator[list[Framed]]:
        """The outcomes as they come, and an empty list at each look. Tasks that were not begun bring none."""
        process = self._process
        process.queue(self._number, self._call, environment)
        poll = select.poll()
        poll.register(process.outcomes, select.POLLIN)
        sent = process.flush()
        if not sent:
            poll.register(process.frames, select.POLLOUT)
        while self._done < len(self._call.tasks):
            poll.poll(self._look(time.monotonic()) * 1000)
            if not sent and process.flush():
                poll.unregister(process.frames)
                sent = True
            is_dead = process.is_dead()  # before the read: what it wrote before its end must be seen
            try:
                bodies = process.receive_bodies()
            except EOFError:
                is_dead, bodies = True, []
            yield [self._take(body) for body in bodies]
            if is_dead and not bodies:
                yield self._bury()
                return

    def _take(self, body: memoryview) -> Framed:
        self._done += 1
        return Outcome.decode(body), self._signer.seal(b"outcome", bytes(body))

    def _look(self, now: float) -> float:
        """Kill what runs too long; how long until the next look."""
        if self._process.doom is not None:
            return self._interval
        soonest = min(self._interval, self._last - now)
        if soonest <= 0:
            self._is_late = True
            self._kill(self._late(now))
            return self._interval
        limit, running = self._head.time_limit, self._process.board.running()
        if limit is not None and running is not None:
            left = running.since + limit - now
            if left <= 0:
                self._kill(too_long(now - running.since, limit))
                return self._interval
            soonest = min(soonest, left)
        elif limit is not None:
            soonest = min(soonest, limit)
        return max(soonest, 0.001)

    def stop(self) -> None:
        """The job was cancelled: kill what runs. What it has brought counts."""
        from concurrent.futures import CancelledError

        if self._process.doom is None:
            self._is_stopped = True
            self._kill(Doom(CancelledError, "it was cancelled"))

    def _kill(self, doom: Doom) -> None:
        self._process.doom = doom
        self._process.kill()

    def _late(self, now: float) -> Doom:
        from pywren_runtime.errors import TaskTimeout

        running = self._process.board.running()
        ran = now - (running.since if running else self._began)
        return Doom(
            TaskTimeout,
            f"it had run for {ran:.3g} s and was stopped, because the Lambda function's time-out of "
            f"{self._ends - self._began:.3g} s was about to end its worker; give it less to do at a time, more "
            "memory= (which brings more processors), or a function with a longer time-out (900 s at most)",
        )

    def _bury(self) -> list[Framed]:
        """The outcome of the task that ran when the worker died; those that it had not begun have none."""
        self.is_over = True
        process = self._process
        process.reap()
        number, position, doom = process.post_mortem(self._number)
        if number != self._number or position != self._done or self._is_stopped:
            return []
        if self._is_late and position > 0:
            return []  # the tasks before it took the time, not it: it comes again in a Call that begins with it
        doom = self._out_of_memory() or doom
        outcome = self._outcome(position, doom)
        return [(outcome, self._signer.seal(b"outcome", outcome.encode()))]

    def _out_of_memory(self) -> Doom | None:
        from pywren_runtime.errors import TaskOutOfMemory

        process, memory = self._process, self._process.environment.memory
        if process.doom is not None or process.exit_code != -signal.SIGKILL or memory is None:
            return None
        if process.peak < NEARLY * memory * 1024 * 1024:
            return None
        return Doom(
            TaskOutOfMemory,
            f"its worker was killed (SIGKILL) with {process.peak / 1e6:.0f} MB resident, which is its memory of "
            f"{memory} MB; give it more with options(memory={2 * memory}), or give it less to do at a time",
        )

    def _outcome(self, position: int, doom: Doom) -> Outcome:
        from pywren_runtime import failures

        task, now = self._call.tasks[position], time.time()
        begun = now - (time.monotonic() - self._began)
        stats = STATS.pack(begun, begun, begun, now, now, 0.0, self._process.peak, self._process.pid, False)
        status = Status.LOST if doom.kind.__name__ == "WorkerLost" else Status.FAILED
        payload = failures.pack_ours(doom.kind.__name__, doom.text, self._process.last_words)
        printed = self._process.printed_last
        return Outcome(self._head.job, task.index, task.round, task.attempt, status, payload, printed, stats)
