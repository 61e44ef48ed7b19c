"""One suite for every store: each `*_store.py` in the folder is under test the moment it lies there."""

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.redis_servers import Redis, RedisCluster
from support.s3_server import S3Server

import pywren_runtime.stores
from pywren_runtime.errors import ConfigError, KeyMissing, StoreError
from pywren_runtime.stores import Store, open_store

FOLDER = Path(pywren_runtime.stores.__file__).parent
SCHEMES = sorted(path.name.removesuffix("_store.py") for path in FOLDER.glob("*_store.py"))

_numbers = count()

DOUBLE = "s3 double"
"""The server that benchmarks use must do what it is measured doing."""
CLUSTER = "redis cluster"
KINDS = [*SCHEMES, DOUBLE, CLUSTER]
Urls = dict[str, Callable[[Path], str]]


@pytest.fixture(scope="session")
def urls(
    s3_server: S3Server, s3_double: S3Server, redis_server: Redis, redis_cluster: RedisCluster, redis_tls: Redis
) -> Urls:
    """How to make the URL of an empty store of each kind. One that is missing fails every test of that store."""
    return {
        "memory": lambda folder: f"memory:test-{next(_numbers)}",
        "file": lambda folder: f"file://{folder}/store-{next(_numbers)}",
        "s3": lambda folder: s3_server.url(),
        DOUBLE: lambda folder: s3_double.url(),
        "redis": lambda folder: redis_server.url(),
        "rediss": lambda folder: redis_tls.url(),
        CLUSTER: lambda folder: redis_cluster.url(),
    }


# Writes "w<i>" to the same new keys as its siblings once stdin says go, and prints which of them it won.
RACER = """
import sys
from pywren_runtime.stores import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
mark = sys.argv[2].encode()
print(*(n for n in range(50) if store.put_new(f"race/{n}", mark * 1000)))
"""

BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    "..",
    ".",
    "a/../b",
    "a/..",
    "./a",
    "a/./b",
    "a b",
    "a\n",
    "é",
    "a\x00b",
    "a\\b",
    "~partial/x",
    "a?b",
    "a%2Fb",
]


@pytest.fixture(params=KINDS)
def store_url(request: pytest.FixtureRequest, tmp_path: Path, urls: Urls) -> str:
    if request.param not in urls:
        pytest.fail(f"no way to make the URL of a {request.param!r} store for the tests: add one to `urls`")
    return urls[request.param](tmp_path)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    store = open_store(store_url)
    yield store
    store.close()
    store.close()


def test_every_kind_of_store_is_found() -> None:
    assert {"memory", "file", "s3"} <= set(SCHEMES)


# ── get and put ──


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)), b"ab" * 600_000])
def test_what_was_put_is_got(store: Store, data: bytes) -> None:
    store.put("jobs/1/a", data)
    got = store.get("jobs/1/a")
    assert type(got) is bytes
    assert got == data


@pytest.mark.parametrize("convert", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_any_buffer_can_be_put(store: Store, convert: type) -> None:
    store.put("put", convert(b"abcdef"))
    assert store.put_new("new", convert(b"abcdef"))
    assert store.put_stream("stream", [convert(b"abc"), convert(b"def")]) == 6
    assert {store.get("put"), store.get("new"), store.get("stream")} == {b"abcdef"}


def test_wide_items_and_empty_shapes_are_stored_as_their_bytes(store: Store) -> None:
    numbers = memoryview(bytes(range(48))).cast("I", (3, 4))
    store.put("numbers", numbers)
    assert store.put_new("new", numbers)
    assert store.put_stream("stream", [numbers, numbers[:0], numbers]) == 96
    assert store.get("numbers") == store.get("new") == bytes(range(48))
    assert store.get("stream") == bytes(range(48)) * 2


def test_a_buffer_may_change_after_it_was_put(store: Store) -> None:
    data = bytearray(b"before")
    store.put("a", data)
    store.put_new("b", data)
    data[:] = b"after!"
    assert store.get("a") == store.get("b") == b"before"


def test_put_replaces(store: Store) -> None:
    store.put("k", b"a long first value")
    store.put("k", b"short")
    assert store.get("k") == b"short"


def test_put_new_writes_once(store: Store) -> None:
    assert store.put_new("k", b"first") is True
    assert store.put_new("k", b"second") is False
    assert store.get("k") == b"first"
    store.delete_many(["k"])
    assert store.put_new("k", b"third") is True


def test_put_new_loses_also_with_the_same_bytes(store: Store) -> None:
    data = b"the very same object"
    assert [store.put_new("k", data) for _ in range(3)] == [True, False, False]


def test_put_new_loses_with_large_data_and_to_an_empty_object(store: Store) -> None:
    store.put("big", b"")
    assert store.put_new("big", bytes(1 << 20)) is False
    assert store.get("big") == b""


def test_a_missing_key_says_which(store: Store) -> None:
    for read in (store.get, lambda key: store.get_range(key, 0, 1), lambda key: store.get_range(key, 0, 0)):
        with pytest.raises(KeyMissing, match=re.escape("'jobs/none'")) as caught:
            read("jobs/none")
        assert isinstance(caught.value, KeyError) and isinstance(caught.value, StoreError)
        assert store.url in str(caught.value)


def test_a_folder_of_keys_is_no_key_and_nothing_lies_below_a_key(store: Store) -> None:
    store.put("a/b", b"1")
    for absent in ("a", "a/b/c"):
        with pytest.raises(KeyMissing):
            store.get(absent)
        with pytest.raises(KeyMissing):
            store.get_range(absent, 0, 0)
        store.delete_many([absent])
    assert list(store.keys()) == [("a/b", 1)]


# ── ranges ──


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, 10, b"0123456789"),
        (0, 3, b"012"),
        (4, 3, b"456"),
        (8, 100, b"89"),
        (9, 1, b"9"),
        (10, 5, b""),
        (11, 5, b""),
        (5, 0, b""),
        (2, 1 << 50, b"23456789"),
        (1 << 50, 1, b""),
    ],
)
def test_ranges(store: Store, start: int, length: int, expected: bytes) -> None:
    store.put("k", b"0123456789")
    assert store.get_range("k", start, length) == expected


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, -1)])
def test_a_range_does_not_count_from_the_end(store: Store, start: int, length: int) -> None:
    store.put("k", b"0123456789")
    with pytest.raises(ConfigError):
        store.get_range("k", start, length)


# ── streams ──


def test_a_stream_appears_only_when_complete(store: Store) -> None:
    def chunks() -> Iterator[bytes]:
        for chunk in (b"one", b"", b"two", b"three"):
            yield chunk
            assert list(store.keys()) == []
            with pytest.raises(KeyMissing):
                store.get("jobs/s")

    assert store.put_stream("jobs/s", chunks()) == 11
    assert store.get("jobs/s") == b"onetwothree"
    assert list(store.keys()) == [("jobs/s", 11)]


def test_an_empty_stream_is_an_empty_object(store: Store) -> None:
    assert store.put_stream("k", iter(())) == 0
    assert store.get("k") == b""


@pytest.mark.parametrize(
    "error", [ValueError("half"), OSError(28, "the producer's own full disk"), KeyboardInterrupt()]
)
def test_a_stream_that_fails_leaves_what_was_there(store: Store, error: BaseException) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise error

    for expected in ([], [("k", 3)]):
        with pytest.raises(type(error)) as caught:
            store.put_stream("k", chunks())
        assert caught.value is error
        assert list(store.keys()) == expected
        store.put("k", b"old")
    assert store.get("k") == b"old"


def test_a_stream_may_reuse_its_buffer(store: Store) -> None:
    def chunks() -> Iterator[bytearray]:
        buffer = bytearray(4)
        for letter in b"abc":
            buffer[:] = bytes([letter]) * 4
            yield buffer

    store.put_stream("k", chunks())
    assert store.get("k") == b"aaaabbbbcccc"


# ── keys ──


def test_keys_come_in_the_order_of_their_bytes(store: Store) -> None:
    keys = [
        "a",
        "a-b",
        "a.b",
        "b/1",
        "b-1/x",
        "b.1",
        "B",
        "_",
        "0",
        "z=9",
        "b0",
        "b/1-",
        "b/-",
        "c/d/e",
        "c/d.e",
    ]
    for key in keys:
        store.put(key, key.encode())
    assert list(store.keys()) == [(key, len(key)) for key in sorted(keys, key=str.encode)]


def test_prefix_and_after(store: Store) -> None:
    for key in ("jobs/1/a", "jobs/1/b", "jobs/10/a", "jobs/2/a", "blobs/x"):
        store.put(key, b"")

    def listed(prefix: str = "", after: str = "") -> list[str]:
        return [key for key, _ in store.keys(prefix, after)]

    assert listed("jobs/1/") == ["jobs/1/a", "jobs/1/b"]
    assert listed("jobs/1") == ["jobs/1/a", "jobs/1/b", "jobs/10/a"]
    assert listed("jobs/1/a") == ["jobs/1/a"]
    assert listed("jobs/3/") == listed("jobs/1/a/") == listed("nothing") == []
    assert listed(after="blobs/x") == ["jobs/1/a", "jobs/1/b", "jobs/10/a", "jobs/2/a"]
    assert listed(after="jobs/1/a") == ["jobs/1/b", "jobs/10/a", "jobs/2/a"]
    assert listed(after="jobs/1/aa") == ["jobs/1/b", "jobs/10/a", "jobs/2/a"]
    assert listed("jobs/1/", after="jobs/1/b") == []
    assert listed("jobs/", after="jobs/1/") == ["jobs/1/a", "jobs/1/b", "jobs/10/a", "jobs/2/a"]
    assert listed("jobs/", after="a") == ["jobs/1/a", "jobs/1/b", "jobs/10/a", "jobs/2/a"]
    assert listed("jobs/", after="z") == []


def test_polling_after_the_last_key_sees_what_came_between(store: Store) -> None:
    for number in range(0, 100, 10):
        store.put(f"jobs/1/{number:03}", b"")
    seen = [key for key, _ in store.keys("jobs/1/")]
    for number in (5, 45, 95, 100, 101):
        store.put(f"jobs/1/{number:03}", b"")
    assert [key for key, _ in store.keys("jobs/1/", after=seen[-1])] == [
        "jobs/1/095",
        "jobs/1/100",
        "jobs/1/101",
    ]
    assert [key for key, _ in store.keys("jobs/1/", after="jobs/1/040")][:2] == ["jobs/1/045", "jobs/1/050"]


def test_what_lies_there_throughout_is_listed_once_while_others_come_and_go(store: Store) -> None:
    stay = [f"a/{number:02}/k" for number in range(20)]
    for key in stay:
        store.put(key, b"stays")
        store.put(key + "-goes", b"goes")
    listed = []
    for step, (key, _) in enumerate(store.keys("a/")):
        listed.append(key)
        if step < 20:
            store.delete_many([f"{stay[19 - step]}-goes"])
            store.put(f"a/{step:02}-/new", b"new")
    assert [key for key in listed if key in stay] == stay
    assert listed == sorted(set(listed))


segments = st.text("ab-./0=", min_size=1, max_size=6)
some_keys = st.sets(
    segments.filter(lambda key: re.fullmatch(r"(?!\.\.?(/|$))[^/]+(/(?!\.\.?(/|$))[^/]+)*", key)), max_size=12
)


@given(keys=some_keys, prefix=segments | st.just(""), after=segments | st.just(""))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("kind", KINDS)
def test_listing_agrees_with_a_sorted_filter(
    kind: str, urls: Urls, tmp_path_factory: pytest.TempPathFactory, keys: set[str], prefix: str, after: str
) -> None:
    store = open_store(urls[kind](tmp_path_factory.getbasetemp()))
    apart = sorted(key for key in keys if not any(other.startswith(key + "/") for other in keys))
    for key in apart:
        store.put(key, b"1")
    expected = [key for key in apart if key.startswith(prefix) and key > after]
    try:
        assert [key for key, _ in store.keys(prefix, after)] == expected
    except ConfigError:
        assert re.search(r"^/|//|(^|/)\.\.?/", prefix)  # no key can begin so
        assert not expected


# ── deleting ──


def test_delete_many(store: Store) -> None:
    for number in range(30):
        store.put(f"jobs/1/{number}", b"x")
    store.put("jobs/2/0", b"x")
    store.delete_many(key for key, _ in store.keys("jobs/1/"))
    assert list(store.keys()) == [("jobs/2/0", 1)]
    store.delete_many(["jobs/1/0", "never/was", "jobs/2/0", "jobs/2/0"])
    assert list(store.keys()) == []
    store.delete_many([])
    store.put("jobs/1/0", b"again")
    assert store.get("jobs/1/0") == b"again"


def test_writers_survive_deletes_beside_them(store: Store) -> None:
    def churn(thread: int) -> None:
        for number in range(40):
            key = f"jobs/deep/folder/{thread}-{number}"
            assert store.put_new(key, b"x")
            assert store.get(key) == b"x"
            store.delete_many([key])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(churn, range(8)))
    assert list(store.keys()) == []


# ── bad keys ──


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_bad_key_is_refused_everywhere(store: Store, key: str) -> None:
    for use in (
        lambda: store.get(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.put(key, b""),
        lambda: store.put_new(key, b""),
        lambda: store.put_stream(key, [b""]),
        lambda: store.delete_many([key]),
        lambda: store.local_path(key),
    ):
        with pytest.raises(ConfigError, match=re.escape(repr(key))) as caught:
            use()
        assert isinstance(caught.value, ValueError)
    assert list(store.keys()) == []


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a//", "a b", "~"])
def test_a_bad_prefix_is_refused_before_the_first_step(store: Store, prefix: str) -> None:
    with pytest.raises(ConfigError):
        store.keys(prefix)


@pytest.mark.parametrize("key", ["...", "a/..b", ".hidden", "a=b/c_d-e.f", "0", "k" * 200, "a/" * 30 + "a"])
def test_unusual_keys_are_fine(store: Store, key: str) -> None:
    store.put(key, b"x")
    assert store.get(key) == b"x"
    assert list(store.keys(key[:-1])) == [(key, 1)]


# ── races ──


def test_one_of_32_racing_threads_wins(store: Store) -> None:
    start = threading.Barrier(32)

    def race(thread: int) -> list[int]:
        start.wait()
        return [n for n in range(20) if store.put_new(f"race/{n}", b"%d " % thread * 5000)]

    with ThreadPoolExecutor(32) as pool:
        won = list(pool.map(race, range(32)))
    assert sorted(n for wins in won for n in wins) == list(range(20))
    for thread, wins in enumerate(won):
        for n in wins:
            assert store.get(f"race/{n}") == b"%d " % thread * 5000
    assert len(list(store.keys())) == 20


def test_one_of_8_racing_processes_wins(store: Store) -> None:
    if store.url.startswith("memory:"):
        with pytest.raises(KeyMissing):  # nothing outside this process to race with
            store.get("k")
        return
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, store.url, f"w{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [racer.communicate()[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 8
    assert sorted(int(n) for wins in won for n in wins) == list(range(50))
    for number, wins in enumerate(won):
        for n in wins:
            assert store.get(f"race/{n}") == b"w%d" % number * 1000


def test_a_reader_sees_one_whole_object_or_another(store: Store) -> None:
    values = {bytes([65 + n]) * (1000 * n * n + 1) for n in range(12)}
    store.put("k", min(values))
    done = threading.Event()

    def read() -> int:
        reads = 0
        while not done.is_set() or not reads:
            assert store.get("k") in values
            (listed,) = store.keys()
            assert listed[1] in {len(value) for value in values}
            reads += 1
        return reads

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for _ in range(8):
                for value in values:
                    store.put("k", value)
                    store.put_stream("k", [value[:500], value[500:]])
        finally:
            done.set()
        assert all(reader.result() for reader in readers)


# ── opening ──


def test_the_url_opens_the_same_objects(store: Store) -> None:
    store.put("k", b"here")
    again = open_store(store.url)
    assert again.get("k") == b"here"
    assert again.url == store.url
    assert again.private in (True, False)


def test_a_local_path_holds_the_bytes_and_an_open_one_keeps_them(store: Store) -> None:
    store.put("k", b"first")
    path = store.local_path("k")
    if path is None:
        assert store.get("k") == b"first"
        return
    with open(path, "rb") as file:
        store.put("k", b"second")
        assert file.read() == b"first"
    assert Path(path).read_bytes() == b"second"


@pytest.mark.parametrize("url", ["tape:/a", "no-scheme", "/a/folder", "", ":", "FILE", None, 3])
def test_an_unknown_scheme_names_the_known_ones(url: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(url))) as caught:
        open_store(url)  # type: ignore[arg-type]
    assert all(f"'{scheme}:'" in str(caught.value) for scheme in SCHEMES)


def test_the_tail_of_a_scheme_is_left_to_the_store() -> None:
    assert open_store("memory+anything:tail").url == "memory:tail"


def test_a_store_of_another_distribution_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tape.py").write_text(
        "from pywren_runtime.stores.memory_store import MemoryStore\n"
        "def open_tape(url):\n    return MemoryStore('tape of ' + url)\n"
    )
    metadata = tmp_path / "tape-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tape\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pywren_ng.stores]\ntape = tape:open_tape\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert open_store("tape:1").url == "memory:tape of tape:1"
    with pytest.raises(ConfigError, match="'tape:'"):
        open_store("unknown:1")


def test_a_store_is_one_new_file_and_one_that_lacks_its_library_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tape_store.py").write_text("from pywren_runtime.stores.memory_store import open_store\n")
    (tmp_path / "drum_store.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.setattr(pywren_runtime.stores, "__path__", [*pywren_runtime.stores.__path__, str(tmp_path)])
    assert open_store("tape:1").url == "memory:1"
    with pytest.raises(ConfigError, match="'drum:1' needs the package 'a_library_that_is_not_there'"):
        open_store("drum:1")
    with pytest.raises(ConfigError, match="'drum:', 'file:', 'memory:', 'redis:', 'rediss:', 's3:', 'tape:'"):
        open_store("unknown:1")


def test_the_same_name_is_the_same_memory_store_while_somebody_holds_it() -> None:
    first = open_store("memory:shared")
    first.put("k", b"x")
    assert open_store("memory:shared") is first
    assert open_store("memory:other") is not first
    del first
    assert list(open_store("memory:shared").keys()) == []
