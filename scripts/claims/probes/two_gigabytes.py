"""Return 2 GB from a task, and see that they are right; on a worker of 1 GB, that the error says what to do."""

import re
import time

from pywren_ng import Executor, TaskOutOfMemory

SIZE = 2_000_000_000


def much() -> bytearray:
    found = bytearray(SIZE)
    found[::4096] = bytes(number % 251 for number in range(len(range(0, SIZE, 4096))))
    return found


with Executor("local", max_workers=1) as ex:
    begun = time.monotonic()
    result = ex.submit(much).result()
    seconds = time.monotonic() - begun
    is_right = len(result) == SIZE and all(result[at] == at // 4096 % 251 for at in range(0, SIZE, 4096 * 997))
    del result
    error = ex.options(memory=1000).submit(much).exception()
text = str(error)
is_told = isinstance(error, TaskOutOfMemory) and bool(
    re.search(r"its memory of 1000 MB .* options\(memory=2000\)", text)
)
print(text)
said = f"2 GB came back {'right' if is_right else 'wrong'} in {seconds:.1f} s; with 1 GB: {type(error).__name__}"
print(f"5b  {said}  {'PASS' if is_right and is_told else 'FAIL'}")
