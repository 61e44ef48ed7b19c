"""The Python of a function: an interpreter with AWS's runtime client and nothing else installed beside it.

The environment that tests run in holds the checkout and every development package, which a Lambda environment has not.
So each runtime gets a bare virtual environment of the base interpreter, into which the runtime client is copied.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

OWN = f"python{sys.version_info.major}.{sys.version_info.minor}"
ASK = """
import json, sys, awslambdaric, runtime_client, simplejson, snapshot_restore_py
print(json.dumps({
    "base": sys._base_executable, "version": f"python{sys.version_info.major}.{sys.version_info.minor}",
    "files": [awslambdaric.__path__[0], simplejson.__path__[0], runtime_client.__file__, snapshot_restore_py.__file__],
}))
"""


class NoRuntime(Exception):
    """No interpreter here serves a function's runtime."""


class Runtimes:
    """Interpreters by runtime name: the one that runs this, and those given."""

    def __init__(self, folder: Path, given: dict[str, str]) -> None:
        self._folder = folder
        self._given = {OWN: sys.executable, **given}
        self._made: dict[str, Path] = {}

    def python(self, runtime: str) -> Path:
        """The interpreter for a runtime name as it stands in a function's configuration."""
        if runtime not in self._made:
            if runtime not in self._given:
                raise NoRuntime(
                    f"This local AWS has no {runtime}, only {sorted(self._given)}. "
                    f"Give it one that has awslambdaric: --python {runtime}=/path/to/python"
                )
            self._made[runtime] = self._make(runtime, self._given[runtime])
        return self._made[runtime]

    def _make(self, runtime: str, python: str) -> Path:
        run = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=False)
        if run.returncode:
            raise NoRuntime(f"{python} cannot serve {runtime}, it lacks awslambdaric: {run.stderr}")
        found = json.loads(run.stdout)
        if found["version"] != runtime:
            raise NoRuntime(f"{python} is {found['version']}, not {runtime}")
        root = self._folder / runtime
        site = root / "lib" / runtime / "site-packages"
        site.mkdir(parents=True)
        (root / "bin").mkdir()
        (root / "bin" / "python").symlink_to(found["base"])
        (root / "pyvenv.cfg").write_text(f"home = {Path(found['base']).parent}\ninclude-system-site-packages = false\n")
        for name in found["files"]:
            source = Path(name)
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, site / source.name)
        ours = root / "bin" / "python"
        subprocess.run([ours, "-m", "compileall", "-q", site], check=True)
        return ours
