"""Print what two type checkers say of the asserted examples, and how much of what is exported has a known type.

exported_types.py examples.py
"""

import os
import re
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
LEAST = 25


def asked(*command: str) -> tuple[int, str]:
    """A checker's exit code and all that it printed. pyright asks the Python that comes first on the path."""
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return ran.returncode, ran.stdout


examples = Path(sys.argv[1])
asserted = len(re.findall(r"^\s*assert_type\(", examples.read_text(), re.MULTILINE))
# Another config than the checkout's: only what is installed can be imported. pandas ships no types.
mypy = asked(str(BIN / "mypy"), "--strict", "--config-file=", "--disable-error-code=import-untyped", str(examples))
pyright = asked(str(BIN / "pyright"), str(examples))
exported = asked(str(BIN / "pyright"), "--verifytypes", "pywren_ng", "--ignoreexternal")
score = re.search(r"completeness score: ([\d.]+)%", exported[1])
for code, said in (mypy, pyright, exported):
    if code:
        print(said)
verdicts = ", ".join(
    f"{name} {'agrees' if code == 0 else 'disagrees'}" for name, (code, _) in (("mypy", mypy), ("pyright", pyright))
)
is_agreed = asserted >= LEAST and mypy[0] == pyright[0] == 0
is_known = score is not None and float(score[1]) == 100
print(f"4d  {asserted} assert_type lines, {verdicts}  {'PASS' if is_agreed else 'FAIL'}")
print(f"4e  {score[1] if score else '?'} % of exported types known  {'PASS' if is_known else 'FAIL'}")
raise SystemExit(not (is_agreed and is_known))
