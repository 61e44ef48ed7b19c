"""The way to an endpoint: its name, TLS, a proxy, and the addresses that names lead to."""

import os
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pywren_runtime.errors import ConfigError

if TYPE_CHECKING:
    import ssl

NEVER: Final = float("inf")
FRESH: Final = 60.0  # seconds for which an address is used without asking again
MARGIN: Final = 64  # descriptors left to everybody else


@dataclass(frozen=True, slots=True)
class Route:
    """Where to connect, and what to do there before a request can be sent."""

    host: str  # whom the request is for
    authority: str  # the same with the port, unless it is the usual one
    tls: "ssl.SSLContext | None"
    peer: tuple[str, int]  # whom to connect to: the host or the proxy
    tunnel: bytes = b""  # what asks the proxy for a tunnel; no proxy if empty
    prefix: str = ""  # of the endpoint's path
    ca: str = ""  # the file that says whom to trust; the system's list if empty


def plan_route(
    endpoint: str, *, proxy: str | None = None, ca: str | None = None, environ: Mapping[str, str] = os.environ
) -> Route:
    """The way to an endpoint; ConfigError says what is wrong with its URL, its proxy's or its list of authorities.

    Without `proxy`, HTTPS_PROXY and NO_PROXY are honoured for https; with "", no proxy is used. Without `ca`, what
    AWS_CA_BUNDLE names is trusted, or else what this machine trusts.
    """
    scheme, host, port, prefix, _ = split(endpoint, "endpoint")
    if scheme not in ("http", "https"):
        raise ConfigError(f"the endpoint {endpoint!r} is neither http nor https")
    usual = 443 if scheme == "https" else 80
    name = f"[{host}]" if ":" in host else host
    authority = name if port in (0, usual) else f"{name}:{port}"
    ca = environ.get("AWS_CA_BUNDLE", "") if ca is None else ca
    tls = trust(ca) if scheme == "https" else None
    if proxy is None:
        named = environ.get("https_proxy") or environ.get("HTTPS_PROXY") or ""
        excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
        proxy = "" if scheme == "http" or is_excepted(host, port or usual, excepted) else named
    if not proxy:
        return Route(host, authority, tls, (host, port or usual), b"", prefix, ca)
    kind, way, gate, _, user = split(proxy if "://" in proxy else f"http://{proxy}", "proxy")
    if kind != "http":
        raise ConfigError(f"the proxy at {way} is to be reached by {kind}; only http:// is supported")
    target = f"{name}:{port or usual}"
    who = f"proxy-authorization: Basic {b64encode(unquote(user)).decode()}\r\n" if user else ""
    tunnel = f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n{who}\r\n".encode("latin-1")
    return Route(host, authority, tls, (way, gate or 80), tunnel, prefix, ca)


def split(url: str, what: str) -> tuple[str, str, int, str, str]:
    """Scheme, host, port (0 if unsaid), path and user of a URL. What it says about the user is never shown."""
    plain = all("!" <= character <= "~" for character in url)
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    user, _, place = place.rpartition("@")
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = place.partition(":")
    if not (plain and scheme and host.strip(".") and host[0] != ".") or (
        port and not (port.isdigit() and 0 < int(port) < 65536)
    ):
        shown = f"{scheme}://{place}{slash}{path}"
        raise ConfigError(f"the {what} {shown!r} is no URL such as https://host:port")
    return scheme.lower(), host, int(port or 0), (slash + path).rstrip("/"), user


def unquote(text: str) -> bytes:
    """The bytes that a percent-encoded text stands for; a % that stands for none is kept."""
    first, *parts = text.encode().split(b"%")
    done = [first]
    for part in parts:
        try:
            done.append(
                int(part[:2], 16).to_bytes() + part[2:] if part[:2].isalnum() and len(part) > 1 else b"%" + part
            )
        except ValueError:
            done.append(b"%" + part)
    return b"".join(done)


def is_excepted(host: str, port: int, excepted: str) -> bool:
    """Whether NO_PROXY names that host, one of its domains, its network, or all (`*`)."""
    for entry in excepted.replace(" ", ",").split(","):
        if "/" in entry and host.replace(".", "").replace(":", "").isalnum() and is_within(host, entry):
            return True
        name, colon, only = entry.rpartition(":")
        if colon and only.isdigit() and ":" not in name:
            if int(only) != port:
                continue
            entry = name
        entry = entry.strip("[]").removeprefix("*").removeprefix(".").lower()
        if entry and (host.lower() == entry or host.lower().endswith(f".{entry}")):
            return True
    return "*" in excepted.replace(" ", ",").split(",")


def is_within(host: str, network: str) -> bool:
    """Whether an address lies in a network such as 10.0.0.0/8."""
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def trust(ca: str) -> "ssl.SSLContext":
    """Checks certificates against the authorities in that file, or against this machine's."""
    import ssl

    try:
        tls = ssl.create_default_context(cafile=ca or None)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"the authorities in {ca!r} cannot be read ({error}): AWS_CA_BUNDLE or `ca` must name a file of PEM "
            "certificates"
        ) from error
    tls.set_alpn_protocols(["http/1.1"])
    return tls


Address = tuple[int, Any]


class Addresses:
    """The addresses of a name, looked up by a thread of their own, for that can take many seconds."""

    def __init__(self, peer: tuple[str, int], ring: Callable[[], None]) -> None:
        self._peer = peer
        self._ring = ring  # called by that thread when it is done
        self._known: list[Address] = numeric(*peer)
        self._until = NEVER if self._known else 0.0
        self._since = 0.0  # when the lookup under way began; 0 if there is none
        self._failure = ""  # of the last one, until it is taken

    @property
    def sought(self) -> float:
        """Since when nothing is known and it is being looked up; 0 if that is not so."""
        return 0.0 if self._known else self._since

    def known(self) -> Sequence[Address]:
        """Those known, perhaps for long: where a lookup fails, what was true before it may still be. The one to try
        first is the first. If none is known or they are old, a lookup is begun."""
        now = time.monotonic()
        if now >= self._until and not self._since and not self._failure:
            self._since = now
            try:
                threading.Thread(target=self._look, name="pywren-resolve", daemon=True).start()
            except RuntimeError as error:
                self._since, self._failure = 0.0, f"no thread could be started to look it up ({error})"
        return self._known

    def take_failure(self) -> str:
        """Why the last lookup failed, to be told once; the next question begins another."""
        failure, self._failure = self._failure, ""
        return failure

    def demote(self, address: Address) -> None:
        """That one did not answer: try it last."""
        if address in self._known:
            self._known = [one for one in self._known if one != address] + [address]

    def _look(self) -> None:
        try:
            found = socket.getaddrinfo(*self._peer, type=socket.SOCK_STREAM)
            self._known = ranked([(family, where) for family, _, _, _, where in found])
        except (OSError, UnicodeError) as error:
            if not self._known:
                self._failure = str(error)
        self._until = time.monotonic() + FRESH if self._known else 0.0
        self._since = 0.0
        self._ring()


def numeric(host: str, port: int) -> list[Address]:
    """What needs no lookup, for it is an address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return [(family, (host, port))]
    return []


def ranked(found: Sequence[Address]) -> list[Address]:
    """Families in turn: where one of them leads nowhere, the second try is of the other."""
    turns: dict[int, int] = {}
    places = []
    for one in dict.fromkeys(found):
        turns[one[0]] = turns.get(one[0], 0) + 1
        places.append((turns[one[0]], one))
    return [one for _, one in sorted(places, key=lambda place: place[0])]


def spare_descriptors(wanted: int) -> int:
    """How many connections can be had, at most as many as wanted: if the soft limit does not allow them, it is raised
    by just so much, for a program that uses select() must see no descriptor above 1,023 without need."""
    import resource

    try:
        taken = len(os.listdir("/dev/fd"))
    except OSError:
        taken = MARGIN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + taken + MARGIN
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            soft = limit
        except (OSError, ValueError):
            pass
        return max(1, min(wanted, soft - taken - MARGIN))
    return wanted
