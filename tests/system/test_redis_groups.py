"""Groups and joins whose intermediate data lies in Redis, each fault with a real server.

What was lost is made again, and stands for what was lost if it is the same; if a function of the user's gives something
else each time that it runs, all is done again beside the output.
"""

import operator
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.grouping import keys_like, put_rows, put_table, rows_of, table_of
from support.redis_servers import Redis, standalone
from support.sorting import Between

import pywren_ng
from pywren_shuffle.group import How, Reduced, group, map_reduce_by_key, reduce_by_key
from pywren_shuffle.join import join

ROWS = [(key, number) for number, key in enumerate(keys_like("zipf", 12_000, 5_000))]
SOME = ROWS[:3000]
LITTLE = 1.0  # MB: so that a split is several blocks


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    """A server that tests break and mend."""
    with standalone() as made:
        yield made


@pytest.fixture
def broken(server: Redis) -> Iterator[Redis]:
    """The same, with what it had at first: what a test has set is gone with its process."""
    before = server.size()
    yield server
    assert server.size() == before
    server.restart()


def grouped(executor: Executor, folder: Path, between: str) -> Reduced[None]:
    source = put_rows(folder / "in", ROWS)
    how = How(partitions=3, memory=LITTLE, intermediate=between)
    done = group(executor, source, folder / "out", lambda key, values: list(values), how=how)
    expected: dict[int, list[int]] = defaultdict(list)
    for key, value in ROWS:
        expected[key].append(value)
    assert dict(rows_of(done.parts)) == expected
    return done


def aggregated(executor: Executor, folder: Path, between: str) -> Reduced[None]:
    keys, values = zip(*ROWS, strict=True)
    source = put_table(folder / "in", pa.table({"k": keys, "x": values}), files=4)
    how = How(partitions=3, memory=LITTLE, intermediate=between)
    done = reduce_by_key(executor, source, folder / "out", {"x": "sum"}, records="table:k", how=how)
    expected: Counter[int] = Counter()
    for key, value in ROWS:
        expected[key] += value
    found = table_of(done.parts)
    assert dict(zip(*(found[name].to_pylist() for name in "kx"), strict=True)) == expected
    return done


def joined(executor: Executor, folder: Path, between: str) -> Reduced[None]:
    left, right = put_rows(folder / "left", ROWS), put_rows(folder / "right", SOME[::-100])
    how = How(partitions=3, memory=LITTLE, intermediate=between)
    done = join(executor, left, right, folder / "out", key=operator.itemgetter(0), broadcast=False, how=how)
    expected = [(one, two) for two in SOME[::-100] for one in ROWS if one[0] == two[0]]
    assert sorted(rows_of(done.parts)) == sorted(expected)
    return done


def test_a_side_that_goes_to_all_is_given_up_where_workers_look(tmp_path: Path, server: Redis) -> None:
    """Whoever gives up puts the mark beside the output, as Redis may lose it."""
    looked: list[str] = []

    class Looking(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            looked.extend([args[0].store] * (fn.__name__ == "beside"))
            return super().submit(fn, *args, **kwargs)

    left, right = put_rows(tmp_path / "left", ROWS), put_rows(tmp_path / "right", SOME[:10])
    with Looking(2) as looking:
        join(looking, left, right, tmp_path / "out", key=operator.itemgetter(0), how=How(intermediate=server.url()))
    assert set(looked) == {f"file://{tmp_path}/out/~shuffle"}
    assert not (tmp_path / "out" / "~shuffle").exists()


def used(server: Redis) -> int:
    return int(server.ask("INFO", "memory").partition("used_memory:")[2].split()[0])


def fill_up(server: Redis) -> None:
    """There is no room for any block."""
    server.ask("CONFIG", "SET", "maxmemory", "1")


def evict(server: Redis) -> None:
    """Of the blocks, some go."""
    before = server.size()
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    server.ask("CONFIG", "SET", "maxmemory", str(used(server) - 20_000))
    assert 1 <= server.size() < before
    server.ask("CONFIG", "SET", "maxmemory", "0")


FAULTS: dict[str, tuple[str, Callable[[Redis], object], str]] = {
    "full": ("spill", fill_up, "blocks went to file://"),
    "evicted": ("merge", evict, "blocks were lost in redis://"),
    "restarted": ("merge", Redis.restart, "blocks were lost in redis://"),
    "gone": ("merge", Redis.kill, "blocks were lost in redis://"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("run", [grouped, aggregated, joined])
def test_what_redis_loses(
    pool: Executor,
    tmp_path: Path,
    broken: Redis,
    caplog: pytest.LogCaptureFixture,
    run: Callable[..., Reduced[None]],
    fault: str,
) -> None:
    phase, act, says = FAULTS[fault]
    fragile = Between(pool, phase, lambda: act(broken))
    done = run(fragile, tmp_path, broken.url("?patience=0.1"))
    if fault == "gone":
        broken.start()
    assert fragile.acted == 1
    notice, *more = done.notices
    assert says in notice and "file:///" in notice and "/out/~shuffle" in notice
    number, of = (int(notice.split()[place]) for place in (0, 2))
    assert 1 <= number < of if fault == "evicted" else number == of
    assert caplog.messages == [f"the {done.plan.what} {done.id}: {note}" for note in done.notices]
    assert len(more) == (fault == "gone")  # what could not be removed goes by itself
    assert not (tmp_path / "out" / "~shuffle").exists()
    if fault == "evicted":
        assert int(broken.ask("INFO", "stats").partition("evicted_keys:")[2].split()[0]) == number


def test_a_block_of_several_of_an_item(pool: Executor, tmp_path: Path, broken: Redis) -> None:
    """What was made of that item is made once more, and of no other."""
    again: list[str] = []

    def lose() -> None:
        keys = sorted(broken.ask("KEYS", "*/shuffles/*").split())
        assert Counter(key[key.rindex("/") :][:7] for key in keys).most_common()[-1][1] >= 2  # blocks of each
        assert broken.ask("DEL", keys[1]) == "1"

    class Counting(Between):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            again.extend(["spill"] * bool(self.acted and fn.__name__ == "spill"))
            return super().submit(fn, *args, **kwargs)

    def pairs_of(item: int) -> Iterator[tuple[int, bytes]]:
        return ((number % 10, bytes([item]) * 1000) for number in range(1000))

    how = How(partitions=2, memory=LITTLE, intermediate=broken.url())
    done = map_reduce_by_key(
        Counting(pool, "merge", lose), pairs_of, range(4), lambda _, found: b"".join(found), target=tmp_path, how=how
    )
    expected = b"".join(bytes([item]) * 100_000 for item in range(4))
    assert dict(rows_of(done.parts)) == dict.fromkeys(range(10), expected)
    assert again == ["spill"]
    (notice,) = done.notices
    assert notice.startswith("1 of ")


def test_our_own_executor(tmp_path: Path, broken: Redis) -> None:
    """Every call takes the place that `sort` takes, and what becomes a dict leaves nothing either."""
    between, seen = broken.url(), Counter[str]()

    class Looking(pywren_ng.Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            if fn.__name__ not in seen:
                seen[fn.__name__] = broken.size()
            return super().submit(fn, *args, **kwargs)

    source = put_rows(tmp_path / "in", SOME)
    first = operator.itemgetter(0)
    with Looking("local", max_workers=2) as executor:
        outs = [tmp_path / name for name in ("group", "sums", "once", "join", "even")]
        options: dict[str, Any] = {"partitions": 2, "intermediate": between}
        for run in (
            lambda out: executor.group(source, out, lambda key, values: sum(values), **options),
            lambda out: executor.reduce_by_key(source, out, operator.add, **options),
            lambda out: executor.distinct(source, out, key=first, **options),
            lambda out: executor.join(source, source, out, key=first, kind="semi", **options),
            lambda out: executor.repartition(source, out, 2, intermediate=between),
        ):
            seen.clear()
            done = run(outs.pop())
            assert done.plan.tier == "redis" and done.notices == ()
            assert seen["merge"] > broken.size() == 0
        found = executor.map_reduce_by_key(
            lambda row: [row], SOME, lambda key, values: sum(values), partitions=2, intermediate=between
        )
        expected: Counter[int] = Counter()
        for key, value in SOME:
            expected[key] += value
        assert found.result() == expected


def test_a_function_that_gives_something_else_each_time(
    pool: Executor, tmp_path: Path, broken: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody may have read what it gave first: all is done again."""
    words = [f"w{number * number % 97}" for number in range(5000)]

    def pairs_of(words: list[str]) -> Iterator[tuple[str, bytes]]:
        for word in words:
            yield word, random.randbytes(2)

    fragile = Between(pool, "merge", broken.restart)
    done = map_reduce_by_key(
        fragile,
        pairs_of,
        [words[start : start + 100] for start in range(0, 5000, 100)],
        lambda word, values: sum(1 for _ in values),
        target=tmp_path / "out",
        how=How(partitions=3, intermediate=broken.url()),
    )
    assert dict(rows_of(done.parts)) == Counter(words)
    assert fragile.acted == 1
    lost, again = done.notices
    assert "are made again in file://" in lost
    assert "all is made again in file://" in again and "came out otherwise" in again
    assert len(caplog.records) == 2
    assert not (tmp_path / "out" / "~shuffle").exists()
