"""What tasks need lies in the store once, as long as it is needed, and is what the client has at that moment."""

import collections.abc
import itertools
import threading

import cloudpickle
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pywren_ng import Executor, PackingError, packing
from pywren_ng.packing import Blobs, Packer
from pywren_ng.pickler import fingerprint
from pywren_runtime.pickling import BIG, Ref, digest_of, loads, refs_of
from pywren_runtime.stores.file_store import FileStore
from pywren_runtime.stores.memory_store import MemoryStore
from pywren_runtime.wire import blob_key


class Counting(MemoryStore):
    """A memory store that counts what is written to it."""

    def __init__(self):
        super().__init__("counting")
        self.writes = 0

    def put_new(self, key, data):
        self.writes += 1
        return super().put_new(key, data)


def blobs_in(store):
    return [key for key, _ in store.keys("blobs/")]


def data_of(number, size=1000):
    return memoryview(bytes([number]) * size)


# -- Blobs


def test_a_piece_is_named_by_its_content_and_written_once():
    store = Counting()
    blobs = Blobs(store)
    one, other = blobs.put(data_of(1)), blobs.put(data_of(1))
    digest = digest_of(data_of(1))
    assert one == other == Ref(blob_key(digest), 1000, digest)
    assert store.writes == 1 and store.get(one.key) == bytes(data_of(1))


@pytest.mark.parametrize("size", [packing.OVERLAP - 1, packing.OVERLAP, packing.OVERLAP + 1])
def test_a_long_piece_is_hashed_while_it_is_written_and_is_the_same(size, tmp_path):
    for store in (MemoryStore("long"), FileStore(str(tmp_path / str(size)))):
        blobs = Blobs(store)
        first, again = blobs.put(data_of(5, size)), blobs.put(data_of(5, size))
        assert first == again and first.digest == digest_of(data_of(5, size))
        assert list(store.keys()) == [(first.key, size)]
        assert store.get(first.key) == bytes(data_of(5, size))


def test_what_is_held_stays_and_what_is_spare_goes_oldest_first(monkeypatch):
    monkeypatch.setattr(packing, "SPARE", 2500)
    store = MemoryStore("spare")
    blobs = Blobs(store)
    keys = [blobs.put(data_of(n)).key for n in range(5)]
    blobs.release([keys[1]])
    blobs.release([keys[0]])
    assert set(blobs_in(store)) == set(keys), "two spare ones have room"
    blobs.release([keys[2]])
    assert set(blobs_in(store)) == set(keys) - {keys[1]}, "the one that was released first goes"
    blobs.release([keys[3]])
    assert set(blobs_in(store)) == {keys[2], keys[3], keys[4]}


def test_a_spare_piece_is_used_again_without_a_write(monkeypatch):
    monkeypatch.setattr(packing, "SPARE", 1500)
    store = Counting()
    blobs = Blobs(store)
    key = blobs.put(data_of(1)).key
    blobs.release([key])
    assert blobs.put(data_of(1)).key == key and store.writes == 1
    for number in (2, 3):
        blobs.release([blobs.put(data_of(number)).key])
    assert key in blobs_in(store), "it is held again"
    blobs.release([key])
    assert blobs_in(store) == [key]


def test_a_piece_that_has_gone_is_written_again(monkeypatch):
    monkeypatch.setattr(packing, "SPARE", 0)
    store = Counting()
    blobs = Blobs(store)
    key = blobs.put(data_of(1)).key
    blobs.release([key])
    assert blobs_in(store) == [] and not blobs.hold(key)
    assert blobs.put(data_of(1)).key == key
    assert store.get(key) == bytes(data_of(1)) and store.writes == 2


def test_each_hold_needs_its_release(monkeypatch):
    monkeypatch.setattr(packing, "SPARE", 0)
    store = MemoryStore("holds")
    blobs = Blobs(store)
    key = blobs.put(data_of(1)).key
    assert blobs.hold(key) and blobs.put(data_of(1)).key == key
    blobs.release([key, key])
    assert blobs_in(store) == [key]
    blobs.release((key,))
    assert blobs_in(store) == []


class Held(RuleBasedStateMachine):
    """Whatever is put, held and released: what is held lies there, and spare bytes stay within their bound."""

    spare = 2500

    def __init__(self):
        super().__init__()
        self.before, packing.SPARE = packing.SPARE, self.spare
        self.store = MemoryStore("held")
        self.blobs = Blobs(self.store)
        self.holds = {}

    @rule(number=st.integers(0, 6))
    def put(self, number):
        ref = self.blobs.put(data_of(number, 700 + number))
        self.holds[ref.key] = self.holds.get(ref.key, 0) + 1

    @rule(number=st.integers(0, 6))
    def hold(self, number):
        key = blob_key(digest_of(data_of(number, 700 + number)))
        if self.blobs.hold(key):
            self.holds[key] = self.holds.get(key, 0) + 1
        else:
            assert key not in blobs_in(self.store)

    @rule(data=st.data())
    def release(self, data):
        held = [key for key, count in self.holds.items() for _ in range(count)]
        if held:
            given = data.draw(st.lists(st.sampled_from(sorted(set(held))), min_size=1, unique=True))
            for key in given:
                self.holds[key] -= 1
            self.blobs.release(given)

    @invariant()
    def what_is_held_lies_there(self):
        sizes = dict(self.store.keys("blobs/"))
        held = {key for key, count in self.holds.items() if count}
        assert held <= set(sizes)
        assert sum(size for key, size in sizes.items() if key not in held) <= self.spare

    def teardown(self):
        packing.SPARE = self.before


TestHeld = Held.TestCase
TestHeld.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_many_threads_put_and_release_the_same_pieces(monkeypatch):
    monkeypatch.setattr(packing, "SPARE", 1500)
    store = MemoryStore("threads")
    blobs = Blobs(store)
    wrong = []

    def work(first):
        for number in itertools.islice(itertools.cycle(range(first, first + 3)), 300):
            ref = blobs.put(data_of(number % 4))
            if store.get(ref.key) != bytes(data_of(number % 4)):
                wrong.append(number)
            blobs.release([ref.key])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert sum(size for _, size in store.keys("blobs/")) <= 1500


# -- Packer


def test_what_fails_to_pack_holds_nothing(monkeypatch):
    monkeypatch.setattr(packing, "SPARE", 0)
    store = MemoryStore("fails")
    with pytest.raises(PackingError, match=r"cannot be pickled.*lock"):
        Packer(store, None).arguments((np.arange(40_000), threading.Lock()), {})
    assert blobs_in(store) == []


def test_what_is_packed_tells_what_it_holds():
    store = MemoryStore("tells")
    packed = Packer(store, None).pack({"a": np.arange(40_000), "b": b"x" * BIG, "c": 1}, "it")
    assert sorted(packed.held) == sorted(ref.key for ref in refs_of(packed.data)) == blobs_in(store)
    assert loads(packed.data, lambda ref: store.get(ref.key))["c"] == 1


def test_plain_arguments_have_a_shorter_way_and_say_the_same():
    packer = Packer(MemoryStore("plain"), None)
    for args, kwargs in [((1, "a", None, 2.5), {}), ((), {}), ((1,), {"k": 2}), (("x" * BIG,), {}), (([1],), {})]:
        packed = packer.arguments(args, kwargs)
        assert loads(packed.data, lambda ref: packer._store.get(ref.key)) == (args, kwargs)


# -- Functions that need not be packed anew for each job


def function_of(source, **names):
    variables = {"__name__": "__main__", **names}
    exec(source, variables)
    return variables["f"]


def test_a_function_of_nothing_but_its_code_is_known_again():
    assert fingerprint(function_of("import math\ndef f(x, n=1): return math.sqrt(x) + n")) is not None
    assert fingerprint(function_of("f = lambda x: x + 1")) == fingerprint(function_of("f = lambda x: x + 1"))


def dynamic_module(value):
    module = type(np)("made_in_memory")
    module.value = value
    return module


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("f = lambda: 1", {}), ("f = lambda: 2", {})),
        (("f = lambda: 1", {}), ("f = lambda: True", {})),
        (("f = lambda: 0.0", {}), ("f = lambda: -0.0", {})),
        (("f = lambda x=0.0: x", {}), ("f = lambda x=-0.0: x", {})),
        (("f = lambda x=1: x", {}), ("f = lambda x=1.0: x", {})),
        (("f = lambda *, x=1: x", {}), ("f = lambda *, x=2: x", {})),
        (("f = lambda: g", {"g": 1}), ("f = lambda: g", {"g": 2})),
        (("f = lambda: [g for _ in range(1)][0]", {"g": 1}), ("f = lambda: [g for _ in range(1)][0]", {"g": 2})),
        (("f = lambda: (lambda: g)()", {"g": 1}), ("f = lambda: (lambda: g)()", {"g": 2})),
        (("f = lambda: g.value", {"g": dynamic_module(1)}), ("f = lambda: g.value", {"g": dynamic_module(2)})),
        (("f = lambda: g.pi", {"g": __import__("math")}), ("f = lambda: g.pi", {"g": __import__("cmath")})),
        (("def f(): return f.x\nf.x = 1", {}), ("def f(): return f.x\nf.x = 2", {})),
        (("def f():\n 'one'\n return f.__doc__", {}), ("def f():\n 'two'\n return f.__doc__", {})),
    ],
    ids=lambda given: str(given),
)
def test_a_function_that_changed_is_packed_anew(one, other):
    packer = Packer(MemoryStore("anew"), None)
    packed = [packer.function(function_of(source, **names), (), "f") for source, names in (one, other)]
    fresh = [cloudpickle.loads(cloudpickle.dumps(function_of(source, **names))) for source, names in (one, other)]
    for each, expected in zip(packed, fresh, strict=True):
        function, _ = loads(each.data, lambda ref: None)
        if "math" not in repr(expected()):
            assert repr(function()) == repr(expected())


# -- Through an executor


@pytest.fixture
def ex():
    with Executor("inline") as made:
        yield made


def test_an_array_that_many_tasks_use_is_stored_once(ex):
    array = np.arange(40_000)
    for _ in range(2):
        assert ex.map(lambda a, n: int(a[n]), [array] * 50, range(50)).results() == list(range(50))
        assert ex.submit(lambda: int(array.sum())).result() == int(array.sum())
    assert len(blobs_in(ex.store)) == 1


def test_equal_arrays_of_different_jobs_are_stored_once(ex):
    for _ in range(3):
        assert ex.submit(len, np.arange(40_000)).result() == 40_000
        assert list(ex.map(len, [bytes(np.arange(40_000))])) == [320_000]
    assert len(blobs_in(ex.store)) == 1


def test_a_change_between_two_jobs_reaches_the_second(ex):
    array, raw = np.zeros(40_000), bytearray(BIG)
    for expected in range(4):
        assert ex.submit(lambda a: float(a[0]), array).result() == expected
        assert list(ex.map(lambda a: float(a[0]), [array, array])) == [expected, expected]
        assert list(ex.map(lambda n: float(array[n]), [0])) == [expected]
        assert list(ex.map(lambda b: b[0], [raw])) == [expected]
        array[0] += 1
        raw[0] += 1


def refilled(count):
    array = np.zeros(40_000)
    for n in range(count):
        array[:] = n
        yield array


class Batches(collections.abc.Sequence):
    """A data set that hands out one buffer, filled anew each time, as those of many libraries do."""

    def __init__(self, count):
        self._count = count
        self._buffer = np.zeros(40_000)

    def __len__(self):
        return self._count

    def __getitem__(self, index):
        if index >= self._count:
            raise IndexError(index)
        self._buffer[:] = index
        return self._buffer


@pytest.mark.parametrize("buffersize", [None, 2])
@pytest.mark.parametrize(
    "make", [refilled, Batches, lambda n: map(np.asarray, refilled(n))], ids=["generator", "sequence", "map"]
)
def test_an_input_that_refills_one_array_sends_what_it_yielded(ex, make, buffersize):
    assert list(ex.map(lambda a: float(a[-1]), make(40), buffersize=buffersize)) == [float(n) for n in range(40)]


def test_rows_and_views_of_one_array_are_told_apart(ex):
    table = np.arange(5 * 20_000).reshape(5, 20_000)
    assert list(ex.map(lambda row: int(row[0]), table)) == [0, 20_000, 40_000, 60_000, 80_000]
    views = [table, table.T, table[1:], table[:4], table.ravel(), table.view(np.uint64), table[:, :10_000]]
    for sent, found in zip(views, ex.map(lambda view: view, views), strict=True):
        assert found.dtype == sent.dtype and np.array_equal(found, sent)


def test_temporaries_are_not_taken_for_each_other(ex):
    class Lazy:
        def __init__(self, n):
            self.n = n

        def __reduce__(self):
            return np.sum, (np.full(40_000, self.n),)

    assert [int(each) for each in ex.map(lambda total: total, [Lazy(n) for n in range(30)])] == [
        40_000 * n for n in range(30)
    ]


def test_a_piece_that_somebody_changed_in_the_store_is_refused(tmp_path):
    with Executor("local", store=f"file://{tmp_path}/store", max_workers=1) as ex:
        array = np.arange(40_000)
        assert ex.submit(int, 1).result(60) == 1
        assert ex.submit(len, array).result(60) == 40_000
        (key,) = blobs_in(ex.store)
        ex.store.put(key, bytes(320_000))
        error = ex.submit(lambda a: a.sum(), array).exception(60)
        assert type(error).__name__ == "SignatureError" and key in str(error)


class Slow(MemoryStore):
    """What another thread puts lies there, and the thread goes on when it may."""

    def __init__(self):
        super().__init__("slow")
        self.inside, self.go = threading.Event(), threading.Event()

    def put_new(self, key, data):
        done = super().put_new(key, data)
        if threading.current_thread() is not threading.main_thread():
            self.inside.set()
            assert self.go.wait(30)
        return done


def test_a_piece_is_not_deleted_between_its_put_and_its_hold(monkeypatch):
    """Two put the same; one has released it, and it is in the way, before the other holds it."""
    monkeypatch.setattr(packing, "SPARE", 0)
    store = Slow()
    blobs = Blobs(store)
    other = threading.Thread(target=blobs.put, args=(data_of(6),))
    other.start()
    assert store.inside.wait(30)
    ref = blobs.put(data_of(6))
    blobs.release([ref.key])
    store.go.set()
    other.join()
    assert store.get(ref.key) == bytes(data_of(6))


def test_a_piece_that_was_to_be_deleted_is_not_between_its_next_put_and_its_hold(monkeypatch):
    """It was found to be in the way before the other put it, and is about to be deleted."""
    monkeypatch.setattr(packing, "SPARE", 0)
    found, go = threading.Event(), threading.Event()

    class Late(Blobs):
        def _delete(self, keys):
            found.set()
            assert go.wait(30)
            super()._delete(keys)

    store = Slow()
    blobs = Late(store)
    ref = blobs.put(data_of(6))
    one = threading.Thread(target=blobs.release, args=([ref.key],))
    one.start()
    assert found.wait(30)
    other = threading.Thread(target=blobs.put, args=(data_of(6),))
    other.start()
    assert store.inside.wait(30)
    go.set()
    one.join()
    store.go.set()
    other.join()
    assert store.get(ref.key) == bytes(data_of(6))


def test_a_module_that_has_gone_from_the_store_is_put_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone_helpers.py").write_text("def double(x):\n    return 2 * x\n")
    from pywren_ng.environment import LocalModules

    store = MemoryStore("modules")
    packer = Packer(store, LocalModules())
    import gone_helpers

    (unit,) = packer.function(gone_helpers.double, (), "double").modules
    (key,) = [key for key, _ in store.keys("modules/")]
    before = store.get(key)
    store.delete_many([key])
    assert packer.restore(key) and store.get(key) == before and key.endswith(unit.digest)
    assert not packer.restore(key)
