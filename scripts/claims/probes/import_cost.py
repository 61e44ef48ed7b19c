"""Print what `import pywren_ng` pulls in, and its cost over a bare interpreter: medians of fresh ones."""

import statistics
import subprocess
import sys
import time

HEAVY = {"asyncio", "boto3", "numpy", "redis", "tqdm"}
IMPORT = "from pywren_ng import Executor"  # not only the package: what it may put off is paid by everybody too
LOOK = f"{IMPORT}; import sys; print(*sys.modules)"
ROUNDS = 15


def seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


loaded = subprocess.run([sys.executable, "-c", LOOK], stdout=subprocess.PIPE, text=True, check=True).stdout
heavy = sorted(HEAVY & set(loaded.split()))
bare, ours = zip(*((seconds("pass"), seconds(IMPORT)) for _ in range(ROUNDS)), strict=True)
cost = 1e3 * (statistics.median(ours) - statistics.median(bare))
print(f"bare {1e3 * statistics.median(bare):.1f} ms, with pywren_ng {1e3 * statistics.median(ours):.1f} ms")
print(f"pulls in of {', '.join(sorted(HEAVY))}: {', '.join(heavy) or 'none'}")
print(f"import costs {cost:.1f} ms")
