"""Local modules are found, packed the same way twice, and noticed when they were edited."""

import hashlib
import io
import json
import os
import subprocess
import sys
import textwrap
import threading
import types
import zipfile

import pytest

import pywren_ng.environment
from pywren_ng.environment import LocalModules
from pywren_runtime.errors import ModulesError

LONG_AGO = 1_500_000_000_000_000_000


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory of the user's at the front of sys.path; what is imported from it is forgotten again."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__spec__", "")):
            del sys.modules[name]


def write(path, text, *, age=LONG_AGO):
    """Write a file in place; its date is long ago, or `age`, or None: now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    if age is not None:
        os.utime(path, ns=(age, age))
    return path


def names(units):
    return [unit.name for unit in units]


def members(modules, unit):
    archive = modules.archive(unit)
    assert hashlib.sha256(archive).hexdigest() == unit.digest
    with zipfile.ZipFile(io.BytesIO(archive)) as bundle:
        return {member: bundle.read(member).decode() for member in bundle.namelist()}


def code_of(source, *, name="f"):
    space = {}
    exec(textwrap.dedent(source), space)
    return space[name].__code__


def test_what_is_installed_does_not_travel():
    foreign = [
        "builtins",
        "os",
        "json.decoder",
        "numpy",
        "cloudpickle.cloudpickle",
        "_socket",
        "pytest",
        "__main__",
    ]
    ours = ["pywren_ng.environment", "pywren_runtime.modules", "__mp_main__"]
    modules = LocalModules()
    assert modules.units(foreign + ours) == ()
    assert modules.units(foreign + ours) == ()


def test_a_package_in_site_packages_does_not_travel(here, monkeypatch):
    write(here / "lib" / "site-packages" / "vendor" / "__init__.py", "")
    write(here / "lib" / "dist-packages" / "debianised.py", "")
    monkeypatch.setattr(
        sys, "path", [str(here / "lib" / each) for each in ("site-packages", "dist-packages")] + sys.path
    )
    assert LocalModules().units(["vendor", "debianised"]) == ()


def test_a_file_beside_the_script(here):
    write(here / "helpers_a.py", "def f(): return 1\n")
    modules = LocalModules()
    (unit,) = modules.units(["os", "helpers_a"])
    assert unit.name == "helpers_a"
    assert members(modules, unit) == {"helpers_a.py": "def f(): return 1\n"}
    assert "helpers_a" not in sys.modules
    __import__("helpers_a")
    assert modules.units(["helpers_a"]) == (unit,)


def test_a_package_with_data_relative_imports_and_no_rubbish(here):
    write(here / "pkg_b" / "__init__.py", "from . import sub\nfrom .sub import deep\n")
    write(here / "pkg_b" / "sub" / "__init__.py", "from ..table import os_like\nfrom .. import json_like\n")
    write(here / "pkg_b" / "sub" / "deep.py", "import json\n")
    write(here / "pkg_b" / "table.csv", "1,2\n")
    write(here / "pkg_b" / "__pycache__" / "index.nbi", "rubbish")
    write(here / "pkg_b" / "old.pyc", "rubbish")
    write(here / "pkg_b" / ".git" / "config", "rubbish")
    write(here / "os_like.py", "")
    write(here / "table.py", "")
    modules = LocalModules()
    (unit,) = modules.units(["pkg_b.sub.deep"])
    assert list(members(modules, unit)) == [
        "pkg_b/__init__.py",
        "pkg_b/sub/__init__.py",
        "pkg_b/sub/deep.py",
        "pkg_b/table.csv",
    ]


def test_imports_are_followed_wherever_they_stand_and_in_circles(here):
    write(here / "c_one.py", "import c_two, os\n")
    write(here / "c_two.py", "def f():\n    from c_three.part import x\n")
    write(
        here / "c_three" / "__init__.py",
        "try:\n    import c_four as four\nexcept ImportError:\n    import c_absent\n",
    )
    write(here / "c_three" / "part.py", "import importlib\nx = importlib.import_module('c_five')\n")
    write(here / "c_four.py", "import c_one, numpy\n")
    write(here / "c_five.py", "this is not Python (\n")
    write(here / "c_six.py", "")
    assert names(LocalModules().units(["c_one"])) == ["c_five", "c_four", "c_one", "c_three", "c_two"]


def test_imports_in_the_code_of_a_function(here):
    for name in ("d_one", "d_two", "d_three", "d_four"):
        write(here / f"{name}.py", "")
    code = code_of(
        """
        def f(rows):
            import d_one
            def g():
                from d_two import x
                return [lambda: __import__('os') for _ in rows]
            class Inner:
                import d_three as three
            import os.path, numpy
            return g
        """
    )
    assert names(LocalModules().units([], [code])) == ["d_one", "d_three", "d_two"]


def test_the_imports_of_many_functions_are_not_kept_for_ever(here, monkeypatch):
    write(here / "e_one.py", "")
    monkeypatch.setattr(pywren_ng.environment, "_CODES", 10)
    modules = LocalModules()
    for _ in range(35):
        assert names(modules.units([], [code_of("def f():\n    import e_one\n")])) == ["e_one"]
    assert len(modules._codes) <= 10


def test_a_relative_import_in_a_script_means_its_package(here):
    write(here / "pkg_r" / "__init__.py", "")
    write(here / "pkg_r" / "near.py", "n = 3\n")
    write(
        here / "pkg_r" / "script.py",
        """
        from pywren_ng.environment import LocalModules
        def f():
            from .near import n
            return n
        print([unit.name for unit in LocalModules().units([], [f.__code__])])
        """,
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "pkg_r.script"], cwd=here, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['pkg_r']\n"


def test_an_edited_file_is_noticed(here):
    helper = write(here / "f_one.py", "n = 1\n")
    modules = LocalModules()
    (first,) = modules.units(["f_one"])
    assert modules.units(["f_one"]) == (first,)
    write(helper, "n = 22\n")
    (second,) = modules.units(["f_one"])
    assert second != first
    assert members(modules, second) == {"f_one.py": "n = 22\n"}
    assert members(modules, first) == {"f_one.py": "n = 1\n"}  # a job may still be sending it
    write(helper, "import f_two\n")
    write(here / "f_two.py", "")
    assert names(modules.units(["f_one"])) == ["f_one", "f_two"]
    with pytest.raises(ModulesError, match="'f_one' were edited more than once"):
        modules.archive(first)


def test_an_edit_within_one_tick_of_the_clock_is_noticed(here, monkeypatch):
    write(here / "g_two.py", "")
    helper = write(here / "g_one.py", "import g_\n", age=None)
    born, real = os.stat(helper), os.stat
    # A file system whose clock stands still: same size, same inode and same dates after each edit.
    monkeypatch.setattr(os, "stat", lambda path, **how: born if str(path) == str(helper) else real(path, **how))
    now = [born.st_mtime_ns + 1]
    modules = LocalModules(now=lambda: now[0])

    def packed():
        units = modules.units(["g_one"])
        return members(modules, units[0])["g_one.py"], names(units)

    assert packed() == ("import g_\n", ["g_one"])
    helper.write_text("import os\n")
    assert packed() == packed() == ("import os\n", ["g_one"])
    helper.write_text("not Python\n")
    assert packed() == ("not Python\n", ["g_one"])
    helper.write_text("import g_two\n")
    assert packed() == ("import g_two\n", ["g_one", "g_two"])
    now[0] += 10_000_000_000
    helper.write_text("n = 3\n")
    assert packed() == ("n = 3\n", ["g_one"])  # what was read when it was young is looked at once more
    helper.write_text("n = 4\n")
    assert packed() == ("n = 3\n", ["g_one"])  # read when settled: from now on its stat is proof


def test_a_directory_that_changed_within_one_tick_is_listed_again(here):
    moment = LONG_AGO + 5
    modules = LocalModules(now=lambda: moment + 1)
    os.utime(here, ns=(moment, moment))
    assert modules.units(["g_late"]) == ()
    write(here / "g_late.py", "")
    os.utime(here, ns=(moment, moment))  # as if its clock had not ticked
    assert names(modules.units(["g_late"])) == ["g_late"]


def test_a_link_in_site_packages_is_installed(here, monkeypatch):
    write(here / "cache" / "linked_in.py", "")
    (here / "site-packages").mkdir()
    (here / "site-packages" / "linked_in.py").symlink_to(here / "cache" / "linked_in.py")
    monkeypatch.setattr(sys, "path", [str(here / "site-packages"), *sys.path])
    assert LocalModules().units(["linked_in"]) == ()


def test_the_same_content_has_the_same_digest_elsewhere(here, monkeypatch):
    digests = []
    for place, age in (("x", LONG_AGO), ("y", None)):
        for name in ("b.py", "__init__.py", "a.txt") if place == "x" else ("a.txt", "__init__.py", "b.py"):
            write(here / place / "pkg_h" / name, f"# {name}\n", age=age)
        monkeypatch.setattr(sys, "path", [str(here / place), *sys.path])
        digests.append(LocalModules().units(["pkg_h"]))
    assert digests[0] == digests[1]


def test_a_module_that_appears_later_is_found(here):
    modules = LocalModules()
    code = code_of("def f():\n    import i_one\n")
    assert modules.units(["i_two"], [code]) == ()
    os.utime(here, ns=(LONG_AGO, LONG_AGO))  # a directory whose listing may be remembered
    assert modules.units(["i_two"], [code]) == ()
    write(here / "i_one.py", "")
    assert names(modules.units(["i_two"], [code])) == ["i_one"]
    write(here / "i_two" / "__init__.py", "")
    assert names(modules.units(["i_two"], [code])) == ["i_one", "i_two"]


def test_sys_path_may_change_between_calls(here, monkeypatch):
    write(here / "later" / "colorsys.py", "import j_two\n")  # hides one of Python's own
    write(here / "later" / "j_two.py", "")
    sys.modules.pop("colorsys", None)
    modules = LocalModules()
    assert modules.units(["colorsys", "j_two"]) == ()
    sys.path.insert(0, str(here / "later"))
    assert names(modules.units(["colorsys", "j_two"])) == ["colorsys", "j_two"]


def test_a_namespace_package_sends_its_local_parts_only(here, monkeypatch):
    write(here / "one" / "space" / "mine.py", "import k_two\n")
    write(here / "two" / "space" / "more.py", "")
    write(here / "site-packages" / "space" / "theirs.py", "")
    write(here / "k_two.py", "")
    monkeypatch.setattr(sys, "path", [str(here / each) for each in ("one", "two", "site-packages")] + sys.path)
    modules = LocalModules()
    for _ in range(2):
        units = modules.units(["space.mine"])
        assert names(units) == ["k_two", "space"]
        assert list(members(modules, units[1])) == ["space/mine.py", "space/more.py"]
        __import__("space.mine")


def test_an_editable_install_travels(here):
    write(here / "project" / "src" / "pkg_l" / "__init__.py", "import l_two\n")
    write(here / "project" / "src" / "l_two.py", "")
    write(here / "site-packages" / "__editable__.pkg_l.pth", str(here / "project" / "src"))
    code = """
        import json, site, sys
        site.addsitedir(sys.argv[1])
        from pywren_ng.environment import LocalModules
        print(json.dumps([unit.name for unit in LocalModules().units(["pkg_l"])]))
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(here / "site-packages")],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == ["l_two", "pkg_l"]


def test_a_finder_of_an_editable_install_is_asked(here):
    import importlib.util

    path = write(here / "elsewhere" / "source.py", "n = 1\n")

    class Finder:
        @staticmethod
        def find_spec(name, path_, target=None):
            return importlib.util.spec_from_file_location(name, path) if name == "m_one" else None

    sys.meta_path.append(Finder)
    try:
        modules = LocalModules()
        (unit,) = modules.units(["m_one"])
        assert members(modules, unit) == {"m_one.py": "n = 1\n"}  # under the name by which it is imported
    finally:
        sys.meta_path.remove(Finder)


def test_a_module_made_in_memory_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "n_made", types.ModuleType("n_made"))
    monkeypatch.setitem(sys.modules, "n_blocked", None)
    assert LocalModules().units(["n_made", "n_blocked"]) == ()


def test_an_imported_module_whose_file_is_gone(here):
    path = write(here / "o_one.py", "")
    __import__("o_one")
    path.unlink()
    with pytest.raises(ModulesError, match="'o_one' must travel with the function, but its files cannot be read"):
        LocalModules().units(["o_one"])


def test_a_package_that_is_too_large_is_named_with_its_biggest_file(here):
    write(here / "pkg_p" / "__init__.py", "")
    with open(write(here / "pkg_p" / "data" / "huge.bin", ""), "wb") as file:
        file.truncate(65 << 20)  # a hole: takes no room
    with pytest.raises(ModulesError) as caught:
        LocalModules().units(["pkg_p"])
    text = str(caught.value)
    assert "'pkg_p'" in text
    assert "65.0 MiB (at most 20,000 files and 64 MiB); the biggest file is pkg_p/data/huge.bin" in text
    assert "Move data out" in text


def test_links_are_followed_but_never_in_a_circle(here):
    write(here / "pkg_q" / "__init__.py", "")
    write(here / "outside" / "linked.py", "")
    (here / "pkg_q" / "sub").mkdir()
    (here / "pkg_q" / "sub" / "up").symlink_to(here / "pkg_q")
    (here / "pkg_q" / "self").symlink_to("self")
    (here / "pkg_q" / "nowhere").symlink_to("gone")
    (here / "pkg_q" / "other").symlink_to(here / "outside")
    modules = LocalModules()
    (unit,) = modules.units(["pkg_q"])
    assert list(members(modules, unit)) == ["pkg_q/__init__.py", "pkg_q/other/linked.py"]


def test_many_threads_ask_while_the_file_is_edited(here):
    helper = write(here / "s_one.py", "import s_two\n")
    write(here / "s_two.py", "")
    modules = LocalModules()
    seen, failures = [], []
    start = threading.Barrier(8)

    def ask():
        try:
            start.wait()
            for _ in range(50):
                seen.append(modules.units(["s_one", "os", "numpy", "s_absent"]))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for n in range(20):
        aside = write(here / "aside", f"import s_two\nn = {n}\n", age=None)
        aside.replace(helper)
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(seen) == 400
    assert {tuple(names(units)) for units in seen} == {("s_one", "s_two")}
    last = modules.units(["s_one"])
    assert members(modules, last[0])["s_one.py"].endswith("n = 19\n")


def test_what_is_surely_imported_with_a_module(here):
    write(here / "u_one.py", "import json\nimport u_pkg.sub\ntry:\n    import maybe\nexcept ImportError:\n    pass\n")
    write(here / "u_pkg" / "__init__.py", "from always import x\n")
    write(here / "u_pkg" / "sub.py", "import pytest\ndef f():\n    import later\n")
    write(here / "u_pkg" / "other.py", "import unused\n")
    modules = LocalModules()
    modules.units(["u_one"])
    assert modules.foreign(["u_one"]) == {"json", "always", "pytest"}
    assert modules.foreign(["u_pkg", "numpy.linalg"]) == {"always", "numpy"}


def test_client_to_worker(here):
    """What LocalModules packs, a fresh interpreter installs and imports, with nothing else on its path."""
    write(here / "t_one.py", "from t_pkg import total\ndef f(): return total()\n")
    write(here / "t_pkg" / "__init__.py", "from .part import total\n")
    write(
        here / "t_pkg" / "part.py",
        """
        import pathlib
        def total():
            return sum(map(int, (pathlib.Path(__file__).parent / "numbers.txt").read_text().split()))
        """,
    )
    write(here / "t_pkg" / "numbers.txt", "40 2\n")
    write(here / "t_pkg" / "run.sh", "#!/bin/sh\n").chmod(0o755)
    modules = LocalModules()
    units = modules.units(["t_one"])
    for unit in units:
        (here / unit.digest).write_bytes(modules.archive(unit))
    code = """
        import json, os, sys
        from pywren_runtime.modules import Installed, Unit
        from pywren_ng.environment import LocalModules
        source, root, units = sys.argv[1], sys.argv[2], [Unit(*each) for each in json.loads(sys.argv[3])]
        Installed().install(units, lambda unit: open(os.path.join(source, unit.digest), "rb").read(), root)
        import t_one
        again = LocalModules().units(["t_one"])  # an executor inside a task sends the very same archives on
        import t_pkg
        runnable = os.access(os.path.join(os.path.dirname(t_pkg.__file__), "run.sh"), os.X_OK)
        print(json.dumps([t_one.f(), again == tuple(units), runnable]))
    """
    path = [entry for entry in sys.path if entry and entry != str(here)]
    wanted = json.dumps([[unit.name, unit.digest] for unit in units])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(here), str(here / "root"), wanted],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [42, True, True]
