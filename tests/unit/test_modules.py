"""The user's modules are laid out once, whole, and one version per interpreter."""

import hashlib
import io
import json
import os
import subprocess
import sys
import textwrap
import zipfile

import pytest

from pywren_runtime.errors import ModulesError, SignatureError
from pywren_runtime.modules import Installed, Unit, fits


def packed(name, files, *, runnable=()):
    """A unit of these files (path to text) and its archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for path, text in files.items():
            member = zipfile.ZipInfo(path)
            member.external_attr = (0o100755 if path in runnable else 0o100644) << 16
            bundle.writestr(member, text)
    return Unit(name, hashlib.sha256(buffer.getvalue()).hexdigest()), buffer.getvalue()


def fresh(code, *args):
    """What a new interpreter prints as JSON after running this."""
    script = "import json, sys\nfrom pywren_runtime.modules import *\nfrom pywren_runtime.errors import *\n"
    done = subprocess.run(
        [sys.executable, "-c", script + textwrap.dedent(code), *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_fits():
    one, other = Unit("helpers", "aa"), Unit("helpers", "bb")
    assert fits({}, [one])
    assert fits({"helpers": "aa", "more": "cc"}, [one, Unit("extra", "dd")])
    assert fits({"helpers": "aa"}, [])
    assert not fits({"helpers": "aa"}, [Unit("extra", "dd"), other])


def test_a_module_and_a_package_with_data_become_importable(tmp_path):
    helpers, archive = packed("helpers", {"helpers.py": "from toolbox.sub import depth\nanswer = 41 + depth()\n"})
    files = {
        "toolbox/__init__.py": "",
        "toolbox/sub/__init__.py": "from ..table import rows\ndef depth(): return len(rows())\n",
        "toolbox/table.py": "import pathlib\n"
        "def rows(): return pathlib.Path(__file__).with_name('rows.txt').read_text().split()\n",
        "toolbox/rows.txt": "one",
        "toolbox/run.sh": "#!/bin/sh\n",
    }
    toolbox, more = packed("toolbox", files, runnable={"toolbox/run.sh"})
    for name, content in (("a", archive), ("b", more)):
        (tmp_path / name).write_bytes(content)
    seen = fresh(
        """
        a, b, root = sys.argv[1], sys.argv[2], sys.argv[3]
        units = [Unit("helpers", sys.argv[4]), Unit("toolbox", sys.argv[5])]
        try:
            import helpers  # a failed import must not be remembered
        except ImportError:
            pass
        installed, asked = Installed(), []
        def fetch(unit):
            asked.append(unit.name)
            return open(a if unit.name == "helpers" else b, "rb").read()
        installed.install(units, fetch, root)
        installed.install(units, fetch, root)
        import helpers
        print(json.dumps([helpers.answer, asked, installed.digests, helpers.__file__]))
        """,
        tmp_path / "a",
        tmp_path / "b",
        tmp_path / "root",
        helpers.digest,
        toolbox.digest,
    )
    assert seen[:3] == [42, ["helpers", "toolbox"], {"helpers": helpers.digest, "toolbox": toolbox.digest}]
    assert seen[3] == str(tmp_path / "root" / helpers.digest / "helpers.py")
    assert os.access(tmp_path / "root" / toolbox.digest / "toolbox" / "run.sh", os.X_OK)
    assert not os.access(tmp_path / "root" / toolbox.digest / "toolbox" / "rows.txt", os.X_OK)


def test_what_lies_there_is_neither_fetched_nor_touched(tmp_path):
    unit, archive = packed("helpers_once", {"helpers_once.py": "n = 1\n"})
    Installed().install([unit], lambda unit: archive, str(tmp_path))
    before = os.stat(tmp_path / unit.digest / "helpers_once.py")

    def refuse(unit):
        raise AssertionError("fetched again")

    second = Installed()
    second.install([unit], refuse, str(tmp_path))
    after = os.stat(tmp_path / unit.digest / "helpers_once.py")
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert second.digests == {"helpers_once": unit.digest}
    assert os.listdir(tmp_path) == [unit.digest]


def test_many_processes_install_the_same_unit_at_once(tmp_path):
    files = {f"crowd/m{n}.py": f"n = {n}\n" * 50 for n in range(60)}
    unit, archive = packed("crowd", {"crowd/__init__.py": "", **files})
    (tmp_path / "archive").write_bytes(archive)
    script = textwrap.dedent(
        """
        import sys
        from pywren_runtime.modules import Installed, Unit
        archive, root, digest = sys.argv[1:]
        fetched = open(archive, "rb").read()
        import zipfile, io, shutil
        print("ready", flush=True)
        sys.stdin.readline()
        Installed().install([Unit("crowd", digest)], lambda unit: fetched, root)
        import importlib
        print(sum(importlib.import_module(f"crowd.m{n}").n for n in range(60)))
        """
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "archive"), str(tmp_path / "root"), unit.digest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # all at once
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in processes] == [f"{sum(range(60))}\n"] * 4
    assert os.listdir(tmp_path / "root") == [unit.digest]


def test_two_versions_of_one_name_are_refused_before_anything_happens(tmp_path):
    first, archive = packed("twice", {"twice.py": "n = 1\n"})
    second, edited = packed("twice", {"twice.py": "n = 2\n"})
    other, more = packed("bystander", {"bystander.py": ""})
    archives = {first.digest: archive, second.digest: edited, other.digest: more}
    installed = Installed()
    installed.install([first], lambda unit: archives[unit.digest], str(tmp_path))
    with pytest.raises(ModulesError, match="can hold only one"):
        installed.install([other, second], lambda unit: archives[unit.digest], str(tmp_path))
    assert installed.digests == {"twice": first.digest}
    assert os.listdir(tmp_path) == [first.digest]


def test_changed_bytes_are_not_unpacked(tmp_path):
    unit, archive = packed("signed", {"signed.py": "n = 1\n"})
    with pytest.raises(SignatureError, match="'signed' were changed on their way"):
        Installed().install([unit], lambda unit: archive + b" ", str(tmp_path / "root"))
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "member", ["../evil.py", "/evil.py", "evil/../../x.py", "evil\\x.py", "C:/evil.py", "evil//x.py", "."]
)
def test_members_that_escape_are_refused(tmp_path, member):
    unit, archive = packed("evil", {"evil.py": "n = 1\n", member: "n = 2\n"})
    with pytest.raises(ModulesError, match="outside their own directory"):
        Installed().install([unit], lambda unit: archive, str(tmp_path / "root"))
    assert os.listdir(tmp_path) == ["root"]
    assert os.listdir(tmp_path / "root") == []


def test_what_is_not_an_archive_is_one_clear_error(tmp_path):
    unit = Unit("noise", hashlib.sha256(b"noise").hexdigest())
    with pytest.raises(ModulesError, match="'noise' are not a zip archive"):
        Installed().install([unit], lambda unit: b"noise", str(tmp_path / "root"))
    assert os.listdir(tmp_path / "root") == []


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "root").write_text("a file, not a directory")
    unit, archive = packed("homeless", {"homeless.py": ""})
    with pytest.raises(ModulesError, match=r"'homeless' could not be unpacked in .*root"):
        Installed().install([unit], lambda unit: archive, str(tmp_path / "root"))


def test_a_namesake_that_is_imported_already_is_not_used_silently(tmp_path):
    unit, archive = packed("json", {"json.py": "n = 1\n"})
    with pytest.raises(ModulesError, match="another module of that name is already imported"):
        Installed().install([unit], lambda unit: archive, str(tmp_path))
    assert not any(str(tmp_path) in entry for entry in sys.path)


def test_the_users_module_wins_from_a_namesake_that_is_not_imported(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "namesake.py").write_text("whose = 'the worker'\n")
    unit, archive = packed("namesake", {"namesake.py": "whose = 'the user'\n"})
    (tmp_path / "archive").write_bytes(archive)
    whose = fresh(
        """
        sys.path.insert(0, sys.argv[1])
        fetch = lambda unit: open(sys.argv[2], "rb").read()
        Installed().install([Unit("namesake", sys.argv[3])], fetch, sys.argv[4])
        import namesake
        print(json.dumps(namesake.whose))
        """,
        tmp_path / "site",
        tmp_path / "archive",
        unit.digest,
        tmp_path / "root",
    )
    assert whose == "the user"


def test_a_namespace_package_gains_a_part(tmp_path):
    (tmp_path / "site" / "shared" / "theirs").mkdir(parents=True)
    unit, archive = packed("shared", {"shared/mine.py": "n = 7\n"})
    (tmp_path / "archive").write_bytes(archive)
    seen = fresh(
        """
        sys.path.insert(0, sys.argv[1])
        fetch = lambda unit: open(sys.argv[2], "rb").read()
        import shared.theirs
        Installed().install([Unit("shared", sys.argv[3])], fetch, sys.argv[4])
        import shared.mine
        print(json.dumps(shared.mine.n))
        """,
        tmp_path / "site",
        tmp_path / "archive",
        unit.digest,
        tmp_path / "root",
    )
    assert seen == 7


def test_importing_it_is_cheap():
    heavy = ("zipfile", "shutil", "tempfile", "hashlib", "cloudpickle")
    code = "import sys, json, pywren_runtime.modules\nprint(json.dumps(sorted(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    bare = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=env, check=True)
    assert not set(heavy) & set(json.loads(bare.stdout))
