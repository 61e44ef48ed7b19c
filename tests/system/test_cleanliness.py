"""Workers have nothing of their parent's, and a job leaves nothing behind."""

import gc
import itertools
import logging
import os
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import PATIENCE, Gate, lines, note, until

from pywren_ng import Executor, Job
from pywren_ng.backends.local_backend import usable_processors
from pywren_runtime.spawn import THREADS


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor("local", max_workers=2) as made:
        yield made


# -- What a worker has of its parent


def test_busy_threads_and_held_locks_of_the_parent_hang_no_worker() -> None:
    stop, held = threading.Event(), threading.Barrier(9)
    locks = [logging._lock, threading.Lock(), *(threading.RLock() for _ in range(6))]  # type: ignore[attr-defined]

    def busy(lock: threading.Lock) -> None:
        with lock:
            held.wait(PATIENCE)
            while not stop.is_set():
                sum(range(100))

    def task(number: int) -> int:
        logging.getLogger("task").warning("number %d", number)
        print(number)
        return number

    threads = [threading.Thread(target=busy, args=[lock]) for lock in locks]
    for thread in threads:
        thread.start()
    held.wait(PATIENCE)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)  # or this process would take seconds to get a word in
    try:
        with Executor("local", max_workers=4) as ex:
            assert ex.map(task, range(20)).results() == list(range(20))
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        for thread in threads:
            thread.join()


def test_workers_have_none_of_the_parents_modules(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "only_in_the_parent", types.ModuleType("only_in_the_parent"))
    code = "import sys; print(*sys.modules)"  # what this interpreter's site brings, before anybody asks
    fresh = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    allowed = {*sys.stdlib_module_names, *fresh.stdout.split(), "__main__", "pywren_runtime", "cloudpickle"}
    found = executor.submit(eval, "sorted(__import__('sys').modules)").result(timeout=PATIENCE)
    assert [name for name in found if name not in allowed and name.partition(".")[0] not in allowed] == []
    assert not {"only_in_the_parent", "pytest", "pywren_ng"} & set(found)
    assert "pywren_runtime.worker" in found


def open_files() -> dict[int, tuple[int, int]]:
    """Which descriptors are open here, and on what: told by trying, for there may be no list of them."""
    found = {}
    for fd in range(256):
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        found[fd] = status.st_dev, status.st_ino
    return found


def test_workers_have_none_of_the_parents_files(tmp_path: Path) -> None:
    null = os.stat(os.devnull)
    with (tmp_path / "open").open("w") as file, socket.socket() as one:
        reader, writer = os.pipe()
        for fd in (file.fileno(), one.fileno(), reader, writer):
            os.set_inheritable(fd, True)
        before = open_files()
        with Executor("local", max_workers=2) as ex:
            workers = ex.map(lambda _: open_files(), range(4)).results()
        os.close(reader)
        os.close(writer)
    ours = set(before.values()) - {(null.st_dev, null.st_ino)}
    for found in workers:
        assert ours & set(found.values()) == set()
        assert len(found) <= 12
    assert {0, 1, 2} <= set(workers[0])


def test_executors_leave_no_descriptor_open_here() -> None:
    def once() -> None:
        with Executor("local", max_workers=2) as ex:
            ex.map(abs, range(10)).results()
            ex.options(retries=0).submit(os._exit, 1).exception(timeout=PATIENCE)
            ex.options(env={"A": "1"}).map(abs, range(10)).results()

    once()
    gc.collect()
    before = open_files()
    for _ in range(3):
        once()
    gc.collect()
    gained = open_files().items() - before.items()  # what another test left may have been closed meanwhile
    assert gained == set()


def test_a_workers_end_leaves_no_file_in_the_executors_folder(executor: Executor) -> None:
    folder = Path(executor.store.url.removeprefix("file://")).parent
    single = executor.options(retries=0)
    for number in range(4):
        single.submit(os._exit, 1).exception(timeout=PATIENCE)  # buried
        single.options(env={"NUMBER": str(number)}).map(abs, range(10)).results()  # replaced
    assert len(list(folder.glob("worker-*"))) <= 2


def test_a_worker_reads_no_input(executor: Executor) -> None:
    assert executor.submit(lambda: sys.stdin.read()).result(timeout=PATIENCE) == ""


# -- Variables


def variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in THREADS}


@pytest.mark.parametrize("workers", [1, 2, 1000])
def test_numerical_libraries_get_their_share_of_the_processors(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    with Executor("local", max_workers=workers) as ex:
        found = ex.submit(variables).result(timeout=PATIENCE)
    assert found == {name: str(max(1, usable_processors() // workers)) for name in THREADS}
    assert {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} <= set(found)


def test_what_the_user_says_of_threads_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with Executor("local", max_workers=2, env={"MKL_NUM_THREADS": "9"}) as ex:
        found = ex.submit(variables).result(timeout=PATIENCE)
    assert (found["OMP_NUM_THREADS"], found["MKL_NUM_THREADS"]) == ("7", "9")


# -- What tasks print


def test_of_much_output_the_tail_is_kept(executor: Executor) -> None:
    def talk(lines: int) -> None:
        for number in range(lines):
            print(f"line {number:08d} " + "." * 85)

    job = executor.map(talk, [100_000, 3])
    job.results()
    first, rest = job.logs(0).split("\n", 1)
    assert first == f"[{10_000_000 - len(rest)} bytes before this were dropped]"
    assert len(rest) == 64 * 1024
    assert rest.endswith("line 00099999 " + "." * 85 + "\n")
    assert job.logs(1).splitlines() == [f"line {number:08d} " + "." * 85 for number in range(3)]


def test_the_output_of_child_processes_is_kept(executor: Executor) -> None:
    def task(_: object) -> None:
        print("before")
        subprocess.run([sys.executable, "-c", "print('from the child')"], check=True)
        os.write(2, b"from below\n")
        print("after", file=sys.stderr)

    job = executor.map(task, [None])
    job.results()
    assert job.logs(0).splitlines() == ["before", "from the child", "from below", "after"]


# -- Executors inside tasks


def alive(folder: str) -> int:
    """Mark this process as alive while it lives, and count those that are."""
    import fcntl

    path = os.path.join(folder, str(os.getpid()))
    if not os.path.exists(path):
        mark = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(mark, fcntl.LOCK_EX)  # held until the end of this process
    count = 1
    for name in os.listdir(folder):
        if name == str(os.getpid()):
            continue
        other = os.open(os.path.join(folder, name), os.O_RDWR)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            count += 1
        os.close(other)
    return count


@pytest.mark.parametrize("workers", [1, 2])
def test_executors_inside_tasks_end_with_at_most_twice_the_workers(tmp_path: Path, workers: int) -> None:
    def outer(number: int) -> list[tuple[int, int]]:
        alive(str(tmp_path))
        with Executor("local") as inside:
            return list(inside.map(inner, [number] * 8, range(8)))

    def inner(number: int, index: int) -> tuple[int, int]:
        return number * 8 + index, alive(str(tmp_path))

    with Executor("local", max_workers=workers) as ex:
        found = [each for results in ex.map(outer, range(4)).results() for each in results]
    assert [value for value, _ in found] == list(range(32))
    assert 2 <= max(count for _, count in found) <= 2 * workers


def test_an_executor_three_deep_ends() -> None:
    def nest(depth: int) -> int:
        if not depth:
            return 1
        with Executor("local") as inside:
            return sum(inside.map(nest, [depth - 1] * 2))

    with Executor("local", max_workers=1) as ex:
        assert ex.submit(nest, 3).result(timeout=PATIENCE) == 8


# -- What lies in the store


def results_in(executor: Executor) -> int:
    return sum(1 for _ in executor.store.keys("jobs/"))


def large(number: int) -> bytes:
    return bytes([number]) * 100_000


def test_results_that_nobody_reads_go_with_their_job(executor: Executor) -> None:
    job: Job[bytes] | None = executor.map(large, range(10))
    assert until(lambda: job is not None and job.counts[1] == 10)
    assert results_in(executor) == 10
    job = None
    gc.collect()
    assert until(lambda: results_in(executor) == 0)


def test_results_go_when_they_are_read(executor: Executor) -> None:
    job = executor.map(large, range(10))
    assert [each[0] for each in job.results()] == list(range(10))
    assert results_in(executor) == 0
    assert [each[0] for each in job.results()] == list(range(10))


def test_a_result_that_comes_after_its_job_has_gone_is_deleted(gate: Gate, executor: Executor) -> None:
    def task(number: int) -> object:
        from scene import pass_gate

        return pass_gate(gate.paths, large(number))

    job = executor.map(task, range(2))
    gate.wait_for_task()
    del job
    gc.collect()
    gate.let_go(2)
    beacon = executor.map(large, range(4))
    assert len(beacon.results()) == 4
    assert until(lambda: results_in(executor) == 0)


def test_the_files_of_a_long_map_do_not_pile_up(executor: Executor) -> None:
    most = 0
    arguments = (bytes([number]) * 100_000 for number in itertools.count())
    job = executor.map(lambda argument: argument, arguments, buffersize=8)
    for number, result in enumerate(itertools.islice(job, 60)):
        assert result[0] == number
        most = max(most, results_in(executor))
    assert 1 <= most <= 9
    del job, result
    gc.collect()
    assert until(lambda: results_in(executor) == 0)


def test_nothing_is_left_when_an_executor_has_ended(tmp_path: Path) -> None:
    def task(number: int) -> object:
        note(str(tmp_path / "ran"), number)
        if number == 3:
            os._exit(1)
        return large(number)

    store = tmp_path / "store"
    with Executor("local", max_workers=2, retries=1, store=f"file://{store}") as ex:
        folder = Path(ex._assembly.scratch.path)
        assert folder.is_dir()
        job = ex.map(task, range(8), chunksize=2)
        job.results(return_exceptions=True)
        del job
        gc.collect()
    assert not folder.exists()
    assert len(lines(tmp_path / "ran")) == 8 + 1
    assert not list((store / "jobs").rglob("*")) if (store / "jobs").exists() else True
    assert list((store / "~partial").iterdir()) == []
