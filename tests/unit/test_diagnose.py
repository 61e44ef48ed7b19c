"""What cannot be pickled is named, with the path by which it is reached and the next step."""

import asyncio
import concurrent.futures
import copyreg
import ctypes
import functools
import io
import itertools
import queue
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from pickle import PicklingError
from types import FunctionType, TracebackType

import cloudpickle
import pytest

from pywren_runtime.diagnose import explain
from pywren_runtime.strict import StrictPickler


@pytest.fixture(autouse=True)
def as_python_comes() -> Iterator[None]:
    """Without what others in this process have registered: dask lets tracebacks and all exceptions be pickled."""
    others = dict(copyreg.dispatch_table)
    for kind in others:
        if issubclass(kind, BaseException | TracebackType):
            del copyreg.dispatch_table[kind]
    yield
    copyreg.dispatch_table.update(others)


def said(obj, name="it"):
    """The explanation of a real failure; a thing that does pickle fails the test."""
    with pytest.raises(Exception) as caught:  # whatever cloudpickle raises
        cloudpickle.dumps(obj, protocol=5)
    return explain(obj, name, caught.value)


def by_value(function, **names):
    """The function as a script's __main__ would hold it: with globals of its own, found in no module."""
    made = FunctionType(function.__code__, {"__name__": "__main__", **names}, "script_" + function.__name__)
    made.__defaults__, made.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    made.__module__ = "__main__"
    return made


class Bag:
    """Attributes only; classes of this test module go by name."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("lock", "other")


class Stateful:
    def __getstate__(self):
        return {"renamed": self.lock, "n": 1}


class Listed:
    def __getstate__(self):
        return (1, self.guard)


class Reduced:
    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return Reduced, (1, [self.args[0]])


class Refusing:
    def __getstate__(self):
        raise ValueError("never saved before fitted")


class Malformed:
    def __reduce__(self):
        return 17


class Chatty:
    def __reduce_ex__(self, protocol):
        raise RuntimeError("no reduce today")


class Trap(Exception):
    def __str__(self):
        raise ZeroDivisionError


@dataclass
class Config:
    rate: float
    lock: object = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class Frozen:
    rate: float
    lock: object


Pair = namedtuple("Pair", "left right")


class Mine(threading.Thread):
    pass


def run(data):
    return db, data  # noqa: F821  # the tests give it this global


def outer(data):
    def inner():
        return db  # noqa: F821

    return inner, data


def test_the_sentence_has_the_path_and_the_next_step():
    db = Bag(pool=Bag(_lock=threading.Lock()))
    text = said(by_value(run, db=db), "the function train")
    assert text == (
        "the function train cannot be pickled: its global 'db' → attribute 'pool' → attribute '_lock' is a "
        "_thread.lock. Create it inside the function, or leave it out in Bag.__getstate__."
    )


def test_a_lock_three_attributes_deep():
    text = said(Bag(a=Bag(b=Bag(c=threading.Lock()))))
    assert "its attribute 'a' → attribute 'b' → attribute 'c' is a _thread.lock" in text


def test_ways_into_a_function():
    lock = threading.Lock()

    def positional(a, b, guard=lock, last=1):
        return a

    def keyword(*, n=1, guard=lock):
        return n

    def closure():
        return lock

    def annotated(a: lock):
        return a

    def plain():
        return None

    plain.cache = {"guard": lock}
    assert "its default of argument 'guard' is a _thread.lock" in said(by_value(positional))
    assert "its default of argument 'guard' is a _thread.lock" in said(by_value(keyword))
    assert "its closure variable 'lock' is a _thread.lock" in said(closure)
    assert "its annotation of 'a' is a _thread.lock" in said(annotated)
    assert "its attribute 'cache' → item 'guard' is a _thread.lock" in said(plain)
    assert "its global 'db' is a _thread.lock" in said(by_value(run, db=lock))
    assert "its global 'db' is a _thread.lock" in said(by_value(outer, db=lock))


def test_a_function_that_uses_another():
    inner = by_value(run, db=threading.Lock())

    def uses():
        return inner

    assert "its closure variable 'inner' → global 'db' is a _thread.lock" in said(uses)


def test_globals_that_are_not_used_are_not_blamed():
    lock = threading.Lock()
    text = said(by_value(run, data=lock, aa=lock, db={"deep": [lock]}))
    assert "its global 'db' → item 'deep' → item 0 is a _thread.lock" in text


@pytest.mark.parametrize(
    ("holder", "path"),
    [
        (lambda lock: {"a": 1, "k": lock}, "its item 'k' is"),
        (lambda lock: {(1, 2): lock}, "its item (1, 2) is"),
        (lambda lock: {lock: 1}, "its key is"),
        (lambda lock: [0, [1, lock]], "its item 1 → item 1 is"),
        (lambda lock: (0, lock), "its item 1 is"),
        (lambda lock: {lock}, "its element is"),
        (lambda lock: frozenset([lock]), "its element is"),
        (lambda lock: OrderedDict(k=lock), "its item 'k' is"),
        (lambda lock: functools.partial(max, 1, key=lock), "its attribute 'keywords' → item 'key' is"),
        (lambda lock: functools.partial(max, lock), "its attribute 'args' → item 0 is"),
        (lambda lock: Bag(lock=lock).__init__, "its attribute '__self__' → attribute 'lock' is"),
        (lambda lock: lock.acquire, "its attribute '__self__' is"),
        (lambda lock: Pair(1, lock), "its attribute 'right' is"),
        (lambda lock: Config(0.1, lock), "its attribute 'lock' is"),
        (lambda lock: Frozen(0.1, lock), "its attribute 'lock' is"),
        (lambda lock: Reduced(lock), "its constructor argument 1 → item 0 is"),
        (lambda lock: ValueError("x", lock), "its constructor argument 1 is"),
    ],
)
def test_ways_into_a_value(holder, path):
    assert f"it cannot be pickled: {path} a _thread.lock. Create it inside" in said(holder(threading.Lock()))


def test_slots_and_states():
    slotted, stateful, listed = Slotted(), Stateful(), Listed()
    slotted.lock = stateful.lock = listed.guard = threading.Lock()
    assert "its attribute 'lock' is a _thread.lock" in said(slotted)
    assert "its attribute 'lock' is a _thread.lock" in said(stateful)
    assert "its attribute 'guard' is a _thread.lock" in said(listed)


def test_a_state_that_is_made_on_the_spot():
    class Fresh:
        def __getstate__(self):
            return {"made": threading.Lock()}

    assert "its state item 'made' is a _thread.lock" in said(Fresh())


def test_a_class_of_the_script():
    lock = threading.Lock()

    class Model:
        guard = threading.Lock()

        def fit(self):
            return self

    class Fitted:
        @staticmethod
        def fit(guard=lock):
            return guard

    assert "its class attribute 'guard' is a _thread.lock" in said(Model)
    assert "its class 'Model' → class attribute 'guard' is a _thread.lock" in said(Model())
    assert "its method 'fit' → default of argument 'guard' is a _thread.lock" in said(Fitted)


def test_the_shortest_path_is_named():
    lock = threading.Lock()
    text = said(Bag(a=Bag(b=Bag(c=lock)), z=lock))
    assert "its attribute 'z' is a _thread.lock" in text


async def coroutine():
    return None


def things():
    """Everything that cannot travel, how the sentence calls it, and a word of the next step."""
    here = sys._getframe()
    yield socket.socket(), "socket.socket (a network connection)", "Open it inside the function"
    yield sqlite3.connect(":memory:"), "sqlite3.Connection (a database", "Open it inside the function"
    yield sqlite3.connect(":memory:").cursor(), "sqlite3.Cursor (a database", "Open it inside the function"
    yield (n for n in range(3)), "generator", "list(...)"
    yield map(str, (n for n in range(3))), "map", "list(...)"
    yield threading.Thread(target=print), "threading.Thread", "Start it inside the function"
    yield Mine(), "Mine (it belongs to this process)", "Start it inside the function"
    yield threading.local(), "_thread._local", "inside the function"
    yield threading.RLock(), "_thread.RLock", "Create it inside the function"
    yield threading.Event(), "threading.Event", "Create it inside the function"
    yield threading.Condition(), "threading.Condition", "Create it inside the function"
    yield queue.Queue(), "queue.Queue", "list(...)"
    yield queue.SimpleQueue(), "_queue.SimpleQueue", "list(...)"
    yield here, "frame", "format_exception"
    yield weakref.ref(Bag), "weakref.ReferenceType", "Send the object itself"
    yield weakref.WeakValueDictionary(), "weakref.WeakValueDictionary", "Send the object itself"
    yield ctypes.pointer(ctypes.c_int(3)), "LP_c_int (memory of this process)", "Send a copy"
    yield concurrent.futures.Future(), "concurrent.futures._base.Future", "result()"
    yield concurrent.futures.ThreadPoolExecutor(1), "ThreadPoolExecutor (an executor)", "inside the function"


def test_each_sort_of_thing_has_its_name_and_its_next_step():
    for thing, noun, step in things():
        text = said(Bag(part=[thing]))
        assert text.startswith("it cannot be pickled: its attribute 'part' → item 0 is a"), text
        assert noun in text
        assert step in text
        if isinstance(thing, socket.socket | sqlite3.Connection):
            thing.close()


def test_the_thing_itself():
    assert said((n for n in range(2)), "the result of task 3") == (
        "the result of task 3 cannot be pickled: it is a generator. It can be run only once and only in this "
        "process. Return list(...) of it instead."
    )


def test_open_files_are_named_by_their_path(tmp_path):
    path = str(tmp_path / "data.txt")
    with open(path, "w") as text, open(path, "rb") as binary, open(path, "r+b") as both:
        for file in (text, binary, both):
            assert f"its attribute 'log' is an _io.{type(file).__name__} (an open file, {path!r})" in said(
                Bag(log=file)
            )


@pytest.mark.parametrize("mode", ["r", "r+", "w+", "a"])
def test_text_files_are_refused_however_they_are_open(tmp_path, mode):
    path = tmp_path / "data.txt"
    path.write_text("cloudpickle would send these words")
    with open(path, mode) as file:
        for holder, where in ((file, "it"), ([file], "its item 0"), (by_value(run, db=file), "its global 'db'")):
            with pytest.raises(PicklingError, match="open file") as caught:
                StrictPickler(io.BytesIO(), protocol=5).dump(holder)
            text = explain(holder, "it", caught.value)
            assert text.startswith(f"it cannot be pickled: {where}"), text
            assert f"is an _io.TextIOWrapper (an open file, {str(path)!r}). Pass its path and open it inside" in text


def test_the_processes_own_streams_travel_by_name(monkeypatch, tmp_path):
    with open(tmp_path / "out", "w") as out, open(tmp_path / "errors", "w+") as errors:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", errors)
        packed = io.BytesIO()
        StrictPickler(packed, protocol=5).dump([out, errors])
        monkeypatch.setattr(sys, "stdout", "what is stdout where it arrives")
        assert cloudpickle.loads(packed.getvalue()) == ["what is stdout where it arrives", errors]


def test_what_is_registered_with_cloudpickle_or_copyreg_counts(monkeypatch):
    monkeypatch.setitem(cloudpickle.Pickler.dispatch_table, Refusing, lambda it: (str, ("by cloudpickle",)))
    monkeypatch.setitem(copyreg.dispatch_table, Malformed, lambda it: (str, ("by copyreg",)))
    packed = io.BytesIO()
    StrictPickler(packed, protocol=5).dump([Refusing(), Malformed()])
    assert cloudpickle.loads(packed.getvalue()) == ["by cloudpickle", "by copyreg"]


def test_event_loops_and_what_belongs_to_them():
    loop = asyncio.new_event_loop()
    waiting = coroutine()
    try:
        future = loop.create_future()
        assert "it belongs to an event loop" in said(Bag(loop=loop))
        assert "its attribute 'f' is an _asyncio.Future (it belongs to an event loop)" in said(Bag(f=future))
        assert "its attribute 'c' is a coroutine. Await it" in said(Bag(c=waiting))
    finally:
        waiting.close()
        loop.close()


def test_tracebacks_and_released_memory():
    view = memoryview(b"abc")
    view.release()
    try:
        raise KeyError(1)
    except KeyError as error:
        assert "its attribute 'tb' is a traceback. Send its text" in said(Bag(tb=error.__traceback__))
    assert "its attribute 'view' is a memoryview, which said ValueError: operation forbidden" in said(Bag(view=view))


def test_hooks_that_raise_are_quoted():
    text = said(Bag(m=Refusing()), "argument 0 of task 7")
    assert text.startswith("argument 0 of task 7 cannot be pickled: its attribute 'm' is a ")
    assert "Refusing, and its __getstate__ raised ValueError: never saved before fitted. " in text
    assert "Chatty, and its __reduce_ex__ raised RuntimeError: no reduce today" in said([Chatty()])
    assert "Malformed, which said PicklingError" in said([Malformed()])


def test_cycles_end():
    ring = []
    ring.append(ring)
    a, b = Bag(), Bag()
    a.b, b.a, b.lock, a.ring = b, a, threading.Lock(), ring
    assert "its attribute 'b' → attribute 'lock' is a _thread.lock" in said(a)

    def recursive(n):
        return recursive(n - 1), a

    assert "its closure variable 'a' → attribute 'b' → attribute 'lock'" in said(recursive)


def test_crowds_are_searched_by_pickling_not_one_by_one(monkeypatch):
    monkeypatch.setattr("pywren_runtime.diagnose._SECONDS", 30.0)  # on a busy machine it may take all of its two
    crowd = [Bag(n=n) for n in range(60_000)]  # three times what would be visited
    healthy = [Bag(n=n) for n in range(60_000)]
    crowd[48_111] = Bag(inner={"k": threading.Lock()})
    text = said({"healthy": healthy, "crowd": crowd})
    assert "its item 'crowd' → item 48111 → attribute 'inner' → item 'k' is a _thread.lock" in text


def test_a_crowd_that_knows_itself():
    crowd = [Bag() for _ in range(400)]
    for each in crowd:
        each.siblings = crowd  # each of them fails alone, for it reaches the one that does
    crowd[333].lock = threading.Lock()
    assert "its item 333 → attribute 'lock' is a _thread.lock" in said(crowd)


def test_past_its_bounds_it_tells_what_the_error_said():
    chain = threading.Lock()
    for _ in range(100_000):
        chain = [chain]
    text = said(chain, "the result of task 1")
    assert text.startswith("the result of task 1 cannot be pickled: PicklingError: Could not pickle object")
    assert "nested too deeply" in text


def test_a_wide_maze_ends():
    def widen(depth):
        return Bag(**{f"x{n}": widen(depth - 1) for n in range(12)}) if depth else [Bag() for _ in range(3)]

    maze = widen(4)
    text = explain(maze, "it", TypeError("from elsewhere"))
    assert text.startswith("it cannot be pickled: TypeError: from elsewhere. The part at fault was not found")


class Endless:
    def __reduce__(self):
        return Endless, (Endless(),)


def test_what_grows_while_it_is_looked_at_ends():
    text = said([Endless()])
    assert text.startswith("it cannot be pickled: PicklingError: Could not pickle object as excessively deep")


def test_when_its_time_is_up_it_tells_what_the_error_said(monkeypatch):
    monkeypatch.setattr("pywren_runtime.diagnose._SECONDS", -1.0)
    text = said([threading.Lock()])
    assert text.startswith("it cannot be pickled: TypeError: cannot pickle '_thread.lock' object. The part at")


def test_it_never_raises():
    class Cursed:
        def __getattribute__(self, name):
            raise ZeroDivisionError("cursed")

    assert "Cursed" in said([Cursed()])
    assert explain([], "it", Trap()).startswith("it cannot be pickled: Trap. ")


def test_import_costs_nothing_and_main_is_understood(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, threading
            import pywren_runtime.diagnose as diagnose
            assert "cloudpickle" not in sys.modules

            class Pool:
                shared = threading.Lock()

            class Db:
                def __init__(self):
                    self.pool = Pool()

            db = Db()
            job = object()

            def train(n):
                return (lambda: db.pool)(), n

            import cloudpickle
            try:
                cloudpickle.dumps(train)
            except TypeError as error:
                print(diagnose.explain(train, "the function train", error))
            """
        )
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=_environment(),
        encoding="utf-8",
        check=True,
    )
    assert (
        "the function train cannot be pickled: its global 'db' → attribute 'pool' → class 'Pool' → "
        "class attribute 'shared' is a _thread.lock." in done.stdout
    )


def _environment():
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_iterators_of_a_newer_python_are_named_too():
    # 3.14 stopped pickling itertools; there it is the culprit, here what it walks over is.
    text = said(Bag(it=itertools.chain([1], (n for n in [2]))))
    assert "its attribute 'it' is an itertools.chain. It can be run only once" in text
