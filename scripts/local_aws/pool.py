"""The environments: warm ones are used again, the most recently used first; new ones start as the ramp allows."""

import asyncio
import os
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from local_aws import processes
from local_aws.environment import Ended, Environment
from local_aws.faults import Knobs
from local_aws.functions import Function

LOOK = 0.1
KILLED = "Error: Runtime exited with error: signal: killed"


class Throttled(Exception):
    """No environment may be had now; the reason is AWS's word for it."""

    def __init__(self, reason: str, retry_after: float = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class Pool:
    """All environments of all functions."""

    def __init__(
        self,
        root: Path,
        knobs: Knobs,
        python_of: Callable[[str], Path],
        variables_of: Callable[[Function], dict[str, str]],
    ) -> None:
        self._root = root
        self._knobs = knobs
        self._python_of = python_of
        self._variables_of = variables_of
        self._number = 0
        self._idle: dict[str, list[Environment]] = defaultdict(list)
        self._finishing: dict[str, set[asyncio.Task[None]]] = defaultdict(set)
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._starts: dict[str, deque[float]] = defaultdict(deque)
        self.live: set[Environment] = set()
        self._watch = asyncio.get_running_loop().create_task(self._look())

    async def acquire(self, function: Function) -> Environment:
        """An environment that is ready for an event; Throttled by the ramp, Ended if initialisation fails."""
        while True:
            idle = self._idle[function.key]
            while idle:
                environment = idle.pop()
                if not environment.gone.is_set():
                    return environment
            if finishing := self._finishing[function.key]:  # has answered, and will ask for more in a moment
                done, _ = await asyncio.wait(finishing, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    continue
            if len(self.live) < self._knobs.settings.real_environments or self._evict():
                return await self._start(function)
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((function.key, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake(function.key)  # it was another's turn then
                raise

    def release(self, environment: Environment) -> None:
        """Give one back; it is free when its runtime asks for the next event, if it still lives."""
        key = environment.function.key
        task = asyncio.get_running_loop().create_task(self._freed(environment))
        self._finishing[key].add(task)
        task.add_done_callback(self._finishing[key].discard)

    async def _freed(self, environment: Environment) -> None:
        with suppress(Ended):
            await environment.free()
            environment.idle_since = time.monotonic()
            self._idle[environment.function.key].append(environment)
            self._wake(environment.function.key)

    def _wake(self, key: str | None = None) -> None:
        mine = next((each for each in self._waiting if each[0] == key), None) or next(iter(self._waiting), None)
        if mine is not None:
            self._waiting.remove(mine)
            if not mine[1].done():
                mine[1].set_result(None)

    def _evict(self) -> bool:
        idle = [each for group in self._idle.values() for each in group if not each.gone.is_set()]
        if not idle:
            return False
        self._retire(min(idle, key=lambda each: each.idle_since))
        return True

    def _retire(self, environment: Environment) -> None:
        self._idle[environment.function.key].remove(environment)
        self.live.discard(environment)
        environment.kill()

    async def _start(self, function: Function) -> Environment:
        settings = self._knobs.settings
        starts, now = self._starts[f"{function.region}/{function.name}"], time.monotonic()
        while starts and starts[0] <= now - settings.ramp_seconds:
            starts.popleft()
        if len(starts) >= settings.ramp:
            raise Throttled("FunctionInvocationRateLimitExceeded", starts[0] + settings.ramp_seconds - now)
        starts.append(now)
        self._number += 1
        folder = self._root / f"{self._number}"
        variables = self._variables_of(function)
        environment = Environment(function, self._python_of(function.runtime), folder, variables)
        self.live.add(environment)
        self._knobs.counters["environments_started"] += 1
        most = self._knobs.counters["most_environments"]
        self._knobs.counters["most_environments"] = max(most, len(self.live))
        try:
            if settings.cold_start:
                await asyncio.sleep(settings.cold_start)
            await environment.start()
        except BaseException:
            self.live.discard(environment)
            self._wake()
            raise
        asyncio.get_running_loop().create_task(self._bury(environment))
        try:
            await environment.initialised(settings.init_seconds)
        except asyncio.CancelledError:
            environment.kill()
            raise
        return environment

    async def _bury(self, environment: Environment) -> None:
        await environment.gone.wait()
        self.live.discard(environment)
        self._knobs.counters["environments_ended"] += 1
        await asyncio.to_thread(shutil.rmtree, environment.folder, ignore_errors=True)
        self._wake()

    async def _look(self) -> None:
        """Hold environments to their memory and disk, and end those that rested long."""
        while True:
            await asyncio.sleep(LOOK)
            busy = [each for each in self.live if each.busy and each.pid]
            if busy:
                held = await asyncio.to_thread(measure, [(each.pid, each.folder) for each in busy])
                for environment in busy:
                    if environment.busy and environment.pid in held:
                        self._judge(environment, *held[environment.pid])
            limit = time.monotonic() - self._knobs.settings.idle_seconds
            for group in list(self._idle.values()):
                for environment in [each for each in group if each.idle_since < limit or each.gone.is_set()]:
                    self._retire(environment)

    def _judge(self, environment: Environment, memory: int, disk: int) -> None:
        environment.peak = max(environment.peak, memory)
        if memory > environment.function.memory << 20:
            self._knobs.counters["out_of_memory"] += 1
            environment.kill(Ended("Runtime.ExitError", KILLED))
        elif disk > environment.function.disk << 20:
            self._knobs.counters["out_of_disk"] += 1
            text = f"Error: No space left on device: ephemeral storage is {environment.function.disk} MB"
            environment.kill(Ended("Runtime.ExitError", text))

    async def clear(self) -> None:
        """End every environment, and wait until they are gone."""
        ending = list(self.live)
        for environment in ending:
            environment.kill()
        for environment in ending:
            if hasattr(environment, "_pidfd"):
                await environment.gone.wait()
        self._idle.clear()
        self._starts.clear()

    async def close(self) -> None:
        """The end."""
        self._watch.cancel()
        await self.clear()


def measure(these: list[tuple[int, Path]]) -> dict[int, tuple[int, int]]:
    """Memory and disk that each environment holds."""
    return {pid: (processes.held_by(pid), disk_of(folder)) for pid, folder in these}


def disk_of(folder: Path) -> int:
    """Bytes of disk below a folder."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_blocks * 512
    return total
