"""What records are grouped by: a key as bytes, so that keys are equal exactly if their bytes are.

    None            0
    1, 1.0, True    1, and eight bytes; whole numbers that need more: 2, how many, the bytes
    0.5, inf, nan   3, and the number's eight bytes
    "é"  b"é"       4 or 5, how long, the bytes
    (1, "é")        6, how many, each of them

No encoded key begins with another one. 0.0 and -0.0 are the number 0. A nan is equal to every other nan: all are one
group, although in Python a nan is not even equal to itself. The hash is that of the bytes: it is the same in every
process and on every machine, which Python's own, being salted, is not.
"""

from hashlib import blake2b
from struct import Struct

from pywren_runtime.errors import KeyUnsupported

__all__ = ["HASH", "edges", "encode", "sort_key"]

HASH = 8
"""Bytes of the hash with which a `sort_key` begins."""
_NONE, _WHOLE, _LARGE, _NUMBER, _TEXT, _BYTES, _TUPLE = (bytes([tag]) for tag in range(7))
_INT, _FLOAT, _SIZE = Struct(">q"), Struct(">d"), Struct(">Q")
_NAN = float("nan")
_HALF = 1 << 63


def encode(key: object) -> bytes:
    """A key's canonical bytes; KeyUnsupported, which is a TypeError, for what cannot be a key."""
    if type(key) is int and -_HALF <= key < _HALF:
        return _WHOLE + _INT.pack(key)
    if isinstance(key, str):
        text = key.encode("utf-8", "surrogatepass")
        return _TEXT + _SIZE.pack(len(text)) + text
    if isinstance(key, int):
        return _whole(int(key))
    if isinstance(key, float):
        if key.is_integer():
            return _whole(int(key))
        return _NUMBER + _FLOAT.pack(key if key == key else _NAN)
    if isinstance(key, tuple):
        return b"".join((_TUPLE, _SIZE.pack(len(key)), *map(encode, key)))
    if isinstance(key, bytes):
        return _BYTES + _SIZE.pack(len(key)) + key
    if key is None:
        return _NONE
    raise KeyUnsupported(
        f"{_shown(key)} cannot be a key, for it is of type {type(key).__module__}.{type(key).__qualname__}: a key is"
        f" None, a bool, int, float, str or bytes, or a tuple of these. {_advice(key)}"
    )


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


def _shown(key: object) -> str:
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _advice(key: object) -> str:
    if type(key).__module__ == "numpy":
        return "Take the Python value of it: key.item()."
    if isinstance(key, list):
        return "Make a tuple of the list: tuple(key)."
    if isinstance(key, dict):
        return "Make a tuple of it: tuple(sorted(key.items()))."
    if hasattr(key, "isoformat"):
        return "Take its text: key.isoformat()."
    return "Make one of these of it, such as str(key)."
