"""What records are grouped by: a key as bytes, so that keys are equal exactly if their bytes are.

    None            0
    1, 1.0, True    1, and eight bytes; whole numbers that need more: 2, how many, the bytes
    0.5, inf, nan   3, and the number's eight bytes
    "é"  b"é"       4 or 5, how long, the bytes
    (1, "é")        6, how many, each of them

No encoded key begins with another one. 0.0 and -0.0 are the number 0. A nan is equal to every other nan: all are one
group, although in Python a nan is not even equal to itself. Values of derived classes (an IntEnum, a named tuple,
numpy's float64 and str_) are what they derive from, unless they have an equality of their own. The hash is that of the
bytes: it is the same in every process and on every machine, which Python's own, being salted, is not.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from hashlib import blake2b
from itertools import chain
from struct import Struct
from typing import Any

from pywren_runtime.errors import KeyUnsupported

__all__ = ["HASH", "check", "edges", "encode", "sort_key"]

HASH = 8
"""Bytes of the hash with which a `sort_key` begins."""
_NONE, _WHOLE, _LARGE, _NUMBER, _TEXT, _BYTES, _TUPLE = (bytes([tag]) for tag in range(7))
_INT, _FLOAT, _SIZE = Struct(">q"), Struct(">d"), Struct(">Q")
_NAN = float("nan")
_HALF = 1 << 63
_SIMPLE = {type(None), bool, int, float, str, bytes}
_PLAIN: tuple[tuple[Any, Callable[[Any], object]], ...] = (
    (int, int.__index__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, bytes.__bytes__),
    (tuple, lambda key: tuple.__getitem__(key, slice(None))),
)


def encode(key: Any) -> bytes:
    """A key's canonical bytes; KeyUnsupported, which is a TypeError, for what cannot be a key."""
    kind = type(key)
    if kind is str:
        text: bytes = key.encode("utf-8", "surrogatepass")
        return _TEXT + _SIZE.pack(len(text)) + text
    if kind is int or kind is bool:
        return _whole(key)
    if kind is float:
        if key.is_integer():
            return _whole(int(key))
        return _NUMBER + _FLOAT.pack(key if key == key else _NAN)
    if kind is tuple:
        return b"".join((_TUPLE, _SIZE.pack(len(key)), *map(encode, key)))
    if kind is bytes:
        return b"".join((_BYTES, _SIZE.pack(len(key)), key))
    return _NONE if key is None else encode(_plain(key))


def check(keys: Sequence[object]) -> None:
    """KeyUnsupported if one of these cannot be a key, at little cost where types are few.

    Python's own dict would not tell: to it Decimal(1) is the key 1, if that is there already.
    """
    kinds = set(map(type, keys)) - _SIMPLE
    if tuple in kinds:
        check(list(chain.from_iterable(key for key in keys if type(key) is tuple)))
        kinds.remove(tuple)
    if kinds:
        for key in keys:
            if type(key) in kinds:
                encode(key)


def sort_key(key: object) -> bytes:
    """Hash and canonical bytes: what comes of sorting by it lies evenly over all partitions, and in one order."""
    encoded = encode(key)
    return blake2b(encoded, digest_size=HASH).digest() + encoded


def edges(partitions: int) -> list[bytes]:
    """The hashes at which all partitions but the first begin."""
    return [((number << 8 * HASH) // partitions).to_bytes(HASH, "big") for number in range(1, partitions)]


def _whole(number: int) -> bytes:
    if -_HALF <= number < _HALF:
        return _WHOLE + _INT.pack(number)
    data = number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)
    return _LARGE + _SIZE.pack(len(data)) + data


def _plain(key: object) -> object:
    """What a key of a derived class is, if it is equal to what that is equal to; numpy's are, and say so anew."""
    kind: Any = type(key)
    for base, plain in _PLAIN:
        if isinstance(key, base):
            if kind.__module__ == "numpy" or (kind.__eq__ is base.__eq__ and kind.__hash__ is base.__hash__):
                return plain(key)
            raise KeyUnsupported(
                f"{_shown(key)} cannot be a key, for its type {_named(kind)} has an equality or a hash of its own. Make"
                f" a plain {base.__name__} of it."
            )
    raise KeyUnsupported(
        f"{_shown(key)} cannot be a key, for it is of type {_named(kind)}: a key is None, a bool, int, float, str or"
        f" bytes, or a tuple of these. {_advice(key)}"
    )


def _shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _advice(key: object) -> str:
    if type(key).__module__ == "numpy":
        return "Take the Python value of it: key.item()."
    if isinstance(key, list):
        return "Make a tuple of the list: tuple(key)."
    if isinstance(key, dict):
        return "Make a tuple of it: tuple(sorted(key.items()))."
    if isinstance(key, set | frozenset):
        return "Make a tuple of it: tuple(sorted(key))."
    if isinstance(key, bytearray | memoryview):
        return "Make bytes of it: bytes(key)."
    if isinstance(key, Enum):
        return "Take its name: key.name."
    if hasattr(key, "__dataclass_fields__"):
        return "Make a tuple of it: dataclasses.astuple(key)."
    if hasattr(key, "isoformat"):
        return "Take its text: key.isoformat()."
    return "Make one of these of it, such as str(key)."
