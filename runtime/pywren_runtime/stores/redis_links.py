"""To which server a command goes, over which connection, and that it goes again where its fault passes.

    Unit (commands of one key) ──► slot ──► server ──► one of its connections ──► replies
                                    ▲                                                │
                                    └── asked anew ◄── MOVED, ASK, not ready, no connection

A unit is sent again as a whole: its commands must bear that. Nothing is shared with a process that this one forks.
"""

import os
import time
from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from pywren_runtime.stores.redis_faults import Fault, Patience, explain, of_error, of_refusal
from pywren_runtime.stores.redis_settings import PASSWORD, Settings
from pywren_runtime.stores.redis_wire import Command, Refusal, Wire

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Links", "Unit"]

Address = tuple[str, int]
SLOTS: Final = 16384
_EACH: Final = 2  # connections to one server: while one thread copies a reply, another one's comes
_EACH_TLS: Final = 4  # each serves one thread at a time
_LEADING: Final = (b"MULTI",)
_NOWHERE: Final = ("", "?")  # a server that does not know its own name is where we have reached it
_REDIRECTS: Final = frozenset({"MOVED", "ASK"})
_FINAL: Final = frozenset({"NOAUTH", "WRONGPASS", "MOVED"})  # of a whole connection: no caller need look


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
        self.wires: dict[tuple[Address, int], Wire] = {}
        self.turns = count()
        self.owners: Sequence[Address] = ()  # of the slots
        self.masters: Sequence[Address] = ()


class Links:
    """Asks the servers of one store; StoreError where patience ends."""

    def __init__(self, settings: Settings, patience: Patience) -> None:
        self._settings = settings
        self._patience = patience
        self._owned: dict[int, _Own] = {}
        self._tls = _trust(settings.ca_file) if settings.tls else None

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
            if waits:
                time.sleep(min(self._patience.longest, self._patience.pause * 2 ** min(tries, 10)))
        raise AssertionError

    def masters(self, action: str) -> Sequence[Address]:
        """The servers that have keys."""
        if not self._settings.cluster:
            return self._settings.seeds
        self.ask([Unit([(b"EXISTS", b"-")], b"-")], action)  # learns where slots are, with all the patience
        return self._own.masters

    def close(self) -> None:
        """Let go of this process's connections; the next use makes new ones."""
        own = self._owned.pop(os.getpid(), None)
        if own is not None:
            for wire in list(own.wires.values()):  # another thread may be making one
                wire.close()

    # ── one try ──

    def _try(self, units: Sequence[Unit], found: list[list[Any] | None], asked: dict[int, Address]) -> list[Fault]:
        """Ask for what is not found yet, each server once; what stood in the way."""
        own = self._own
        owners = own.owners
        if self._settings.cluster and not owners:
            learnt = self._learn(own)
            if isinstance(learnt, Fault):
                return [learnt]
            owners = learnt
        groups: dict[Address, list[int]] = {}
        for number, unit in enumerate(units):
            if found[number] is None:
                groups.setdefault(asked.get(number) or unit.at or self._owner(owners, unit.key), []).append(number)
        faults: list[Fault] = []
        for address, numbers in groups.items():
            commands: list[Command] = []
            places = []
            for number in numbers:
                asking = _asking(units[number]) if number in asked else units[number].commands
                places.append((number, len(commands), len(commands) + len(asking)))
                commands += asking
            replies, fault = self._send(own, address, commands)
            if fault is not None:
                faults.append(fault)
                own.owners = own.masters = ()
                continue
            for number, start, stop in places:
                answers = replies[start:stop]
                if number in asked:
                    answers = _answered(answers, units[number])
                fault = self._judge(own, answers, number, asked, address)
                if fault is None:
                    found[number] = answers
                else:
                    faults.append(fault)
        return faults

    def _judge(
        self, own: _Own, answers: Sequence[Any], number: int, asked: dict[int, Address], address: Address
    ) -> Fault | None:
        """Why this unit must go again, and where to; None if its answers may be had."""
        asked.pop(number, None)
        for answer in answers:
            if not isinstance(answer, Refusal):
                continue
            fault = of_refusal(answer, _named(address))
            if self._settings.cluster and fault.code in _REDIRECTS:
                host, _, port = answer.text.split()[2].rpartition(":")
                to = (address[0] if host in _NOWHERE else host, int(port))
                if fault.code == "ASK":
                    asked[number] = to
                else:
                    own.owners = own.masters = ()
                return fault
            if fault.passes:
                if fault.code == "READONLY":  # it was the master when we connected
                    own.owners = own.masters = ()
                    self._drop(own, address)
                return fault
            if fault.code in _FINAL:
                return fault
        return None

    def _send(self, own: _Own, address: Address, commands: Sequence[Command]) -> tuple[list[Any], Fault | None]:
        connected = False
        try:
            wire = self._wire(own, address)
            connected = True
            return wire.ask(commands), None
        except _Refused as refused:
            return [], of_refusal(refused.refusal, _named(address))
        except OSError as error:
            return [], of_error(error, _named(address), connected=connected)

    def _wire(self, own: _Own, address: Address) -> Wire:
        """The next of a server's connections, made if it is not there."""
        which = (address, next(own.turns) % (_EACH_TLS if self._tls else _EACH))
        wire = own.wires.get(which)
        if wire is not None and not wire.dead:
            return wire
        first = self._first()
        made = Wire(address, tls=self._tls, connect=self._patience.connect, silence=self._patience.silence, first=first)
        for greeting in made.greetings:
            # A server without a password may stand beside one that has this.
            if isinstance(greeting, Refusal) and "password configured" not in greeting.text:
                made.close()
                raise _Refused(greeting)
        with own.lock:
            known = own.wires.get(which)
            if known is not None and not known.dead:  # another thread was faster
                made.close()
                return known
            own.wires[which] = made
        return made

    def _first(self) -> list[Command]:
        """What a connection begins with."""
        password, user = os.environ.get(PASSWORD, ""), self._settings.user
        login: list[Command] = []
        if password:
            login.append((b"AUTH", *([user.encode()] if user else []), password.encode()))
        if self._settings.database:
            login.append((b"SELECT", b"%d" % self._settings.database))
        return login

    def _drop(self, own: _Own, address: Address) -> None:
        for which in [which for which in list(own.wires) if which[0] == address]:
            own.wires.pop(which).close()

    # ── a cluster's slots ──

    def _owner(self, owners: Sequence[Address], key: bytes) -> Address:
        return owners[crc_hqx(key, 0) % SLOTS] if self._settings.cluster else self._settings.seeds[0]

    def _learn(self, own: _Own) -> Sequence[Address] | Fault:
        """Ask any server which has which slots; or what stood in the way."""
        for address in self._seeds(own):
            replies, fault = self._send(own, address, [(b"CLUSTER", b"SLOTS")])
            if fault is not None:
                continue
            if isinstance(replies[0], Refusal):
                fault = of_refusal(replies[0], _named(address))
                continue
            owners: list[Address | None] = [None] * SLOTS
            for start, stop, (host, port, *_), *_ in replies[0]:
                name = (host or b"").decode()
                owners[start : stop + 1] = [(address[0] if name in _NOWHERE else name, port)] * (stop + 1 - start)
            if None in owners:
                fault = Fault("CLUSTERDOWN", "not every slot has a server", _named(address))
                continue
            known = own.owners = [owner for owner in owners if owner is not None]
            own.masters = sorted(set(known))
            return known
        assert fault is not None  # for there is always a server to ask
        return fault

    def _seeds(self, own: _Own) -> Iterable[Address]:
        """Servers to ask: those that answered before, and those that the URL names."""
        return dict.fromkeys([*(address for address, _ in list(own.wires)), *self._settings.seeds])


class _Refused(Exception):
    """A server did not let us in."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


def _asking(unit: Unit) -> list[Command]:
    """The same for a server to which the key's slot is on its way; a transaction is let in once."""
    if unit.commands[0] == _LEADING:
        return [(b"ASKING",), *unit.commands]
    return [part for command in unit.commands for part in ((b"ASKING",), command)]


def _answered(answers: list[Any], unit: Unit) -> list[Any]:
    return answers[1:] if unit.commands[0] == _LEADING else answers[1::2]


def _named(address: Address) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"Redis at {host}:{address[1]}"


def _trust(ca_file: str | None) -> "SSLContext":
    from pywren_runtime.route import trust

    tls = trust(ca_file or "")
    tls.set_alpn_protocols([])  # this is no HTTP
    return tls
