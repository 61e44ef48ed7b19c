"""The way to one Redis server, which many threads use at once: what they ask meanwhile goes together.

    thread A ── GETRANGE ──►┐                         ┌─ connection ─┐
    thread B ── GETRANGE ──►┴─ the train that waits ──┤              ├──► A reads its replies, and then B
    thread C ── SET 64 MB ────────── alone ───────────┴─ connection ─┘

A train leaves as soon as a connection is free. So sixteen ranges are on their way over two connections, in one round
trip, and a thousand workers make two thousand connections. Each thread reads what is its own, so that large values lie
in memory no sooner than they are wanted. redis-py keeps the connections, sends and parses.
"""

from collections.abc import Sequence
from itertools import chain
from queue import SimpleQueue
from threading import Lock
from typing import Any, Final

from redis import Connection, ConnectionPool
from redis.connection import PythonRespSerializer
from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from pywren_runtime.stores.redis_faults import Fault, of_error
from pywren_runtime.stores.redis_settings import CONNECTIONS

__all__ = ["Command", "Line"]

Command = Sequence[bytes | memoryview]
_LARGE: Final = 64 << 10  # bytes that are sent from where they lie, and alone: nobody waits behind them
_STRETCH: Final = 1 << 20  # sent at a time: each has the whole patience


class _Train:
    """The commands of one thread or many, and the connection on which their replies come."""

    def __init__(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.riders = 0  # threads that have not read their replies
        self.last: Lock | None = None  # of the thread that came last: free once it has read
        self.connection: Connection | None = None
        self.fault: Fault | None = None  # why no more can be read


class Line:
    """Asks one server.

    Where `ask` raises, a thread was interrupted, and may have kept a connection: the line has served its time then.
    """

    def __init__(self, pool: ConnectionPool, where: str, silence: float) -> None:
        self._pool = pool
        self._free: SimpleQueue[None] = SimpleQueue()  # for an interrupt leaves the lock of any other queue locked
        for _ in range(CONNECTIONS):
            self._free.put(None)
        self._where = where
        self._silence = silence
        self._cut = Fault("lost", "a thread was interrupted", where)
        self._gate = Lock()
        self._waiting = _Train()

    def ask(self, commands: Sequence[Command]) -> tuple[list[Any], Fault | None]:
        """The reply to each: bytes, int, None, a list of these, or a ResponseError; if there are fewer, why."""
        parts = _packed(commands)
        replies: list[Any] = []
        turn = Lock()
        turn.acquire()
        train = _Train()
        try:
            with self._gate:
                if len(parts) == 1:
                    train = self._waiting
                before, train.last = train.last, turn
                train.riders += 1
                train.parts += parts
            if before is None:
                self._depart(train)
            else:
                before.acquire()
            while train.connection and not train.fault and len(replies) < len(commands):
                replies.append(_reply(train.connection))
        except (RedisError, OSError) as error:
            train.fault = self._cut  # without a call, in which one might be interrupted
            train.fault = of_error(error, self._where, connected=train.connection is not None)
        except BaseException:
            train.fault = self._cut
            raise
        finally:
            turn.release()
            self._leave(train)
        return replies, train.fault

    def _depart(self, train: _Train) -> None:
        self._free.get()
        try:
            connection = train.connection = self._pool.get_connection()
        except BaseException:
            self._free.put(None)
            raise
        connection.update_current_socket_timeout(self._silence)  # to connect it has had less
        with self._gate:
            if self._waiting is train:
                self._waiting = _Train()
        parts, train.parts = train.parts, []
        if not train.fault:  # else nobody will read
            connection.send_packed_command(parts if len(parts) > train.riders else [b"".join(parts)])

    def _leave(self, train: _Train) -> None:
        with self._gate:
            if self._waiting is train and train.fault:
                self._waiting = _Train()
            train.riders -= 1
            is_last = train.riders == 0
        if is_last and train.connection is not None:
            if train.fault:  # nobody could tell whose reply would be next
                train.connection.disconnect()
            self._pool.release(train.connection)
            self._free.put(None)


def _reply(connection: Connection) -> Any:
    try:
        return connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        return error
    except BusyLoadingError as error:  # to redis-py the connection's fault; but what comes next may have been done
        return ResponseError(f"LOADING {error}")


def _packed(commands: Sequence[Command]) -> list[bytes | memoryview]:
    """As they are sent: in one piece, which is a copy, unless there is something large, which is none."""
    packer = PythonRespSerializer(_LARGE, lambda part: part)  # that of hiredis copies twice
    small: list[bytes | memoryview] = []
    parts: list[bytes | memoryview] = []
    for part in chain.from_iterable(packer.pack(*command) for command in commands):
        if len(part) < _LARGE:
            small.append(part)
        else:
            view = memoryview(part)
            parts += [b"".join(small), *(view[at : at + _STRETCH] for at in range(0, len(view), _STRETCH))]
            small = []
    return [*parts, b"".join(small)]
