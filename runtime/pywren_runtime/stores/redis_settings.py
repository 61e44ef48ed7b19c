"""Where a Redis store lies and how it is reached: a value made of its URL.

    redis://host:6379/0/prefix      rediss://user@host/0?ca=/a/file.pem      redis+cluster://host:7000,host:7001/prefix

A password never stands in what travels: a process finds it in its environment, in REDISCLI_AUTH, as redis-cli does.
One that a user writes into a URL is taken out of it and put there, for this process and those that it starts.
"""

import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final

from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import check_key, without_password

__all__ = ["CONNECTIONS", "PASSWORD", "Settings", "parse", "take_password"]

PASSWORD: Final = "REDISCLI_AUTH"
CONNECTIONS: Final = 2  # of one process to each server: while one thread parses what has come, more comes for another
_URL = re.compile(r"(rediss?)(\+cluster)?://(?:([^@/?]*)@)?([^/?]*)(?:/([^?]*))?(?:\?(.*))?")
_LABEL = "[A-Za-z0-9_-]{1,63}"
_HOST = re.compile(rf"(\[[0-9a-fA-F:.]+\]|{_LABEL}(?:\.{_LABEL})*\.?)(?::(\d{{1,5}}))?", re.ASCII)
_PORT: Final = 6379
_DAY: Final = 86_400
_OPTIONS = frozenset({"bytes", "ca", "patience", "ttl"})


@dataclass(frozen=True, slots=True)
class Settings:
    """One store's place and way."""

    url: str  # without a password
    seeds: tuple[tuple[str, int], ...]  # servers to ask first; one where there is no cluster
    cluster: bool
    tls: bool
    user: str
    database: int
    prefix: str  # ends with a slash unless empty
    ttl: int  # seconds after which a key goes by itself
    most: int | None  # bytes that may lie here, if the user says so
    patience: float | None  # seconds for which what passes is tried again
    ca_file: str | None


def take_password(url: str, environ: MutableMapping[str, str] = os.environ) -> str:
    """The URL without its password, which is in the environment now; ConfigError if another one is there."""
    bare = without_password(url)
    if bare == url:
        return url
    from urllib.parse import unquote

    password = unquote(url.partition("://")[2].rpartition("@")[0].partition(":")[2])
    if environ.setdefault(PASSWORD, password) != password:
        raise ConfigError(
            f"the password in the URL of {bare} is not the one in {PASSWORD}, by which workers know it: one password"
            " serves for all servers. Correct the one that is wrong."
        )
    return bare


def parse(url: str) -> Settings:
    """The settings that a URL makes; ConfigError if it makes no sense."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ConfigError(
            f"store={without_password(url)!r} is no URL of a Redis server: write redis://host:6379, rediss:// for TLS,"
            " or redis+cluster:// for a cluster."
        )
    scheme, cluster, login, hosts, path, query = found.groups()
    user = (login or "").partition(":")[0]
    bare = without_password(url)
    options = _options(query or "", bare)
    first, _, rest = (path or "").partition("/")
    numbered = first.isdecimal()
    if cluster and numbered and int(first):
        raise ConfigError(f"store={bare!r}: a cluster has no database but 0; write a prefix there, or nothing.")
    prefix = (rest if numbered else path or "").strip("/")
    if prefix:
        check_key(prefix)
    seeds = tuple(_address(host, bare) for host in hosts.split(","))
    if len(seeds) > 1 and not cluster:
        raise ConfigError(f"store={bare!r} names several servers: if they are a cluster, write redis+cluster://.")
    return Settings(
        url=bare,
        seeds=seeds,
        cluster=bool(cluster),
        tls=scheme == "rediss",
        user=_plain(user),
        database=int(first) if numbered else 0,
        prefix=f"{prefix}/" if prefix else "",
        ttl=_number(options, "ttl", bare, least=1) or _DAY,
        most=_number(options, "bytes", bare, least=0),
        patience=_seconds(options, bare),
        ca_file=options.get("ca") or None,
    )


def _plain(text: str) -> str:
    if "%" not in text:
        return text
    from urllib.parse import unquote

    return unquote(text)


def _address(host: str, url: str) -> tuple[str, int]:
    found = _HOST.fullmatch(host)
    if found is None or int(found[2] or 1) > 65535:
        raise ConfigError(f"store={url!r} names no server; write it as redis://host:6379.")
    return found[1].strip("[]"), int(found[2] or _PORT)


def _options(query: str, url: str) -> dict[str, str]:
    if not query:
        return {}
    from urllib.parse import parse_qsl

    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := options.keys() - _OPTIONS:
        raise ConfigError(
            f"store={url!r}: {', '.join(sorted(unknown))} is no option of a Redis store; there are"
            f" {', '.join(sorted(_OPTIONS))}. A password comes from the environment, in {PASSWORD}."
        )
    return options


def _number(options: Mapping[str, str], name: str, url: str, *, least: int) -> int | None:
    text = options.get(name)
    if text is None:
        return None
    try:
        number = int(float(text))
    except (ValueError, OverflowError):
        number = -1
    if number < least:
        raise ConfigError(f"store={url!r}: {name}={text!r} should be a number from {least}.")
    return number


def _seconds(options: Mapping[str, str], url: str) -> float | None:
    text = options.get("patience")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 86_400:
        raise ConfigError(f"store={url!r}: patience={text!r} should be seconds, as patience=5.")
    return seconds
