"""Print the packages that an installation of pywren-ng brought, and those that nobody asked for."""

import re
from importlib.metadata import distribution, distributions

BASE = {"boto3", "cloudpickle", "obstore", "redis", "tblib", "tqdm"}
COMES_WITH_VENV = {"pip", "setuptools", "wheel"}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(name: str) -> set[str]:
    """What a distribution requires without any extra."""
    requirements = distribution(name).requires or []
    names = [re.match(r"[\w.-]+", line) for line in requirements if "extra ==" not in line]
    return {plain(match[0]) for match in names if match}


installed = {plain(each.metadata["Name"]) for each in distributions()} - COMES_WITH_VENV
wanted, todo = {"pywren-ng", "hiredis"}, ["pywren-ng"]  # redis[hiredis] is an extra of another's
while todo:
    found = (needed(todo.pop()) & installed) - wanted
    wanted |= found
    todo += found
problems = sorted(installed - wanted) + sorted(needed("pywren-ng") ^ BASE) + sorted(BASE - installed)
print("installed:", *sorted(installed))
print(f"{len(installed)} packages, {len(problems)} unexpected or missing:", *problems or ["none"])
raise SystemExit(bool(problems))
