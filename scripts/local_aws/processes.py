"""Trees of processes, read from /proc: who descends from whom, what they hold in memory, and an end to all of them."""

import contextlib
import ctypes
import os
import signal

PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
CAP_DAC_OVERRIDE = 1


def adopt_orphans_and_lower_root() -> None:
    """For every process started from here: orphans come back to us, and root writes only where modes allow it."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.geteuid() == 0:
        libc.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def table() -> dict[int, list[int]]:
    """Parent -> its children, of all processes there are."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                children.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(name))
    return children


def descendants(pid: int) -> list[int]:
    """Everyone below a process, also while they come and go."""
    children = table()
    found = list(children.get(pid, ()))
    for child in found:
        found += children.get(child, ())
    return found


def below(pid: int) -> list[int]:
    """Everyone below a process, asked of the kernel ten times a second, where to read all of /proc would tell."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                for child in map(int, file.read().split()):
                    found += [child, *below(child)]
    return found


def held_by(pid: int) -> int:
    """Bytes that a tree holds: anonymous and shared memory of each, file pages once (those of the largest)."""
    own = files = 0
    for each in (pid, *below(pid)):
        values = status_of(each, (b"RssAnon:", b"RssShmem:", b"RssFile:"))
        own += values[b"RssAnon:"] + values[b"RssShmem:"]
        files = max(files, values[b"RssFile:"])
    return own + files


def peak_of(pid: int) -> int:
    """The most a process ever held, in bytes."""
    return status_of(pid, (b"VmHWM:",))[b"VmHWM:"]


def status_of(pid: int, names: tuple[bytes, ...]) -> dict[bytes, int]:
    """Sizes from a process's status, in bytes; nought for one that is gone."""
    values = dict.fromkeys(names, 0)
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            name = line.partition(b"\t")[0]
            if name in values:
                values[name] = int(line.split()[1]) * 1024
    return values


def kill_tree(pid: int) -> None:
    """Kill a process and all below it; it is stopped first, so that it starts no more."""
    if pid <= 0:
        return
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    kill_group(pid)


def kill_group(pid: int) -> None:
    """Kill what is left of a process's group."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def end_all(but: set[int] = frozenset()) -> None:
    """Kill every descendant of this process, and bury those that are its own."""
    while below := [pid for pid in descendants(os.getpid()) if pid not in but]:
        for pid in below:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in below:
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)
