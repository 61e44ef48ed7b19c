"""Ctrl-C, errors, kills and ends: nothing goes on that nobody waits for, and what is done is kept."""

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client import BlockingKernelClient, KernelManager
from scene import PATIENCE, Gate, Lifeline, hang, launch, lines, note, pass_gate, run, script, surroundings, until
from support.kernels import kernel_in

from pywren_ng import Executor

# -- Leaving `with`


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_leaving_by_an_exception_cancels_the_queued_and_kills_the_running(
    tmp_path: Path, lifeline: Lifeline, error: type[BaseException]
) -> None:
    with pytest.raises(error), Executor("local", max_workers=1) as ex:
        done = ex.submit(pow, 2, 3)
        assert done.result(timeout=PATIENCE) == 8
        running = ex.submit(hang, lifeline.path)
        queued = [ex.submit(note, str(tmp_path / "ran"), number) for number in range(5)]
        lifeline.wait_for_holders(1)
        raise error
    lifeline.wait_for_death()
    assert all(future.done() for future in [running, *queued])
    assert [future.cancelled() for future in queued] == [True] * 5
    assert lines(tmp_path / "ran") == []
    assert done.result() == 8
    assert not os.path.exists(ex.store.local_path("x"))


def test_leaving_normally_waits(tmp_path: Path) -> None:
    with Executor("local", max_workers=1) as ex:
        for number in range(5):
            ex.submit(note, str(tmp_path / "ran"), number)
    assert lines(tmp_path / "ran") == list("01234")


# -- Ctrl-C in a script

INTERRUPTED = {
    "iterating in with": """
        with Executor("local", max_workers=2) as ex:
            for result in ex.map(scene.hang, [lifeline] * 10):
                pass
        """,
    "results, no with": """
        ex = Executor("local", max_workers=2)
        ex.map(scene.hang, [lifeline] * 10).results()
        """,
    "a future, no with": """
        ex = Executor("local", max_workers=2)
        futures = [ex.submit(scene.hang, lifeline) for _ in range(10)]
        futures[0].result()
        """,
    "leaving with": """
        with Executor("local", max_workers=2) as ex:
            ex.map(scene.hang, [lifeline] * 10)
        """,
    "as completed": """
        with Executor("local", max_workers=2) as ex:
            for future in ex.map(scene.hang, [lifeline] * 10).as_completed():
                pass
        """,
    "shutdown": """
        ex = Executor("local", max_workers=2)
        ex.map(scene.hang, [lifeline] * 10)
        ex.shutdown()
        """,
}


@pytest.mark.parametrize("text", INTERRUPTED.values(), ids=INTERRUPTED)
def test_ctrl_c_ends_a_script_and_its_workers(tmp_path: Path, lifeline: Lifeline, text: str) -> None:
    begin = f"import scene\nfrom pywren_ng import Executor\nlifeline = {lifeline.path!r}\n"
    process = launch(script(tmp_path, begin + textwrap.dedent(text)), tmp_path)
    lifeline.wait_for_holders(2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    lifeline.wait_for_death()
    assert process.returncode == -signal.SIGINT
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert errors.count("Traceback") == 1
    assert "Exception ignored" not in errors


def test_ctrl_c_while_the_interpreter_waits_at_its_end(tmp_path: Path, lifeline: Lifeline) -> None:
    text = f"""
    import scene
    from pywren_ng import Executor
    Executor("local", max_workers=2).map(scene.hang, [{lifeline.path!r}] * 10)
    """
    process = launch(script(tmp_path, textwrap.dedent(text)), tmp_path)
    lifeline.wait_for_holders(2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    lifeline.wait_for_death()


@pytest.mark.parametrize("text", list(INTERRUPTED.values())[:3] * 3)
def test_impatient_ctrl_c_ends_it_all_the_same(tmp_path: Path, lifeline: Lifeline, text: str) -> None:
    begin = f"import scene\nfrom pywren_ng import Executor\nlifeline = {lifeline.path!r}\n"
    process = launch(script(tmp_path, begin + textwrap.dedent(text)), tmp_path)
    lifeline.wait_for_holders(2)
    for _ in range(3):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    lifeline.wait_for_death()
    assert "KeyboardInterrupt" in errors


def test_any_moment_of_ctrl_c_leaves_the_executor_sound(tmp_path: Path) -> None:
    text = """
    import signal, threading, time
    from pywren_ng import Executor

    done = threading.Event()

    def fire():
        while not done.wait(0.0007):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with Executor("local", max_workers=2) as ex:
        ex.submit(pow, 2, 3).result()
        firing = threading.Thread(target=fire)
        futures, interrupts = [], 0
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            firing.start()
        except KeyboardInterrupt:
            pass
        while interrupts < 200:
            try:
                while True:
                    futures.append(ex.submit(pow, 2, len(futures)))
                    if len(futures) % 10 == 0:
                        futures[-1].result()
            except KeyboardInterrupt:
                interrupts += 1
            except RuntimeError as error:  # threading.Condition's word for a wait that was interrupted as it began
                if "un-acquired lock" not in str(error):
                    raise
                interrupts += 1
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        done.set()
        firing.join()
        assert [future.result(timeout=20) for future in futures] == [2**i for i in range(len(futures))]
        assert ex.map(pow, range(50), [2] * 50).results() == [i * i for i in range(50)]
    print("sound")
    """
    ended = run(script(tmp_path, textwrap.dedent(text)), tmp_path)
    assert (ended.stdout, ended.stderr) == ("sound\n", "")


# -- Ctrl-C at a prompt and in a kernel

JOB = """
import scene
from pywren_ng import Executor
ex = Executor("local", max_workers=2)
earlier = ex.map(str, range(3)); kept = earlier.futures
def task(number, lifeline):
    return number if number < 2 else scene.hang(lifeline)

"""
FINISHED = "[f.result() for f in job.futures if f.done() and not f.cancelled()]"


class Prompt:
    """An interactive Python in a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        self._ours, theirs = os.openpty()
        # The first thing it does is to make the terminal its own: then Ctrl-C, typed, is a SIGINT to its group.
        begin = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            "os.execv(sys.executable, [sys.executable, '-i', '-q'])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", begin],
            cwd=folder,
            env=surroundings(TERM="dumb", PYTHON_BASIC_REPL="1"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def read_until(self, ending: str) -> str:
        seen = ""
        while not re.search(ending, seen):
            assert select.select([self._ours], [], [], PATIENCE)[0], f"no {ending!r} came, only {seen!r}"
            seen += os.read(self._ours, 4096).decode()
        return seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def prompt(tmp_path: Path) -> Iterator[Prompt]:
    made = Prompt(tmp_path)
    yield made
    made.close()


def test_ctrl_c_at_a_prompt(prompt: Prompt, lifeline: Lifeline) -> None:
    prompt.read_until(">>> $")
    for line in JOB.splitlines():
        prompt.type(line + "\n")
        prompt.read_until(r"(>>>|\.\.\.) $")
    prompt.type(f"line = {lifeline.path!r}\n")
    prompt.read_until(">>> $")
    prompt.type("job = ex.map(task, range(10), [line] * 10); job.results()\n")
    lifeline.wait_for_holders(2)
    prompt.type("\x03")
    seen = prompt.read_until(r"KeyboardInterrupt\s+>>> $")  # usable again
    assert seen.count("Traceback") == 1
    lifeline.wait_for_death()
    for expression, expected in (
        (FINISHED, "[0, 1]"),
        ("[f.result() for f in kept]", "['0', '1', '2']"),
        ("sum(f.cancelled() for f in job.futures)", "8"),
        ("ex.submit(pow, 2, 10).result()", "1024"),
        ("ex.submit(scene.hold, line).result() > 0", "True"),
    ):
        prompt.type(expression + "\n")
        assert prompt.read_until(">>> $").splitlines()[1] == expected
    lifeline.wait_for_holders(1)
    prompt.type("exit()\n")
    assert prompt.process.wait(PATIENCE) == 0
    lifeline.wait_for_death()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    with kernel_in(tmp_path, surroundings()) as made:
        yield made


def test_an_interrupted_kernel(kernel: tuple[KernelManager, BlockingKernelClient], lifeline: Lifeline) -> None:
    started, client = kernel

    def told(expression: str) -> str:
        reply = client.execute("", user_expressions={"it": expression}, reply=True, timeout=PATIENCE)
        found = reply["content"]["user_expressions"]["it"]
        return str(found.get("data", {}).get("text/plain", found))

    assert client.execute(JOB, reply=True, timeout=PATIENCE)["content"]["status"] == "ok"
    sent = client.execute(
        f"job = ex.map(task, range(10), [{lifeline.path!r}] * 10); job.results()", stop_on_error=False
    )
    lifeline.wait_for_holders(2)
    started.interrupt_kernel()
    reply = client.get_shell_msg(timeout=PATIENCE)
    assert reply["parent_header"]["msg_id"] == sent
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    lifeline.wait_for_death()
    assert told(FINISHED) == "[0, 1]"
    assert told("[f.result() for f in kept]") == "['0', '1', '2']"
    assert told("ex.submit(pow, 2, 10).result()") == "1024"
    assert told("job.retry_failed().cancel()") == "None"


SORT = """
import os, scene
from pywren_ng import Executor
ex, here = Executor("local", max_workers=2), os.getpid()

def key(row, at):
    return row if os.getpid() == here else scene.hang(at)
"""


def test_an_interrupted_sort_in_a_kernel(
    kernel: tuple[KernelManager, BlockingKernelClient], lifeline: Lifeline, tmp_path: Path
) -> None:
    started, client = kernel
    (tmp_path / "in").write_text("b\na\n")
    assert client.execute(SORT, reply=True, timeout=PATIENCE)["content"]["status"] == "ok"
    cell = f"ex.sort('in', 'out', records='text', key=lambda row: key(row, {lifeline.path!r}))"
    client.execute(cell, stop_on_error=False)
    lifeline.wait_for_holders(1)
    started.interrupt_kernel()
    assert client.get_shell_msg(timeout=PATIENCE)["content"]["ename"] == "KeyboardInterrupt"
    lifeline.wait_for_death()
    assert not (tmp_path / "out").exists()
    again = "ex.sort('in', 'out', records='text').records"
    reply = client.execute("", user_expressions={"it": again}, reply=True, timeout=PATIENCE)
    assert reply["content"]["user_expressions"]["it"]["data"]["text/plain"] == "2"


# -- Signals to workers


def test_workers_ignore_the_terminals_interrupt(tmp_path: Path, gate: Gate) -> None:
    def task() -> tuple[int, object]:
        note(str(tmp_path / "ran"), os.getpid())
        return os.getpid(), pass_gate(gate.paths, "well")

    with Executor("local", max_workers=1, retries=0) as ex:
        running = ex.submit(task)
        gate.wait_for_task()
        (worker,) = map(int, lines(tmp_path / "ran"))
        os.kill(worker, signal.SIGINT)
        gate.let_go()
        assert running.result(timeout=PATIENCE) == (worker, "well")
        os.kill(worker, signal.SIGINT)  # idle now
        assert ex.submit(os.getpid).result(timeout=PATIENCE) == worker


def test_child_processes_of_a_task_do_not_ignore_it() -> None:
    def task() -> str:
        code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    with Executor("local", max_workers=1) as ex:
        assert ex.submit(task).result(timeout=PATIENCE) == "True\n"


# -- Clients that are killed

KILLED = {
    "idle": (1, "ex.submit(scene.hold, lifeline).result()"),
    "asleep in a task": (2, "ex.map(scene.hang, [lifeline] * 2)"),
    "busy in a task": (1, "ex.submit(busy)"),
    "in a task with a child process": (3, "ex.map(with_child, range(2))"),
}


@pytest.mark.parametrize(("holders", "act"), KILLED.values(), ids=KILLED)
def test_workers_die_with_a_killed_client(tmp_path: Path, lifeline: Lifeline, holders: int, act: str) -> None:
    text = f"""
    import scene, signal
    from pywren_ng import Executor
    lifeline = {lifeline.path!r}

    def busy():
        scene.hold(lifeline)
        while True:
            pass

    def with_child(number):
        scene.hold_with_child(lifeline)
        signal.pause()

    ex = Executor("local", max_workers=2)
    {act}
    print(ex.store.url, flush=True)
    signal.pause()
    """
    process = launch(script(tmp_path, textwrap.dedent(text)), tmp_path)
    assert process.stdout
    folder = Path(process.stdout.readline().strip().removeprefix("file://")).parent
    lifeline.wait_for_holders(holders)
    assert folder.is_dir()
    process.kill()
    process.communicate(timeout=PATIENCE)
    lifeline.wait_for_death()
    with Executor("local", max_workers=1):
        assert not folder.exists()


# -- The ends of scripts


def test_a_script_that_just_ends_waits_for_what_it_submitted(tmp_path: Path) -> None:
    text = """
    import scene
    from pywren_ng import Executor
    ex = Executor("local", max_workers=2)
    ex.submit(scene.note, "ran", "submitted")
    ex.map(scene.note, ["ran"] * 20, range(20))
    print(ex.store.url)
    """
    ended = run(script(tmp_path, textwrap.dedent(text)), tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(lines(tmp_path / "ran")) == sorted(["submitted", *map(str, range(20))])
    assert not Path(ended.stdout.strip().removeprefix("file://")).parent.exists()


def test_a_script_that_raises_ends_at_once(tmp_path: Path, lifeline: Lifeline) -> None:
    text = f"""
    import scene
    from pywren_ng import Executor
    lifeline = scene.Lifeline
    ex = Executor("local", max_workers=2)
    ex.map(scene.hang, [{lifeline.path!r}] * 10)
    print(ex.store.url, flush=True)
    input()
    raise KeyError("in the middle")
    """
    process = subprocess.Popen(
        script(tmp_path, textwrap.dedent(text)),
        cwd=tmp_path,
        env=surroundings(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lifeline.wait_for_holders(2)
    out, errors = process.communicate("\n", timeout=PATIENCE)
    lifeline.wait_for_death()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "KeyError: 'in the middle'"
    assert errors.count("Traceback") == 1
    assert not Path(out.strip().removeprefix("file://")).parent.exists()


def test_an_executor_that_is_collected_leaves_nothing(lifeline: Lifeline) -> None:
    ex = Executor("local", max_workers=1)
    folder = Path(ex.store.url.removeprefix("file://")).parent
    future = ex.submit(hold_and_say, lifeline.path)
    del ex
    assert future.result(timeout=PATIENCE) == "said"
    lifeline.wait_for_holders(1)
    del future
    lifeline.wait_for_death()
    assert until(lambda: not folder.exists())


def hold_and_say(lifeline: str) -> str:
    from scene import hold

    hold(lifeline)
    return "said"


# -- Forks

FORKED = {
    "submits": "ex.submit(pow, 2, 3)",
    "maps": "ex.map(abs, [1])",
    "maps through a view": "ex.options(retries=0).map(abs, [1])",
}


@pytest.mark.parametrize("act", FORKED.values(), ids=FORKED)
def test_a_forked_child_is_told_that_the_executor_is_not_its_own(tmp_path: Path, act: str) -> None:
    text = f"""
    import os, sys
    from pywren_ng import Executor
    with Executor("local", max_workers=1) as ex:
        ex.submit(pow, 2, 3).result()
        child = os.fork()
        if child == 0:
            try:
                {act}
            except RuntimeError as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(ex.submit(pow, 2, 3).result())
    """
    ended = run([sys.executable, "-W", "ignore", *script(tmp_path, textwrap.dedent(text))[1:]], tmp_path)
    told, after = ended.stdout.splitlines()
    assert re.match(r"this executor belongs to process \d+.*an Executor of its own", told)
    assert (after, ended.stderr) == ("8", "")


@pytest.mark.parametrize("end", ["sys.exit(0)", "del ex; gc.collect(); sys.exit(0)", "ex.shutdown(); sys.exit(0)"])
@pytest.mark.parametrize("opening", ["with Executor('local', max_workers=1) as ex", "if ex := Executor('local')"])
def test_a_forked_child_ends_and_takes_nothing_with_it(tmp_path: Path, opening: str, end: str) -> None:
    text = f"""
    import gc, os, sys
    from pywren_ng import Executor
    {opening}:
        assert len(ex.submit(bytes, 10**6).result()) == 10**6
        future = ex.submit(bytes, 10**6)
        child = os.fork()
        if child == 0:
            {end}
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(len(future.result()), len(ex.submit(bytes, 10**6).result()))
    """
    ended = run([sys.executable, "-W", "ignore", *script(tmp_path, textwrap.dedent(text))[1:]], tmp_path)
    assert (ended.stdout, ended.stderr) == ("0\n1000000 1000000\n", "")
