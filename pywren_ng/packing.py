"""From the user's function and arguments to bytes that can travel.

function ─► cloudpickle ─► packed, once a job ─┐
arguments ─► pickle ─────► packed, each task ──┴─► Heading, Task
               │ └─ names of modules ─► LocalModules ─► archives ─┐
               └─ pieces of 64 KiB and more ─► Blobs ─────────────┴─► Store
"""

import contextlib
import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any

from pywren_runtime.errors import PackingError, PywrenError, StoreError
from pywren_runtime.modules import Unit
from pywren_runtime.pickling import ATOMS, BIG, Ref, digest_of, dumps, dumps_plain, set_apart
from pywren_runtime.stores import Copy, Store
from pywren_runtime.wire import blob_key, module_key

if TYPE_CHECKING:
    from pywren_ng.comparison import Comparison
    from pywren_ng.environment import LocalModules
    from pywren_ng.packages import PackageSet

KNOWN = 1000  # functions whose pickles are remembered
OVERLAP = 8 << 20  # bytes of a piece from which on it pays to hash and write at the same time
RIDES = 4096  # bytes of a function that go along with each Call; longer ones are stored where that saves sending them
SPARE = 1 << 30  # bytes of blobs that are kept though no task needs them: the next job may


class Packed:
    """What packing gives: the bytes, the modules they refer to, and the blobs that they hold."""

    __slots__ = ("data", "held", "modules")

    def __init__(self, data: bytes, held: tuple[str, ...] = (), modules: tuple[Unit, ...] = ()) -> None:
        self.data: bytes = data
        self.held: tuple[str, ...] = held
        self.modules: tuple[Unit, ...] = modules


Memory = dict[tuple[int, int], tuple[Ref, memoryview]]  # pieces that one map has stored, by where they lie


class Packer:
    """Packs for one executor. Any thread may use it."""

    def __init__(
        self,
        store: Store,
        modules: "LocalModules | None",
        packages: "PackageSet | None" = None,
        comparison: "Comparison | None" = None,
    ) -> None:
        self.blobs: Blobs = Blobs(store)
        self._store = store
        self._modules = modules
        self._packages = packages
        self._comparison = comparison
        self._sent: dict[str, Unit] = {}  # by where their archives lie
        self._known: dict[tuple[Any, ...], Packed] = {}

    def pack(self, obj: tuple[Any, ...], name: str, memory: Memory | None = None, *, is_call: bool = False) -> Packed:
        """Pack any object. PackingError says which part of `name` cannot travel, and how it was reached."""
        held: list[str] = []

        def store(data: memoryview) -> Ref:
            where = _address(data) if memory is not None else None
            if memory is not None and where in memory and self.blobs.hold(memory[where][0].key, data):
                ref = memory[where][0]
            else:
                ref = self.blobs.put(data)
                if memory is not None and where is not None:
                    memory[where] = ref, data  # the view keeps the memory from being used for something else
            held.append(ref.key)
            return ref

        from pywren_ng.pickler import Needs, Pickler  # cloudpickle costs 15 ms: the first worker starts meanwhile

        needs = Needs()

        def pickler(*args: Any, **options: Any) -> Pickler:
            return Pickler(needs, *args, **options)

        try:
            data = dumps(obj, store, pickler)
            units = self._units({module for module in needs.named if module is not None}, needs.codes)
            self._compare(name, {module for module in needs.imported if module is not None}, needs.codes)
        except PywrenError:
            self.blobs.release(held)
            raise
        except Exception as error:
            from pywren_runtime.diagnose import explain

            self.blobs.release(held)
            named = _arguments(*obj) if is_call else [(name, obj[0]), (f"what goes with {name}", obj[1])]
            name, culprit = next(filter(_is_bad, named), (name, obj))
            raise PackingError(explain(culprit, name, error)) from error
        return Packed(data, tuple(held), units)

    def function(self, fn: object, retry_on: tuple[type[BaseException], ...], name: str, role: int = 0) -> Packed:
        """Pack a job's function: anew for each job, for what it refers to may have changed, unless nothing can."""
        from pywren_ng.pickler import fingerprint

        key = None if retry_on or role else fingerprint(fn)
        if key is None:
            return self._shared(self.pack((fn, retry_on, role) if role else (fn, retry_on), name))
        known = self._known.get(key)
        if known is None or self._units({key[1]}, [key[0]]) != known.modules:
            known = self._shared(self.pack((fn, retry_on), name))
            if known.held:  # each use must hold its blobs
                return known
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[key] = known
        return known

    def _shared(self, packed: Packed) -> Packed:
        """What many Calls carry: stored once, if it is long and the workers are not of this machine."""
        if self._store.private or len(packed.data) <= RIDES or packed.data[0] != 0:
            return packed
        held: list[str] = []

        def store(data: memoryview) -> Ref:
            ref = self.blobs.put(data)
            held.append(ref.key)
            return ref

        return Packed(set_apart(packed.data, store), (*packed.held, *held), packed.modules)

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], memory: Memory | None = None) -> Packed:
        """Pack one task's arguments; numbers and short text take a shorter way."""
        if not kwargs and all(type(arg) in ATOMS for arg in args):
            data = dumps_plain((args, kwargs))
            if len(data) < BIG:
                return Packed(data)
        return self.pack((args, kwargs), "the arguments", memory, is_call=True)

    def _units(self, names: set[str], codes: list[CodeType]) -> tuple[Unit, ...]:
        if self._modules is None:
            return ()
        units = self._modules.units(names, codes)
        for unit in units:
            key = module_key(unit.digest)
            if key not in self._sent:
                self._store.put_new(key, self._modules.archive(unit))
                self._sent[key] = unit
        return units

    def _compare(self, name: str, imported: set[str], codes: list[CodeType]) -> None:
        """What is imported when this is loaded and called, with what the workers have."""
        if self._comparison is not None and self._modules is not None:
            sure = imported.union(*map(self._comparison.imports, codes))
            self._comparison.check(name, self._modules.foreign(sure))

    def lacks(self, top: str) -> bool:
        """Whether the workers surely cannot import that top-level module; False where nothing is compared."""
        return self._comparison is not None and self._comparison.lacks(top)

    def restore(self, key: str) -> bool:
        """Put again what a worker did not find; see `Blobs.restore`."""
        if self._packages is not None and (again := self._packages.restore(self._store, key)) is not None:
            return again
        unit = self._sent.get(key)
        if unit is None or self._modules is None:
            return self.blobs.restore(key)
        return self._store.put_new(key, self._modules.archive(unit))


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, object]]:
    """What to call each argument."""
    named = [(f"argument {place}", value) for place, value in enumerate(args)]
    return named + [(f"argument {key!r}", value) for key, value in kwargs.items()]


def _is_bad(named: tuple[str, object]) -> bool:
    """Whether it cannot be pickled by itself."""
    import io

    from pywren_runtime.strict import StrictPickler

    try:
        StrictPickler(io.BytesIO(), protocol=5, buffer_callback=lambda buffer: None).dump(named[1])
    except Exception:
        return True
    return False


def _address(data: memoryview) -> tuple[int, int] | None:
    """Where in memory these bytes lie; None where that cannot be told."""
    owner = data.obj
    if isinstance(owner, bytes):
        return id(owner), data.nbytes
    interface = getattr(owner, "__array_interface__", None)
    return (interface["data"][0], data.nbytes) if isinstance(interface, dict) else None


class Blobs:
    """Pieces in the store, named by content and counted: each lies there once, as long as a task may need it.

    What no task needs any more stays for the next job, up to `SPARE` bytes, the longest unused going first.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._holds: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._spare: OrderedDict[str, int] = OrderedDict()
        self._spare_bytes = 0
        self._coming: Counter[str] = Counter()  # being put: not to be deleted between the put and the hold
        self._views: dict[str, memoryview] = {}  # of what is held, where somebody else could delete it

    def put(self, data: memoryview) -> Ref:
        """Store a piece unless it lies there, and hold it once."""
        if data.nbytes < OVERLAP or (not self._store.private and data.nbytes in self._sizes.values()):
            digest = digest_of(data)  # first, for perhaps it is there
            key = blob_key(digest)
            if self.hold(key, data):
                return Ref(key, data.nbytes, digest)
            with self._put(key):
                self._store.put_new(key, data)
                return self._held(key, digest, data)
        digest = b""
        with contextlib.ExitStack() as putting:

            def name(copy: Copy | None) -> str:
                nonlocal digest
                digest = digest_of(data, copy)
                return putting.enter_context(self._put(blob_key(digest)))

            self._store.put_new(name, data)  # hash and write at the same time
            return self._held(blob_key(digest), digest, data)

    @contextlib.contextmanager
    def _put(self, key: str) -> Iterator[str]:
        with self._lock:
            self._coming[key] += 1
        try:
            yield key
        finally:
            with self._lock:
                self._coming[key] -= 1
                if not self._coming[key]:
                    del self._coming[key]

    def _held(self, key: str, digest: bytes, data: memoryview) -> Ref:
        with self._lock:
            self._sizes[key] = data.nbytes
            self._holds[key] = self._holds.get(key, 0) + 1
            self._spare_bytes -= self._spare.pop(key, 0)
            self._keep(key, data)
        return Ref(key, data.nbytes, digest)

    def _keep(self, key: str, data: memoryview) -> None:
        if not self._store.private:
            self._views.setdefault(key, data)

    def restore(self, key: str) -> bool:
        """Put a piece again that a worker did not find. Whether this call did: it may lie there by now.

        StoreError if it cannot be had again: nobody holds it any more, or its owner has changed it since.
        """
        with self._lock:
            data = self._views.get(key)
        if data is None or blob_key(digest_of(data)) != key:
            raise StoreError(
                f"{key} has gone from {self._store.url} while tasks needed it, and what it was made from has changed "
                "since; submit them again, and let no life-cycle rule delete what is in use"
            )
        return self._store.put_new(key, data)

    def hold(self, key: str, data: memoryview | None = None) -> bool:
        """Hold a piece once more; False if it is not there."""
        with self._lock:
            if key not in self._sizes:
                return False
            if data is not None:
                self._keep(key, data)
            self._holds[key] = self._holds.get(key, 0) + 1
            self._spare_bytes -= self._spare.pop(key, 0)
            return True

    def release(self, keys: Iterable[str]) -> None:
        """Give back holds; pieces that nobody holds are deleted once there are too many of them."""
        if not keys:
            return
        gone, size = [], 0
        with self._lock:
            for key in keys:
                self._holds[key] -= 1
                if not self._holds[key]:
                    del self._holds[key]
                    self._views.pop(key, None)
                    self._spare[key] = self._sizes[key]
                    self._spare_bytes += self._sizes[key]
            spare = list(self._spare) if self._spare_bytes > SPARE else []
            for key in itertools.takewhile(lambda _: self._spare_bytes > SPARE, spare):
                if key not in self._coming:
                    self._spare_bytes -= self._spare.pop(key)
                    size += self._sizes.pop(key)
                    gone.append(key)
        if size < OVERLAP:
            self._delete(gone)
        else:  # somebody waits for what comes next, and to give up its pages takes the system long
            threading.Thread(target=self._delete, args=(gone,), name="pywren-delete", daemon=True).start()

    def _delete(self, keys: list[str]) -> None:
        with self._lock:  # a `put` of the same piece comes before or after, not between
            gone = [key for key in keys if key not in self._sizes and key not in self._coming]
            if gone:
                with contextlib.suppress(StoreError):  # what cannot be deleted stays, and no task is worse for it
                    self._store.delete_many(gone)
