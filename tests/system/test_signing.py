"""Who can write to the bucket can have nothing loaded, in a worker or here; and no secret leaves where it belongs.

Objects are changed in the bucket in the middle of real jobs: what workers read, while Lambda refuses the Invoke; what
the client reads, while it may not list. In each case three things are tried: the bytes with one bit changed, those of
another place of the same kind, and a pickle of our own that would leave a file.
"""

import base64
import importlib
import logging
import os
import pickle
import re
import socket
import struct
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from scene import until
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws
from support.scripted import Peer, Scripted, pump

from pywren_ng import CredentialsError, Executor, Job, SignatureError
from pywren_runtime.wire import STATS, Call, Environment, Head, Outcome, Signer, Status, TaskCall

SIZE = 512
PATIENCE = 20
LONG = 400_000  # numbers: a pickle so long lies in the store by itself
Make = Callable[..., Executor]
HOWS = ("tampered", "swapped", "unsigned")

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, SIZE, variables=PACKAGES) as made:
        yield made


class Bucket:
    """The bucket as seen by somebody who may write to it, and has no key."""

    def __init__(self, there: Deployed, folder: Path) -> None:
        self._there = there
        self._s3 = there.aws.client("s3")
        self._bucket, _, self._folder = there.where.store.removeprefix("s3://").partition("/")
        self._before = set(there.keys())
        self.trap = folder / "trap"

    def new(self, prefix: str) -> list[str]:
        """What has come since, in the order of its keys."""
        return sorted(key for key in self._there.keys(prefix) if key not in self._before)

    def get(self, key: str) -> bytes:
        return self._s3.get_object(Bucket=self._bucket, Key=f"{self._folder}/{key}")["Body"].read()

    def put(self, key: str, data: bytes) -> None:
        self._s3.put_object(Bucket=self._bucket, Key=f"{self._folder}/{key}", Body=data)

    def everything(self) -> bytes:
        return b"\n".join(self.get(key) for key in self._there.keys())

    def pickle(self) -> bytes:
        """What leaves a file if anybody loads it."""
        return pickle.dumps(Trap(str(self.trap)), 5)

    def attack(self, how: str, key: str, other: str, forged: Callable[[bytes], bytes]) -> None:
        """Change what lies at a key; `forged` makes what would be loaded there out of a pickle."""
        right = self.get(key)
        middle = len(right) // 2
        wrong = {
            "tampered": lambda: right[:middle] + bytes([right[middle] ^ 1]) + right[middle + 1 :],
            "swapped": lambda: self.get(other),
            "unsigned": lambda: forged(self.pickle()),
        }[how]()
        assert wrong != right
        self.put(key, wrong)


class Trap:
    """Unpickled, it has run code."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)


@pytest.fixture
def bucket(there: Deployed, local_aws: LocalAws, tmp_path: Path) -> Bucket:
    return Bucket(there, tmp_path)


@pytest.fixture
def make(bucket: Bucket, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Executor] = []

    def start(invoke: str, workers: int = 1) -> Executor:
        monkeypatch.setenv("PYWREN_NG_INVOKE", invoke)
        made.append(Executor("lambda", max_workers=workers))
        return made[-1]

    yield start
    local_aws.reset()  # what a failed test leaves behind ends too
    for executor in made:
        executor.shutdown(cancel_futures=True)


def refusal(future: Future[Any], *said: str) -> SignatureError:
    """The one error, which says all that."""
    error = future.exception(PATIENCE)
    assert type(error) is SignatureError, error
    for words in said:
        assert words in str(error), str(error)
    return error


@contextmanager
def held_invokes(aws: LocalAws) -> Iterator[Callable[[], bool]]:
    """Lambda has no room; gives what says whether that has been felt."""
    aws.knobs(throttle=1.0)
    yield lambda: aws.injected()["throttle"] > 0
    aws.knobs(throttle=0.0)


# -- What workers read


def table() -> list[str]:
    return [os.urandom(20).hex() for _ in range(300)]


def looking_up(rows: list[str]) -> Callable[[int], str]:
    """A function too long to ride along, that no store has seen."""

    def look_up(x: int) -> str:
        return rows[x]

    look_up.__module__ = "__main__"
    return look_up


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("what", ["function", "argument"])
def test_a_worker_refuses_what_is_not_what_was_stored(
    make: Make, bucket: Bucket, local_aws: LocalAws, what: str, how: str
) -> None:
    ex, rows = make("sync"), table()
    with held_invokes(local_aws) as felt:
        if what == "function":
            mine, others = ex.submit(looking_up(rows), 1), ex.submit(looking_up(table()), 1)
        else:
            numbers = list(range(LONG))
            mine, others = ex.submit(len, [rows[0], *numbers]), ex.submit(len, [rows[1], *numbers])
        assert until(lambda: felt() and len(bucket.new("blobs/")) == 2)
        key, other = sorted(bucket.new("blobs/"), key=lambda key: rows[0].encode() not in bucket.get(key))
        bucket.attack(how, key, other, lambda trap: trap)
    refusal(mine, f"loading its {what}", key, "is not what was stored there", "It lies there still")
    assert others.result(PATIENCE)
    assert local_aws.counters()["executions"] == 2, "it was tried again"
    assert not bucket.trap.exists()


@pytest.mark.parametrize("how", HOWS)
def test_a_worker_refuses_sources_that_are_not_what_was_stored(
    make: Make,
    bucket: Bucket,
    local_aws: LocalAws,
    tmp_path: Path,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"local_{os.urandom(4).hex()}" for _ in range(2)]
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"def who(x):\n    return {name!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    ex, (mine, others) = make("sync"), (importlib.import_module(name) for name in names)
    with held_invokes(local_aws) as felt:
        first, second = ex.submit(mine.who, 1), ex.submit(others.who, 1)
        assert until(lambda: felt() and len(bucket.new("modules/")) == 2)
        key, other = sorted(bucket.new("modules/"), key=lambda key: names[0].encode() not in bucket.get(key))
        bucket.attack(how, key, other, lambda trap: trap)
    refusal(first, f"the sources of module {names[0]!r} were changed on their way", "nothing was loaded")
    assert second.result(PATIENCE) == names[1]
    assert not bucket.trap.exists()


def long_call(ex: Executor, bucket: Bucket, gate: Path) -> tuple[Job[int], str]:
    """A job in one Call, which is longer than an Invoke can carry, and the key at which that lies."""
    ex.submit(hold, str(gate))  # until all tasks are ready, so that they share a Call
    job = ex.map(len, [os.urandom(60_000)] * 80, chunksize=80)
    gate.touch()
    place = f"jobs/{job.id}/calls/"
    assert until(lambda: bucket.new(place))
    return job, *bucket.new(place)


def hold(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.01)


@pytest.mark.parametrize("how", HOWS)
def test_a_worker_refuses_a_stored_call_that_is_not_its_own(
    make: Make, bucket: Bucket, local_aws: LocalAws, tmp_path: Path, how: str
) -> None:
    def forged(trap: bytes) -> bytes:
        head = Head("job", b"\0" + trap, Environment().encode()).encode()
        return Signer(os.urandom(32)).seal(b"call", Call(head, (TaskCall(0, 0, 1, b"\0" + trap),)).encode())

    ex = make("sync")
    others, other = long_call(ex, bucket, tmp_path / "first")
    assert others.results() == [60_000] * 80
    slow = {"kind": "GetObject", "key": "/calls/", "agent": "object_store", "fault": "slow", "seconds": 2}
    local_aws.ask("POST", "/_proxy/faults", slow)
    mine, key = long_call(ex, bucket, tmp_path / "second")
    assert until(lambda: local_aws.ask("GET", "/_proxy/faults")[0]["injected"])
    bucket.attack(how, key, other, forged)
    said = ("was signed for another place", other) if how == "swapped" else ("does not carry", "was not loaded")
    for future in mine.futures:
        refusal(future, *said)
    assert not bucket.trap.exists()


# -- What the client reads


@pytest.mark.parametrize("how", [*HOWS, "another job's"])
def test_the_client_refuses_an_outcome_that_is_not_its_own(
    make: Make, bucket: Bucket, local_aws: LocalAws, how: str
) -> None:
    def forged(trap: bytes) -> bytes:
        stats = STATS.pack(0, 0, 0, 0, 0, 0, 0, 0, False)
        outcome = Outcome(job.id, 1, 0, 1, Status.VALUE, b"\0" + trap, b"", stats)
        return Signer(os.urandom(32)).seal(b"outcome", outcome.encode())

    ex = make("async", workers=8)
    local_aws.ask("POST", "/_proxy/faults", {"kind": "ListObjectsV2", "fault": "503", "agent": "object_store"})
    earlier, job = ex.map(abs, [-9, -9]), ex.map(abs, [-1, -2, -3])
    assert until(lambda: len(bucket.new("jobs/")) == 5)
    outcomes = bucket.new(f"jobs/{job.id}/outcomes/")
    other = bucket.new(f"jobs/{earlier.id}/outcomes/")[1] if how == "another job's" else outcomes[0]
    bucket.attack("swapped" if how == "another job's" else how, outcomes[1], other, forged)
    assert local_aws.ask("GET", "/_proxy/faults")[0]["injected"] > 0
    local_aws.ask("DELETE", "/_proxy/faults")
    first, second, third = job.futures
    assert (first.result(PATIENCE), third.result(PATIENCE)) == (1, 3)
    unsigned = ("does not carry", "was not loaded")
    refusal(second, *(unsigned if how in HOWS[::2] else ("was signed for another place", outcomes[1], other)))
    assert earlier.results() == [9, 9]
    assert local_aws.counters()["executions"] == 5, "it was tried again"
    assert not bucket.trap.exists()


@pytest.mark.parametrize("how", HOWS)
def test_the_client_refuses_a_result_that_is_not_what_was_stored(make: Make, bucket: Bucket, how: str) -> None:
    ex = make("sync")
    mine, others = ex.map(lambda x: list(range(x, x + LONG)), [1, 2]).futures
    wait([mine, others], PATIENCE)  # which unpacks nothing yet
    key, other = bucket.new("jobs/")
    bucket.attack(how, key, other, lambda trap: trap)
    refusal(mine, key, "is not what was stored there")
    assert others.result(PATIENCE)[-1] == LONG + 1
    assert not bucket.trap.exists()


# -- What comes through a worker's pipe, on this machine


def meddle(x: int) -> int:
    """As a library that writes into a descriptor that is not its own."""
    if x == 2:
        os.write(int(sys.argv[3]), struct.pack("<I", 4) + b"evil" + bytes(32))
    return x


def test_what_a_task_writes_into_its_workers_pipe_is_not_loaded() -> None:
    with Executor(max_workers=1) as ex:
        futures = ex.map(meddle, range(5)).futures
        refusal(futures.pop(2), "task 2", "do not carry that pipe's signature", "file descriptor")
        assert [future.result(PATIENCE) for future in futures] == [0, 1, 3, 4]


def come_back_twice(x: int) -> tuple[int, bool]:
    return x, os.fork() == 0


def test_a_child_that_a_task_forked_brings_no_outcome() -> None:
    with Executor(max_workers=1) as ex:
        assert list(ex.map(come_back_twice, range(20))) == [(x, False) for x in range(20)]


# -- Where no secret may be


class Recorder(Scripted):
    """Stands between a client and the local AWS, and keeps what the client says."""

    def __init__(self, aws: LocalAws) -> None:
        self.heard = defaultdict[int, bytes](bytes)  # by connection
        self._place = ("127.0.0.1", int(aws.endpoint.rpartition(":")[2]))
        super().__init__(self._pass_on)

    def _pass_on(self, peer: Peer) -> None:
        with socket.create_connection(self._place) as out:
            back = threading.Thread(target=pump, args=(out, peer.link))
            back.start()
            with suppress(OSError):
                while data := peer.link.recv(1 << 16):
                    self.heard[peer.number] += data
                    out.sendall(data)
                out.shutdown(socket.SHUT_WR)
            back.join()


def forms(secret: bytes) -> dict[str, bytes]:
    """How a secret might stand somewhere: as it is, in hex, and in base64 wherever it begins."""
    found = {"plain": secret, "hex": secret.hex().encode()}
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + secret)
        found[f"base64+{shift}"] = coded[-(-shift * 8 // 6) : -4]
    return found


def places(written: dict[str, bytes], secret: bytes) -> list[str]:
    """Where a secret stands, and in which form."""
    return [
        f"{where} ({form})" for where, data in written.items() for form, said in forms(secret).items() if said in data
    ]


def test_no_secret_is_written_anywhere(
    there: Deployed,
    local_aws: LocalAws,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    key = use_keys(local_aws, monkeypatch, 600)
    bucket = Bucket(there, tmp_path)
    recorder = Recorder(local_aws)
    errors = []
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{recorder.port}")
        for invoke in ("sync", "async"):
            monkeypatch.setenv("PYWREN_NG_INVOKE", invoke)
            with Executor("lambda", max_workers=2) as ex:
                assert ex.map(looking_up(table()), range(3)).results()
                assert ex.submit(lambda rows: rows, list(range(LONG))).result(PATIENCE)
                assert ex.submit(note_secret, str(tmp_path / "theirs")).result(PATIENCE) is None
                errors.append(ex.submit(fail, "marked" * 5).exception(PATIENCE))
                said = f"{ex!r} {ex.store.url} {there.where!r} {vars(ex)!r}"
        use_keys(local_aws, monkeypatch, -1)
        with pytest.raises(CredentialsError) as refused, Executor("lambda") as ex:
            ex.submit(abs, -1).result(PATIENCE)
    finally:
        recorder.close()
    errors.append(refused.value)
    written = {
        "requests": re.sub(rb"(?i)x-amz-security-token: [^\r]*", b"", b"".join(recorder.heard.values())),
        "bucket": bucket.everything(),
        "logs of functions": local_aws.logs().encode(),
        "our log": caplog.text.encode(),
        "tracebacks": "".join(map("".join, map(traceback.format_exception, errors))).encode(),
        "what objects say of themselves": said.encode(),
    }
    found = " ".join(places(written, b"marked" * 5))
    assert "requests (base64" in found and "tracebacks (plain)" in found, f"it would find nothing: {found}"
    silent = [name for name, data in written.items() if not data]
    assert silent in ([], ["our log"]), "what boto3 logs depends on what ran here before"
    theirs = (tmp_path / "theirs").read_bytes().split()
    for secret in (there.where.key, key["secret"].encode(), key["token"].encode(), *theirs):
        assert len(secret) > 20 and places(written, secret) == []


def use_keys(aws: LocalAws, monkeypatch: pytest.MonkeyPatch, seconds: float) -> dict[str, Any]:
    """Be somebody for so long."""
    key = aws.credentials(seconds=seconds)
    for name, value in {"ACCESS_KEY_ID": "access_key", "SECRET_ACCESS_KEY": "secret", "SESSION_TOKEN": "token"}.items():
        monkeypatch.setenv(f"AWS_{name}", key[value])
    return key


def note_secret(path: str) -> None:
    """Only to this machine: what a worker's own credentials are."""
    with open(path, "w") as file:
        file.write(f"{os.environ['AWS_SECRET_ACCESS_KEY']} {os.environ['AWS_SESSION_TOKEN']}")


def fail(text: str) -> None:
    print("this goes into the log")
    raise ValueError(text)
