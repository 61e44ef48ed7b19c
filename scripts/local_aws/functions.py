"""What the control plane holds of a function, and its zip, unpacked where nothing may write."""

import base64
import hashlib
import io
import json
import os
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from local_aws.upstream import Upstream

INTERNAL = "AWS4-HMAC-SHA256 Credential=test/20260101/{region}/{service}/aws4_request, SignedHeaders=host, Signature=0"


@dataclass(frozen=True, slots=True)
class Function:
    """One function in one configuration; two with the same `key` may share environments."""

    name: str
    arn: str
    region: str
    version: str
    key: str
    runtime: str
    handler: str
    role: str
    timeout: float
    memory: int
    disk: int
    variables: dict[str, str]
    code: Path
    layers: tuple[Path, ...]
    reserved: int | None
    retries: int
    event_age: float
    state: str


class Functions:
    """Functions by name, kept until something was changed through the gateway."""

    def __init__(self, upstream: Upstream, root: Path) -> None:
        self._upstream = upstream
        self._root = root
        self._known: dict[tuple[str, str, str], Function] = {}
        self._layers: dict[tuple[str, str], Path] = {}
        self._generation = 0
        self.manifests: dict[Path, dict[str, tuple[int, int]]] = {}

    def changed(self) -> None:
        """Something of the control plane was asked or answered: look again."""
        self._generation += 1
        self._known.clear()

    async def find(self, region: str, name: str, qualifier: str) -> Function | None:
        """The function as it is deployed now, or None."""
        key = (region, name, qualifier)
        if key in self._known:
            return self._known[key]
        generation = self._generation
        found = await self._fetch(region, name, qualifier)
        if found is not None and found.state == "Active" and generation == self._generation:
            self._known[key] = found
        return found

    async def _ask(self, region: str, target: str) -> tuple[int, dict[str, Any]]:
        headers = {"host": "localhost", "authorization": INTERNAL.format(region=region, service="lambda")}
        status, body = await self._upstream.fetch("GET", target, headers)
        return status, json.loads(body) if status == 200 else {}

    async def _fetch(self, region: str, name: str, qualifier: str) -> Function | None:
        asked = f"?Qualifier={quote(qualifier)}" if qualifier not in ("", "$LATEST") else ""
        status, answer = await self._ask(region, f"/2015-03-31/functions/{quote(name)}{asked}")
        if status != 200:
            return None
        _, events = await self._ask(region, f"/2019-09-25/functions/{quote(name)}/event-invoke-config")
        config = answer["Configuration"]
        code = await self._unpacked(config["CodeSha256"], answer["Code"]["Location"])
        layers = [await self._layer(region, layer["Arn"]) for layer in config.get("Layers", ())]
        known = ("RevisionId", "CodeSha256", "LastModified", "Environment", "Layers")
        changes = json.dumps([config.get(name) for name in known])
        return Function(
            name=config["FunctionName"],
            arn=config["FunctionArn"],
            region=region,
            version=config.get("Version", "$LATEST"),
            key=f"{region}/{name}/{hashlib.sha256(changes.encode()).hexdigest()}",
            runtime=config["Runtime"],
            handler=config["Handler"],
            role=config["Role"],
            timeout=float(config["Timeout"]),
            memory=int(config["MemorySize"]),
            disk=int(config.get("EphemeralStorage", {}).get("Size", 512)),
            variables=config.get("Environment", {}).get("Variables", {}),
            code=code,
            layers=tuple(layers),
            reserved=answer.get("Concurrency", {}).get("ReservedConcurrentExecutions"),
            retries=int(events.get("MaximumRetryAttempts", 2)),
            event_age=float(events.get("MaximumEventAgeInSeconds", 21600)),
            state=config.get("State", "Active"),
        )

    async def _layer(self, region: str, arn: str) -> Path:
        """A layer's zip: unpacked at its version's first use, so that functions keep it when the version is deleted."""
        key = (region, arn)
        if key not in self._layers:
            status, answer = await self._ask(region, f"/2018-10-31/layers?find=LayerVersion&Arn={quote(arn, safe='')}")
            if status != 200:
                raise RuntimeError(f"the emulator has no layer {arn}: {status}")
            content = answer["Content"]
            self._layers[key] = await self._unpacked(content["CodeSha256"], content["Location"])
        return self._layers[key]

    async def _unpacked(self, sha: str, location: str) -> Path:
        target = self._root / base64.b64decode(sha).hex()[:32]
        if not target.exists():
            status, body = await self._upstream.fetch("GET", urlsplit(location).path, {"host": "localhost"})
            if status != 200 or base64.b64encode(hashlib.sha256(body).digest()).decode() != sha:
                raise RuntimeError(
                    f"the emulator did not give back the zip that was deployed: {status}, {len(body)} bytes"
                )
            if not target.exists():  # another Invoke may have been as quick
                unpack(body, target)
                self.manifests[target] = manifest(target)
        return target

    def touched(self) -> list[str]:
        """Files of deployed zips that something changed, added or removed since they were unpacked."""
        return [
            f"{root.name}/{name}"
            for root, before in self.manifests.items()
            for name, _ in before.items() ^ manifest(root).items()
        ]


def unpack(body: bytes, target: Path) -> None:
    """Write a zip's files with their modes, none of them writable."""
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        for entry in archive.infolist():
            path = archive.extract(entry, partial)
            mode = entry.external_attr >> 16
            if not entry.is_dir():
                stamp = time.mktime((*entry.date_time, 0, 0, 0))
                os.utime(path, (stamp, stamp))  # .pyc files know their source by its time
                os.chmod(path, (mode & 0o555) or 0o444)
    partial.mkdir(exist_ok=True)
    for folder, _, _ in os.walk(partial):
        os.chmod(folder, 0o555)
    partial.rename(target)


def manifest(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file, and that each folder is there."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            path = os.path.join(folder, name)
            stat = os.lstat(path)
            found[os.path.relpath(path, root)] = (stat.st_size, stat.st_mtime_ns)
    return found
