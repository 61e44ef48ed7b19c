"""The Redis store beyond the contract: layout, passwords, connections, and what it says of each fault.

Every fault is a real server's, but one: that an answer is lost behind a command that was carried out.
"""

import os
import re
import signal
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from support.redis_servers import SECRET, Redis, RedisCluster, standalone

from pywren_ng import config
from pywren_runtime.errors import ConfigError, KeyMissing, StoreError, StoreFull
from pywren_runtime.stores import open_store, without_password
from pywren_runtime.stores.redis_faults import Patience
from pywren_runtime.stores.redis_room import room_of
from pywren_runtime.stores.redis_settings import parse
from pywren_runtime.stores.redis_store import RedisStore

HASTY = Patience(connect=0.2, total=0.3, unreachable=0.2, pause=0.02)
PIECE = 1000


@pytest.fixture
def store(redis_server: Redis) -> Iterator[RedisStore]:
    store = RedisStore(redis_server.url(), patience=HASTY, piece=PIECE)
    yield store
    store.close()


@pytest.fixture
def own_server() -> Iterator[Redis]:
    """A server that a test may break."""
    with standalone() as server:
        yield server


@pytest.fixture
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDISCLI_AUTH", raising=False)


# ── URLs ──


def test_what_a_url_says() -> None:
    found = parse("rediss+cluster://me@a.example:7000,b.example/jobs/x?ttl=60&bytes=1e9&ca=/a/b.pem&patience=2")
    assert found.seeds == (("a.example", 7000), ("b.example", 6379))
    assert (found.tls, found.cluster, found.user, found.prefix) == (True, True, "me", "jobs/x/")
    assert (found.ttl, found.most, found.ca_file, found.patience) == (60, 10**9, "/a/b.pem", 2.0)
    found = parse("redis://[::1]:6380/3")
    assert (found.seeds, found.database, found.prefix, found.ttl) == ((("::1", 6380),), 3, "", 86_400)
    assert parse("redis://host/a/b").prefix == "a/b/"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis:host", "write redis://host:6379"),
        ("redis://", "names no server"),
        ("redis://a,b/0", r"write redis\+cluster://"),
        ("redis://a:99999", "names no server"),
        ("redis://a..b", "names no server"),
        ("redis+cluster://a/2", "no database but 0"),
        ("redis://a/0/b c", "cannot be a key"),
        ("redis://a?ttl=0", "ttl='0' should be a number from 1"),
        ("redis://a?bytes=lots", "bytes='lots' should be a number"),
        ("redis://a?patience=-1", "should be seconds"),
        ("redis://a?password=x", "password is no option of a Redis store.*REDISCLI_AUTH"),
    ],
)
def test_a_url_that_makes_no_sense(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_store(url)


# ── passwords ──


def test_a_password_in_a_url_travels_by_the_environment_only(no_password: None, redis_tls: Redis) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REDISCLI_AUTH", raising=False)
        url = redis_tls.url().replace("://", f"://:{SECRET}@")
        store = open_store(url)
        assert os.environ["REDISCLI_AUTH"] == SECRET
        assert store.url == url.replace(f":{SECRET}@", "")
        store.put("a", b"1")
        with pytest.raises(ConfigError, match="one password serves for all servers") as caught:
            open_store("redis://:another-one@127.0.0.1:1")
        assert "another-one" not in str(caught.value) and SECRET not in str(caught.value)
        again = open_store(store.url)
        assert again.get("a") == b"1"
        everything = repr([vars(store), vars(store._links), store._settings])  # type: ignore[attr-defined]
        assert SECRET not in everything
        os.environ["REDISCLI_AUTH"] = "wrong-one"
        with pytest.raises(StoreError, match=r"does not accept that user and password.*REDISCLI_AUTH") as refused:
            open_store(f"{store.url}&patience=0.2").get("a")
        assert "wrong-one" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["redis://:s3cret@h", "rediss://me:s3cret@h:1/0", "reids://:s3/c@ret@h", "x://a:s3cret@"]
)
def test_no_error_shows_a_password(url: str) -> None:
    assert "cret" not in without_password(url)
    with pytest.raises(ConfigError) as caught:
        open_store(url.replace("redis", "rodis"))
    assert "cret" not in str(caught.value)


def test_settings_are_shown_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYWREN_NG_STORE", "redis://me:s3cret@h:1/0")
    shown = config.render(config.load({}))
    assert "redis://me@h:1/0" in shown and "s3cret" not in shown


def test_a_url_without_a_password_stays_as_it_is() -> None:
    for url in ("redis://h:1/0?ca=/a@b/c.pem", "s3://bucket/a?endpoint=http://h:1", "redis+cluster://a:1,b:2/p"):
        assert without_password(url) == url


def test_a_password_that_is_lacking(redis_tls: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDISCLI_AUTH")
    with pytest.raises(StoreError, match=r"wants a password. Put the right one into REDISCLI_AUTH before the executor"):
        open_store(redis_tls.url("?patience=0.2")).get("a")


# ── layout ──


def test_a_large_object_is_in_pieces_of_which_nobody_sees_any(store: RedisStore, redis_server: Redis) -> None:
    before, data = redis_server.size(), os.urandom(4 * PIECE + 1)
    store.put("a/large", data)
    assert redis_server.size() == before + 6
    assert list(store.keys()) == [("a/large", len(data))]
    assert store.get("a/large") == data
    for start, length in ((0, 1), (PIECE - 1, 2), (500, 3 * PIECE), (4 * PIECE, 10), (4 * PIECE + 1, 10), (0, 1 << 40)):
        assert store.get_range("a/large", start, length) == data[start : start + length]
    assert not store.put_new("a/large", data)
    assert redis_server.size() == before + 6
    store.put("a/large", data[::-1])
    assert (store.get("a/large"), redis_server.size()) == (data[::-1], before + 6)
    store.put("a/large", b"small")
    assert (store.get("a/large"), redis_server.size()) == (b"small", before + 1)
    store.put_stream("a/large", (data[:10], data[10:]))
    store.delete_many(["a/large"])
    assert redis_server.size() == before
    assert store.put_new("a/large", data) and store.get("a/large") == data
    store.delete_many(["a/large"])
    assert redis_server.size() == before


def test_a_stream_that_fails_leaves_no_piece(store: RedisStore, redis_server: Redis) -> None:
    before = redis_server.size()

    def chunks() -> Iterator[bytes]:
        yield bytes(5 * PIECE)
        assert redis_server.size() > before
        raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        store.put_stream("a", chunks())
    assert redis_server.size() == before


def test_who_knows_an_objects_pieces_notices_that_it_was_replaced(store: RedisStore) -> None:
    store.put("a", b"1" * 3000)
    other = RedisStore(store.url, piece=PIECE)
    assert other.get_range("a", 1500, 10) == b"1" * 10
    for new in (b"2" * 3000, b"3" * 1700, b"4" * 1600):
        (store if new[0] != ord("4") else RedisStore(store.url)).put("a", new)
        assert other.get_range("a", 1500, 10) == new[1500:1510]
    store.delete_many(["a"])
    with pytest.raises(KeyMissing):
        other.get_range("a", 1500, 10)


def test_a_lost_piece_is_an_error_that_says_so(store: RedisStore, redis_server: Redis) -> None:
    store.put("a", bytes(3000))
    assert store.get_range("a", 0, 10) == bytes(10)
    piece = next(name for name in redis_server.ask("KEYS", "*~*").split() if name.endswith(".1"))
    redis_server.ask("DEL", piece)
    for read in (store.get, lambda key: store.get_range(key, 900, 200)):
        with pytest.raises(KeyMissing, match=r"a piece of 'a' in .* is gone: the server has evicted it"):
            read("a")
    assert store.get_range("a", 0, 10) == bytes(10)
    store.delete_many(["a"])


def test_every_key_goes_by_itself(redis_server: Redis) -> None:
    store = RedisStore(redis_server.url("?ttl=1000"), piece=PIECE)
    store.put("a", b"1")
    store.put("b", bytes(3000))
    store.put_new("c", b"1")
    store.put_new("d", bytes(3000))

    def chunks() -> Iterator[bytes]:
        yield bytes(2000)
        written = redis_server.ask("KEYS", "*~*").split()  # a writer may be killed at any time
        assert written and all(int(redis_server.ask("TTL", name)) > 0 for name in written)
        yield bytes(1000)

    store.put_stream("e", chunks())
    names = redis_server.ask("KEYS", f"*{store.url.rpartition('/')[2].partition('?')[0]}*").split()
    assert len(names) == 2 + 3 * 4
    assert all(900 < int(redis_server.ask("TTL", name)) <= 1000 for name in names)
    store.delete_many(["a", "b", "c", "d", "e"])


def test_strangers_keys_are_passed_over(redis_server: Redis) -> None:
    store = RedisStore(redis_server.url())
    place = store.url.partition("/0/")[2]
    redis_server.ask("SET", f"{place}/a b", "not ours")
    redis_server.ask("SADD", f"{place}/a", "not a string")
    store.put("b", b"1")
    assert list(store.keys()) == [("a", 0), ("b", 1)] or list(store.keys()) == [("b", 1)]
    redis_server.ask("DEL", f"{place}/a b", f"{place}/a")
    store.delete_many(["b"])


def test_a_server_holds_one_piece_more_while_an_object_is_read(own_server: Redis) -> None:
    def used(what: str) -> int:
        return int(re.findall(rf"\b{what}:(\d+)", own_server.ask("INFO", "memory"))[0])

    store = RedisStore(own_server.url(), piece=2 << 20)
    store.put("a", bytes(16 << 20))
    own_server.ask("CONFIG", "RESETSTAT")
    before = used("used_memory")
    assert len(store.get("a")) == 16 << 20
    assert used("used_memory_peak") < before + (6 << 20)


# ── connections ──


def test_many_threads_share_two_connections(own_server: Redis) -> None:
    store = RedisStore(own_server.url())
    data = os.urandom(1 << 20)
    store.put("a", data)
    others = int(own_server.ask("INFO", "clients").partition("connected_clients:")[2].split()[0])

    def read(number: int) -> bool:
        start = number * 1000
        return store.get_range("a", start, 5000) == data[start : start + 5000]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(1000)))
    now = int(own_server.ask("INFO", "clients").partition("connected_clients:")[2].split()[0])
    assert now <= others + 1
    store.close()


def test_a_thread_that_is_interrupted_harms_no_other(own_server: Redis) -> None:
    """All wait for a server that does not write now: two on connections, two behind these, two behind me."""
    store = RedisStore(own_server.url())
    store.put("a", b"1")
    own_server.ask("CLIENT", "PAUSE", "20000", "WRITE")
    puts: list[Future[bool]] = []

    def ring(*_: object) -> None:
        if len(puts) > 4:
            raise KeyboardInterrupt
        puts.extend(pool.submit(store.put_new, f"b{number}", b"1") for number in range(5, 7))

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with ThreadPoolExecutor(8) as pool:
            puts.extend(pool.submit(store.put_new, f"b{number}", b"1") for number in range(4))
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
            with pytest.raises(KeyboardInterrupt):
                store.put("c", b"1")
            signal.setitimer(signal.ITIMER_REAL, 0)
            own_server.ask("CLIENT", "UNPAUSE")
            assert all(put.result() for put in puts)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        own_server.ask("CLIENT", "UNPAUSE")
    assert store.get("a") == b"1"


def test_a_large_value_is_sent_from_where_it_lies(store: RedisStore) -> None:
    store.put("a", b"1")
    large = RedisStore(store.url)
    data = memoryview(bytearray(16 << 20))
    tracemalloc.start()
    try:
        large.put("a", data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    store.delete_many(["a"])


def test_a_connection_asks_for_nothing_of_its_own(
    own_server: Redis, redis_cluster: RedisCluster, no_password: None
) -> None:
    def asked(server: Redis | RedisCluster) -> set[str]:
        said = server.ask("INFO", "commandstats")
        return set(re.findall(r"cmdstat_([\w|]+):", said)) - {"info", "ping", "config|resetstat"}

    for server, also in ((own_server, set()), (redis_cluster, {"cluster|slots"})):
        server.ask("CONFIG", "RESETSTAT")
        store = RedisStore(server.url())
        store.put("a", b"1")
        assert store.get("a") == b"1"
        assert asked(server) == {"hget", "set", "get"} | also
        assert "errorstat_ERR" not in server.ask("INFO", "errorstats")  # of a command that this server does not know
        store.delete_many(["a"])


def test_a_forked_child_has_connections_of_its_own(store: RedisStore) -> None:
    store.put("a", b"1")
    child = os.fork()
    if not child:
        os._exit(0 if store.get("a") == b"1" and store.put_new("b", b"2") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get("b") == b"2"
    store.delete_many(["a", "b"])


def test_connections_that_were_cut_are_made_again(own_server: Redis) -> None:
    store = RedisStore(own_server.url())
    store.put("a", b"1")
    for _ in range(3):
        assert int(own_server.ask("CLIENT", "KILL", "TYPE", "normal")) >= 1
        assert store.get("a") == b"1"
    own_server.restart()
    with pytest.raises(KeyMissing, match="was restarted"):
        store.get("a")


class Cutting:
    """Between a client and a server: it loses the first answer to a command that has these bytes."""

    def __init__(self, port: int, mark: bytes) -> None:
        self.cut = 0
        self._to, self._mark = port, mark
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            while data := client.recv(1 << 16):
                server.sendall(data)
                answer = server.recv(1 << 16)
                if self._mark in data and not self.cut:
                    self.cut += 1
                    return
                client.sendall(answer)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize(("size", "mark"), [(10, b"\r\nNX"), (3 * PIECE, b"\r\nEXEC")])
def test_a_lost_answer_to_who_was_first(redis_server: Redis, size: int, mark: bytes) -> None:
    between = Cutting(redis_server.port, mark)
    store = RedisStore(f"redis://127.0.0.1:{between.port}/0/lost-{size}", piece=PIECE)
    try:
        assert store.put_new("a", b"x" * size)
        assert between.cut == 1
        assert not store.put_new("a", b"y" * size)
        assert store.get("a") == b"x" * size
        store.delete_many(["a"])
    finally:
        between.close()


def test_an_answer_lost_behind_a_large_put_leaves_its_pieces(redis_server: Redis) -> None:
    between = Cutting(redis_server.port, b"\r\nEXEC")
    store = RedisStore(f"redis://127.0.0.1:{between.port}/0/lost-put", piece=PIECE)
    try:
        store.put("a", b"x" * 3000)
        assert between.cut == 1
        assert store.get("a") == b"x" * 3000
        store.delete_many(["a"])
    finally:
        between.close()


def test_an_object_keeps_its_pieces_where_nobody_knows_whether_it_was_made(redis_server: Redis) -> None:
    """Without them it would be there for who puts, and gone for who reads."""
    data = bytes(range(250)) * 12
    for name, put in (("new", RedisStore.put_new), ("any", RedisStore.put)):
        between = Cutting(redis_server.port, b"\r\nEXEC")
        store = RedisStore(f"redis://127.0.0.1:{between.port}/0/unknown-{name}?patience=0", piece=PIECE)
        try:
            with pytest.raises(StoreError, match="stopped answering"):
                put(store, "a", data)
            assert between.cut == 1
            assert store.get("a") == data
            store.delete_many(["a"])
        finally:
            between.close()


# ── faults ──


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = RedisStore(f"redis://127.0.0.1:{port}", patience=HASTY)
    with pytest.raises(
        StoreError, match=rf"could not read 'a': Redis at 127.0.0.1:{port} could not be reached.*subnets"
    ):
        store.get("a")


def test_no_memory_left(own_server: Redis) -> None:
    store = RedisStore(own_server.url(), piece=1 << 20)
    store.put("a", bytes(100))
    own_server.ask("CONFIG", "SET", "maxmemory", "6mb")
    before = own_server.size()
    for put in (store.put, store.put_new, lambda key, data: store.put_stream(key, [data])):
        with pytest.raises(StoreFull, match=r"could not write 'b': .* no memory left .its maxmemory is reached"):
            put("b", bytes(20 << 20))
        assert own_server.size() == before
    store.delete_many(["a"])
    own_server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreFull):
        store.put("a", b"1")
    with pytest.raises(StoreFull):
        store.put_new("a", b"1")


def test_a_certificate_that_is_not_trusted(redis_tls: Redis, redis_server: Redis) -> None:
    url = redis_tls.url().partition("?")[0]
    with pytest.raises(StoreError, match=r"certificate that is not trusted.*\?ca="):
        RedisStore(url, patience=HASTY).get("a")
    with pytest.raises(StoreError, match=r"A server without TLS does not answer either: then write redis://"):
        RedisStore(redis_server.url().replace("redis:", "rediss:"), patience=HASTY).get("a")
    with pytest.raises(StoreError, match="could not be reached"):
        RedisStore(url.replace("rediss:", "redis:"), patience=HASTY).get("a")


def test_a_user_who_may_not(own_server: Redis) -> None:
    own_server.ask("ACL", "SETUSER", "default", "-set")
    with pytest.raises(StoreError, match="does not permit that to this user"):
        RedisStore(own_server.url(), patience=HASTY).put("a", b"")
    own_server.ask("ACL", "SETUSER", "default", "+set", "-get", "-getrange", "-strlen", "-exists")
    store = RedisStore(own_server.url(), patience=HASTY)
    store.put("a", b"")
    refused: list[Callable[[], object]] = [
        lambda: store.get("a"),
        lambda: store.get_range("a", 0, 1),
        lambda: list(store.keys()),
        lambda: store.put_new("b", bytes(1 << 16)),  # not: another one was first
    ]
    for use in refused:
        with pytest.raises(StoreError, match="does not permit that to this user") as caught:
            use()
        assert not isinstance(caught.value, KeyMissing)
    own_server.ask("ACL", "SETUSER", "default", "+@all", "-info")
    room = RedisStore(own_server.url()).room()
    assert room.bytes is None
    assert "does not tell its maxmemory" in room.doubts[0]


# ── clusters ──


def test_a_cluster_is_named_as_one(redis_cluster: RedisCluster, redis_server: Redis) -> None:
    node = redis_cluster.nodes[0]
    store = RedisStore(node.url(), patience=HASTY)
    with pytest.raises(StoreError, match=r"is a node of a cluster. Write redis\+cluster://"):
        store.delete_many(f"a{number}" for number in range(20))
    with pytest.raises(StoreError, match=r"is no cluster. Write redis://"):
        RedisStore(f"redis+cluster://127.0.0.1:{redis_server.port}", patience=HASTY).get("a")


def test_pieces_lie_on_all_servers(redis_cluster: RedisCluster) -> None:
    store = RedisStore(redis_cluster.url(), piece=PIECE)
    before = [node.size() for node in redis_cluster.nodes]
    data = os.urandom(50 * PIECE)
    store.put("a", data)
    assert all(node.size() > had for node, had in zip(redis_cluster.nodes, before, strict=True))
    assert store.get("a") == data
    assert store.get_range("a", 500, 30 * PIECE) == data[500 : 500 + 30 * PIECE]
    store.delete_many(["a"])
    assert [node.size() for node in redis_cluster.nodes] == before


def test_a_slot_that_moves_meanwhile(redis_cluster: RedisCluster) -> None:
    """ASK while it is on its way, MOVED once it is there."""
    store = RedisStore(redis_cluster.url(), piece=PIECE)
    store.put("before", b"1")
    place = store.url.rpartition("/")[2]
    first, second = redis_cluster.nodes[0], redis_cluster.nodes[1]
    names = (f"k{number}" for number in range(1000))
    key, slot = next(
        (name, slot) for name in names if (slot := int(first.ask("CLUSTER", "KEYSLOT", f"{place}/{name}"))) < 5000
    )
    ids = [node.ask("CLUSTER", "MYID") for node in (first, second)]
    second.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", ids[0])
    first.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", ids[1])
    try:
        store.put(key, b"2" * 1500)  # what is not there is asked for where the slot goes: a transaction, too
        assert store.get(key) == b"2" * 1500
        store.put(key, b"2")
        assert second.ask("ASKING") == "OK" and first.ask("EXISTS", f"{place}/{key}").startswith("ASK ")
        assert store.get(key) == b"2"
    finally:
        for node in (second, first, redis_cluster.nodes[2]):
            assert node.ask("CLUSTER", "SETSLOT", str(slot), "NODE", ids[1]) == "OK"
    assert store.get(key) == b"2"
    assert store.get_range(key, 0, 5) == b"2"
    assert [name for name, _ in store.keys()] == sorted(["before", key])
    store.delete_many(["before", key])


def test_servers_that_send_to_each_other_are_not_asked_in_haste(redis_cluster: RedisCluster) -> None:
    """As they may for a second where a slot has moved."""
    store = RedisStore(redis_cluster.url(), patience=HASTY)
    place = store.url.rpartition("/")[2]
    first, second = redis_cluster.nodes[:2]
    names = (f"k{number}" for number in range(1000))
    key, slot = next(
        (name, slot) for name in names if (slot := int(first.ask("CLUSTER", "KEYSLOT", f"{place}/{name}"))) < 5000
    )
    ids = [node.ask("CLUSTER", "MYID") for node in (first, second)]
    assert first.ask("CLUSTER", "SETSLOT", str(slot), "NODE", ids[1]) == "OK"  # the second says: it is the first's
    redis_cluster.ask("CONFIG", "RESETSTAT")
    try:
        with pytest.raises(StoreError, match="MOVED"):
            store.get(key)
        said = redis_cluster.ask("INFO", "errorstats")
        assert 0 < sum(map(int, re.findall(r"errorstat_MOVED:count=(\d+)", said))) < 20
    finally:
        assert first.ask("CLUSTER", "SETSLOT", str(slot), "NODE", ids[0]) == "OK"
    store.put(key, b"1")
    store.delete_many([key])


def test_a_cluster_that_is_not_made_yet() -> None:
    with standalone("--cluster-enabled", "yes") as node:
        store = RedisStore(f"redis+cluster://127.0.0.1:{node.port}", patience=HASTY)
        with pytest.raises(StoreError, match=r"was not ready .*no server of this cluster has slots"):
            store.get("a")


# ── room ──


def test_the_room_of_a_server(own_server: Redis) -> None:
    own_server.ask("CONFIG", "SET", "maxmemory", "100mb")
    room = RedisStore(own_server.url()).room()
    assert room.policy == "noeviction" and not room.doubts
    assert room.bytes is not None and 70e6 < room.bytes < 80 << 20
    assert RedisStore(own_server.url("?bytes=1000")).room().bytes == 1000
    own_server.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    assert "its maxmemory-policy is volatile-lru: it may drop" in RedisStore(own_server.url()).room().doubts[0]


def test_the_room_of_a_cluster_follows_from_the_fullest() -> None:
    said = [b"used_memory:%d\r\nmaxmemory:1000\r\nmaxmemory_policy:noeviction\r\n" % used for used in (0, 500, 200)]
    assert room_of(said, None).bytes == int(0.8 * 3 * 500)
    assert room_of([b"used_memory:100\r\nmaxmemory:0\r\ntotal_system_memory:1100\r\n"], None).bytes == 800
    assert room_of([b""], None).bytes is None
    assert room_of([b""], 7).bytes == 7
    clients = room_of([b"maxclients:100\r\nconnected_clients:2\r\n", b"maxclients:50\r\nconnected_clients:1\r\n"], None)
    assert (clients.servers, clients.processes) == (2, 24)
    assert room_of([b""], None).processes is None
