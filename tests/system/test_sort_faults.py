"""Sorts while workers die, requests fail or stall, tasks run twice and the driver is interrupted.

A right answer or a clear error, and nothing left behind. Each test asserts what the injector counted.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scene import Gate, script, surroundings
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws
from support.sorting import FIXED, Bucket, Folder, Place, assert_sorted, fill

import pywren_ng
from pywren_shuffle.sort import Sorted, sort

MEMORY = 512  # MB of the function
PHASES = ("sample", "partition", "merge")
PATIENCE = 30


# -- Workers that die


def dying(phase: str, moment: str, note_at: str, fn: Callable[[Any], Any], task: Any) -> Any:
    """A task whose first run in that phase ends its process: before, in the middle, or when all is done."""
    if fn.__name__ != phase or not is_first(note_at):
        return fn(task)
    if moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "middle":
        sys.addaudithook(kill_on_rename)  # what is written gets its name: the last step but one
    fn(task)
    os.kill(os.getpid(), signal.SIGKILL)


def is_first(path: str) -> bool:
    """Whether nobody was here before."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        return True
    return False


def kill_on_rename(event: str, _: object) -> None:
    if event in ("os.rename", "os.link"):
        os.kill(os.getpid(), signal.SIGKILL)


class Fragile(Executor):
    """Another executor, in whose workers one task dies."""

    def __init__(self, inner: Executor, phase: str, moment: str, note_at: Path) -> None:
        self._inner = inner
        self._max_workers = 2
        self._how = phase, moment, str(note_at)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._inner.submit(dying, *self._how, fn, *args, **kwargs)


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, MEMORY, variables=PACKAGES) as made:
        yield made


@pytest.fixture(scope="module")
def local() -> Iterator[Executor]:
    with pywren_ng.Executor("local", max_workers=2) as executor:
        yield executor


@pytest.fixture(scope="module")
def on_lambda(there: Deployed) -> Iterator[Executor]:
    with pywren_ng.Executor("lambda", max_workers=4) as executor:
        yield executor


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "place")


@pytest.fixture
def bucket(there: Deployed, local_aws: LocalAws) -> Bucket:
    return Bucket(local_aws, there.where.store.removeprefix("s3://").partition("/")[0])


def run(pool: Executor, place: Place, **options: Any) -> Sorted:
    return sort(pool, place.url("in/*.dat"), place.url("out"), records=FIXED, **options)


def files_of(place: Place) -> list[str]:
    """All but folders: that of a store's unfinished files comes and goes."""
    return [name for name in place.names() if not name.endswith("/")]


def assert_only_inputs(place: Place) -> None:
    assert all(name.startswith("in/") for name in place.names()), place.names()


@pytest.mark.parametrize("moment", ["before", "middle", "after"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_local_worker_that_dies(local: Executor, folder: Folder, tmp_path: Path, phase: str, moment: str) -> None:
    source = fill(folder, "zipf", 5000, files=3)
    died = tmp_path / "died"
    assert_sorted(folder, run(Fragile(local, phase, moment, died), folder, partitions=3), source)
    assert died.exists()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_worker_on_lambda_that_dies(
    on_lambda: Executor, bucket: Bucket, tmp_path: Path, phase: str, moment: str
) -> None:
    source = fill(bucket, "zipf", 5000, files=3)
    died = tmp_path / "died"
    assert_sorted(bucket, run(Fragile(on_lambda, phase, moment, died), bucket, partitions=3), source)
    assert died.exists()
    assert not bucket.unfinished()


@pytest.mark.parametrize("phase", PHASES)
def test_a_pool_that_cannot_go_on_without_a_worker(folder: Folder, tmp_path: Path, phase: str) -> None:
    fill(folder, "uniform", 5000)
    died = tmp_path / "died"
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        with pytest.raises(BrokenExecutor):
            run(Fragile(pool, phase, "middle" if phase != "sample" else "before", died), folder, partitions=3)
    assert died.exists()
    assert_only_inputs(folder)


def test_environments_of_lambda_that_are_killed(on_lambda: Executor, bucket: Bucket, local_aws: LocalAws) -> None:
    source = fill(bucket, "uniform", 5000, files=3)
    local_aws.knobs(kill={"fraction": 0.5, "times": 3, "delay": 0.05}, seed=3)
    assert_sorted(bucket, run(on_lambda, bucket, partitions=5), source)
    assert local_aws.injected()["kill"] == 3


# -- Requests that fail or stall


def injected(aws: LocalAws) -> int:
    """How many requests the S3 proxy's rules have hit."""
    return sum(rule["injected"] for rule in aws.ask("GET", "/_proxy/faults"))


def inject(aws: LocalAws, place: Bucket, fault: str, **rule: Any) -> None:
    """The same for every request of a place."""
    aws.ask("POST", "/_proxy/faults", {"fault": fault, "key": f"^{place.prefix}/", "agent": "^object_store", **rule})


@pytest.fixture(params=["threads", "on_lambda"])
def pool(request: pytest.FixtureRequest, there: Deployed) -> Iterator[Executor]:
    if request.param == "threads":
        with ThreadPoolExecutor(4) as threads:
            yield threads
    else:
        yield request.getfixturevalue("on_lambda")


def test_one_request_in_twenty_is_answered_503(pool: Executor, bucket: Bucket, local_aws: LocalAws) -> None:
    source = fill(bucket, "uniform", 10_000, files=4)
    inject(local_aws, bucket, "503", fraction=0.05, seed=5)
    result = run(pool, bucket, memory=0.5, partitions=8)
    assert injected(local_aws) >= 3
    assert_sorted(bucket, result, source)
    assert not bucket.unfinished()


@pytest.mark.parametrize("fault", ["reset_before", "reset_after", "truncate"])
def test_answers_that_are_lost_or_cut(bucket: Bucket, local_aws: LocalAws, fault: str) -> None:
    source = fill(bucket, "uniform", 10_000, files=2)
    inject(local_aws, bucket, fault, fraction=0.1, seed=2)
    with ThreadPoolExecutor(4) as threads:
        result = run(threads, bucket, memory=0.5, partitions=8)
    assert injected(local_aws) >= 3
    assert_sorted(bucket, result, source)
    assert not bucket.unfinished()


def test_reads_that_stall_are_asked_for_again(bucket: Bucket, local_aws: LocalAws) -> None:
    source = fill(bucket, "uniform", 20_000)
    inject(local_aws, bucket, "slow", kind="GetRange", fraction=0.01, seconds=2, seed=1)
    with ThreadPoolExecutor(4) as threads:
        result = run(threads, bucket, memory=0.4, partitions=8)
    assert injected(local_aws) >= 3
    assert 1 <= result.requests["hedges"] <= 0.02 * result.requests["GetRange"]
    assert_sorted(bucket, result, source)


def test_a_store_that_refuses_is_a_clear_error(bucket: Bucket, local_aws: LocalAws) -> None:
    fill(bucket, "uniform", 10_000)
    inject(local_aws, bucket, "403", kind="GetRange")
    with ThreadPoolExecutor(4) as threads, pytest.raises(pywren_ng.errors.StoreError, match=r"403|[Dd]enied"):
        run(threads, bucket, partitions=4)
    assert injected(local_aws) >= 1
    assert_only_inputs(bucket)
    assert not bucket.unfinished()


# -- Tasks that run twice


def test_every_event_is_delivered_twice(
    on_lambda: Executor, bucket: Bucket, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(bucket, "zipf", 5000, files=3)
    monkeypatch.setenv("PYWREN_NG_INVOKE", "async")
    with pywren_ng.Executor("lambda", max_workers=4) as executor:
        local_aws.knobs(duplicate=1.0)
        result = run(executor, bucket, partitions=4)
        assert local_aws.injected()["duplicate"] >= 5
        assert_sorted(bucket, result, source)


# -- A driver that is interrupted

INTERRUPTED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from scene import pass_gate
from pywren_ng import Executor
from pywren_shuffle.sort import sort

phase, source, target, *gate = sys.argv[1:]

def gated(fn, task):
    found = fn(task)
    if fn.__name__ == phase:
        pass_gate(gate)
    return found

class Gated:
    def __init__(self, inner):
        self.inner = inner
        self._max_workers = 2
    def submit(self, fn, task):
        return self.inner.submit(gated, fn, task)

with Executor("local", max_workers=1) as executor:
    sort(Gated(executor), source, target, records="fixed:100:10", partitions=2)
"""


@pytest.mark.parametrize("phase", PHASES)
def test_a_driver_that_is_interrupted(folder: Folder, tmp_path: Path, phase: str) -> None:
    fill(folder, "uniform", 1000, files=2)
    gate = Gate(tmp_path)
    command = [*script(tmp_path, INTERRUPTED), phase, folder.url("in/*.dat"), folder.url("out"), *gate.paths]
    with subprocess.Popen(command, env=surroundings(), stderr=subprocess.PIPE, text=True) as driver:
        gate.wait_for_task()
        driver.send_signal(signal.SIGINT)
        gate.let_go(10)
        _, said = driver.communicate(timeout=PATIENCE)
    assert driver.returncode not in (0, None)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert_only_inputs(folder)


def clean(place: str, *options: str) -> str:
    """What `pywren-ng clean` says of a place."""
    command = [sys.executable, "-m", "pywren_ng", "clean", place, *options]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=surroundings()).stdout


@pytest.mark.parametrize("phase", ["partition", "merge"])
def test_what_a_killed_driver_leaves_is_found_and_what_a_running_one_has_is_left_alone(
    folder: Folder, tmp_path: Path, phase: str
) -> None:
    fill(folder, "uniform", 1000, files=2)
    gate = Gate(tmp_path)
    command = [*script(tmp_path, INTERRUPTED), phase, folder.url("in/*.dat"), folder.url("out"), *gate.paths]
    with subprocess.Popen(command, env=surroundings()) as driver:
        gate.wait_for_task()
        before = files_of(folder)
        try:
            said = clean(folder.url("out"))
        finally:
            driver.kill()
            driver.wait(PATIENCE)
            gate.let_go(10)
    assert "left alone" in said
    assert files_of(folder) == before
    assert any("shuffles/" in name for name in before)
    assert "would go" in clean(folder.url("out"), "--silent", "0", "--dry-run")
    assert files_of(folder) == before
    assert "removed" in clean(folder.url("out"), "--silent", "0")
    assert files_of(folder) == ["in/00.dat", "in/01.dat"]
