"""Objects into bytes and back, with the big pieces set apart.

    dumps(obj) ──► stream: small things, in one run of bytes, rides in the Call or the Outcome
              └──► pieces: each buffer, bytes or text of 64 KiB and more ──► store(piece) ──► Ref(key, size, digest)

Buffers (numpy, pandas, Arrow) leave the pickle by protocol 5; long `bytes` and `str` leave it because the C pickler
hands them to its file as they are, uncopied, and our file keeps them apart. `loads` puts both back; a buffer comes as
whatever memory `fetch` returns, so a copy-on-write mapping makes an array that its task may change.
"""

import hashlib
import io
import mmap
import pickle
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pywren_runtime.stores import Copy

Bytes = bytes | bytearray | memoryview | mmap.mmap

BIG = 64 * 1024  # from here on a piece is stored apart
INLINE = 1024 * 1024  # a stream longer than this does not ride along
PIECE = 4 * 1024 * 1024  # what one hash covers
STEP = 1024 * 1024  # hashed and then copied: it lies in a processor's own cache
CLASS_STATE = b"_class_setstate"  # cloudpickle's own, which a pickle names if it holds a class by value
ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})


@dataclass(frozen=True, slots=True)
class Ref:
    """Bytes that lie in a store; `digest` is what `digest_of` says of them."""

    key: str
    size: int
    digest: bytes


Store = Callable[[memoryview], Ref]
Fetch = Callable[[Ref], Bytes]


def digest_of(data: memoryview, copy: Copy | None = None) -> bytes:
    """SHA-256 over the SHA-256s of 4 MiB pieces: several threads hash long data, and a range can be verified.

    What was just hashed is in the cache, and costs `copy` little.
    """

    def digest(at: int) -> bytes:
        piece = data[at : at + PIECE]
        if copy is None:
            return hashlib.sha256(piece).digest()
        whole = hashlib.sha256()
        for start in range(0, len(piece), STEP):
            step = piece[start : start + STEP]
            whole.update(step)
            copy(at + start, step)
        return whole.digest()

    places = range(0, len(data) or 1, PIECE)
    if len(places) < 3:
        hashes = [digest(at) for at in places]
    else:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(3 if copy is None else 4) as pool:  # without `copy` a fourth writes the same bytes
            hashes = list(pool.map(digest, places))
    return hashlib.sha256(b"".join(hashes)).digest()


def is_plain(obj: object) -> bool:
    """Numbers, text and None: what pickles the same everywhere and loads without running anybody's code."""
    return type(obj) in ATOMS


class _Parts:
    """The file that a pickler writes to: frames are joined, long bytes are kept apart."""

    def __init__(self, inline: int) -> None:
        self.parts: list[tuple[Bytes, bool]] = []  # with whether it goes apart
        self._run: list[Bytes] = []
        self._inline = inline

    def write(self, data: Bytes) -> int:
        if len(data) >= BIG and not _is_frame(data):
            self.flush()
            self.parts.append((data, True))
        else:
            self._run.append(data)
        return len(data)

    def flush(self) -> None:
        if self._run:
            run = b"".join(self._run)
            self.parts.append((run, len(run) > self._inline))
            self._run = []


def _is_frame(data: Bytes) -> bool:
    """Whether this is a run of small things (the pickler cuts one every 64 KiB) and not one long object."""
    at = 2 if data[0] == 0x80 else 0  # the first one has the protocol in front
    return data[at] == 0x95 and int.from_bytes(data[at + 1 : at + 9], "little") == len(data) - at - 9


def dumps(obj: object, store: Store, make_pickler: Callable[..., pickle.Pickler], *, inline: int = INLINE) -> bytes:
    """Pack `obj`; big pieces go through `store`, at once, for their owner may change them later, and so does a run of
    small things that is longer than `inline`.

    The first byte of the result says whether it is a bare pickle (0) or has pieces elsewhere (1).
    """
    buffers: list[memoryview] = []

    def apart(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous: the pickler copies it
            return True
        if view.nbytes < BIG:
            return True
        buffers.append(view)
        return False

    file = _Parts(inline)
    make_pickler(file, protocol=5, buffer_callback=apart).dump(obj)
    file.flush()
    if not buffers and len(file.parts) == 1 and not file.parts[0][1]:
        return b"\0" + file.parts[0][0]
    stream = [_encode_part(part, store, is_apart) for part, is_apart in file.parts]
    pieces = [_encode_part(view, store, True) for view in buffers]
    return b"".join((b"\1", struct.pack("<II", len(stream), len(pieces)), *stream, *pieces))


def dumps_plain(obj: object) -> bytes:
    """Pack what consists of atoms only (the caller has looked), in the quickest way."""
    return b"\0" + pickle.dumps(obj, 5)


def set_apart(packed: bytes, store: Store) -> bytes:
    """The same packed object with its pickle stored apart: many Calls carry it, and each worker fetches it once."""
    if packed[0] != 0:
        return packed
    return b"".join((b"\1", struct.pack("<II", 1, 0), _encode_part(packed[1:], store, True)))


def _encode_part(part: Bytes, store: Store, is_apart: bool) -> bytes:
    if not is_apart:
        return struct.pack("<BQ", 0, len(part)) + part
    ref = store(memoryview(part).cast("B"))
    key = ref.key.encode()
    return struct.pack("<BQH32s", 1, ref.size, len(key), ref.digest) + key


def refs_of(packed: bytes) -> list[Ref]:
    """The pieces of a packed object that lie elsewhere."""
    if packed[0] == 0:
        return []
    return [part for part in _parts(packed)[1] if isinstance(part, Ref)]


def has_pieces(packed: bytes) -> bool:
    """Whether it is more than one run of small things, wherever that lies: whoever loads it may change large ones."""
    return packed[0] != 0 and struct.unpack_from("<II", packed, 1) != (1, 0)


def _parts(packed: bytes) -> tuple[int, list[bytes | Ref]]:
    stream, buffers = struct.unpack_from("<II", packed, 1)
    at = 9
    parts: list[bytes | Ref] = []
    for _ in range(stream + buffers):
        is_apart, size = struct.unpack_from("<BQ", packed, at)
        at += 9
        if not is_apart:
            parts.append(packed[at : at + size])
            at += size
            continue
        length, digest = struct.unpack_from("<H32s", packed, at)
        at += 34
        parts.append(Ref(packed[at : at + length].decode(), size, digest))
        at += length
    return stream, parts


def loads(packed: bytes, fetch: Fetch, make_unpickler: Callable[..., pickle.Unpickler] = pickle.Unpickler) -> Any:
    """Rebuild what `dumps` packed. The bytes must have been authenticated: a pickle can run code.

    Another unpickler than pickle's is made where classes come by value; nothing else is of interest to ours.
    """
    if packed[0] == 0:
        if make_unpickler is not pickle.Unpickler and CLASS_STATE in packed:
            return make_unpickler(io.BytesIO(memoryview(packed)[1:])).load()
        return pickle.loads(memoryview(packed)[1:])
    count, parts = _parts(packed)
    pieces = [fetch(part) if isinstance(part, Ref) else part for part in parts]
    return make_unpickler(_Joined(pieces[:count]), buffers=pieces[count:]).load()


class _Joined(io.RawIOBase):
    """Several runs of bytes, read as the one file that an unpickler wants."""

    def __init__(self, pieces: Iterable[Bytes]) -> None:
        self._pieces = [memoryview(piece).cast("B") for piece in pieces][::-1]

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        done = 0
        while done < len(view) and self._pieces:
            piece = self._pieces.pop()
            step = min(len(view) - done, len(piece))
            view[done : done + step] = piece[:step]
            done += step
            if step < len(piece):
                self._pieces.append(piece[step:])
        return done
