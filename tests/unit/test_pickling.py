"""Objects into bytes and back: nothing is changed, and big pieces are set apart, each once."""

import hashlib
import mmap
import pickle
import struct
from collections import Counter

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywren_runtime import blobs
from pywren_runtime.errors import KeyMissing, SignatureError
from pywren_runtime.pickling import (
    BIG,
    INLINE,
    PIECE,
    Ref,
    digest_of,
    dumps,
    dumps_plain,
    is_plain,
    loads,
    refs_of,
)
from pywren_runtime.stores.file_store import FileStore
from pywren_runtime.stores.memory_store import MemoryStore


class Pieces(dict):
    """A store of pieces by what they hold, that counts how often each was brought."""

    def __init__(self):
        super().__init__()
        self.brought = Counter()

    def keep(self, data):
        assert data.ndim == 1 and data.itemsize == 1, "a piece is flat bytes"
        digest = digest_of(data)
        self[digest.hex()] = bytes(data)
        self.brought[digest.hex()] += 1
        return Ref(digest.hex(), data.nbytes, digest)

    def fetch(self, ref):
        data = bytearray(self[ref.key])
        assert len(data) == ref.size and digest_of(memoryview(data)) == ref.digest
        return data


def there_and_back(obj, pickler=cloudpickle.Pickler):
    pieces = Pieces()
    packed = dumps(obj, pieces.keep, pickler)
    assert type(packed) is bytes
    assert Counter(ref.key for ref in refs_of(packed)) == pieces.brought
    return loads(packed, pieces.fetch), pieces, packed


SIZES = (
    st.sampled_from([0, 1, BIG - 100, BIG - 1, BIG, BIG + 1, 2 * BIG])
    | st.integers(BIG - 70, BIG + 70)
    | st.integers(0, 300)
)


@st.composite
def leaves(draw):
    """Something of one of the kinds that may leave the pickle."""
    size, seed = draw(SIZES), draw(st.integers(0, 250))
    kind = draw(st.sampled_from(["bytes", "bytearray", "str", "wide", "array", "floats"]))
    raw = bytes([seed]) * size
    return {
        "bytes": lambda: raw,
        "bytearray": lambda: bytearray(raw),
        "str": lambda: chr(33 + seed % 90) * size,
        "wide": lambda: chr(0x4E00 + seed) * (size // 3),
        "array": lambda: np.full(size, seed, np.uint8),
        "floats": lambda: np.full(size // 8, seed, float),
    }[kind]()


NESTED = st.recursive(
    leaves() | st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def same(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other


@settings(max_examples=200, deadline=None)
@given(NESTED)
def test_everything_comes_back_as_it_was(obj):
    back, _, _ = there_and_back(obj)
    assert same(back, obj)


@pytest.mark.parametrize("make", [bytes, bytearray, lambda n: "x" * n, lambda n: np.zeros(n, np.uint8)])
@pytest.mark.parametrize(("size", "apart"), [(BIG - 1, 0), (BIG, 1), (BIG + 1, 1)])
def test_the_limit_is_exact(make, size, apart):
    back, pieces, packed = there_and_back([1, make(size), 2])
    assert same(back, [1, make(size), 2])
    assert len(refs_of(packed)) == len(pieces) == apart
    assert all(len(piece) == size for piece in pieces.values())
    assert (len(packed) < 1000) == bool(apart)


def test_a_text_is_as_long_as_its_bytes():
    assert len(refs_of(there_and_back("é" * (BIG // 2))[2])) == 1
    assert len(refs_of(there_and_back("é" * (BIG // 2 - 1))[2])) == 0


ARRAYS = {
    "C order": lambda: np.arange(40_000.0).reshape(200, 200),
    "F order": lambda: np.asfortranarray(np.arange(40_000.0).reshape(200, 200)),
    "transposed": lambda: np.arange(40_000.0).reshape(100, 400).T,
    "every second": lambda: np.arange(80_000.0)[::2],
    "backwards": lambda: np.arange(40_000.0)[::-1],
    "inner block": lambda: np.arange(90_000.0).reshape(300, 300)[50:250, 50:250],
    "broadcast": lambda: np.broadcast_to(np.arange(200.0), (200, 200)),
    "no rows": lambda: np.zeros((0, 50_000)),
    "no items": lambda: np.zeros(0),
    "one item": lambda: np.array(3.0),
    "objects": lambda: np.array([{"a": 1}, None, "x"] * 30_000, dtype=object),
    "records": lambda: np.zeros(10_000, dtype=[("a", "i4"), ("b", "f8", (2,))]),
    "big-endian": lambda: np.arange(40_000, dtype=">i4"),
    "dates": lambda: np.arange(40_000).astype("M8[s]"),
    "small": lambda: np.arange(10),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_shape_come_back_and_may_be_written(kind):
    array = ARRAYS[kind]()
    back, _, _ = there_and_back({"array": array})
    found = back["array"]
    assert found.dtype == array.dtype and found.shape == array.shape
    assert np.array_equal(found, array)
    assert found.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc
    assert found.flags.writeable
    before = array.copy()
    found.fill(found.flat[-1] if found.size else 0)
    assert np.array_equal(array, before), "the copy shares memory with what was packed"


def test_a_read_only_array_stays_so():
    array = np.arange(40_000)
    array.flags.writeable = False
    back, _, packed = there_and_back(array)
    assert not back.flags.writeable and np.array_equal(back, array)
    assert len(refs_of(packed)) == 1


def test_a_frame_of_columns_leaves_the_pickle():
    frame = pd.DataFrame({"n": np.arange(50_000), "x": np.linspace(0, 1, 50_000)})
    back, _, packed = there_and_back(frame)
    pd.testing.assert_frame_equal(back, frame)
    assert len(refs_of(packed)) >= 1 and len(packed) < 10_000
    back.loc[0, "n"] = 7


def test_what_is_one_object_stays_one_and_travels_once():
    array, text, raw, mutable = np.arange(40_000), "x" * BIG, b"y" * BIG, bytearray(b"z" * BIG)
    back, pieces, _ = there_and_back([array, text, raw, mutable, array, text, raw, mutable])
    assert all(back[n] is back[n + 4] for n in range(4))
    assert len(pieces) == 4 and set(pieces.brought.values()) == {1}
    back[0][0] = 5
    assert back[4][0] == 5


def test_a_cycle_stays_a_cycle():
    box = [np.arange(40_000)]
    box.append(box)
    back, _, _ = there_and_back(box)
    assert back[1] is back


def test_the_same_content_has_the_same_name():
    _, pieces, packed = there_and_back([np.arange(40_000), np.arange(40_000)])
    assert len(pieces) == 1 and len(refs_of(packed)) == 2


def test_many_small_things_are_one_piece():
    things = [str(n) for n in range(INLINE // 4)]
    back, pieces, packed = there_and_back(things)
    assert back == things
    assert len(pieces) == len(refs_of(packed)) == 1 and len(packed) < 1000


def test_small_things_around_big_ones_keep_their_places():
    obj = [n if n % 3 else bytes([n % 250]) * (BIG + n) for n in range(60)]
    obj[30:30] = ["s" * (BIG - 1 + n) for n in range(3)]
    back, _, packed = there_and_back(obj)
    assert back == obj
    assert len(refs_of(packed)) == 22


@pytest.mark.parametrize("front", [b"", b"\x80\x05"])
def test_bytes_that_look_like_a_frame_of_the_pickle_are_bytes(front):
    body = bytes(BIG)
    for size in (len(body), len(body) - 9, 0):
        trick = front + b"\x95" + struct.pack("<Q", size) + body
        assert there_and_back([trick, 1])[0] == [trick, 1]
        assert there_and_back(trick)[0] == trick


def test_the_plain_way_says_the_same():
    values = [1, -1.5, 2j, True, "text", b"raw", None]
    assert all(map(is_plain, values))
    assert loads(dumps_plain(values), None) == values
    assert not any(map(is_plain, [[], (), {}, object, np.int64(1), np.float64(1), type("I", (int,), {})(1)]))


def test_with_the_standard_pickler():
    obj = {"a": np.arange(40_000), "b": b"x" * BIG}
    assert same(there_and_back(obj, pickle.Pickler)[0], obj)


def test_pieces_that_are_not_fetched_are_said():
    _, _, packed = there_and_back(b"x" * BIG)

    def fetch(ref):
        raise KeyMissing(ref.key)

    with pytest.raises(KeyMissing):
        loads(packed, fetch)


# -- The digest


def reference(data):
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)] or [b""]
    return hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).digest()


@pytest.mark.parametrize("pieces", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_digest_is_that_of_its_pieces(pieces, more):
    size = pieces * PIECE + more
    data = (b"0123456789abcdef!" * (max(size, 0) // 17 + 1))[: max(size, 0)]
    assert digest_of(memoryview(data)) == reference(data)


@pytest.mark.parametrize("at", [0, PIECE - 1, PIECE, 2 * PIECE - 1, 2 * PIECE, 4 * PIECE, 4 * PIECE + 6])
def test_the_digest_sees_every_byte(at):
    data = bytearray(4 * PIECE + 7)
    before = digest_of(memoryview(data))
    data[at] = 1
    assert digest_of(memoryview(data)) != before


# -- Fetching


def stored(store, data):
    ref = Ref("blobs/x", len(data), digest_of(memoryview(data)))
    store.put(ref.key, data)
    return ref


@pytest.mark.parametrize("size", [BIG, blobs.MAPPED - 1, blobs.MAPPED, 3 * blobs.MAPPED])
@pytest.mark.parametrize("private", [True, False])
def test_what_is_fetched_may_be_changed_and_the_store_keeps_its_own(tmp_path, size, private):
    store = FileStore(str(tmp_path), private=private)
    ref = stored(store, b"a" * size)
    one, other = blobs.fetch(store, ref), blobs.fetch(store, ref)
    one[0:1] = b"b"
    assert bytes(memoryview(one)[:2]) == b"ba"
    assert bytes(memoryview(other)[:2]) == b"aa", "two tasks see each other's changes"
    assert store.get(ref.key) == b"a" * size


def test_long_pieces_of_a_private_store_are_mapped_and_not_read(tmp_path):
    store = FileStore(str(tmp_path), private=True)
    assert isinstance(blobs.fetch(store, stored(store, bytes(blobs.MAPPED))), mmap.mmap)


def test_a_mapping_outlives_its_file(tmp_path):
    store = FileStore(str(tmp_path), private=True)
    ref = stored(store, b"q" * blobs.MAPPED)
    data = blobs.fetch(store, ref)
    store.delete_many([ref.key])
    assert bytes(memoryview(data)[-3:]) == b"qqq"


@pytest.mark.parametrize("size", [BIG, 2 * blobs.MAPPED])
@pytest.mark.parametrize("change", [lambda data: data[:-1] + b"!", lambda data: data[:-1], lambda data: data + b"!"])
def test_a_piece_that_was_changed_in_a_shared_store_is_refused(tmp_path, size, change):
    store = FileStore(str(tmp_path), private=False)
    ref = stored(store, b"a" * size)
    store.put(ref.key, change(b"a" * size))
    with pytest.raises(SignatureError, match="not what was stored"):
        blobs.fetch(store, ref)


def test_a_piece_that_is_gone_is_missing(tmp_path):
    for store in (FileStore(str(tmp_path), private=True), MemoryStore("gone")):
        with pytest.raises(KeyMissing):
            blobs.fetch(store, Ref("blobs/none", 2 * blobs.MAPPED, bytes(32)))
