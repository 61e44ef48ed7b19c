"""The way to one Redis server that threads share: what an interrupt leaves, and whose fault is whose."""

import dis
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

from redis import ConnectionPool
from redis.exceptions import ResponseError
from support.redis_servers import Redis

from pywren_runtime.stores import redis_lines
from pywren_runtime.stores.redis_lines import Line
from pywren_runtime.stores.redis_store import RedisStore

LOOKS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD"}  # behind these CPython looks for signals


class Interrupt:
    """Raises KeyboardInterrupt at the n-th place in a module where CPython would for Ctrl-C."""

    def __init__(self, file: str, number: int) -> None:
        self.came = False
        self._file = file
        self._left = number
        self._places: dict[CodeType, set[int]] = {}

    def __enter__(self) -> "Interrupt":
        sys.settrace(self._entered)
        return self

    def __exit__(self, *raised: object) -> None:
        sys.settrace(None)

    def _entered(self, frame: FrameType, event: str, what: object) -> Any:
        if frame.f_code.co_filename != self._file:
            return None
        frame.f_trace_opcodes = True
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, what: object) -> Any:
        if event == "opcode" and frame.f_lasti in self._places_of(frame.f_code):
            self._left -= 1
            if not self._left:
                self.came = True
                raise KeyboardInterrupt
        return self._stepped

    def _places_of(self, code: CodeType) -> set[int]:
        if code not in self._places:
            steps = list(dis.get_instructions(code))
            places = {next.offset for one, next in pairwise(steps) if one.opname in LOOKS}
            self._places[code] = places
        return self._places[code]


def test_no_interrupt_keeps_a_connection(redis_server: Redis) -> None:
    """Whatever a thread was about to do with it: two that were kept would make all others wait for ever."""
    store = RedisStore(redis_server.url())
    store.put("a", b"1")
    found: list[int] = []

    def interrupted_everywhere() -> None:
        number, came = 0, True
        while came:
            number += 1
            try:
                with Interrupt(redis_lines.__file__, number) as interrupt:
                    store.get("a")
            except KeyboardInterrupt:
                pass
            came = interrupt.came
            assert store.get("a") == b"1"
        found.append(number)

    thread = threading.Thread(target=interrupted_everywhere, daemon=True)
    thread.start()
    thread.join(10)
    assert found and found[0] > 30
    store.delete_many(["a"])


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """The port of a server that says only this, to whatever it is asked first."""

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1 << 16)
            client.sendall(answer)
            client.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def test_a_server_that_loads_refuses_one_command_and_may_carry_out_the_next() -> None:
    with answering(b"-LOADING Redis is loading\r\n$1\r\n1\r\n") as port:
        way: dict[str, Any] = {"protocol": 2, "driver_info": None}
        pool = ConnectionPool(host="127.0.0.1", port=port, **way)
        (refused, done), fault = Line(pool, "there", 5.0).ask([(b"GET", b"a"), (b"GET", b"b")])
        pool.disconnect()
    assert isinstance(refused, ResponseError) and str(refused).startswith("LOADING ")
    assert (done, fault) == (b"1", None)
