"""What records are grouped by: keys that are equal have equal bytes, and others have others, everywhere."""

import operator
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from itertools import pairwise
from math import inf, nan
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywren_runtime.errors import KeyUnsupported
from pywren_shuffle.keys import HASH, check, edges, encode, sort_key


class Colour(Enum):
    RED = 1


class Size(IntEnum):
    LARGE = 3


class Kind(StrEnum):
    SMALL = "small"


class Pair(NamedTuple):
    one: object
    two: object


class Path(str):
    """A text, and equal to it."""


class Name(str):
    """One that tells no case, which bytes do."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


@dataclass(frozen=True)
class Point:
    x: int
    y: int


SINGLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.builds(operator.add, st.sampled_from([2**53, 2**63, -(2**63), 2**64, 10**30, int(1e30)]), st.integers(-2, 2)),
    st.floats(allow_nan=False),
    st.sampled_from([0.0, -0.0, 1.0, 2.0**53, 2.0**63, -(2.0**63), 2.0**64, 1e30, 1e300, inf, -inf, 5e-324]),
    st.integers(-3, 3).map(float),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.text(max_size=3).map(str.encode),
)
KEYS = st.recursive(SINGLE, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


def twin(key: object) -> object:
    """The same as another type may have it."""
    if isinstance(key, tuple):
        return tuple(map(twin, key))
    if isinstance(key, int):
        return float(key) if abs(key) < 2**1000 else key
    return int(key) if isinstance(key, float) and key.is_integer() else key


@given(KEYS, KEYS)
def test_equal_keys_and_no_others_have_equal_bytes(one: object, other: object) -> None:
    assert (encode(one) == encode(other)) == (one == other)
    assert (encode(one) == encode(twin(one))) == (one == twin(one))


@given(st.lists(KEYS, max_size=6))
def test_a_key_may_be_of_any_plain_type(keys: list[object]) -> None:
    check(keys)
    for key in keys:
        assert (encode(key) == encode(nested(key))) == (key == nested(key))


def nested(key: object) -> object:
    """The same as derived types have it."""
    if isinstance(key, tuple):
        inner = tuple(map(nested, key))
        return Pair(*inner) if len(inner) == 2 else inner
    if isinstance(key, str):
        return Path(key)
    return np.float64(key) if isinstance(key, float) else key


@given(KEYS, KEYS)
def test_no_encoded_key_begins_with_another_one(one: object, other: object) -> None:
    assert one == other or not encode(one).startswith(encode(other))


@pytest.mark.parametrize(
    "alike", [(1, 1.0, True), (0, 0.0, -0.0, False), (2**53, 2.0**53), (2**70, 2.0**70), ((1, "a"), (True, "a"))]
)
def test_what_is_equal_in_python(alike: tuple[object, ...]) -> None:
    assert len(set(map(encode, alike))) == 1


@pytest.mark.parametrize(
    ("key", "plain"),
    [
        (Size.LARGE, 3),
        (Kind.SMALL, "small"),
        (Pair(1, "a"), (1, "a")),
        (Path("a/b"), "a/b"),
        (np.float64(0.5), 0.5),
        (np.float64(3), 3),
        (np.str_("é"), "é"),
        (np.bytes_(b"x"), b"x"),
        ((np.float64("nan"), Size.LARGE), (nan, 3.0)),
    ],
)
def test_values_of_derived_classes_are_what_they_derive_from(key: object, plain: object) -> None:
    check([key])
    assert encode(key) == encode(plain)


@pytest.mark.parametrize("other", ["1", b"1", (1,), None, "", (), 1.5, 2**53 + 1, ((1,),), (1, 1)])
def test_what_is_not(other: object) -> None:
    assert encode(other) not in {encode(1), encode(2**53), encode(2.0**53)}


def test_every_nan_is_the_same_key() -> None:
    assert encode(nan) == encode(-nan) == encode(inf - inf) == encode(np.float64("nan"))
    assert encode((nan, 1)) == encode((-nan, True))


@pytest.mark.parametrize(
    ("key", "named", "advice"),
    [
        ([1], "builtins.list", r"tuple\(key\)"),
        ({1}, "builtins.set", r"tuple\(sorted\(key\)\)"),
        (bytearray(b"a"), "builtins.bytearray", r"bytes\(key\)"),
        (Colour.RED, "Colour", r"key\.name"),
        (Point(1, 2), "Point", "astuple"),
        (date(2024, 1, 1), "datetime.date", "isoformat"),
        (np.bool_(True), "numpy", r"key.item\(\)"),
        (np.float32(0.5), "numpy.float32", r"key.item\(\)"),
        (Name("Ann"), "Name.*equality or a hash of its own", "plain str"),
        ((1, Name("Ann")), "Name", "plain str"),
        ({"a": 1}, "builtins.dict", r"tuple\(sorted"),
        (Decimal(1), "decimal.Decimal", "str"),
        (Fraction(1, 2), "fractions.Fraction", "str"),
        (1j, "builtins.complex", "str"),
        (np.int64(1), "numpy.int64", r"key.item\(\)"),
        ((1, [2]), "builtins.list", r"tuple\(key\)"),
        (np.datetime64("2024-01-01"), "numpy.datetime64", "item"),
    ],
)
def test_what_cannot_be_a_key_is_a_type_error_that_says_what_to_do(key: object, named: str, advice: str) -> None:
    with pytest.raises(KeyUnsupported, match=f"{named}.*{advice}") as raised:
        sort_key(key)
    assert isinstance(raised.value, TypeError)
    with pytest.raises(KeyUnsupported, match=named):
        check([1, "a", (2, 3), key])


def test_the_hash_is_the_same_in_every_process() -> None:
    script = "from pywren_shuffle.keys import sort_key; print(sort_key(('a', 1, None, b'x', 0.5)).hex())"
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert found == {sort_key(("a", True, None, b"x", 0.5)).hex()}


def test_partitions_begin_at_hashes_that_lie_evenly() -> None:
    keys = sorted(sort_key(number)[:HASH] for number in range(10_000))
    begins = [b"", *edges(8), b"\xff" * 9]
    sizes = [sum(low <= key < high for key in keys) for low, high in pairwise(begins)]
    assert sum(sizes) == 10_000
    assert max(sizes) < 1.15 * 10_000 / 8
