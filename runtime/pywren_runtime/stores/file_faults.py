"""What a folder refused, in words: the call, the likely cause, and what to do."""

import errno
import os

from pywren_runtime.errors import StoreError, StoreFull

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def explain(action: str, error: OSError, *, url: str, root: str, key: str = "", size: int | None = None) -> StoreError:
    """The error to raise: StoreFull where room is lacking."""
    what = f" {key!r}" if key else ""
    amount = "" if size is None else f" ({size:,} bytes)"
    text = f"the store {url} could not {action}{what}{amount}: {error.strerror or error}"
    if error.errno in _NO_ROOM:
        return StoreFull(f"{text}. {_room(root, error.errno)}")
    known = 0 if action == "be opened" and error.errno == errno.ENOENT else error.errno or 0
    return StoreError(f"{text}. {_ADVICE.get(known, _ADVICE[0])}")


def _room(root: str, error: int | None) -> str:
    if error == errno.EFBIG:
        return "One file may not hold that much here: raise the limit (ulimit -f), or store smaller pieces."
    try:
        disk = os.statvfs(root or "/")
    except OSError:
        free = "The free space cannot be told"
    else:
        free = f"{disk.f_bavail * disk.f_frsize:,} of {disk.f_blocks * disk.f_frsize:,} bytes are free there"
        if disk.f_files and not disk.f_favail:
            free += ", and no more files can be made"
        if error == errno.EDQUOT:
            free += ", but this user's quota is used up"
    return f"{free}; free space, or name a place on a bigger disk (of an executor: store='file:///a/bigger/disk')."


_ELSEWHERE = "or name a folder that this user can write to (of an executor: store='file:///a/folder')."
_FORBIDDEN = f"Give this user the right to write there, {_ELSEWHERE}"
_KEYS_BELOW = "Other keys lie below this one: a key cannot be the folder of others."
_ADVICE = {
    0: f"Check the disk, {_ELSEWHERE}",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: f"It is mounted read-only: mount it for writing, {_ELSEWHERE}",
    errno.ENOENT: "Something took the store's folder away while it was in use; open the store anew.",
    errno.ENOTDIR: "A file lies where a folder is needed; a key cannot be the folder of others.",
    errno.EISDIR: _KEYS_BELOW,
    errno.EEXIST: _KEYS_BELOW,
    errno.EMFILE: "Too many files are open in this process: close some, or raise the limit (ulimit -n).",
}
