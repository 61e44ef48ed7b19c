"""Which results are reduced together, when a reducer may begin, and how it reads."""

import random
import threading
from collections import Counter
from dataclasses import replace

import pytest

from pywren_ng.reduction import Node, Sight, Tree, latest, may_begin, must_go, sizes
from pywren_runtime.errors import StoreError
from pywren_runtime.failures import Unread
from pywren_runtime.pickling import Ref, dumps, dumps_plain, loads, set_apart
from pywren_runtime.results import AT_ONCE, Landed, Results
from pywren_runtime.strict import StrictPickler

# -- Trees


def test_202_results_by_two_are_8_levels() -> None:
    assert sizes(202, 2) == [202, 101, 51, 26, 13, 7, 4, 2, 1]


@pytest.mark.parametrize("fan_in", [2, 3, 5, None])
@pytest.mark.parametrize("total", [*range(12), 27, 202])
def test_a_tree_reduces_everything_once_in_order_however_it_lands(total: int, fan_in: int | None) -> None:
    tree: Tree[list[int]] = Tree(total, fan_in)
    chance = random.Random(total)
    started = Counter[Node]()
    waiting = [tree.root] if not total else []
    leaves = list(range(total))
    chance.shuffle(leaves)
    result = None
    while leaves or waiting:
        if leaves and (not waiting or chance.random() < 0.5):
            node, made = Node(0, leaves[-1]), [leaves.pop()]
        else:
            node = waiting.pop(chance.randrange(len(waiting)))
            inputs = tree.inputs(node)
            assert fan_in is None or len(inputs) <= fan_in
            made = [number for part in inputs for number in part]
            started[node] += 1
            if node == tree.root:
                result = made
                break
            tree.drop(node)
        ready = tree.land(node, made)
        waiting += [ready] if ready is not None else []
    assert result == list(range(total)) and not leaves and not waiting
    assert set(started.values()) == {1} and len(started) == tree.number
    assert sum(map(len, tree.drop_all())) == total  # what the last one read is there until it is done


def test_what_a_result_costs_does_not_grow_with_their_number() -> None:
    """Minutes, if each asked for all others."""
    tree: Tree[int] = Tree(100_000, None)
    assert [tree.land(Node(0, index), index) for index in range(99_999)].count(None) == 99_999
    assert tree.land(Node(0, 99_999), 99_999) == tree.root


def test_what_was_reduced_is_handed_up_alone_and_a_result_is_not() -> None:
    tree: Tree[str] = Tree(3, 2)
    assert tree.land(Node(0, 2), "c") == Node(1, 1)  # alone, and reduced all the same
    tree.drop(Node(1, 1))
    assert tree.land(Node(1, 1), "C") is None
    tree = Tree(5, 2)
    assert tree.land(Node(0, 4), "e") == Node(1, 2)
    tree.drop(Node(1, 2))
    assert tree.land(Node(1, 2), "E") is None  # it has become (2, 1)
    assert [tree.land(Node(1, index), "AB") for index in (0, 1)] == [None, Node(2, 0)]
    tree.drop(Node(2, 0))
    assert tree.land(Node(2, 0), "ABCD") == tree.root
    assert tree.inputs(tree.root) == ["ABCD", "E"] and tree.number == 5


# -- When to begin

SIGHT = Sight(total=10, landed=6, in_order=3, size=600, longest=2.0, waits=False, free=1)


def test_a_reducer_begins_early_where_it_finds_work_and_takes_nobodys_worker() -> None:
    assert may_begin(SIGHT, None)
    for change in ({"waits": True}, {"free": 0}, {"in_order": 0}, {"landed": 4}):
        assert not may_begin(replace(SIGHT, **change), None), change


def test_what_it_will_wait_for_and_read_fits_its_time_limit() -> None:
    assert may_begin(SIGHT, 900)
    assert not may_begin(replace(SIGHT, longest=451), 900)
    assert not may_begin(replace(SIGHT, size=30 * 10**9), 900)  # 50 GB at 75 MB a second
    assert may_begin(replace(SIGHT, size=30 * 10**9), None)


def test_a_reducer_that_began_early_goes_when_a_task_waits_or_its_time_runs_out() -> None:
    assert not must_go(100.0, 549.0, waits=False, limit=900)
    assert must_go(100.0, 550.0, waits=False, limit=900) and latest(100.0, 900) == 550.0
    assert must_go(100.0, 101.0, waits=True, limit=None)
    assert not must_go(100.0, 1e9, waits=False, limit=None)


# -- Reading


class Shop:
    """Results that lie somewhere, and who reads how many of them at a time."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.reads: list[str] = []
        self.notices: dict[int, Landed] = {}
        self.absent = threading.Event()

    def put(self, value: object) -> bytes:
        def store(data: memoryview) -> Ref:
            key = f"{len(self.objects)}"
            self.objects[key] = bytes(data)
            return Ref(key, len(data), b"")

        return set_apart(dumps_plain(value), store)

    def fetch(self, ref: Ref) -> bytes:
        self.reads.append(ref.key)
        if ref.key not in self.objects:
            raise StoreError("it is gone")
        return self.objects[ref.key]

    def hear(self, job: str, number: int) -> Landed | None:
        return self.notices.get(number) or self.absent.set()

    def results(self, values: range, total: int | None = None, **options: int) -> Results:
        landed = Landed("job", 0, len(values) if total is None else total, tuple(map(self.put, values)))
        return Results(Landed.decode(landed.encode()), self.fetch, self.hear, **options)


def test_results_come_in_order_and_their_number_is_known() -> None:
    with Shop().results(range(30)) as results:
        assert len(results) == 30
        assert list(results) == list(range(30)) and next(results, "over") == "over"


def test_it_reads_ahead_and_not_too_far() -> None:
    shop = Shop()
    with shop.results(range(100)) as results:
        next(results)
    assert len(shop.reads) <= AT_ONCE + 1
    shop = Shop()
    size = len(shop.put(0))
    with shop.results(range(100), ahead=1) as results:
        assert next(results) == 0
    assert size and set(shop.reads) <= {"1", "2"}  # one at a time, the first of them being `size`


def test_no_thread_is_left_by_who_stops_half_way() -> None:
    before = threading.active_count()
    with Shop().results(range(30)) as results:
        next(results)
        assert threading.active_count() > before
    assert threading.active_count() == before


def test_notices_bring_the_rest() -> None:
    shop = Shop()
    with shop.results(range(2), total=5) as results:
        shop.notices[1] = Landed("job", 1, 5, (shop.put(2),))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        late = Landed("job", 2, 5, (shop.put(3), shop.put(4)))
        threading.Thread(target=lambda: shop.absent.wait(20) and shop.notices.update({2: late})).start()
        assert list(results) == [3, 4]


def test_what_cannot_be_read_is_not_the_functions_error_and_stays() -> None:
    shop = Shop()
    with shop.results(range(3)) as results:
        del shop.objects["1"]
        assert next(results) == 0
        for _ in range(2):
            with pytest.raises(Unread, match="reading result 1") as caught:
                next(results)
            assert isinstance(caught.value.__cause__, StoreError)


def test_a_run_of_small_things_goes_apart_where_nothing_long_may_ride_along() -> None:
    shop = Shop()
    value = [str(number) for number in range(1000)]

    def store(data: memoryview) -> Ref:
        shop.objects["x"] = bytes(data)
        return Ref("x", len(data), b"")

    assert len(dumps(value, store, StrictPickler)) > 1024 and not shop.objects
    packed = dumps(value, store, StrictPickler, inline=1024)
    assert len(packed) < 100 and loads(packed, shop.fetch) == value
