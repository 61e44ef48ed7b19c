"""What travels to a worker and back: the user's functions, classes, modules and arrays, and what cannot is named."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pywren_ng import Executor, PackingError, RemoteError

PATIENCE = 60


@pytest.fixture(scope="module")
def ex() -> Iterator[Executor]:
    with Executor("local", max_workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def single() -> Iterator[Executor]:
    """All tasks in one worker, where what one leaves behind would meet the next."""
    with Executor("local", max_workers=1) as made:
        yield made


class Folder:
    """A working directory with files in it, and scripts that run there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def run(self, text: str, *, name: str = "script.py", cwd: Path | None = None) -> list[str]:
        done = subprocess.run(
            [sys.executable, str(self.write(name, text))],
            cwd=cwd or self.path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# -- Functions and classes of a script


def test_everything_that_a_script_defines(folder: Folder) -> None:
    lines = folder.run(
        """
        import functools
        from pywren_ng import Executor

        FACTOR = 3
        TABLE = {"a": 1}

        def plain(x):
            return x * FACTOR

        def recursive(n):
            return 1 if n == 0 else n * recursive(n - 1)

        def even(n):
            return True if n == 0 else odd(n - 1)

        def odd(n):
            return False if n == 0 else even(n - 1)

        def closing(n):
            def inner(x):
                return x + n
            return inner

        def generate(n):
            yield from range(n)

        def defaults(x, table=TABLE, *, factor=FACTOR):
            return x, table, factor

        class Base:
            scale = 10
            def __init__(self, n):
                self.n = n
            def times(self, x):
                return self.scale * self.n * x
            @classmethod
            def make(cls, n):
                return cls(n)
            @staticmethod
            def shout(text):
                return text.upper()
            @property
            def double(self):
                return 2 * self.n
            def __call__(self, x):
                return x - self.n
            def __eq__(self, other):
                return type(other) is type(self) and other.n == self.n

        class Derived(Base):
            def times(self, x):
                return super().times(x) + 1

        ex = Executor(max_workers=2)
        submit = lambda *args, **kwargs: ex.submit(*args, **kwargs).result(60)
        print(submit(plain, 2), submit(recursive, 5), submit(even, 10))
        print(submit(lambda x: x ** 2, 7), submit(closing(5), 6), submit(lambda: list(generate(3))))
        print(submit(functools.partial(plain, 4)), submit(functools.partial(closing(1), x=2)))
        print(submit(defaults, 1), submit(defaults, 1, {}, factor=0))
        print(submit(Derived(2).times, 3), submit(Base.shout, "a"), submit(Base(3), 10))
        made = submit(Derived.make, 4)
        print(type(made) is Derived, made == Derived(4), made.double)
        print(list(ex.map(Derived, range(3))) == [Derived(n) for n in range(3)])
        print(submit(lambda: functools.reduce(lambda a, b: a + b, map(plain, range(4)))))
        FACTOR = 5
        TABLE["b"] = 2
        Base.scale = 100
        print(submit(plain, 2), submit(defaults, 1)[1], submit(Derived(2).times, 3))
        ex.shutdown()
        """
    )
    assert lines == [
        "6 120 True",
        "49 11 [0, 1, 2]",
        "12 3",
        "(1, {'a': 1}, 3) (1, {}, 0)",
        "61 A 7",
        "True True 8",
        "True",
        "18",
        "10 {'a': 1, 'b': 2} 601",
    ]


def test_results_that_only_cloudpickle_can_pickle(ex: Executor) -> None:
    def make(n: int) -> Any:
        class Counter:
            def __init__(self, start: int) -> None:
                self.n = start

            def more(self) -> int:
                return self.n + n

        return Counter(5).more, (lambda x: x * n), Counter

    more, times, kind = ex.submit(make, 2).result(PATIENCE)
    assert more() == 7 and times(4) == 8 and kind(1).more() == 3


def test_a_function_made_in_one_task_runs_in_another(ex: Executor) -> None:
    add = ex.submit(lambda n: lambda x: x + n, 10).result(PATIENCE)
    assert list(ex.map(add, range(3))) == [10, 11, 12]


def test_a_generator_function_and_a_coroutine_function_travel(ex: Executor) -> None:
    import asyncio

    def count(n: int) -> Iterator[int]:
        yield from range(n)

    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    assert ex.submit(lambda: list(count(3))).result(PATIENCE) == [0, 1, 2]
    assert ex.submit(lambda: asyncio.run(double(4))).result(PATIENCE) == 8


# -- Local modules


def test_a_file_beside_the_script(folder: Folder) -> None:
    folder.write("helpers.py", "import constants\ndef work(x): return x * constants.FACTOR")
    folder.write("constants.py", "FACTOR = 7")
    folder.write("lazily.py", "def late(x): return -x")
    folder.write("settings.json", '{"unused": true}')
    script = """
        import os
        from helpers import work
        import helpers
        from pywren_ng import Executor

        def by_value(x):
            return helpers.work(x) + 1

        def lazy(x):
            import lazily
            return lazily.late(x)

        with Executor(max_workers=2) as ex:
            print(ex.submit(work, 2).result(60), ex.submit(by_value, 2).result(60), ex.submit(lazy, 2).result(60))
            print(list(ex.map(work, range(3))))
            there = ex.submit(lambda: helpers.__file__).result(60)
            print(there != helpers.__file__, os.path.basename(there))
        """
    expected = ["14 15 -2", "[0, 7, 14]", "True helpers.py"]
    assert folder.run(script) == expected
    elsewhere = folder.path / "elsewhere"
    elsewhere.mkdir()
    assert folder.run(script, cwd=elsewhere) == expected


def test_a_package_in_the_working_directory(folder: Folder) -> None:
    folder.write("project/__init__.py", "from .core import run")
    core = "from . import deep\nfrom .deep.end import END\ndef run(x):\n return x, END, deep.NAME"
    folder.write("project/core.py", core)
    folder.write("project/deep/__init__.py", "NAME = __name__")
    folder.write("project/deep/end.py", "END = 'end'")
    folder.write(
        "project/model.py",
        """
        from pathlib import Path
        class Model:
            def __init__(self, n):
                self.n = n
            def words(self):
                return Path(__file__).with_name("words.txt").read_text().split()[self.n]
        """,
    )
    folder.write("project/words.txt", "zero one two")
    lines = folder.run(
        """
        import sys
        sys.path.insert(0, "")  # as a notebook has it
        import project
        from project.model import Model
        from pywren_ng import Executor
        with Executor(max_workers=2) as ex:
            print(ex.submit(project.run, 1).result(60))
            print(list(ex.map(Model.words, [Model(n) for n in range(3)])))
            print(type(ex.submit(Model, 3).result(60)) is Model)
        """,
        name="scripts/run.py",
    )
    assert lines == ["(1, 'end', 'project.deep')", "['zero', 'one', 'two']", "True"]


def test_a_module_of_an_exception_and_of_an_argument(folder: Folder) -> None:
    folder.write(
        "shop.py",
        """
        class Sold(Exception):
            def __init__(self, item, price):
                super().__init__(f"{item} is gone")
                self.item, self.price = item, price
        class Item:
            def __init__(self, name):
                self.name = name
        """,
    )
    lines = folder.run(
        """
        import shop
        from pywren_ng import Executor

        def buy(item):
            raise shop.Sold(item.name, 3)

        with Executor(max_workers=1) as ex:
            error = ex.submit(buy, shop.Item("hat")).exception(60)
            print(type(error) is shop.Sold, error.item, error.price, error)
            print(ex.submit(lambda thing: type(thing).__module__, shop.Item("x")).result(60))
            print(ex.submit(getattr, shop.Item("y"), "name").result(60))
        """
    )
    assert lines == ["True hat 3 hat is gone", "shop", "y"]


def test_an_edited_module_is_picked_up_by_the_next_job(folder: Folder) -> None:
    folder.write("helpers.py", "def work(x): return 'first', x")
    lines = folder.run(
        """
        import importlib, pathlib
        import helpers
        from pywren_ng import Executor

        def by_value(x):
            import helpers
            return helpers.work(x)

        with Executor(max_workers=2) as ex:
            for text in ("second", "third"):
                print(ex.submit(helpers.work, 1).result(60), list(ex.map(by_value, [2])))
                pathlib.Path("helpers.py").write_text(f"def work(x): return {text!r}, x + {len(text)}")
                print(ex.submit(by_value, 3).result(60))
            importlib.reload(helpers)
            print(ex.submit(helpers.work, 4).result(60), helpers.work(4))
            pathlib.Path("added.py").write_text("VALUE = 'added'")
            def late():
                import added
                return added.VALUE
            print(ex.submit(late).result(60))
        """
    )
    assert lines == [
        "('first', 1) [('first', 2)]",
        "('second', 9)",
        "('second', 7) [('second', 8)]",
        "('third', 8)",
        "('third', 9) ('third', 9)",
        "added",
    ]


def test_a_module_with_a_fault_of_its_own_says_so(folder: Folder) -> None:
    folder.write("broken.py", "raise RuntimeError('broken on purpose')")
    lines = folder.run(
        """
        from pywren_ng import Executor
        def use():
            import broken
        with Executor(max_workers=1) as ex:
            error = ex.submit(use).exception(60)
            print(type(error).__name__, error)
            print(ex.submit(abs, -1).result(60))
        """
    )
    assert lines == ["RuntimeError broken on purpose", "1"]


def test_workers_import_nothing_of_the_client(folder: Folder) -> None:
    folder.write("mine.py", "")
    lines = folder.run(
        """
        import mine, sqlite3, xml.dom.minidom
        from pywren_ng import Executor
        with Executor(max_workers=1) as ex:
            modules = ex.submit(lambda: set(__import__("sys").modules)).result(60)
            print(modules & {"mine", "sqlite3", "xml.dom.minidom", "pywren_ng", "numpy"})
        """
    )
    assert lines == ["set()"]


# -- Arrays

BIG = pytest.mark.parametrize("size", [20_000, 400_000], ids=["read", "mapped"])
SIZES = pytest.mark.parametrize("size", [100, 20_000, 400_000], ids=["in the call", "read", "mapped"])


@SIZES
def test_a_task_may_change_its_array_and_no_other_sees_it(single: Executor, size: int) -> None:
    array = np.zeros(size)

    def work(a: np.ndarray, n: int) -> tuple[float, float]:
        before = float(a.sum())
        a += n
        a[0] = -1
        return before, float(a[1])

    for _ in range(2):
        assert list(single.map(work, [array] * 6, range(6))) == [(0.0, float(n)) for n in range(6)]
    assert single.submit(work, array, 1).result(PATIENCE) == (0.0, 1.0)
    assert not array.any()


@BIG
@pytest.mark.parametrize("chunksize", [1, 6])
def test_a_task_may_change_an_array_of_its_closure_and_no_other_sees_it(
    single: Executor, size: int, chunksize: int
) -> None:
    array = np.zeros(size)

    def work(n: int) -> float:
        before = float(array.sum())
        array[:] = n + 1
        return before

    assert list(single.map(work, range(6), chunksize=chunksize)) == [0.0] * 6
    assert not array.any()


@BIG
def test_a_task_may_change_an_array_of_a_default_or_a_bound_method(single: Executor, size: int) -> None:
    class Model:
        def __init__(self) -> None:
            self.weights = np.zeros(size)

        def step(self, n: int) -> float:
            self.weights += n
            return float(self.weights[0])

    def work(n: int, weights: np.ndarray = np.zeros(size)) -> float:  # noqa: B008  # one array for all calls is the point
        weights += n
        return float(weights[0])

    assert list(single.map(Model().step, range(1, 5))) == [1.0, 2.0, 3.0, 4.0]
    assert list(single.map(work, range(1, 5))) == [1.0, 2.0, 3.0, 4.0]


def test_other_things_that_a_task_changes_stay_with_it(single: Executor) -> None:
    seen: list[int] = []
    raw = bytearray(100_000)

    def work(n: int, box: dict[str, int]) -> tuple[int, int]:
        seen.append(n)
        box["n"] = n
        raw[0] += 1
        return len(box), raw[0]

    assert list(single.map(work, range(4), [{}] * 4)) == [(1, 1)] * 4
    assert seen == [] and raw[0] == 0


def test_a_change_in_the_client_between_two_jobs_reaches_the_second(ex: Executor) -> None:
    array = np.zeros(400_000)
    for expected in range(4):
        assert list(ex.map(lambda a: float(a[0]), [array] * 4)) == [expected] * 4
        assert ex.submit(lambda: float(array[0])).result(PATIENCE) == expected
        array[0] += 1


@SIZES
def test_results_may_be_changed(ex: Executor, size: int) -> None:
    first, second = ex.map(lambda n: np.full(size, n), [1, 1])
    first += 1
    assert int(second[0]) == 1 and int(first[-1]) == 2


def test_an_array_used_by_many_tasks_lies_in_the_store_once(ex: Executor) -> None:
    array = np.random.default_rng(7).random(500_000)
    before = set(ex.store.keys("blobs/"))
    job = ex.map(lambda a, n: float(a[n]), [array] * 100, range(100))
    assert job.results() == [float(value) for value in array[:100]]
    again = ex.map(lambda n: float(array[n]), range(10))
    assert again.results() == [float(value) for value in array[:10]]
    assert [size for _, size in set(ex.store.keys("blobs/")) - before] == [array.nbytes]


def test_arrays_come_back_as_they_were(ex: Executor) -> None:
    table = np.arange(90_000.0).reshape(300, 300)
    for array in (table, table.T, table[::2, ::3], np.asfortranarray(table), table[:0], table[0], table > 5):
        found = ex.submit(lambda a: a, array).result(PATIENCE)
        assert found.dtype == array.dtype and np.array_equal(found, array)
        assert found.flags.writeable


# -- What cannot travel

CULPRITS: dict[str, tuple[str, list[str]]] = {
    "socket": ("import socket; culprit = socket.socket()", ["socket"]),
    "file": ("culprit = open(os.devnull, 'w')", ["file", "TextIOWrapper"]),
    "readable file": (f"culprit = open({__file__!r})", [f"an open file, {__file__!r}"]),
    "generator": ("culprit = (n for n in range(3))", ["generator"]),
    "database": ("import sqlite3; culprit = sqlite3.connect(':memory:')", ["sqlite3.Connection"]),
    "thread": ("import threading; culprit = threading.Thread(target=print)", ["thread"]),
    "lock": ("import threading; culprit = threading.Lock()", ["lock"]),
}


def culprit_of(kind: str) -> Any:
    names: dict[str, Any] = {"os": os}
    exec(CULPRITS[kind][0], names)
    return names["culprit"]


class Box:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize("kind", CULPRITS)
@pytest.mark.parametrize(
    ("send", "path"),
    [
        (lambda ex, it: ex.submit(print, [0, it]), "argument 0 cannot be pickled: its item 1 "),
        (lambda ex, it: ex.submit(print, end=it), "argument 'end'"),
        (lambda ex, it: ex.submit(lambda: it), "variable 'it'"),
        (lambda ex, it: ex.map(lambda x, y=it: x, [1]).futures[0], "default of argument 'y'"),
        (lambda ex, it: ex.submit(len, Box(a=Box(b=Box(c=it)))), "attribute 'a' → attribute 'b' → attribute 'c' "),
    ],
    ids=["argument", "keyword", "closure", "default", "attributes"],
)
def test_what_cannot_go_out_is_named_with_its_path(
    ex: Executor, kind: str, send: Callable[[Executor, Any], Any], path: str
) -> None:
    culprit = culprit_of(kind)
    error = send(ex, culprit).exception(PATIENCE)
    assert isinstance(error, PackingError)
    text = str(error)
    assert path in text, text
    assert any(name.lower() in text.lower() for name in CULPRITS[kind][1]), text
    getattr(culprit, "close", lambda: None)()


@pytest.mark.parametrize("kind", CULPRITS)
def test_what_cannot_come_back_is_named_with_its_path(ex: Executor, kind: str) -> None:
    def work() -> Any:
        names: dict[str, Any] = {"os": os}
        exec(source, names)
        return {"fine": 1, "rows": [0, names["culprit"]]}

    source = CULPRITS[kind][0]
    error = ex.submit(work).exception(PATIENCE)
    assert isinstance(error, PackingError)
    text = str(error)
    assert "task 0" in text and "the result cannot be pickled: its item 'rows' → item 1 is" in text, text
    assert any(name.lower() in text.lower() for name in CULPRITS[kind][1]), text


def test_an_open_file_in_a_global_of_a_script_is_named(folder: Folder) -> None:
    lines = folder.run(
        """
        import sys
        from pywren_ng import Executor
        log = open(__file__)
        out = sys.stdout

        def read():
            return log.read()

        def write():
            return print("fine", file=out)

        with Executor(max_workers=1) as ex:
            print(ex.submit(read).exception(60))
            print(ex.submit(write).exception(60))
        """
    )
    path = repr(str(folder.path / "script.py"))
    assert f"its global 'log' is an _io.TextIOWrapper (an open file, {path}). Pass its path" in lines[0]
    assert lines[1] == "None"


def test_an_error_that_holds_an_open_file_does_not_bring_a_copy_of_it(ex: Executor) -> None:
    def work() -> None:
        raise ValueError("no good", open(os.__file__))

    error = ex.submit(work).exception(PATIENCE)
    assert isinstance(error, RemoteError)
    assert "ValueError" in str(error) and "no good" in str(error)


def test_a_lock_in_a_global_of_a_script_is_named(folder: Folder) -> None:
    lines = folder.run(
        """
        import threading
        from pywren_ng import Executor
        guard = threading.Lock()

        def inner():
            with guard:
                return 1

        def outer():
            return inner()

        with Executor(max_workers=1) as ex:
            print(ex.submit(outer).exception(60))
        """
    )
    text = "\n".join(lines)
    assert "outer" in text and "inner" in text and "guard" in text and "lock" in text
