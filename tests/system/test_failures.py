"""What goes wrong goes wrong for one task, once, in words; everything else goes on."""

import ctypes
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from scene import (
    PATIENCE,
    Gate,
    Lifeline,
    hang,
    hold_with_child,
    lines,
    note,
    pass_gate,
    run,
    script,
    surroundings,
    until,
)

import pywren_runtime
from pywren_ng import (
    ConfigError,
    Executor,
    StoreError,
    StoreFull,
    TaskOutOfMemory,
    TaskTimeout,
    WorkerLost,
)


@pytest.fixture
def executor() -> Iterator[Executor]:
    with Executor("local", max_workers=2) as made:
        yield made


# -- Workers that die under a task


def by_kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def by_segfault() -> None:
    ctypes.string_at(0)


def by_abort() -> None:
    os.abort()


def by_exit() -> None:
    os._exit(3)


@pytest.mark.parametrize(
    ("die", "words"),
    [
        (by_kill, "killed by SIGKILL .*ran out of memory"),
        (by_segfault, "killed by SIGSEGV .*native code crashed"),
        (by_abort, "killed by SIGABRT .*native code gave up"),
        (by_exit, r"exited with code 3 .*os\._exit"),
    ],
)
def test_a_task_whose_workers_die_fails_in_words(
    executor: Executor, tmp_path: Path, die: Callable[[], None], words: str
) -> None:
    def task() -> None:
        note(str(tmp_path / "ran"), "here")
        print("the last line of it")
        die()

    future = executor.options(retries=1).submit(task)
    error = future.exception(timeout=PATIENCE)
    assert isinstance(error, WorkerLost)
    assert isinstance(error, BrokenProcessPool)
    assert re.search(words, str(error))
    assert str(error).startswith("task 0 of job ")
    assert "the last line of it" in "".join(error.__notes__)
    assert lines(tmp_path / "ran") == ["here"] * 2
    assert executor.submit(pow, 2, 3).result(timeout=PATIENCE) == 8


def test_a_crash_in_native_code_names_the_line(executor: Executor) -> None:
    error = executor.options(retries=0).submit(by_segfault).exception(timeout=PATIENCE)
    assert isinstance(error, WorkerLost)
    notes = "".join(error.__notes__)
    assert "Segmentation fault" in notes
    assert "in by_segfault" in notes


@pytest.mark.parametrize("retries", [0, 3])
def test_attempts_are_one_and_the_retries(executor: Executor, tmp_path: Path, retries: int) -> None:
    def task() -> None:
        note(str(tmp_path / "ran"), "here")
        os._exit(1)

    job = executor.options(retries=retries).map(lambda _: task(), [None])
    assert isinstance(job.results(return_exceptions=True)[0], WorkerLost)
    assert len(lines(tmp_path / "ran")) == 1 + retries
    assert [(row.attempt, row.ended) for row in job.stats] == [(i + 1, "lost") for i in range(1 + retries)]


def test_a_task_that_survives_its_retry_brings_its_result(executor: Executor, tmp_path: Path) -> None:
    def task() -> int:
        note(str(tmp_path / "ran"), "here")
        if len(lines(tmp_path / "ran")) < 3:
            by_kill()
        return 7

    assert executor.submit(task).result(timeout=PATIENCE) == 7
    assert len(lines(tmp_path / "ran")) == 3


@pytest.mark.parametrize("retries", [0, 2])
def test_only_the_task_that_ran_is_charged_for_a_death(executor: Executor, tmp_path: Path, retries: int) -> None:
    def task(number: int) -> int:
        note(str(tmp_path / "ran"), number)
        if number % 5 == 2:
            by_kill()
        return number

    job = executor.options(retries=retries).map(task, range(15), chunksize=5)
    found = job.results(return_exceptions=True)
    assert [type(found[number]) for number in (2, 7, 12)] == [WorkerLost] * 3
    assert [each for each in found if isinstance(each, int)] == [n for n in range(15) if n % 5 != 2]
    expected = {str(number): 1 + retries * (number % 5 == 2) for number in range(15)}
    assert Counter(lines(tmp_path / "ran")) == expected


def test_a_death_harms_no_neighbour(executor: Executor, tmp_path: Path, gate: Gate) -> None:
    def neighbour() -> object:
        note(str(tmp_path / "ran"), "here")
        return pass_gate(gate.paths, "well")

    beside = executor.submit(neighbour)
    gate.wait_for_task()
    assert isinstance(executor.submit(by_kill).exception(timeout=PATIENCE), WorkerLost)
    assert not beside.done()
    gate.let_go()
    assert beside.result(timeout=PATIENCE) == "well"
    assert lines(tmp_path / "ran") == ["here"]


def test_a_worker_killed_while_idle_costs_nothing(executor: Executor) -> None:
    single = executor.options(retries=0)
    for _ in range(3):
        os.kill(single.submit(os.getpid).result(timeout=PATIENCE), signal.SIGKILL)
        assert single.submit(pow, 2, 3).result(timeout=PATIENCE) == 8


# -- Workers that cannot start


def test_a_worker_that_dies_at_its_start_is_not_started_for_ever(executor: Executor, tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = f"import os\nopen({str(started)!r}, 'a').write('one\\n')\nos._exit(7)\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    broken = executor.options(retries=1, env={"PYTHONPATH": str(tmp_path)})
    errors = broken.map(abs, range(6)).results(return_exceptions=True)
    assert [type(error) for error in errors] == [WorkerLost] * 6
    assert "exited with code 7 before it could run anything" in str(errors[0])
    assert "env=" in str(errors[0])
    assert 2 <= len(lines(started)) <= 6 * 2
    before = len(lines(started))
    assert executor.submit(pow, 2, 3).result(timeout=PATIENCE) == 8
    assert len(lines(started)) == before


def test_a_wrong_environment_is_named_with_the_interpreters_last_words() -> None:
    with Executor("local", max_workers=1, retries=0, env={"PYTHONHOME": "/nonexistent"}) as broken:
        error = broken.submit(pow, 2, 3).exception(timeout=PATIENCE)
    assert isinstance(error, WorkerLost)
    assert "before it could run" in str(error)
    assert "No module named 'encodings'" in "".join(error.__notes__)


def test_memory_too_small_for_a_worker_is_named() -> None:
    with Executor("local", max_workers=1, retries=0, memory=4) as broken:
        error = broken.submit(pow, 2, 3).exception(timeout=PATIENCE)
    assert isinstance(error, WorkerLost | TaskOutOfMemory)
    assert re.search(r"memory.*\b4\b", str(error))


def test_without_descriptors_a_task_fails_in_words_and_none_is_lost(tmp_path: Path) -> None:
    """With none left, one, two… until they suffice: whatever a worker is started with is missing once."""
    text = """
        import glob, json, os, resource
        from pywren_ng import Executor

        def take():
            taken = []
            try:
                while True:
                    taken.append(os.dup(0))
            except OSError:
                return taken

        errors, left = [], []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with Executor("local", max_workers=1) as first, Executor("local", max_workers=1, retries=0) as ex:
            first.submit(abs, -1).result(30)  # what is imported late is imported now
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
            take()
            for spare in range(30):
                resource.setrlimit(resource.RLIMIT_NOFILE, (100 + spare, hard))
                error = ex.submit(pow, 2, 3).exception(30)
                if error is None:
                    break
                errors.append([type(error).__name__, str(error)])
                rest = take()
                left.append(len(rest) - spare)
                for fd in rest:
                    os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            after = [ex.submit(pow, 2, 3).result(30), first.submit(pow, 2, 3).result(30)]
            files = len(glob.glob(os.path.dirname(ex.store.url.removeprefix("file://")) + "/worker-*"))
        print(json.dumps([errors, left, after, files]))
    """
    ended = run(script(tmp_path, textwrap.dedent(text)), tmp_path)
    assert ended.returncode == 0, ended.stderr
    errors, left, after, files = json.loads(ended.stdout)
    assert len(errors) > 10
    assert all(kind == "WorkerLost" and "Too many open files" in text for kind, text in errors), errors
    assert "close files or processes, or use fewer workers" in errors[0][1]
    assert len(set(left)) == 1, left  # no attempt has kept any
    assert after == [8, 8]
    assert files == 1  # of the worker that lives


def test_a_failing_initializer_breaks_the_executor() -> None:
    with Executor("local", max_workers=2, initializer=divmod, initargs=(1, 0)) as broken:
        errors = [broken.submit(pow, 2, 3).exception(timeout=PATIENCE)]
        with pytest.raises(BrokenExecutor, match="ZeroDivisionError"):
            broken.submit(pow, 2, 3)
    assert isinstance(errors[0], BrokenExecutor)
    assert "ZeroDivisionError" in str(errors[0])


# -- Time limits


def test_a_time_out_kills_that_task_and_nobody_else(
    executor: Executor, tmp_path: Path, gate: Gate, lifeline: Lifeline
) -> None:
    def neighbour() -> object:
        note(str(tmp_path / "neighbour"), "here")
        return pass_gate(gate.paths, "well")

    def endless() -> None:
        note(str(tmp_path / "endless"), "here")
        hold_with_child(lifeline.path)
        hang(lifeline.path)

    beside = executor.submit(neighbour)
    gate.wait_for_task()
    late = executor.options(time_limit=0.4).submit(endless)
    lifeline.wait_for_holders(2)
    error = late.exception(timeout=PATIENCE)
    assert isinstance(error, TaskTimeout)
    assert isinstance(error, TimeoutError)
    assert re.search(r"task 0 of job .* its time limit of 0\.4 s.*options\(time_limit=", str(error))
    lifeline.wait_for_death()  # the worker and the child process of its task
    assert executor.submit(pow, 2, 3).result(timeout=PATIENCE) == 8  # in the slot that is free again
    assert not beside.done()
    gate.let_go()
    assert beside.result(timeout=PATIENCE) == "well"
    assert lines(tmp_path / "neighbour") == lines(tmp_path / "endless") == ["here"]


def test_a_time_limit_is_each_tasks_own(executor: Executor, lifeline: Lifeline) -> None:
    def task(number: int) -> int:
        if number == 1:
            hang(lifeline.path)
        return number

    job = executor.options(time_limit=0.3).map(task, range(4), chunksize=4)
    found = job.results(return_exceptions=True)
    assert isinstance(found.pop(1), TaskTimeout)
    assert found == [0, 2, 3]


def test_a_time_out_is_tried_again_only_if_asked(executor: Executor, tmp_path: Path) -> None:
    def task() -> None:
        note(str(tmp_path / "ran"), "here")
        signal.pause()

    asked = executor.options(time_limit=0.1, retries=1, retry_on=TimeoutError)
    assert isinstance(asked.submit(task).exception(timeout=PATIENCE), TaskTimeout)
    assert len(lines(tmp_path / "ran")) == 2


# -- Memory


def test_a_task_that_wants_too_much_memory_fails_alone(gate: Gate) -> None:
    with Executor("local", max_workers=2, memory=256) as small:
        beside = small.submit(pass_gate, gate.paths, "well")
        gate.wait_for_task()
        error = small.submit(bytearray, 10**9).exception(timeout=PATIENCE)
        assert isinstance(error, TaskOutOfMemory)
        assert isinstance(error, MemoryError)
        assert re.search(r"task 0 of job .* 256 MB \(\d+ MB .*options\(memory=512\)", str(error))
        gate.let_go()
        assert beside.result(timeout=PATIENCE) == "well"
        assert len(small.submit(bytearray, 10**8).result(timeout=PATIENCE)) == 10**8


def test_the_peak_of_a_task_that_grew_is_told(executor: Executor) -> None:
    def grow() -> None:
        pieces = []
        while True:
            pieces.append(b"x" * 10_000_000)

    error = executor.options(memory=256).submit(grow).exception(timeout=PATIENCE)
    assert isinstance(error, TaskOutOfMemory)
    peak = re.search(r"\((\d+) MB", str(error))
    assert peak
    # Where the kernel cannot be asked to begin anew, a process begins with the peak of the one that started it.
    begins = 0 if os.path.exists("/proc/self/clear_refs") else resource.getrusage(0).ru_maxrss // 1000
    assert 150 < int(peak[1]) < max(320, begins + 50)


# -- The first failure


def test_the_first_failure_cancels_what_has_not_started(tmp_path: Path, gate: Gate) -> None:
    def task(number: int) -> None:
        if number < 0:
            return
        note(str(tmp_path / "ran"), number)
        if number == 0:
            raise KeyError("the first")
        pass_gate(gate.paths)

    with Executor("local", max_workers=1) as single:
        single.map(task, [-1] * 100).results()  # known to be quick: more are sent ahead
        job = single.map(task, range(500))
        with pytest.raises(KeyError, match="the first"):
            job.results()
        gate.let_go(500)
    ran = lines(tmp_path / "ran")
    assert ran in (["0"], ["0", "1"])  # perhaps the next had begun; it was at the gate then, and nobody behind it
    assert [future.cancelled() for future in job.futures] == [str(number) not in ran for number in range(500)]
    assert [failures.tasks for failures in job.errors()] == [(0,)]


def test_iterating_stops_at_the_first_failure_too(tmp_path: Path, gate: Gate) -> None:
    def task(number: int) -> int:
        if number < 0:
            return number
        note(str(tmp_path / "ran"), number)
        if number == 2:
            raise KeyError("the third")
        if number > 2:
            pass_gate(gate.paths)
        return number

    with Executor("local", max_workers=1) as single:
        single.map(task, [-1] * 100).results()
        job = single.map(task, range(500))
        assert [next(job), next(job)] == [0, 1]
        with pytest.raises(KeyError, match="the third"):
            next(job)
        assert list(job) == []
        gate.let_go(500)
    assert lines(tmp_path / "ran") in (["0", "1", "2"], ["0", "1", "2", "3"])


# -- The store


def on_a_small_disk(folder: Path, text: str, options: str = "size=1m") -> Any:
    """What a script prints, as JSON, that finds `disk`, a file system of its own.

    Where none may be mounted, the kernel refuses its processes files of more than 1 MB instead.
    """
    disk = folder / "disk"
    disk.mkdir()
    command = script(folder, f"disk = {str(disk)!r}\n" + textwrap.dedent(text))
    mount = f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"'
    roots = [] if os.getuid() == 0 else ["--map-root-user"]
    apart = ["unshare", "--mount", *roots, "sh", "-c", mount, str(disk)]
    limits = {}
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        apart = []
        limits["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))
    ended = subprocess.run(
        apart + command, env=surroundings(), capture_output=True, text=True, timeout=PATIENCE, **limits
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_a_full_disk_is_one_clear_error_on_either_side(tmp_path: Path) -> None:
    found = on_a_small_disk(
        tmp_path,
        """
        import json
        from pywren_ng import Executor

        def told(future):
            error = future.exception(timeout=30)
            return [type(error).__name__, str(error), isinstance(error, OSError)]

        with Executor("local", max_workers=2, store="file://" + disk) as ex:
            argument = told(ex.submit(len, bytes(4_000_000)))
            result = told(ex.submit(bytes, 4_000_000))
            both = [type(e).__name__ for e in ex.map(bytes, [3, 4_000_000]).results(return_exceptions=True)]
            after = [ex.submit(pow, 2, 3).result(30), len(ex.submit(bytes, 300_000).result(30))]
        print(json.dumps([argument, result, both, after]))
        """,
    )
    argument, result, both, after = found
    assert argument[::2] == result[::2] == [StoreFull.__name__, True]
    assert str(tmp_path / "disk") in argument[1]
    assert str(tmp_path / "disk") in result[1]
    assert re.match("task 0 of job .*packing its result", result[1])
    assert both == ["bytes", "StoreFull"]
    assert after == [8, 300_000]


def test_a_read_only_store_is_one_clear_error(tmp_path: Path) -> None:
    if os.getuid():
        (tmp_path / "locked").mkdir(mode=0o500)
    url = "disk" if os.getuid() == 0 else repr(str(tmp_path / "locked"))
    kind, text = on_a_small_disk(
        tmp_path,
        f"""
        import json
        from pywren_ng import Executor, StoreError
        try:
            Executor("local", store="file://" + {url} + "/store")
        except StoreError as error:
            print(json.dumps([type(error).__name__, str(error)]))
        """,
        options="ro",
    )
    assert kind == StoreError.__name__
    assert str(tmp_path) in text
    assert re.search("[Rr]ead-only|ermission", text)


def test_a_store_where_a_file_lies_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match=str(tmp_path / "taken")):
        Executor("local", store=f"file://{tmp_path}/taken/store")


def test_a_store_that_is_taken_away_fails_the_task_that_needs_it(tmp_path: Path) -> None:
    with Executor("local", max_workers=1, retries=0, store=f"file://{tmp_path}/store") as ex:
        assert ex.submit(pow, 2, 3).result(timeout=PATIENCE) == 8
        shutil.rmtree(tmp_path / "store")
        error = ex.submit(bytes, 4_000_000).exception(timeout=PATIENCE)
        assert isinstance(error, StoreError)
        assert str(tmp_path / "store") in str(error)
        assert ex.submit(pow, 2, 3).result(timeout=PATIENCE) == 8


# -- Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_workers": 0}, "max_workers"),
        ({"max_workers": "four"}, "max_workers='four'.*whole number"),
        ({"memory": 0}, "memory=0.*megabytes"),
        ({"time_limit": -1}, "time_limit=-1.*seconds"),
        ({"retries": -1}, "retries=-1.*0 or more"),
        ({"retries": 1.5}, "retries=1.5.*whole number"),
        ({"progress": "yes"}, "progress='yes'.*true or false"),
        ({"name": ""}, "name=''.*text"),
        ({"backend": "cloud9"}, "no backend 'cloud9'; there are: .*local"),
        ({"backend": "../evil"}, r"no backend '\.\./evil'"),
        ({"store": "ftp://there"}, "ftp"),
        ({"store": "memory://there"}, "memory.*file://"),
        ({"retry_on": ("OSError",)}, "retry_on takes exception classes.*'OSError'"),
        ({"env": {"MODE": 1}}, "env takes names and values that are text.*'MODE': 1"),
    ],
    ids=str,
)
def test_a_bad_option_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Executor(**{"backend": "local", **options})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": 0}, "memory=0"),
        ({"time_limit": 0}, "time_limit=0"),
        ({"retries": True}, "retries=True"),
        ({"retry_on": "OSError"}, "retry_on takes exception classes"),
        ({"env": {"A=B": "1"}}, "env takes names"),
    ],
    ids=str,
)
def test_a_bad_option_of_a_view_is_named(executor: Executor, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        executor.options(**options)


# -- Cancelling


def test_cancelled_futures_never_run(tmp_path: Path, gate: Gate) -> None:
    with Executor("local", max_workers=1) as single:
        running = single.submit(pass_gate, gate.paths, "ran")
        gate.wait_for_task()
        queued = [single.submit(note, str(tmp_path / "ran"), number) for number in range(5)]
        assert [future.cancel() for future in queued[::2]] == [True] * 3
        assert not running.cancel()
        gate.let_go()
        wait([running, *queued], timeout=PATIENCE)
    assert running.result() == "ran"
    assert [future.cancelled() for future in queued] == [True, False, True, False, True]
    assert lines(tmp_path / "ran") == ["1", "3"]


def test_cancelling_a_job_stops_what_runs_and_no_other_job(
    executor: Executor, tmp_path: Path, gate: Gate, lifeline: Lifeline
) -> None:
    def other() -> object:
        note(str(tmp_path / "ran"), "here")
        return pass_gate(gate.paths, "well")

    beside = executor.options(retries=0).submit(other)
    gate.wait_for_task()
    job = executor.map(hang, [lifeline.path] * 20)
    lifeline.wait_for_holders(1)
    job.cancel()
    lifeline.wait_for_death()
    assert [future.cancelled() for future in job.futures] == [True] * 20
    assert executor.submit(pow, 2, 3).result(timeout=PATIENCE) == 8
    gate.let_go()
    assert beside.result(timeout=PATIENCE) == "well"
    assert lines(tmp_path / "ran") == ["here"]


def noted_or_hanging(path: str, word: object, lifeline: str | None = None) -> object:
    note(path, word)
    if lifeline:
        hang(lifeline)
    return word


def test_what_waits_behind_a_cancelled_task_is_run_uncharged(tmp_path: Path, lifeline: Lifeline) -> None:
    ran = str(tmp_path / "ran")
    with Executor("local", max_workers=1, retries=0) as single:
        single.map(noted_or_hanging, [ran] * 50, range(50)).results()  # known to be quick: more are sent ahead
        first = single.map(noted_or_hanging, [ran], ["hangs"], [lifeline.path])
        others = single.map(noted_or_hanging, [ran] * 20, range(100, 120))
        lifeline.wait_for_holders(1)
        first.cancel()
        assert others.results() == list(range(100, 120))
    assert Counter(lines(ran)) == Counter(map(str, ["hangs", *range(50), *range(100, 120)]))


def test_a_cancelled_job_behind_another_is_taken_back(tmp_path: Path, gate: Gate) -> None:
    ran = str(tmp_path / "ran")

    def task(word: object, gate_paths: tuple[str, str] | None = None) -> object:
        note(ran, word)
        return pass_gate(gate_paths, word) if gate_paths else word

    with Executor("local", max_workers=1, retries=0) as single:
        single.map(task, range(50)).results()
        first = single.map(task, ["first"], [gate.paths])
        second = single.map(task, ["second"] * 20)
        third = single.map(task, range(100, 120))
        gate.wait_for_task()
        second.cancel()
        gate.let_go()
        assert first.results() == ["first"]
        assert third.results() == list(range(100, 120))
        assert all(future.cancelled() for future in second.futures)
    assert Counter(lines(ran)) == Counter(map(str, ["first", *range(50), *range(100, 120)]))


def test_a_job_dropped_half_way_cancels_its_rest(tmp_path: Path, gate: Gate) -> None:
    def task(number: int) -> int:
        if number < 0:
            return number
        note(str(tmp_path / "ran"), number)
        if number:
            pass_gate(gate.paths)
        return number

    with Executor("local", max_workers=1) as single:
        single.map(task, [-1] * 100).results()
        job = single.map(task, range(500))
        assert next(job) == 0
        gate.wait_for_task()
        del job
        single.submit(pow, 2, 3)  # what was asked of the engine before this is done before this
        gate.let_go(500)
    assert lines(tmp_path / "ran") == ["0", "1"]


# -- What waits behind a long task


def wait_if_told(gate: tuple[str, str] | None) -> object:
    return pass_gate(gate, "long") if gate else "short"


def test_an_idle_worker_takes_what_waits_behind_a_long_task(executor: Executor, gate: Gate) -> None:
    executor.map(wait_if_told, [None] * 100).results()  # known to be quick: more are sent ahead
    job = executor.options(retries=0).map(wait_if_told, [gate.paths] + [None] * 200)
    gate.wait_for_task()
    short = job.futures[1:]
    assert wait(short, timeout=PATIENCE).not_done == set()
    assert not job.futures[0].done()
    gate.let_go()
    assert job.results() == ["long"] + ["short"] * 200


def test_what_waits_for_a_worker_that_starts_slowly_is_taken_and_the_worker_works(tmp_path: Path, gate: Gate) -> None:
    def task(gate: tuple[str, str] | None) -> object:
        return pass_gate(gate, "long") if gate else "short"

    started, go = tmp_path / "started", tmp_path / "go-and-start"
    os.mkfifo(go)
    code = f"""
    import os
    with open({str(started)!r}, "a") as file:
        file.write("one\\n")
    if os.path.exists({str(tmp_path / "slowly")!r}):
        open({str(go)!r}).read()
    """
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(code))
    paths = [str(tmp_path), os.path.dirname(os.path.dirname(pywren_runtime.__file__))]
    with Executor("local", max_workers=2, retries=0, env={"PYTHONPATH": os.pathsep.join(paths)}) as ex:
        for _ in range(30):
            ex.submit(task, None).result(timeout=PATIENCE)  # one worker, known to be quick
        (tmp_path / "slowly").touch()
        assert ex.map(task, [None] * 100).results() == ["short"] * 100
        assert until(lambda: len(lines(started)) == 2)  # the second, which has not got any further yet
        both = [ex.submit(task, gate.paths) for _ in range(2)]
        gate.wait_for_task()
        go.write_text("")
        gate.wait_for_task()
        gate.let_go(2)
        assert [future.result(timeout=PATIENCE) for future in both] == ["long"] * 2
    assert len(lines(started)) == 2
