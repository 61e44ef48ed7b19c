"""To which server a command goes, and that it goes again where its fault passes.

    Unit (commands of one key) ──► slot ──► server ──► its Line ──► replies
                                    ▲                                  │
                                    └── asked anew ◄── MOVED, ASK, not ready, no connection

A unit is sent again as a whole: its commands must bear that. redis-py knows which server has which slots, but sends
nothing again by itself: its pipelines over a cluster would repeat a SET whose answer was lost, and say that another one
was first. Nothing is shared with a process that this one forks.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from socket import socket
from threading import Lock
from typing import Any, Final

from redis import Connection, ConnectionPool, SSLConnection
from redis.cluster import ClusterNode, NodesManager
from redis.crc import key_slot
from redis.exceptions import AskError, RedisClusterException, RedisError, ResponseError, SlotNotCoveredError

from pywren_runtime.stores.redis_faults import Fault, Patience, explain, of_error, of_refusal
from pywren_runtime.stores.redis_lines import Command, Line
from pywren_runtime.stores.redis_settings import PASSWORD, Settings

__all__ = ["Links", "Unit"]

Address = tuple[str, int]
_LEADING: Final = (b"MULTI",)
_REDIRECTS: Final = frozenset({"MOVED", "ASK"})
_HASTE: Final = 3  # redirects are followed at once; then the servers do not agree yet on who has the slot
_NOWHERE: Final = ("", "?")  # a server that does not know its own name is where we have reached it


@dataclass(frozen=True, slots=True)
class Unit:
    """Commands that go to one server, one behind the other: that of their key, or `at`."""

    commands: Sequence[Command]
    key: bytes = b""
    at: Address | None = None


class _Own:
    """What one process has: its connections, and what it knows of the cluster."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.lines: dict[Address, Line] = {}
        self.nodes: NodesManager | None = None  # who has which slots; None if that is to be learnt


class Links:
    """Asks the servers of one store; StoreError where patience ends."""

    def __init__(self, settings: Settings, patience: Patience) -> None:
        self._settings = settings
        self._patience = patience
        self._owned: dict[int, _Own] = {}
        self._connection = _encrypted(settings.ca_file) if settings.tls else Connection

    @property
    def _own(self) -> _Own:
        """Looked up by process: a child can use neither its parent's connections nor a lock that somebody held."""
        return self._owned.get(os.getpid()) or self._owned.setdefault(os.getpid(), _Own())

    def ask(self, units: Sequence[Unit], action: str, key: str = "", met: list[Fault] | None = None) -> list[list[Any]]:
        """The replies to each unit's commands; those that pass never come out, and are in `met`."""
        found: list[list[Any] | None] = [None] * len(units)
        asked: dict[int, Address] = {}  # where a slot that is on its way is to be asked for once
        begun = time.monotonic()
        for tries in count():
            faults = self._try(units, found, asked)
            if met is not None:
                met += faults
            elapsed = time.monotonic() - begun
            waits = [fault for fault in faults if not (self._settings.cluster and fault.code in _REDIRECTS)]
            for fault in waits:
                limit = self._patience.unreachable if fault.code == "connect" else self._patience.total
                if not fault.passes or elapsed >= limit:
                    raise explain(fault, self._settings, action, key, elapsed)
            if not faults:
                return [replies for replies in found if replies is not None]
            if elapsed >= self._patience.total:
                raise explain(faults[0], self._settings, action, key, elapsed)
            if waits or tries >= _HASTE:
                time.sleep(min(self._patience.longest, self._patience.pause * 2 ** min(tries, 10)))
        raise AssertionError

    def masters(self, action: str) -> Sequence[Address]:
        """The servers that have keys."""
        if not self._settings.cluster:
            return self._settings.seeds
        while (nodes := self._own.nodes) is None:
            self.ask([Unit([(b"EXISTS", b"-")], b"-")], action)  # learns who is there, with all the patience
        return [(node.host, node.port) for node in nodes.get_nodes_by_server_type("primary")]

    def close(self) -> None:
        """Let go of this process's connections; the next use makes new ones."""
        self._owned.pop(os.getpid(), None)  # they end with the last thread that uses them

    # ── one try ──

    def _try(self, units: Sequence[Unit], found: list[list[Any] | None], asked: dict[int, Address]) -> list[Fault]:
        """Ask for what is not found yet, each server once; what stood in the way."""
        own = self._own
        groups: dict[Address, list[int]] = {}
        try:
            for number, unit in enumerate(units):
                if found[number] is None:
                    groups.setdefault(asked.get(number) or self._owner(own, unit), []).append(number)
        except (RedisError, RedisClusterException) as error:
            own.nodes = None
            return [of_error(error, _named(*self._settings.seeds), connected=False)]
        faults: list[Fault] = []
        for address, numbers in groups.items():
            sent = [_asking(units[number]) if number in asked else units[number].commands for number in numbers]
            try:
                replies, lost = self._line(own, address).ask(list(chain.from_iterable(sent)))
            except BaseException:
                own.lines.pop(address, None)  # see Line
                raise
            left = iter(replies)
            for number, commands in zip(numbers, sent, strict=True):
                answers = list(islice(left, len(commands)))
                asked.pop(number, None)
                if len(answers) < len(commands):
                    fault: Fault | None = lost
                    own.nodes = None
                else:
                    fault = self._judge(own, answers, address, number, asked)
                if fault is not None:
                    faults.append(fault)
                else:
                    found[number] = answers if commands is units[number].commands else _answered(answers, units[number])
        return faults

    def _judge(
        self, own: _Own, answers: Sequence[Any], address: Address, number: int, asked: dict[int, Address]
    ) -> Fault | None:
        """Why this unit must go again, and where to; None if its answers may be had."""
        for answer in answers:
            if not isinstance(answer, ResponseError):
                continue
            fault = of_refusal(answer, _named(address))
            if isinstance(answer, AskError) and fault.code == "ASK":
                asked[number] = (address[0] if answer.host in _NOWHERE else answer.host, answer.port)
            elif fault.code in ("MOVED", "READONLY", "LOADING"):  # another one may be master by now
                own.nodes = None
            if fault.code == "READONLY":  # it was the master when we connected
                own.lines.pop(address, None)
            if fault.passes or fault.code in _REDIRECTS:
                return fault
        return None

    # ── servers ──

    def _owner(self, own: _Own, unit: Unit) -> Address:
        if unit.at or not self._settings.cluster:
            return unit.at or self._settings.seeds[0]
        with own.lock:
            nodes = own.nodes  # another thread may forget them meanwhile
            if nodes is None:
                seeds = dict.fromkeys([*own.lines, *self._settings.seeds])
                nodes = own.nodes = self._learnt([ClusterNode(*address) for address in seeds])
            node = nodes.get_node_from_slot(key_slot(unit.key))
        return node.host, node.port

    def _learnt(self, seeds: list[ClusterNode]) -> NodesManager:
        try:
            return NodesManager(seeds, from_url=True, **self._way)  # as a URL's: with our connection_class
        except IndexError as error:  # so redis-py takes an empty list
            raise SlotNotCoveredError("no server of this cluster has slots") from error

    def _line(self, own: _Own, address: Address) -> Line:
        line = own.lines.get(address)
        if line is None:
            host, port = address
            pool = ConnectionPool(host=host, port=port, db=self._settings.database, **self._way)
            line = own.lines.setdefault(address, Line(pool, _named(address), self._patience.silence))
        return line

    @property
    def _way(self) -> dict[str, Any]:
        """How redis-py is to connect: it asks for nothing of its own but a login, and tries nothing again."""
        limit = self._patience.connect  # for TLS and login, too
        way: dict[str, Any] = {"protocol": 2, "driver_info": None, "socket_read_size": 64 << 10}
        way |= {"connection_class": self._connection, "socket_connect_timeout": limit, "socket_timeout": limit}
        if password := os.environ.get(PASSWORD):
            # Who is named may give a password where there is none: such a server may stand beside one that has this.
            way |= {"username": self._settings.user or "default", "password": password}
        elif self._settings.tls:  # an answer that brings TLS 1.3's tickets, else redis-py takes these for one
            way["client_name"] = "pywren-ng"
        return way


def _encrypted(ca_file: str | None) -> type[Connection]:
    """With one list of authorities for all connections; redis-py reads the system's for each, in 50 ms."""
    from pywren_runtime.route import trust

    tls = trust(ca_file or "")
    tls.set_alpn_protocols([])  # this is no HTTP

    class Encrypted(SSLConnection):
        def _wrap_socket_with_ssl(self, sock: socket) -> socket:
            return tls.wrap_socket(sock, server_hostname=self.host)

    return Encrypted


def _asking(unit: Unit) -> list[Command]:
    """The same for a server to which the key's slot is on its way; a transaction is let in once."""
    if unit.commands[0] == _LEADING:
        return [(b"ASKING",), *unit.commands]
    return [part for command in unit.commands for part in ((b"ASKING",), command)]


def _answered(answers: list[Any], unit: Unit) -> list[Any]:
    return answers[1:] if unit.commands[0] == _LEADING else answers[1::2]


def _named(*addresses: Address) -> str:
    return "Redis at " + ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses)
