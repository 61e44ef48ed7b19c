"""The Lambda function's own process: real worker processes below it, a file store, and seconds scaled down."""

import base64
import os
import pickle
import re
import resource
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from pywren_runtime import settings
from pywren_runtime.errors import ConfigError, KeyMissing, SignatureError, StoreError, VersionError
from pywren_runtime.failures import rebuild
from pywren_runtime.modules import Unit
from pywren_runtime.pickling import digest_of, loads
from pywren_runtime.stores import open_store
from pywren_runtime.stores.file_store import FileStore
from pywren_runtime.supervisor import Supervisor
from pywren_runtime.wire import (
    SIGNATURE,
    STATS,
    Call,
    Environment,
    Head,
    Outcome,
    Signer,
    Stats,
    Status,
    TaskCall,
    beat_key,
    blob_key,
    call_key,
    outcome_key,
    stop_key,
)

KEY = bytes(range(32))
LEFT = 60.0  # seconds that an Invoke has, where that does not matter
MEMORY = 512


class Environs:
    """One Lambda environment, without Lambda."""

    def __init__(self, folder: Path, *, scale: float = 1.0, memory: int | None = MEMORY) -> None:
        self.url = f"file://{folder}/store"
        self.store = open_store(self.url)
        variables = {
            "PYWREN_NG_INTERNAL_STORE": self.url,
            "PYWREN_NG_INTERNAL_KEY": KEY.hex(),
            "PYWREN_NG_INTERNAL_SCALE": str(scale),
            "TMPDIR": str(folder),
        }
        if memory is not None:
            variables["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] = str(memory)
        found = settings.read(variables)
        self.supervisor = Supervisor(found, found.spawn())

    def answer(self, event: object, left: float = LEFT) -> dict[str, Any]:
        return self.supervisor.answer(event, left)

    def run(self, frame: bytes, left: float = LEFT) -> list[Outcome]:
        """The outcomes in a synchronous answer."""
        return opened(self.answer(event_of(frame), left))

    def stored(self) -> list[Outcome]:
        signer = Signer(KEY)
        keys = [key for key, _ in self.store.keys("jobs/job/outcomes/")]
        return [Outcome.decode(signer.open(b"outcome", self.store.get(key))) for key in keys]


def packed(obj: object) -> bytes:
    return b"\0" + cloudpickle.dumps(obj)


def frame_of(
    fn: Callable[..., object],
    *arguments: tuple[Any, ...],
    environment: Environment = Environment(),  # noqa: B008
    time_limit: float | None = None,
    key: bytes = KEY,
) -> bytes:
    """A signed Call of that function, a task for each tuple of arguments."""
    head = Head("job", packed((fn, ())), environment.encode(), time_limit).encode()
    tasks = (TaskCall(10 + index, 0, 3, packed((args, {}))) for index, args in enumerate(arguments))
    return Signer(key).seal(b"call", Call(head, tuple(tasks)).encode())


def event_of(frame: bytes, **more: object) -> dict[str, object]:
    return {"call": base64.b64encode(frame).decode(), **more}


def opened(answer: dict[str, Any]) -> list[Outcome]:
    signer = Signer(KEY)
    return [Outcome.decode(signer.open(b"outcome", base64.b64decode(frame))) for frame in answer["outcomes"]]


def value(outcome: Outcome) -> Any:
    assert outcome.status in (Status.PLAIN, Status.VALUE), outcome.payload
    return loads(outcome.payload, lambda ref: b"")


def error(outcome: Outcome) -> BaseException:
    return rebuild(outcome, pickle.loads)


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    """The worker processes cannot import this module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def environs(tmp_path: Path) -> Iterator[Environs]:
    made = Environs(tmp_path)
    yield made
    made.supervisor.close()


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[Environs]:
    """Thirty seconds last 150 ms there, and ten seconds 50."""
    made = Environs(tmp_path, scale=0.005)
    yield made
    made.supervisor.close()


# What tasks do


def double(number: int) -> int:
    return 2 * number


def pid(_: object = None) -> int:
    return os.getpid()


def die(how: str) -> str:
    import ctypes
    import os
    import signal

    print("about to", how)
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return how


def wait_forever(how: str) -> str:
    import time

    while how == "hang":
        time.sleep(3600)
    return how


# -- Calls that go well


def test_a_call_brings_signed_outcomes_in_order(environs: Environs) -> None:
    outcomes = environs.run(frame_of(double, (1,), (2,), (3,)))
    assert [(each.task, each.round, each.attempt, value(each)) for each in outcomes] == [
        (10, 0, 3, 2),
        (11, 0, 3, 4),
        (12, 0, 3, 6),
    ]
    assert [key for key, _ in environs.store.keys()] == []  # a synchronous Call of short tasks stores nothing


def test_code_runs_in_another_process_that_stays_for_the_next_call(environs: Environs) -> None:
    first, second = (value(environs.run(frame_of(pid, ()))[0]) for _ in range(2))
    assert first == second != os.getpid()


def test_a_call_of_several_megabytes_reaches_the_worker(environs: Environs) -> None:
    [outcome] = environs.run(frame_of(len, (os.urandom(5_000_000),)))
    assert value(outcome) == 5_000_000


def test_a_call_that_lies_in_the_store_is_fetched(environs: Environs) -> None:
    key = call_key("job", 10, 3)
    environs.store.put(key, frame_of(double, (21,)))
    [outcome] = opened(environs.answer({"call_key": key}))
    assert value(outcome) == 42


def test_a_call_that_was_copied_over_another_is_not_run(environs: Environs, tmp_path: Path) -> None:
    note = tmp_path / "ran"
    key = call_key("job", 10, 4)
    environs.store.put(key, frame_of(Path.touch, (note,)))
    with pytest.raises(
        SignatureError, match=f"{key} in the store was signed for another place, {call_key('job', 10, 3)}"
    ):
        environs.answer({"call_key": key})
    assert not note.exists()


def test_the_worker_does_not_see_the_key_in_its_variables(environs: Environs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYWREN_NG_INTERNAL_KEY", KEY.hex())
    environs.run(frame_of(die, ("exit",)))  # the next one is started with the variables as they are now
    [outcome] = environs.run(frame_of(lambda: sorted(os.environ), ()))
    assert "PYWREN_NG_INTERNAL_KEY" not in value(outcome)
    assert "PATH" in value(outcome)


# -- Deaths


@pytest.mark.parametrize(
    ("how", "said"),
    [("exit", "exited with code 3"), ("segfault", "SIGSEGV.*native code crashed"), ("kill", "SIGKILL.*out of memory")],
)
def test_a_death_charges_the_task_that_ran_and_no_other(environs: Environs, how: str, said: str) -> None:
    outcomes = environs.run(frame_of(die, ("live",), (how,), ("live",)))
    assert [(each.task, each.status) for each in outcomes] == [(10, Status.PLAIN), (11, Status.LOST)]
    died = error(outcomes[1])
    assert type(died).__name__ == "WorkerLost"
    assert re.search(said, str(died))
    assert f"about to {how}" in outcomes[1].output.decode()
    assert value(environs.run(frame_of(double, (4,)))[0]) == 8  # another process is there


def test_a_crash_leaves_its_last_words(environs: Environs) -> None:
    [outcome] = environs.run(frame_of(die, ("segfault",)))
    assert "in die" in str(error(outcome).__cause__)


def test_a_process_that_died_between_two_calls_harms_neither(environs: Environs) -> None:
    def die_later() -> int:
        import threading

        threading.Timer(0.0, os._exit, (1,)).start()
        return os.getpid()

    first = environs.run(frame_of(die_later, ()))
    again = [environs.run(frame_of(double, (number,))) for number in range(20)]
    answered = [value(each[0]) for each in again if each]
    assert len(answered) >= 18  # the one that met its end is not answered, and uncharged
    assert all(each[0].status is Status.PLAIN for each in again if each)
    assert not first or first[0].status in (Status.PLAIN, Status.LOST)


def test_a_worker_that_cannot_start_is_charged_to_the_first_task(environs: Environs) -> None:
    environment = Environment(env=(("PYTHONHOME", "/nowhere"),))
    outcomes = environs.run(frame_of(double, (1,), (2,), environment=environment))
    assert [(each.task, each.status) for each in outcomes] == [(10, Status.LOST)]
    assert "before it could run anything" in str(error(outcomes[0]))


# -- Time


def test_a_task_over_its_time_limit_is_killed_and_says_so(environs: Environs) -> None:
    outcomes = environs.run(frame_of(wait_forever, ("go",), ("hang",), ("go",), time_limit=0.2))
    assert [(each.task, each.status) for each in outcomes] == [(10, Status.PLAIN), (11, Status.FAILED)]
    late = error(outcomes[1])
    assert isinstance(late, TimeoutError)
    assert "time limit of 0.2 s" in str(late)
    assert Stats(*STATS.unpack(outcomes[1].stats)).ran > 0


def test_a_task_that_runs_when_the_function_is_about_to_end_is_killed_before(hurried: Environs) -> None:
    assert hurried.answer(event_of(frame_of(wait_forever, ("hang",), ("go",))), left=0.5) == {"stored": 1}
    [outcome] = hurried.stored()
    assert (outcome.task, outcome.status) == (10, Status.FAILED)
    assert isinstance(error(outcome), TimeoutError)
    assert "time-out of 0.5 s" in str(error(outcome))


def test_a_task_that_others_left_too_little_time_is_not_charged(hurried: Environs) -> None:
    hurried.answer(event_of(frame_of(double, (1,))))  # so that the process is there
    assert hurried.answer(event_of(frame_of(wait_forever, ("go",), ("hang",))), left=0.5) == {"stored": 1}
    assert [(each.task, each.status) for each in hurried.stored()] == [(10, Status.PLAIN)]


# -- Memory


def test_memory_that_the_function_does_not_have_fails_in_the_task_that_asked(environs: Environs) -> None:
    outcomes = environs.run(frame_of(lambda size: len(bytearray(size)), (10,), (10**9,), (20,)))
    assert [each.status for each in outcomes] == [Status.PLAIN, Status.FAILED, Status.PLAIN]
    full = error(outcomes[1])
    assert isinstance(full, MemoryError)
    assert re.search(r"memory of 512 MB \(\d+ MB were resident at the peak.*options\(memory=1024\)", str(full))


def test_less_memory_is_kept_to_by_a_fresh_process(environs: Environs) -> None:
    before = value(environs.run(frame_of(pid, ()))[0])
    small = Environment(memory=200)
    outcomes = environs.run(frame_of(lambda size: len(bytearray(size)), (300_000_000,), environment=small))
    assert "memory of 200 MB" in str(error(outcomes[0]))
    assert value(environs.run(frame_of(pid, (), environment=small))[0]) != before


def test_to_ask_for_what_the_function_has_is_to_ask_for_nothing(environs: Environs) -> None:
    before = value(environs.run(frame_of(pid, ()))[0])
    assert value(environs.run(frame_of(pid, (), environment=Environment(memory=MEMORY)))[0]) == before


def test_a_worker_that_the_system_killed_with_its_memory_full_ran_out_of_it(tmp_path: Path) -> None:
    def fill_and_die(size: int) -> None:
        import mmap
        import os
        import signal

        shared = mmap.mmap(-1, size)  # shared pages are resident, and no limit of the process counts them
        for at in range(0, size, 4096):
            shared[at] = 1
        os.kill(os.getpid(), signal.SIGKILL)

    # More than this process ever had: on Linux a child's peak is at least its parent's.
    size = max(150 << 20, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) + (50 << 20))
    environs = Environs(tmp_path, memory=128)
    try:
        [outcome] = environs.run(frame_of(fill_and_die, (size,)))
    finally:
        environs.supervisor.close()
    assert outcome.status is Status.FAILED
    assert isinstance(error(outcome), MemoryError)
    assert re.search(r"SIGKILL.*\d\d\d+ MB resident.*128 MB.*memory=256", str(error(outcome)))


# -- Environments


def test_an_initializer_runs_in_the_process_that_is_there_and_another_one_in_another(environs: Environs) -> None:
    def remember(word: str) -> None:
        import os

        os.environ["WORD"] = word

    def recall() -> tuple[int, str]:
        import os

        return os.getpid(), os.environ["WORD"]

    one, other = (Environment(initializer=packed((remember, (word,)))) for word in ("one", "other"))
    (first, a), (second, b), (third, c) = (
        value(environs.run(frame_of(recall, (), environment=each))[0]) for each in (one, one, other)
    )
    assert (a, b, c) == ("one", "one", "other")
    assert first == second != third


def test_other_variables_get_a_process_that_had_them_from_its_start(environs: Environs) -> None:
    environment = Environment(env=(("PYTHONOPTIMIZE", "1"),))
    assert value(environs.run(frame_of(lambda: __import__("sys").flags.optimize, (), environment=environment))[0]) == 1
    assert value(environs.run(frame_of(lambda: __import__("sys").flags.optimize, ()))[0]) == 0


def test_another_version_of_a_module_gets_another_process(environs: Environs, tmp_path: Path) -> None:
    units = [Unit("thing", archive_in(environs, f"version = {number}\n")) for number in (1, 2)]

    def version() -> tuple[int, int]:
        import os

        import thing  # type: ignore[import-not-found]

        return thing.version, os.getpid()

    seen = [value(environs.run(frame_of(version, (), environment=Environment(modules=(u,))))[0]) for u in units]
    assert [number for number, _ in seen] == [1, 2]
    assert seen[0][1] != seen[1][1]


def archive_in(environs: Environs, source: str) -> str:
    import hashlib
    import io
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("thing.py", source)
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    environs.store.put(f"modules/{digest}", file.getvalue())
    return digest


# -- Pieces that lie in the store


def apart(environs: Environs, obj: object) -> tuple[bytes, str]:
    """Packed so that its whole pickle lies in the store, and its key there."""
    data = cloudpickle.dumps(obj)
    digest = digest_of(memoryview(data))
    key = blob_key(digest)
    environs.store.put(key, data)
    return b"\1" + struct.pack("<IIBQH32s", 1, 0, 1, len(data), len(key), digest) + key.encode(), key


def frame_of_pieces(function: bytes, *arguments: bytes, environment: Environment = Environment()) -> bytes:  # noqa: B008
    head = Head("job", function, environment.encode()).encode()
    tasks = tuple(TaskCall(number, 0, 0, each) for number, each in enumerate(arguments))
    return Signer(KEY).seal(b"call", Call(head, tasks).encode())


def test_all_that_is_gone_is_named_at_once_and_what_is_back_is_found(environs: Environs) -> None:
    function, key = apart(environs, (double, ()))
    arguments, other = apart(environs, ((21,), {}))
    saved = {each: environs.store.get(each) for each in (key, other)}
    environs.store.delete_many(saved)
    [outcome] = environs.run(frame_of_pieces(function, arguments))
    assert outcome.status is Status.MISSING
    assert outcome.payload.decode().split("\n") == [key, other]
    for each, data in saved.items():
        environs.store.put(each, data)
    assert value(environs.run(frame_of_pieces(function, arguments))[0]) == 42


def test_sources_that_are_gone_are_named(environs: Environs) -> None:
    unit = Unit("thing", "0" * 64)
    [outcome] = environs.run(frame_of(double, (1,), environment=Environment(modules=(unit,))))
    assert (outcome.status, outcome.payload) == (Status.MISSING, f"modules/{unit.digest}".encode())


def test_an_initializer_that_is_gone_does_not_break_the_executor(environs: Environs) -> None:
    initializer, key = apart(environs, (print, ("ready",)))
    environs.store.delete_many([key])
    [outcome] = environs.run(frame_of(double, (1,), environment=Environment(initializer=initializer)))
    assert (outcome.status, outcome.payload) == (Status.MISSING, key.encode())


def test_a_long_function_is_unpickled_once_a_job(environs: Environs) -> None:
    class Counted:
        def __call__(self) -> int:
            self.calls = getattr(self, "calls", 0) + 1
            return self.calls

    function, _ = apart(environs, (Counted(), ()))
    empty = packed(((), {}))
    assert [value(each) for each in environs.run(frame_of_pieces(function, empty, empty, empty))] == [1, 2, 3]


# -- Outcomes that are stored


def test_outcomes_of_an_asynchronous_call_are_stored_at_their_keys(environs: Environs) -> None:
    answer = environs.answer(event_of(frame_of(double, *((number,) for number in range(100))), reply="store"))
    assert answer == {"stored": 100}
    assert [(each.task, value(each)) for each in environs.stored()] == [(10 + n, 2 * n) for n in range(100)]


def test_deaths_are_stored_too(environs: Environs) -> None:
    assert environs.answer(event_of(frame_of(die, ("live",), ("exit",), ("live",)), reply="store")) == {"stored": 2}
    assert [each.status for each in environs.stored()] == [Status.PLAIN, Status.LOST]


def test_who_comes_second_leaves_the_first_outcome_as_it_is(environs: Environs) -> None:
    environs.store.put(outcome_key("job", 10, 0), b"first")
    assert environs.answer(event_of(frame_of(double, (1,)), reply="store")) == {"stored": 1}
    assert environs.store.get(outcome_key("job", 10, 0)) == b"first"


def test_outcomes_are_stored_while_later_tasks_still_run(environs: Environs) -> None:
    def wait_for(path: str) -> str:
        import os
        import time

        while path and not os.path.exists(path):
            time.sleep(0.005)
        return path

    path = environs.store.local_path(outcome_key("job", 10, 0))
    assert environs.answer(event_of(frame_of(wait_for, ("",), (path,)), reply="store")) == {"stored": 2}


def test_a_synchronous_call_that_took_long_is_stored(hurried: Environs) -> None:
    def wait_for(path: str) -> str:
        import os
        import time

        while path and not os.path.exists(path):
            time.sleep(0.005)
        return path

    path = hurried.store.local_path(outcome_key("job", 10, 0))  # it lies there as soon as the Call has become long
    assert hurried.answer(event_of(frame_of(wait_for, ("",), (path,)))) == {"stored": 2}


def test_an_answer_that_would_be_too_large_is_stored(environs: Environs) -> None:
    answer = environs.answer(event_of(frame_of(os.urandom, *[(60_000,)] * 80)))
    assert answer == {"stored": 80}
    assert {len(value(each)) for each in environs.stored()} == {60_000}


def test_a_store_that_takes_nothing_fails_the_function(environs: Environs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise StoreError("the disk is on fire")

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "put_new", refuse)
        with pytest.raises(StoreError, match="on fire"):
            environs.answer(event_of(frame_of(double, (1,)), reply="store"))
    assert value(environs.run(frame_of(double, (1,)))[0]) == 2  # the environment goes on


# -- Signs of life


def test_a_long_call_beats_and_each_beat_is_one_byte_longer(hurried: Environs) -> None:
    def watch(path: str) -> list[int]:
        import os
        import time

        sizes: list[int] = []
        while len(sizes) < 4:
            size = os.path.getsize(path) if os.path.exists(path) else 0
            if size and size not in sizes:
                sizes.append(size)
            time.sleep(0.002)
        return sizes

    path = hurried.store.local_path(beat_key("job", 10, 3))
    assert hurried.answer(event_of(frame_of(watch, (path,)), reply="store")) == {"stored": 1}
    sizes = value(hurried.stored()[0])
    assert sizes == sorted(sizes)
    assert not [thread for thread in threading.enumerate() if thread.name == "pywren-pulse"]


def test_a_short_call_does_not_beat(environs: Environs) -> None:
    environs.answer(event_of(frame_of(double, (1,)), reply="store"))
    assert [key for key, _ in environs.store.keys("jobs/job/beats")] == []


def test_a_call_whose_job_was_cancelled_is_killed_and_what_it_did_counts(hurried: Environs) -> None:
    def cancel_and_hang(path: str) -> None:
        import time

        if path:
            with open(path, "w"):
                pass
            time.sleep(3600)

    path = hurried.store.local_path(stop_key("job"))
    hurried.store.put("jobs/job/other", b"")  # so that the folder is there
    assert hurried.answer(event_of(frame_of(cancel_and_hang, ("",), (path,), ("",)), reply="store")) == {"stored": 1}
    assert [each.task for each in hurried.stored()] == [10]


# -- Events that nobody should have sent


def test_a_call_that_somebody_else_signed_is_not_loaded(environs: Environs) -> None:
    with pytest.raises(SignatureError, match="was not loaded"):
        environs.answer(event_of(frame_of(double, (1,), key=bytes(32))))


def test_a_call_of_another_release_says_so(environs: Environs) -> None:
    body = b"\xff" + frame_of(double, (1,))[SIGNATURE + 1 :]
    with pytest.raises(VersionError, match="wire version 255 reached a worker of version"):
        environs.answer(event_of(Signer(KEY).seal(b"call", body)))


@pytest.mark.parametrize(
    "event", [None, [], {}, {"call": 5}, {"call": "no base64!"}, {"calls": "AAAA"}, {"start": {}}, {"start": [{}]}]
)
def test_an_event_that_cannot_be_read_is_refused(environs: Environs, event: object) -> None:
    with pytest.raises(ConfigError, match="whoever invokes this function"):
        environs.answer(event)


@pytest.mark.parametrize("frame", [b"", b"short", bytes(200)])
def test_bytes_that_are_no_call_are_refused(environs: Environs, frame: bytes) -> None:
    with pytest.raises(SignatureError):
        environs.answer(event_of(frame))


def test_signed_bytes_that_are_no_call_are_refused(environs: Environs) -> None:
    with pytest.raises(ConfigError, match="different releases"):
        environs.answer(event_of(Signer(KEY).seal(b"call", b"nonsense")))


def test_a_call_without_tasks_is_refused(environs: Environs) -> None:
    with pytest.raises(ConfigError, match="no task"):
        environs.answer(event_of(frame_of(double)))


def test_a_call_that_no_longer_lies_in_the_store_is_the_functions_error(environs: Environs) -> None:
    with pytest.raises(KeyMissing):
        environs.answer({"call_key": "jobs/job/calls/gone"})


@pytest.mark.parametrize("missing", ["PYWREN_NG_INTERNAL_STORE", "PYWREN_NG_INTERNAL_KEY"])
def test_a_function_without_its_variables_says_which(missing: str) -> None:
    variables = {"PYWREN_NG_INTERNAL_STORE": "file:///tmp", "PYWREN_NG_INTERNAL_KEY": "00"}
    del variables[missing]
    with pytest.raises(ConfigError, match=f"{missing}.*pywren-ng setup"):
        settings.read(variables)
