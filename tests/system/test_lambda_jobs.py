"""Whole jobs on Lambda: right under faults, within their request budget, found soon, stopped, started by trees.

Calls are delivered at least once, so a task's body may run more than once. What happens exactly once is the commit: of
all runs of a task one wins `put_new` of its effect, all see that one, and the task's future is settled by one outcome.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from scene import PATIENCE, until
from support.deployed import PACKAGES, Deployed, deployed, describe
from support.local_aws import LocalAws

from pywren_ng import Executor, feed
from pywren_ng.backends import lambda_backend, lambda_trees
from pywren_ng.backends.lambda_flights import Limits
from pywren_runtime.pickling import dumps_plain
from pywren_runtime.wire import STATS, Outcome, Signer, Status, outcome_key, stop_key

WHOLE, TENTH = 512, 640  # MB of the functions whose seconds are whole ones, and a tenth
FOUND = 5.0  # seconds within which an outcome that lies there is found
Make = Callable[..., Executor]


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, WHOLE, variables=PACKAGES) as made:
        made.function(TENTH, variables=PACKAGES | {"PYWREN_NG_INTERNAL_SCALE": "0.1"})
        yield made


@pytest.fixture
def make(there: Deployed, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Executors; the counters are those of what happens after the last one was made."""
    with ExitStack() as stack:

        def made(invoke: str, *, tenth: bool = False, workers: int = 16, **options: Any) -> Executor:
            monkeypatch.setenv("PYWREN_NG_INVOKE", invoke)
            monkeypatch.setenv("PYWREN_NG_INTERNAL_SCALE", "0.1" if tenth else "1")
            options = {"max_workers": workers, "memory": TENTH if tenth else WHOLE, **options}
            executor = stack.enter_context(Executor("lambda", **options))
            local_aws.reset()
            return executor

        yield made
        local_aws.reset()  # what a failed test leaves behind ends too


def asked(aws: LocalAws) -> tuple[Counter[str], list[Counter[str]]]:
    """What was asked of S3: by the client, and by each environment, which has a key of its own."""
    mine, theirs = Counter[str](), []
    for one in aws.ask("GET", "/_proxy/counts")["clients"]:
        if not one["agent"].startswith("object_store"):
            continue  # this file's own look into the bucket
        if one["access_key"] == aws.access_key:
            mine += Counter(one["kinds"])
        else:
            theirs.append(Counter(one["kinds"]))
    return mine, theirs


def long_function() -> Callable[[int], tuple[int, str]]:
    """One that no store has seen, and too long to ride along with each Call."""
    table = [os.urandom(20).hex() for _ in range(300)]

    def look_up(x: int) -> tuple[int, str]:
        return x, table[x % 300]

    look_up.__module__ = "__main__"  # as in a script: no module goes along, each of which would be a PUT
    return look_up


def waiting(folder: Path) -> Callable[[int], int]:
    """A function whose runs write a line, and wait until the folder has a file `open`."""
    place = str(folder)

    def wait_for_it(x: int) -> int:
        import os
        import time

        with open(f"{place}/came", "a") as log:
            log.write(f"{x}:{os.getpid()}\n")
        while not os.path.exists(f"{place}/open"):
            time.sleep(0.01)
        return x

    return wait_for_it


def came(folder: Path) -> list[str]:
    log = folder / "came"
    return log.read_text().split() if log.exists() else []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# -- Under faults


def committing(url: str) -> Callable[[int], tuple[int, str]]:
    stores: list[Any] = []  # a worker's own, which it opens once

    def commit(x: int) -> tuple[int, str]:
        import os

        from pywren_runtime.stores import open_store

        stores[:] = stores or [open_store(url)]
        own, store = os.urandom(8).hex(), stores[0]
        if store.put_new(f"effects/{x:04d}", own.encode()):
            return x, own
        return x, store.get(f"effects/{x:04d}").decode()

    return commit


@pytest.mark.timeout(240)  # in full it takes 30 s of one processor, and may have a part of one
@pytest.mark.parametrize(("invoke", "full", "few"), [("auto", 2000, 400), ("async", 400, 200)], ids=["auto", "async"])
def test_thousands_of_tasks_are_right_while_everything_fails(
    make: Make, there: Deployed, local_aws: LocalAws, invoke: str, full: int, few: int, is_full: bool
) -> None:
    # With the usual two retries, in one of three such maps some task would lose all its three attempts.
    ex = make(invoke, tenth=True, workers=32 if is_full else 16, retries=6)
    url = f"{there.where.store}/{invoke}"
    settled: list[int] = []
    count = full if is_full else few
    rare = {"duplicate": 0.02, "drop": 0.01} if is_full else {"duplicate": 0.04, "drop": 0.04}  # some for certain
    local_aws.knobs(throttle=0.3, kill=0.05, seed=3, **rare)
    local_aws.ask("POST", "/_proxy/faults", {"fault": "503", "fraction": 0.05, "seed": 3})
    job = ex.map(committing(f"{url}?conditional=trusted"), range(count))
    for place, future in enumerate(job.futures):
        future.add_done_callback(lambda _, place=place: settled.append(place))
    results = job.results()
    injected, counters = local_aws.injected(), local_aws.counters()
    (slow_down,) = local_aws.ask("GET", "/_proxy/faults")
    local_aws.ask("DELETE", "/_proxy/faults")

    assert [x for x, _ in results] == list(range(count))
    assert until(lambda: len(settled) >= count)
    assert sorted(settled) == list(range(count)) and job.counts == (count, count, 0)
    keys = there.keys(f"{invoke}/effects/")
    assert len(keys) == count
    with ThreadPoolExecutor(8) as pool:
        lie = [bytes(each).decode() for each in pool.map(ex.store.get, sorted(keys))]
    assert [effect for _, effect in results] == lie and len(set(lie)) == count
    said = describe([injected, counters, slow_down])
    least = 0.02 * count if is_full else 0  # of the few of a suite's run, how many are killed is chance
    assert injected["throttle"] > 0.3 * count and injected["kill"] > least, said
    assert injected["duplicate"] > 0 and injected["drop"] > 0, said
    assert slow_down["injected"] > 0.03 * count, said
    assert counters["executions"] > count, said  # some did run more than once


# -- What it costs


def test_the_cost_of_a_job_is_what_was_billed(make: Make, local_aws: LocalAws) -> None:
    ex = make("sync", workers=4)
    local_aws.reset(environments=True)  # initialisation is billed, too
    job = ex.map(abs, range(20))
    job.results()
    cost, counters = job.cost, local_aws.counters()
    assert cost is not None
    assert cost.invokes == counters["invokes_RequestResponse"] == 20
    assert counters["environments_started"] > 0
    assert cost.gb_seconds == pytest.approx(counters["billed_ms"] / 1000 * WHOLE / 1024)
    assert (cost.estimated, cost.untold, cost.writes, cost.reads) == (0, 0, 0, 0)
    assert cost.dollars == pytest.approx(20 * 0.2e-6 + cost.gb_seconds * 0.0000166667)
    assert str(cost) in str(job._shelf.ended())


def test_the_cost_of_an_asynchronous_job_is_told_by_its_workers(make: Make, local_aws: LocalAws) -> None:
    ex = make("async")
    job = ex.map(time.sleep, [0.02] * 10)
    job.results()
    cost, counters = job.cost, local_aws.counters()
    client, _ = asked(local_aws)
    assert cost is not None
    assert cost.invokes == counters["invokes_Event"] == 10
    assert 10 * 0.02 * WHOLE / 1024 <= cost.gb_seconds == cost.estimated <= counters["billed_ms"] / 1000 * WHOLE / 1024
    assert cost.untold == 0
    assert cost.reads == client["GetObject"] == 10
    assert cost.writes == client["ListObjectsV2"] + 10


def test_refused_invokes_cost_nothing_and_cancelled_ones_nobody_knows_what(
    make: Make, local_aws: LocalAws, tmp_path: Path
) -> None:
    ex = make("sync", tenth=True)
    local_aws.knobs(throttle={"fraction": 1, "times": 5})
    job = ex.map(waiting(tmp_path), range(3))
    assert until(lambda: len(came(tmp_path)) == 3)
    job.cancel()
    cost = job.cost
    assert local_aws.injected()["throttle"] == 5
    assert cost is not None and (cost.invokes, cost.untold, cost.gb_seconds) == (3, 3, 0)
    assert "3 Invokes of unknown length" in str(cost)
    (tmp_path / "open").touch()


# -- The request budget


def test_a_synchronous_job_stores_its_function_and_nothing_else(make: Make, local_aws: LocalAws, is_full: bool) -> None:
    ex, count = make("sync", workers=16 if is_full else 4), 1000 if is_full else 200
    function = long_function()
    local_aws.reset(environments=True)
    for cold in (True, False):
        before = local_aws.counters().get("environments_started", 0)
        assert ex.map(function, range(count)).results() == [function(x) for x in range(count)]
        client, workers = asked(local_aws)
        started = local_aws.counters()["environments_started"] - before
        assert started or not cold
        assert client == ({"ConditionalPut": 1} if cold else {}), client
        assert workers == [{"GetObject": 1}] * started, workers
        local_aws.ask("DELETE", "/_proxy/counts")
    assert local_aws.counters()["invokes_RequestResponse"] == 2 * count, describe(local_aws.counters())


def test_an_asynchronous_job_takes_a_put_and_a_get_for_each_task(
    make: Make, local_aws: LocalAws, is_full: bool
) -> None:
    ex, many = make("async", workers=16 if is_full else 8), 1000 if is_full else 200
    function = long_function()
    local_aws.reset(environments=True)
    for count, cold in ((many, True), (many // 5, False)):
        before, begun = local_aws.counters().get("environments_started", 0), time.monotonic()
        assert ex.map(function, range(count)).results() == [function(x) for x in range(count)]
        # No two polls begin within 50 ms, and a poll sees these 1,000 keys on one page.
        polls = (time.monotonic() - begun) / 0.05 + 1
        client, workers = asked(local_aws)
        started = local_aws.counters()["environments_started"] - before
        assert started or not cold
        assert client.pop("ListObjectsV2") <= polls
        assert client == {"GetObject": count} | ({"ConditionalPut": 1} if cold else {}), client
        assert sum(workers, Counter()) == {"ConditionalPut": count} | ({"GetObject": started} if started else {})
        assert max(worker["GetObject"] for worker in workers) <= 1
        local_aws.ask("DELETE", "/_proxy/counts")
    assert local_aws.counters()["invokes_Event"] == many + many // 5, describe(local_aws.counters())


def blobs_of(there: Deployed, before: set[str]) -> set[str]:
    return set(there.keys("blobs/")) - before


def remove(there: Deployed, keys: set[str]) -> None:
    """As a life-cycle rule does."""
    bucket, _, folder = there.where.store.removeprefix("s3://").partition("/")
    for key in keys:
        there.aws.client("s3").delete_object(Bucket=bucket, Key=f"{folder}/{key}")


@pytest.mark.parametrize("invoke", ["sync", "async"])
@pytest.mark.parametrize("what", ["function", "argument"])
def test_a_blob_that_was_removed_is_put_again(
    make: Make, there: Deployed, local_aws: LocalAws, tmp_path: Path, what: str, invoke: str
) -> None:
    import numpy as np

    ex = make(invoke, tenth=True, workers=1)  # more would have fetched it before it was removed
    before, place = set(there.keys("blobs/")), str(tmp_path)
    array = np.frombuffer(os.urandom(2_500_000), "u1").astype("u4") if what == "argument" else None
    table = [os.urandom(20).hex() for _ in range(300)] if what == "function" else []

    def task(data: Any, x: int) -> tuple[int, int]:
        import os
        import signal
        import time

        if x == 0 and not os.path.exists(f"{place}/began"):  # the first run waits, and takes its environment with it
            open(f"{place}/began", "w").close()
            while not os.path.exists(f"{place}/open"):
                time.sleep(0.01)
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        return int(data.sum()) if data is not None else 0, len(table)

    right = [(0 if array is None else int(array.sum()), len(table))] * 8
    job = ex.map(task, [array] * 8, range(8))
    assert until((tmp_path / "began").exists)
    stored = blobs_of(there, before)
    assert stored
    remove(there, stored)  # in the middle of a job …
    (tmp_path / "open").touch()
    assert job.results() == right
    assert blobs_of(there, before) == stored
    local_aws.reset(environments=True)
    remove(there, stored)  # … and between two
    assert ex.map(task, [array] * 8, range(8)).results() == right
    assert asked(local_aws)[0]["ConditionalPut"] >= 1, "nothing had to be put again"
    assert blobs_of(there, before) == stored


# -- Finding outcomes


def sealed(key: bytes, job: str, task: int, skew: float) -> bytes:
    """What a worker stores whose clock is wrong by so much."""
    now = time.time() + skew
    stats = STATS.pack(now, now, now, now, now, 0.0, 0, 1, False)
    outcome = Outcome(job, task, 0, 1, Status.PLAIN, dumps_plain(-task), b"", stats)
    return Signer(key).seal(b"outcome", outcome.encode())


@pytest.mark.parametrize("order", ["reverse", "any"])
def test_outcomes_are_found_in_whatever_order_they_land(
    make: Make, there: Deployed, local_aws: LocalAws, order: str
) -> None:
    """No worker runs: the outcomes are put from here, so that it is known when each lands."""
    ex, count, die = make("async", workers=120), 120, random.Random(5)
    local_aws.knobs(drop=1.0)
    job = ex.map(abs, range(count))
    found: dict[int, float] = {}
    futures = job.futures
    for place, future in enumerate(futures):
        future.add_done_callback(lambda _, place=place: found.setdefault(place, time.monotonic()))
    assert until(lambda: local_aws.injected()["drop"] == count)
    tasks = list(reversed(range(count)))
    if order == "any":
        die.shuffle(tasks)
    landed: dict[int, float] = {}
    for task in tasks:
        frame = sealed(there.where.key, job.id, task, die.choice((-60, 0, 60)))
        assert ex.store.put_new(outcome_key(job.id, task, 0), frame)
        landed[task] = time.monotonic()
        if len(landed) % 24 == 0:  # polls fall between those before and those after
            done, _ = wait([futures[each] for each in landed], FOUND)
            assert len(done) == len(landed)
    assert job.results() == [-task for task in range(count)]
    assert until(lambda: len(found) == count)
    assert max(found[task] - landed[task] for task in tasks) < FOUND
    assert local_aws.counters().get("executions", 0) == 0


def test_tasks_that_end_in_reverse_order_are_found(make: Make, local_aws: LocalAws, tmp_path: Path) -> None:
    ex, count, place = make("async", workers=10), 10, str(tmp_path)
    found: dict[int, float] = {}

    def end_after_the_next(x: int) -> int:
        import os
        import time

        while x + 1 < count and not os.path.exists(f"{place}/{x + 1}"):
            time.sleep(0.01)
        open(f"{place}/{x}", "w").close()
        return -x

    job = ex.map(end_after_the_next, range(count))
    for task, future in enumerate(job.futures):
        future.add_done_callback(lambda _, task=task: found.setdefault(task, time.time()))
    assert job.results() == [-x for x in range(count)]
    assert until(lambda: len(found) == count)
    ended = [(tmp_path / str(task)).stat().st_mtime for task in range(count)]
    assert ended == sorted(ended, reverse=True)
    assert max(found[task] - ended[task] for task in range(count)) < FOUND
    assert local_aws.counters()["executions"] == count


def test_there_is_one_list_a_second_while_nothing_arrives(
    make: Make, local_aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Heartbeats, which are lists too, are looked for from the first second on instead of the twelfth.
    monkeypatch.setattr(lambda_backend, "Limits", partial(Limits, listens=1.0))
    ex = make("async")
    job = ex.map(waiting(tmp_path), [7])
    assert until(lambda: len(came(tmp_path)) == 1)
    begun, before = time.monotonic(), asked(local_aws)[0]["ListObjectsV2"]
    assert until(lambda: asked(local_aws)[0]["ListObjectsV2"] >= before + 12)
    # Pauses begin with 50 ms and double up to 1.5 s: five lists come in those seconds that are not in the rate.
    assert 12 <= time.monotonic() - begun + 5
    (tmp_path / "open").touch()
    assert job.results() == [7]
    assert local_aws.counters()["executions"] == 1


# -- Dropped connections


@pytest.mark.parametrize(
    ("count", "size", "seconds"), [(1, 7_000_000, 0.0), (150, 60_000, 0.0), (1, 10, 4.0)], ids=["large", "many", "long"]
)
def test_a_dropped_connection_costs_no_rerun(
    make: Make, there: Deployed, local_aws: LocalAws, tmp_path: Path, count: int, size: int, seconds: float
) -> None:
    """What does not fit into an answer, or took 30 s (here 3), lies in the store before the answer is sent."""
    ex, log = make("sync", tenth=bool(seconds), workers=1), str(tmp_path / "runs")
    assert ex.submit(abs, -1).result(PATIENCE) == 1  # warm
    name, other = there.where.function(TENTH if seconds else WHOLE), WHOLE if seconds else TENTH
    local_aws.knobs(reset_after={"fraction": 1, "times": 1, "function": name})
    ex.options(memory=other).submit(waiting(tmp_path), 0)  # until all are ready, so that they share a Call

    def make_text(x: int) -> str:
        import time

        with open(log, "a") as file:
            file.write("run\n")
        time.sleep(seconds)  # the work
        return f"{x:03d}" * (size // 3)

    job = ex.map(make_text, range(count), chunksize=count)
    (tmp_path / "open").touch()
    assert job.results() == [f"{x:03d}" * (size // 3) for x in range(count)]
    assert local_aws.injected()["reset_after"] == 1
    assert Path(log).read_text().split() == ["run"] * count


# -- Cancelled


@pytest.mark.parametrize("invoke", ["sync", "async"])
def test_cancelled_is_not_started_and_what_runs_is_killed(
    make: Make, there: Deployed, local_aws: LocalAws, tmp_path: Path, invoke: str
) -> None:
    ex = make(invoke, tenth=True, workers=4)
    job = ex.map(waiting(tmp_path), range(12))
    assert until(lambda: len(came(tmp_path)) == 4)
    job.cancel()
    for future in job.futures:
        with pytest.raises(CancelledError):
            future.result(0)
    assert until(lambda: stop_key(job.id) in there.keys(f"jobs/{job.id}/"))
    assert until(lambda: not any(is_running(int(line.partition(":")[2])) for line in came(tmp_path)))
    assert ex.map(abs, range(-4, 0)).results() == [4, 3, 2, 1]
    assert len(came(tmp_path)) == 4
    assert local_aws.counters()["executions"] == 8, describe(local_aws.counters())


def test_a_cancelled_job_stops_its_starters(
    make: Make, there: Deployed, local_aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starters are invoked as the function's second copy, and what they cannot start as its first."""
    there.function(TENTH, copy=1, variables=PACKAGES | {"PYWREN_NG_INTERNAL_SCALE": "0.1"})
    monkeypatch.setenv("PYWREN_NG_DEPLOYMENT", str(there.rewritten(tmp_path, copies=2)))
    monkeypatch.setattr(lambda_trees, "LEAST", 16)
    ex = make("async", memory=TENTH)  # whose starters are in a hurry, and the client is not
    local_aws.knobs(throttle={"fraction": 1, "function": there.where.function(TENTH)})
    job = ex.map(abs, range(16))
    assert until(lambda: local_aws.injected()["throttle"] > 24)  # eight that are tried again and again
    assert until(lambda: local_aws.counters()["executions"] == 4 + 8)  # and all others have begun
    assert is_busy(local_aws)
    job.cancel()
    lists = asked(local_aws)[0]["ListObjectsV2"]
    assert until(lambda: not is_busy(local_aws))
    assert asked(local_aws)[0]["ListObjectsV2"] <= lists + 1  # one was on its way
    assert local_aws.counters()["invokes_RequestResponse"] == 4
    assert local_aws.counters()["executions"] == 4 + 8
    assert stop_key(job.id) in there.keys(f"jobs/{job.id}/")


def is_busy(aws: LocalAws) -> bool:
    return any(each["busy"] for each in aws.ask("GET", "/_local/state")["environments"])


# -- Trees


@pytest.mark.parametrize("killed", [0, 1])
def test_many_are_started_by_a_few(
    make: Make, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch, killed: int
) -> None:
    """Eight starters of eight Calls each. The first executions are starters; who started more would show."""
    monkeypatch.setattr(lambda_trees, "LEAST", 64)
    monkeypatch.setattr(feed, "WAIT", 30.0)  # on a busy machine they would come one by one, and not as many at once
    ex = make("async", workers=64)
    local_aws.knobs(real_environments=16, kill={"fraction": 1, "times": killed})
    assert ex.map(abs, range(-64, 0)).results() == list(range(64, 0, -1))
    counters = local_aws.counters()
    assert local_aws.injected()["kill"] == killed
    assert counters["invokes_RequestResponse"] == 8, describe(counters)
    # The client itself starts the share of the one that was killed: the starter may have been through with it.
    events = counters["invokes_Event"]
    assert events == 64 if not killed else 64 <= events <= 72, describe(counters)
