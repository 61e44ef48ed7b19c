"""Who may import whom, and what an import pulls in."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = {"asyncio", "boto3", "botocore", "cloudpickle", "multiprocessing", "numpy", "obstore", "redis", "tqdm"}
PULLED = """
import json, sys
before = set(sys.modules)
{statement}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def pulled_in(statement: str, cwd: Path) -> set[str]:
    """The top-level names that an import loads in a fresh interpreter, away from the checkout."""
    run = subprocess.run(
        [sys.executable, "-c", PULLED.format(statement=statement)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(run.stdout)}


def linted(where: Path, *contracts: str) -> "subprocess.CompletedProcess[str]":
    """The contracts, or those of these names, held against what lies there; import-linter sets up logging for itself,
    which silences everybody else's loggers in its process."""
    script = (
        "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports("
        f"config_filename={str(ROOT / 'setup.cfg')!r}, limit_to_contracts={contracts!r}, no_cache=True, no_logo=True))"
    )
    return subprocess.run([sys.executable, "-c", script], cwd=where, capture_output=True, text=True, check=False)


def test_imports_go_downwards_only() -> None:
    run = linted(ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_wrong_import_would_be_seen(tmp_path: Path) -> None:
    """The contracts must be able to fail: the same floors over a copy whose tracker imports the engine."""
    for name, source in {"__init__": "", "engine": "", "tracker": "import pywren_ng.engine"}.items():
        (tmp_path / "pywren_ng").mkdir(exist_ok=True)
        (tmp_path / "pywren_ng" / f"{name}.py").write_text(source)
    for name in ("pywren_runtime", "pywren_shuffle"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    run = linted(tmp_path, "floors")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "pywren_ng.tracker -> pywren_ng.engine" in run.stdout


def test_the_client_loads_nothing_heavy(tmp_path: Path) -> None:
    pulled = pulled_in("from pywren_ng import Executor", tmp_path)
    assert "pywren_ng" in pulled
    assert pulled & HEAVY == set()


def test_the_lambda_handler_loads_the_standard_library_only(tmp_path: Path) -> None:
    pulled = pulled_in("import pywren_runtime.handler", tmp_path)
    assert "pywren_runtime" in pulled
    assert pulled - set(sys.stdlib_module_names) == {"pywren_runtime"}
