"""All that crosses between client and worker: a `Call` goes out, an `Outcome` for each of its tasks comes back.

    client                                            worker
    Call(head, tasks) ── encode ─► signed bytes ── decode ─► Call
    Outcome           ◄─ decode ── signed bytes ◄─ encode ── Outcome

Nothing here is a pickle: a frame is a fixed header and counted bytes, so it can be taken apart and its signature
checked before any pickle inside it is loaded. The keys in a store are built here and nowhere else.

`VERSION` counts up whenever a worker of the release before would not understand what is sent here, or the other way
round: frames, keys, the supervisor's events and answers. Functions on Lambda have it in their names, so that a Call
finds a worker that understands it or none (`pywren_ng.deployment`); one that arrives all the same is refused by its
first byte.
"""

import enum
import hashlib
import json
import struct
from dataclasses import dataclass
from hmac import compare_digest

from pywren_runtime.errors import SignatureError, VersionError
from pywren_runtime.modules import Unit
from pywren_runtime.pickling import Ref

SIGNATURE = 32
VERSION = 1

# What a task is besides a call of its function; it stands behind that in the packed function, where it is anything.
KEEP = 1  # its result stays in the store, whatever its size, and the Outcome says where
REDUCE = 2  # its argument says where results lie, and the function gets an iterator over these


def blob_key(digest: bytes) -> str:
    """Where bytes lie that are named by their content, whoever uses them."""
    return f"blobs/{digest.hex()}"


def module_key(digest: str) -> str:
    """Where the archive of a local module's sources lies."""
    return f"modules/{digest}"


def package_key(digest: bytes) -> str:
    """Where the manifest or a piece of a set of packages lies: named by its content, as blobs are."""
    return f"packages/{digest.hex()}"


def result_key(job: str, task: int, round: int, attempt: int, part: int) -> str:
    """Where a part of one attempt's result lies: no two attempts share a key, so a reader may delete what it read."""
    return f"{results_prefix(job)}{task:08d}.{round}.{attempt}.{part}"


def results_prefix(job: str) -> str:
    """Under which all results of a job lie."""
    return f"jobs/{job}/results/"


def call_key(job: str, task: int, attempt: int) -> str:
    """Where a Call lies that is too large for an Invoke; it is named by its first task."""
    return f"jobs/{job}/calls/{task:08d}.{attempt}"


def outcome_key(job: str, task: int, round: int) -> str:
    """Where the one outcome of a task's round lies: whoever puts it first has committed it."""
    return f"jobs/{job}/outcomes/{task:08d}.{round:04d}"


def beat_key(job: str, task: int, attempt: int) -> str:
    """What a worker puts again and again while its Call runs, one byte longer each time."""
    return f"jobs/{job}/beats/{task:08d}.{attempt}"


def notice_key(job: str, number: int) -> str:
    """Where a reducer finds which results have landed since it began: they count from 1."""
    return f"jobs/{job}/notices/{number:08d}"


def stop_key(job: str) -> str:
    """What lies there once a job was cancelled: nothing more of it need be started."""
    return f"jobs/{job}/stopped"


def misplaced(found: str, key: str) -> SignatureError:
    """The error for bytes that were signed for the key `found` and lie at another."""
    return SignatureError(
        f"what lies at {key} in the store was signed for another place, {found}, and was not loaded: somebody else has "
        "copied it there; submit again, and see who can write to the store"
    )


def keyed(key: bytes) -> "tuple[hashlib._Hash, hashlib._Hash]":
    """The inner and the outer state of HMAC-SHA256 (RFC 2104).

    To make them once for a key leaves a third of the cost of hmac.digest, on frames as small as ours.
    """
    block = key.ljust(64, b"\0") if len(key) <= 64 else hashlib.sha256(key).digest().ljust(64, b"\0")
    return hashlib.sha256(bytes(b ^ 0x36 for b in block)), hashlib.sha256(bytes(b ^ 0x5C for b in block))


class Signer:
    """HMAC-SHA256 with the executor's key over the kind of a frame and its bytes."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        self._inner, self._outer = keyed(key)

    def sign(self, kind: bytes, body: bytes | memoryview) -> bytes:
        inner = self._inner.copy()
        inner.update(kind)
        inner.update(body)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def seal(self, kind: bytes, body: bytes) -> bytes:
        """The signed frame: signature, then body."""
        return self.sign(kind, body) + body

    def open(self, kind: bytes, frame: bytes | memoryview) -> memoryview:
        """The body of a signed frame; SignatureError if anybody else made or changed it."""
        view = memoryview(frame)
        body = view[SIGNATURE:]
        if not compare_digest(self.sign(kind, body), view[:SIGNATURE]):
            raise SignatureError(
                f"a {kind.decode()} of {len(body)} bytes does not carry this executor's signature and was not loaded: "
                "it was changed on its way, or somebody else wrote it; make a new Executor, and see who can write to "
                "the store"
            )
        return body


@dataclass(frozen=True, slots=True)
class Environment:
    """What an interpreter must be like to run a Call; one that is not gets no such Call."""

    memory: int | None = None  # MB of the whole process
    env: tuple[tuple[str, str], ...] = ()
    initializer: bytes = b""  # a packed (function, arguments)
    modules: tuple[Unit, ...] = ()
    packages: Ref | None = None  # the manifest of the set that was asked for

    def encode(self) -> bytes:
        modules = [(unit.name, unit.digest) for unit in self.modules]
        fields: list[object] = [self.memory, self.env, modules]
        if self.packages is not None:
            fields.append((self.packages.key, self.packages.size, self.packages.digest.hex()))
        text = json.dumps(fields).encode()
        return b"".join((struct.pack("<I", len(text)), text, self.initializer))

    @classmethod
    def decode(cls, data: bytes) -> "Environment":
        (size,) = struct.unpack_from("<I", data)
        memory, env, modules, *more = json.loads(data[4 : 4 + size])
        units = tuple(Unit(name, digest) for name, digest in modules)
        packages = [Ref(key, length, bytes.fromhex(digest)) for key, length, digest in more]
        variables = tuple((name, value) for name, value in env)
        return cls(memory, variables, data[4 + size :], units, packages[0] if packages else None)


_HEAD = struct.Struct("<HId")


@dataclass(frozen=True, slots=True)
class Head:
    """What all tasks of a job share; encoded once, and decoded once by each worker."""

    job: str
    function: bytes  # a packed (function, retry_on), or (function, retry_on, role)
    environment: bytes  # an encoded Environment: the same for many jobs
    time_limit: float | None = None

    def encode(self) -> bytes:
        job = self.job.encode()
        front = _HEAD.pack(len(job), len(self.environment), self.time_limit or 0.0)
        return b"".join((front, job, self.environment, self.function))

    @classmethod
    def decode(cls, data: bytes) -> "Head":
        job_size, environment_size, time_limit = _HEAD.unpack_from(data)
        a = _HEAD.size + job_size
        b = a + environment_size
        return cls(data[_HEAD.size : a].decode(), data[b:], data[a:b], time_limit or None)


_TASK = struct.Struct("<IHHI")
_COUNTS = struct.Struct("<BII")


@dataclass(frozen=True, slots=True)
class TaskCall:
    """One task of a Call: which, for the how-manieth time, and its packed arguments."""

    index: int
    round: int
    attempt: int
    arguments: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """One or many tasks of one job, for one worker to run one after the other."""

    head: bytes  # an encoded Head
    tasks: tuple[TaskCall, ...]

    def encode(self) -> bytes:
        return b"".join((_COUNTS.pack(VERSION, len(self.head), len(self.tasks)), self.head, self.encode_tasks()))

    def encode_tasks(self) -> bytes:
        """Without its head, for a worker that has had that."""
        parts = []
        for task in self.tasks:
            parts.append(_TASK.pack(task.index, task.round, task.attempt, len(task.arguments)))
            parts.append(task.arguments)
        return b"".join(parts)

    @classmethod
    def decode(cls, body: bytes | memoryview) -> "Call":
        """VersionError if it is of another wire version."""
        version, head_size, count = _COUNTS.unpack_from(body)
        if version != VERSION:
            raise VersionError(
                f"a Call of wire version {version} reached a worker of version {VERSION}, and was not read: client and "
                "worker come from different releases of pywren-ng; bring both to the same one"
            )
        at = _COUNTS.size + head_size
        return cls(bytes(body[_COUNTS.size : at]), _tasks(body, at, count))

    @classmethod
    def decode_tasks(cls, head: bytes, body: bytes | memoryview, count: int) -> "Call":
        """A Call of so many tasks whose head came apart."""
        return cls(head, _tasks(body, 0, count))


def _tasks(body: bytes | memoryview, at: int, count: int) -> tuple[TaskCall, ...]:
    tasks = []
    for _ in range(count):
        index, round, attempt, size = _TASK.unpack_from(body, at)
        at += _TASK.size
        tasks.append(TaskCall(index, round, attempt, bytes(body[at : at + size])))
        at += size
    return tuple(tasks)


class Status(enum.IntEnum):
    """How an attempt ended, as far as the worker can tell."""

    PLAIN = 0  # a value made of numbers and text only: whoever loads it runs no foreign code
    VALUE = 1  # any other value
    RAISED = 2  # the function raised
    RETRY = 3  # the function raised what `retry_on` names
    FAILED = 4  # it cannot be had; the payload is an error of ours
    BROKEN = 5  # the same, and no task of this environment can run
    LOST = 6  # the same, but the attempt may be tried again: the worker's surroundings failed, not the task
    MISSING = 7  # a blob that it needs is gone from the store; the payload is its key


@dataclass(frozen=True, slots=True)
class Stats:
    """What one attempt cost, measured around that task alone in its worker; times are seconds since the epoch."""

    started: float
    function_loaded: float
    arguments_loaded: float
    ran: float
    stored: float
    cpu: float
    peak: int  # bytes resident at most
    worker: int
    cold: bool


STATS = struct.Struct("<6dQI?")
_OUTCOME = struct.Struct("<BHIHHIII")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt of one task ended. `stats` stays packed (`STATS`) until somebody looks at it."""

    job: str
    task: int
    round: int
    attempt: int
    status: Status
    payload: bytes
    output: bytes
    stats: bytes

    def encode(self) -> bytes:
        job = self.job.encode()
        header = _OUTCOME.pack(
            self.status,
            len(job),
            self.task,
            self.round,
            self.attempt,
            len(self.payload),
            len(self.output),
            len(self.stats),
        )
        return b"".join((header, job, self.payload, self.output, self.stats))

    @classmethod
    def decode(cls, body: bytes | memoryview) -> "Outcome":
        status, job_size, task, round, attempt, payload_size, output_size, stats_size = _OUTCOME.unpack_from(body)
        a = _OUTCOME.size
        b = a + job_size
        c = b + payload_size
        d = c + output_size
        e = d + stats_size
        return cls(
            str(body[a:b], "ascii"),
            task,
            round,
            attempt,
            _STATUS[status],
            bytes(body[b:c]),
            bytes(body[c:d]),
            bytes(body[d:e]),
        )


_STATUS = tuple(Status)
