"""Ctrl-C while a sort's tasks run that take for ever: who asked goes on at once, and nothing stays of it.

The gates are what makes a task slow: none is let go before the driver has said that it goes on, so a driver that waits
for its tasks never says so.
"""

import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scene import PATIENCE, Gate, launch, lines, script, until
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws
from support.records import READER
from support.redis_servers import Redis
from support.sorting import FIXED, Bucket, Folder, Place, fill

from pywren_shuffle.host import over_key, submit_all
from pywren_shuffle.phases.partition import PartitionTask, partition
from pywren_shuffle.records import Piece, Source, open_format

MEMORY = 512  # MB of the function
DRIVER = """
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from scene import note, pass_gate
import pywren_ng
from pywren_shuffle.sort import sort

kind, phase, source, target, between, over, *gate = sys.argv[1:]

def gated(fn, task):
    if fn.__name__ == phase:
        pass_gate(gate)
    found = fn(task)
    if fn.__name__ == phase:
        note(over, phase)
    return found

class Gated:
    def submit(self, fn, /, *args):
        return super().submit(gated, fn, *args)

class Ours(Gated, pywren_ng.Executor): pass
class Threads(Gated, ThreadPoolExecutor): pass
class Processes(Gated, ProcessPoolExecutor): pass

def run():
    if kind in ("local", "lambda"):
        with Ours(kind, max_workers=2) as pool:
            interrupted(pool.sort, source, target)
            assert pool.submit(abs, -32).result() == 32
    else:
        with {"threads": Threads, "processes": Processes}[kind](2) as pool:
            interrupted(sort, pool, source, target)

def interrupted(sort, *places):
    try:
        sort(*places, records="fixed:100:10", partitions=2, intermediate=between or None)
    except KeyboardInterrupt:
        print("goes on", flush=True)

run()
"""


class Driven:
    """A driver whose tasks wait at a gate."""

    def __init__(self, process: "subprocess.Popen[str]", gate: Gate, over: Path) -> None:
        self.process, self.gate, self._over = process, gate, over

    def interrupt(self) -> None:
        """As Ctrl-C would, once a task runs; returns when the driver goes on."""
        self.gate.wait_for_task()
        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "it still waits"
        assert self.process.stdout.readline() == "goes on\n"

    def end(self) -> None:
        """Wait for its end."""
        _, said = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, said

    def has_written(self) -> bool:
        """Whether a task that was at the gate has come to its end."""
        return bool(lines(self._over))


@contextmanager
def driven(folder: Path, kind: str, phase: str, place: Place, between: str = "") -> Iterator[Driven]:
    gate, over = Gate(folder), folder / "over"
    asked = [kind, phase, place.url("in/*.dat"), place.url("out"), between, str(over), *gate.paths]
    process = launch([*script(folder, DRIVER), *asked], folder)
    try:
        yield Driven(process, gate, over)
    finally:
        gate.let_go(10)
        process.kill()
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "place")


INPUTS = ["in/00.dat", "in/01.dat"]


@pytest.mark.parametrize("phase", ["sample", "partition", "merge"])
def test_workers_of_ours_are_ended(folder: Folder, tmp_path: Path, phase: str) -> None:
    fill(folder, "uniform", 1000, files=2)
    with driven(tmp_path, "local", phase, folder) as driver:
        driver.interrupt()
        assert folder.names() == INPUTS
        driver.end()
        assert not driver.has_written()
    assert folder.names() == INPUTS


@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize("phase", ["partition", "merge"])
def test_what_a_pool_writes_later_is_removed(folder: Folder, tmp_path: Path, kind: str, phase: str) -> None:
    fill(folder, "uniform", 1000, files=2)
    with driven(tmp_path, kind, phase, folder) as driver:
        driver.interrupt()
        (left,) = (name for name in folder.names() if name not in INPUTS and not name.endswith("/"))
        assert left.endswith("/over")
        driver.gate.let_go(10)
        driver.end()
        if phase == "partition":  # for a merge there is nothing left to read
            assert driver.has_written()
    assert folder.names() == INPUTS


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, MEMORY, variables=PACKAGES) as made:
        yield made


@pytest.mark.parametrize("tier", ["s3", "redis"])
def test_a_worker_on_lambda_removes_what_it_writes_later(
    there: Deployed, local_aws: LocalAws, tmp_path: Path, redis_server: Redis, tier: str
) -> None:
    bucket = Bucket(local_aws, there.where.store.removeprefix("s3://").partition("/")[0])
    fill(bucket, "uniform", 1000, files=2)
    before, between = redis_server.size(), redis_server.url() if tier == "redis" else ""
    marks = there.keys("shuffles/")
    with driven(tmp_path, "lambda", "partition", bucket, between) as driver:
        driver.interrupt()
        assert bucket.names() == INPUTS
        driver.end()
        driver.gate.let_go(10)
        assert until(driver.has_written)
    assert until(lambda: redis_server.size() == before)
    (mark,) = (key for key in there.keys("shuffles/") if key not in marks)
    assert mark.endswith("/over")
    assert bucket.names() == INPUTS


def test_no_task_is_forgotten_that_was_submitted_as_the_interrupt_came() -> None:
    class Struck(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            if args == (2,):
                signal.raise_signal(signal.SIGINT)
            return Future()

    futures: list[Future[int]] = []
    with pytest.raises(KeyboardInterrupt):
        submit_all(Struck(), abs, [1, 2, 3], futures)
    assert len(futures) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_mark_makes_a_writer_remove_what_it_wrote(folder: Folder) -> None:
    fill(folder, "uniform", 10)
    store, over = f"file://{folder.path}", over_key("20260101T000000-00000000")
    task = PartitionTask(
        format=open_format(FIXED),
        split=0,
        pieces=(Piece(Source(store, "in/00.dat", 1000), 0, 1000),),
        boundaries=(),
        partitions=1,
        store=store,
        key="shuffles/0/000000",
        block=1 << 20,
        hedging=False,
        over=over,
    )
    partition(task)
    assert "shuffles/0/000000" in folder.names()
    READER.put(store, over, ())
    partition(task)
    assert "shuffles/0/000000" not in folder.names()
