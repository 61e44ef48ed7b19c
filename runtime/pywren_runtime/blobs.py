"""Pieces of packed objects, fetched into memory that their reader may change."""

import mmap
import os

from pywren_runtime.errors import SignatureError
from pywren_runtime.pickling import Bytes, Ref, digest_of
from pywren_runtime.stores import Store

MAPPED = 512 * 1024  # shorter pieces are read: a mapping costs a file descriptor and faults


def fetch(store: Store, ref: Ref, *, mapped: bool = True) -> Bytes:
    """The bytes that `ref` names, writable, and nobody else's: a private mapping of the file where there is one.

    SignatureError if they are not what their digest says, which came in a signed frame. A store that only the
    executor's own processes can write is believed.
    """
    path = store.local_path(ref.key) if mapped and store.private and ref.size >= MAPPED else None
    if path is not None:
        data = _map(path, ref.size)
        if data is not None:
            return data
    found = bytearray(store.get(ref.key))
    if not store.private and digest_of(memoryview(found)) != ref.digest:
        raise SignatureError(
            f"{ref.key} in {store.url} is not what was stored there: its {len(found)} bytes have another hash; "
            "somebody else wrote to the store, or it is damaged; run the job again in a store of its own"
        )
    return found


def _map(path: str, size: int) -> mmap.mmap | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # `get` says what is wrong with it; and reading is the way out of too many open files
    try:
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
