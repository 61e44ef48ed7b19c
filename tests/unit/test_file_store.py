"""What only a store of files can get wrong: real full disks, real killed writers, folders taken away."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pywren_runtime
from pywren_runtime.errors import ConfigError, KeyMissing, StoreError
from pywren_runtime.stores import open_store
from pywren_runtime.stores.file_store import FileStore

MiB = 1 << 20
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]


def mounted(folder: Path, options: str, *command: str) -> list[str]:
    """The command with a small tmpfs at `folder`, which nobody else sees and which ends with the command."""
    mount = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'
    return [*UNSHARE, "sh", "-c", mount, "sh", options, str(folder), *command]


def run(script: str, *arguments: str, disk: tuple[Path, str] | None = None) -> str:
    command = [sys.executable, "-c", script, *arguments]
    if disk is not None:
        command = mounted(*disk, *command)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def can_mount() -> bool:
    try:
        return subprocess.run(mounted(Path("/mnt"), "size=1m", "true"), capture_output=True).returncode == 0
    except FileNotFoundError:  # no such command: macOS
        return False


# Two real ways to run out of room. Where nothing may be mounted the limit on a file's size is the one left.
CAN_MOUNT = can_mount()
FULL = ["a file's limit", *(["a small disk"] if CAN_MOUNT else [])]

NO_ROOM = """
import os, resource, sys
from pywren_runtime.errors import StoreFull
from pywren_runtime.stores.file_store import FileStore

root, way = sys.argv[1:]
if way == "a file's limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))
store = FileStore(root)
store.put("kept", b"x" * 1000)
store.put("old", b"old")
big = bytes(4 << 20)

def endless():
    while True:
        yield big[: 300 << 10]

for write in (
    lambda: store.put("old", big),
    lambda: store.put_new("jobs/1/new", big),
    lambda: store.put_stream("jobs/1/stream", endless()),
):
    try:
        write()
    except StoreFull as error:
        print(error)
        assert isinstance(error, OSError) and isinstance(error.__cause__, OSError)
    else:
        sys.exit("a full disk went unnoticed")
    assert os.listdir(root + "/~partial") == [], "the part that was written is still there"
    assert list(store.keys()) == [("kept", 1000), ("old", 3)]
    assert store.get("old") == b"old"
    store.put("jobs/after", b"y" * 100_000)  # there is room again
    store.delete_many(["jobs/after"])
"""

NO_INODES = """
import os, sys
from pywren_runtime.errors import StoreFull
from pywren_runtime.stores.file_store import FileStore

store = FileStore(sys.argv[1])
for number in range(100):
    try:
        store.put_new(f"jobs/{number}/k", b"x")
    except StoreFull as error:
        print(error)
        break
assert len(list(store.keys())) == number > 1
assert os.listdir(sys.argv[1] + "/~partial") == []
"""

READ_ONLY = """
import subprocess, sys
from pywren_runtime.errors import StoreError
from pywren_runtime.stores.file_store import FileStore

root = sys.argv[1]
store = FileStore(root + "/store")
store.put("k", b"x")
subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
assert FileStore(root + "/store").get("k") == b"x"
new = lambda: FileStore(root + "/new")
for write in (lambda: store.put("k", b"y"), lambda: store.delete_many(["k"]), new):
    try:
        write()
    except StoreError as error:
        print(error)
    else:
        sys.exit("nothing was raised")
"""

FORBIDDEN = """
import os, sys
from pywren_runtime.errors import StoreError
from pywren_runtime.stores.file_store import FileStore

if os.geteuid() == 0:
    os.setuid(65534)
try:
    FileStore(sys.argv[1])
except StoreError as error:
    print(error)
"""

TOO_MANY_FILES = """
import os, resource, sys
from pywren_runtime.errors import StoreError
from pywren_runtime.stores.file_store import FileStore

store = FileStore(sys.argv[1])
store.put("k", b"x")
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
opened = []
try:
    while True:
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
messages = []
for use in (lambda: store.get("k"), lambda: store.put("k", b"y"), lambda: list(store.keys())):
    try:
        use()
    except StoreError as error:
        messages.append(str(error))
os.close(opened.pop())
print(*messages, sep="\\n")
"""

FORKED = """
import os, sys
from pywren_runtime.stores.file_store import FileStore

store = FileStore(sys.argv[1])

def chunks(mark):
    yield mark * 1000
    if mark == b"p":  # in the middle of the parent's object, the child writes one of its own
        child = os.fork()
        if child == 0:
            store.put("child", b"c" * 3000)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    yield mark * 1000

store.put_stream("parent", chunks(b"p"))
print(f"parent:{store.get('parent') == b'p' * 2000}", f"child:{store.get('child') == b'c' * 3000}")
"""

WRITER = """
import sys
from pywren_runtime.stores.file_store import FileStore

def chunks():
    yield bytes(1 << 20)
    print("writing", flush=True)
    sys.stdin.readline()
    yield b"end"

FileStore(sys.argv[1]).put_stream("jobs/1/k", chunks())
"""


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def writer(root: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has written a part of jobs/1/k, and writes the rest once it is told to go on."""
    command = [sys.executable, "-c", WRITER, root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def partials(root: str) -> list[str]:
    return os.listdir(f"{root}/~partial")


# ── no room ──


@pytest.mark.parametrize("way", FULL)
def test_no_room_is_said_and_leaves_nothing(tmp_path: Path, way: str) -> None:
    disk = (tmp_path, "size=2m") if way == "a small disk" else None
    messages = run(NO_ROOM, f"{tmp_path}/store", way, disk=disk).splitlines()
    assert len(messages) == 3
    assert "'old' (4,194,304 bytes)" in messages[0]
    assert "'jobs/1/new' (4,194,304 bytes)" in messages[1]
    assert "'jobs/1/stream'" in messages[2]
    for message in messages:
        assert f"{tmp_path}/store" in message
        if way == "a small disk":
            assert "No space left" in message and "of 2,097,152 bytes are free" in message
            assert "free space, or name a place on a bigger disk" in message
        else:
            assert "File too large" in message and "ulimit -f" in message


if CAN_MOUNT:

    def test_a_disk_with_room_for_bytes_but_not_for_files(tmp_path: Path) -> None:
        message = run(NO_INODES, f"{tmp_path}/store", disk=(tmp_path, "size=4m,nr_inodes=20"))
        assert "no more files can be made" in message

    def test_a_disk_that_became_read_only_can_still_be_read(tmp_path: Path) -> None:
        messages = run(READ_ONLY, str(tmp_path), disk=(tmp_path, "size=4m")).splitlines()
        assert "could not write 'k'" in messages[0]
        assert "could not delete 'k'" in messages[1]
        assert "/new could not be opened" in messages[2]
        assert all("Read-only" in message and "mounted read-only" in message for message in messages)


# ── no right to write ──


def test_a_folder_below_a_file_cannot_be_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be opened: Not a directory") as caught:
        FileStore(f"{tmp_path}/file/store")
    assert "file/store" in str(caught.value) and "A file lies where a folder is needed" in str(caught.value)


def test_a_forbidden_folder_cannot_be_a_store(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    message = run(FORBIDDEN, f"{tmp_path}/store")
    assert f"{tmp_path}/store could not be opened: Permission denied" in message
    assert "or name a folder that this user can write to" in message


def test_too_many_open_files_is_said(root: str) -> None:
    messages = run(TOO_MANY_FILES, root).splitlines()
    assert len(messages) == 3
    assert all("Too many open files" in message and "ulimit -n" in message for message in messages)


# ── killed writers ──


def test_a_killed_writer_leaves_nothing_to_see(root: str, writer: subprocess.Popen[str]) -> None:
    store = FileStore(root)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(partials(root)) == 1
    assert list(store.keys()) == []
    with pytest.raises(KeyMissing):
        store.get("jobs/1/k")
    assert store.put_new("jobs/1/k", b"mine")


def test_a_private_store_sweeps_what_a_killed_writer_left(root: str, writer: subprocess.Popen[str]) -> None:
    writer.kill()
    writer.wait()
    FileStore(root)  # may be another machine's, for all we know
    assert len(partials(root)) == 1
    FileStore(root, private=True)
    assert partials(root) == []


def test_what_is_being_written_is_not_swept(root: str, writer: subprocess.Popen[str]) -> None:
    FileStore(root, private=True)
    FileStore(root)
    writer.communicate("go on\n")
    assert writer.returncode == 0
    assert FileStore(root).get("jobs/1/k") == bytes(MiB) + b"end"
    assert partials(root) == []


def test_what_was_left_a_day_ago_is_swept_and_strange_names_are_no_matter(root: str) -> None:
    FileStore(root)
    for name in ("strange", "0123-999999999999999999999-0", "1-2"):
        Path(root, "~partial", name).write_bytes(b"x")
    old = Path(root, "~partial", "0123-1-0")
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    FileStore(root)
    assert sorted(partials(root)) == sorted(["strange", "0123-999999999999999999999-0", "1-2"])
    FileStore(root, private=True)
    assert "strange" in partials(root)


def test_a_fork_and_its_parent_do_not_write_to_the_same_partial_file(root: str) -> None:
    assert run(FORKED, root).split() == ["parent:True", "child:True"]


# ── the folder ──


def test_the_store_does_not_come_back_once_taken_away(root: str) -> None:
    store = FileStore(root)
    store.put("jobs/1/k", b"x")
    shutil.rmtree(root)
    for write in (store.put, store.put_new):
        with pytest.raises(StoreError, match="took the store's folder away"):
            write("jobs/1/k", b"x")
    assert not os.path.exists(root)
    with pytest.raises(KeyMissing):
        store.get("jobs/1/k")
    assert list(store.keys()) == []


def test_writing_survives_a_clean_up_of_empty_folders(root: str) -> None:
    store = FileStore(root)
    os.rmdir(f"{root}/~partial")
    store.put("jobs/1/k", b"x")
    os.rmdir(f"{root}/~partial")
    assert store.put_new("jobs/2/k", b"x")
    assert [key for key, _ in store.keys()] == ["jobs/1/k", "jobs/2/k"]


def test_deleting_takes_the_emptied_folders(root: str) -> None:
    store = FileStore(root)
    keys = ["jobs/1/a/b", "jobs/1/a/c", "jobs/1/d", "jobs/2/a", "top"]
    for key in keys:
        store.put(key, b"x")
    store.delete_many(keys[:3])
    assert sorted(os.listdir(root)) == ["jobs", "top", "~partial"]
    assert os.listdir(f"{root}/jobs") == ["2"]
    store.delete_many(keys)
    assert os.listdir(root) == ["~partial"]


def test_a_key_cannot_be_the_folder_of_another(root: str) -> None:
    store = FileStore(root)
    store.put("a", b"x")
    store.put("b/c", b"x")
    for write in (store.put, store.put_new):
        with pytest.raises(StoreError, match=r"could not write 'a/b' \(1 bytes\).*folder of others"):
            write("a/b", b"y")
        with pytest.raises(StoreError, match=r"could not write 'b' \(1 bytes\).*folder of others"):
            write("b", b"y")
    assert list(store.keys()) == [("a", 1), ("b/c", 1)]
    assert partials(root) == []


def test_what_others_put_in_the_folder_is_not_listed(root: str) -> None:
    store = FileStore(root)
    store.put("k", b"x")
    Path(root, "a file of mine.txt").write_text("")
    Path(root, "my~folder").mkdir()
    Path(root, "my~folder", "k").write_text("")
    assert list(store.keys()) == [("k", 1)]


@pytest.mark.parametrize("name", ["plain", "with space", "100%25", "ä#?", "a+b"])
def test_any_absolute_folder_has_a_url(tmp_path: Path, name: str) -> None:
    store = FileStore(f"{tmp_path}/{name}/")
    store.put("k", name.encode())
    assert " " not in store.url
    assert open_store(store.url).get("k") == name.encode()
    assert store.local_path("k") == f"{tmp_path}/{name}/k"
    assert store.private is False


@pytest.mark.parametrize("url", ["file:", "file:relative/path", "file://host/path", "file:~/x"])
def test_a_relative_folder_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="file:///a/folder"):
        open_store(url)
    with pytest.raises(ConfigError, match="absolute"):
        FileStore("relative/path")


# ── without hard links ──


def test_one_of_racing_writers_wins_where_links_are_not_supported(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store = FileStore(root)
    start = threading.Barrier(16)

    def race(thread: int) -> list[int]:
        return [n for n in range(100) if start.wait() >= 0 and store.put_new(f"race/{n}", b"%d" % thread)]

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert sorted(n for wins in won for n in wins) == list(range(100))
    for thread, wins in enumerate(won):
        for n in wins:
            assert store.get(f"race/{n}") == b"%d" % thread
    assert partials(root) == []
    assert [key for key, _ in store.keys()] == sorted(f"race/{n}" for n in range(100))


# ── cost ──


def test_a_large_buffer_is_written_in_pieces_and_never_copied(root: str) -> None:
    data = bytearray(65 * MiB + 1)
    for place in (0, 64 * MiB - 1, 64 * MiB, len(data) - 1):
        data[place] = 7
    store = FileStore(root)
    tracemalloc.start()
    try:
        store.put("big", data)
        assert store.put_new("new", memoryview(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MiB
    assert Path(root, "big").read_bytes() == data
    assert store.get("new") == data


def test_importing_it_pulls_in_nothing_dear(root: str) -> None:
    script = """
import sys
import pywren_runtime.stores.file_store
dear = {"pathlib", "tempfile", "shutil", "urllib", "subprocess", "dataclasses", "importlib.metadata", "fcntl"}
print(sorted(dear & set(sys.modules)))
"""
    home = str(Path(pywren_runtime.__file__).parents[1])  # -S leaves out site-packages, where it may be installed
    env = {**os.environ, "PYTHONPATH": home}
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, env=env)
    assert done.stdout == "[]\n", done.stderr
