"""The code of the functions: for each Python and processor one layer, whose versions nobody can change.

    wheels for the target ─► zip (bundle.py) ─► is there a version of just these bytes? ─► its ARN
                                                        └─ no: published, and its hash compared

The bytes go to Lambda with the request that publishes them. They lie in no bucket, where others could put theirs.
"""

import base64
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pywren_ng.deploy import bundle
from pywren_ng.deploy.account import Account
from pywren_ng.deploy.plan import Plan, Runtime
from pywren_ng.requirements import Target, fetch, interpreter, on_lambda, platforms, read
from pywren_runtime.errors import DeploymentError

Say = Callable[[str], None]


def layer_name(name: str, python: str, arch: str) -> str:
    """Of a deployment's layer for one Python and processor."""
    return f"{name}-py{python.replace('.', '')}-{arch}"


def publish(account: Account, name: str, plan: Plan, say: Say) -> dict[Runtime, str]:
    """A layer for each target: one that is there with the same bytes, or a new version."""
    published = {}
    with TemporaryDirectory() as folder:
        for runtime in plan.runtimes():
            made = build(runtime, Path(folder), say)
            published[runtime] = _version_of(account, name, runtime, made, say)
    return published


def build(runtime: Runtime, folder: Path, say: Say) -> bundle.Bundle:
    """The zip for a Python and a processor, whatever this machine has."""
    python, there, packages = runtime.python, on_lambda(runtime.python, runtime.arch), None
    if not all(_fits(name, there) for name in bundle.OTHERS):
        packages = folder / f"packages-{python}-{runtime.arch}"
        fetch(read(f"{name}=={metadata.version(name)}" for name in bundle.OTHERS), there, str(packages))
    compiler = interpreter(python)
    if compiler is None:
        say(
            f"No python{python} is here to compile for Python {python}: its workers do so at each cold start, and begin"
            " more slowly. Install it, then run setup again."
        )
    return bundle.build(folder / f"{python}-{runtime.arch}.zip", packages=packages, python=compiler, top="python/")


def forget(account: Account, name: str, keep: frozenset[str]) -> int:
    """Delete all versions of the deployment's layers but these; how many there were."""
    client, count = account.client("lambda"), 0
    with account.asking("delete old layers"):
        for layer in _named(client, name):
            for version in _versions(client, layer):
                if version["LayerVersionArn"] not in keep:
                    client.delete_layer_version(LayerName=layer, VersionNumber=version["Version"])
                    count += 1
    return count


def _named(client: Any, name: str) -> Iterator[str]:
    for page in client.get_paginator("list_layers").paginate():
        for layer in page["Layers"]:
            if re.fullmatch(rf"{re.escape(name)}-py\d+-(x86_64|arm64)", layer["LayerName"]):
                yield layer["LayerName"]


def _versions(client: Any, layer: str) -> list[dict[str, Any]]:
    pages = client.get_paginator("list_layer_versions").paginate(LayerName=layer)
    return [version for page in pages for version in page["LayerVersions"]]


def _version_of(account: Account, name: str, runtime: Runtime, made: bundle.Bundle, say: Say) -> str:
    """The ARN of a version with just these bytes."""
    client, layer = account.client("lambda"), layer_name(name, runtime.python, runtime.arch)
    expected = base64.b64encode(bytes.fromhex(made.sha256)).decode()
    with account.asking(f"publish the layer {layer}"):
        for version in _versions(client, layer):
            if version.get("Description") == made.sha256:
                found = client.get_layer_version(LayerName=layer, VersionNumber=version["Version"])
                if found["Content"]["CodeSha256"] == expected:
                    return str(found["LayerVersionArn"])
        say(f"Publishing {made.size / 1e6:.1f} MB of code for Python {runtime.python} on {runtime.arch} …")
        found = client.publish_layer_version(
            LayerName=layer,
            Description=made.sha256,
            Content={"ZipFile": made.path.read_bytes()},
            CompatibleRuntimes=[f"python{runtime.python}"],
            CompatibleArchitectures=[runtime.arch],
            LicenseInfo="Apache-2.0",
        )
    if found["Content"]["CodeSha256"] != expected:
        raise DeploymentError(f"Lambda has other bytes in {found['LayerVersionArn']} than were sent; run setup again")
    return str(found["LayerVersionArn"])


def _fits(name: str, there: Target) -> bool:
    """Whether what is installed here of a distribution runs there."""
    try:
        tags = re.findall(r"^Tag: (\S+)$", metadata.distribution(name).read_text("WHEEL") or "", re.MULTILINE)
    except metadata.PackageNotFoundError:
        return False
    known = platforms(there.platform)
    for tag in tags:
        python, abi, system = tag.split("-")
        is_for_it = python == f"cp{there.python.replace('.', '')}" or abi == "abi3"
        if system == "any" or (is_for_it and system in known):
            return True
    return False
