"""A deployment on the local AWS: bucket, key, the very zip that is deployed, and a function of each memory size."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.local_aws import LocalAws

from pywren_ng import deployment
from pywren_ng.deploy import bundle
from pywren_ng.deployment import Deployment

HANDLER = "pywren_runtime.handler.handle"


@dataclass(frozen=True)
class Deployed:
    """What is deployed, and the file that says so to a client."""

    aws: LocalAws
    where: Deployment
    file: Path
    code: bytes

    def function(self, memory: int, *, copy: int = 0, **options: Any) -> str:
        """Make the function of one size, or make it anew with other options."""
        name = self.where.function(memory, copy)
        variables = {
            "PYWREN_NG_INTERNAL_STORE": f"{self.where.store}?conditional=trusted",
            "PYWREN_NG_INTERNAL_KEY": self.where.key.hex(),
            **options.pop("variables", {}),
        }
        options = {"timeout": 120, "retries": 0, "event_age": 60, **options}  # as `setup` must: runtime/README.md
        self.aws.deploy(self.code, name, handler=HANDLER, memory=memory, variables=variables, **options)
        return name

    def rewritten(self, folder: Path, **changes: Any) -> Path:
        """The deployment's file with other values."""
        file = folder / "deployment.toml"
        file.write_text(deployment.dumps(replace(self.where, **changes)))
        file.chmod(0o600)
        return file

    def keys(self, prefix: str = "") -> list[str]:
        """What lies in the bucket below the store's prefix."""
        bucket, _, folder = self.where.store.removeprefix("s3://").partition("/")
        pages = (
            self.aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder}/{prefix}")
        )
        return [item["Key"].removeprefix(f"{folder}/") for page in pages for item in page.get("Contents", [])]


# What the tests' own tasks import, and no bundle of ours has. It comes after the zip's own modules.
PACKAGES = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path and not path.endswith(("tests", ".zip")))}


@cache
def runtime_zip() -> bytes:
    """What the tests of one process deploy: to compress it takes a second."""
    with tempfile.TemporaryDirectory() as folder:
        return bundle.build(Path(folder, "runtime.zip")).path.read_bytes()


@contextmanager
def deployed(aws: LocalAws, *sizes: int, **options: Any) -> Iterator[Deployed]:
    """A deployment whose default function has the first of these sizes; the environment leads clients to it."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        bucket = f"pywren-ng-{os.urandom(4).hex()}"
        aws.client("s3").create_bucket(Bucket=bucket)
        here = f"{sys.version_info[0]}.{sys.version_info[1]}"
        where = Deployment(
            aws.region, f"s3://{bucket}/pywren", os.urandom(32), memory=sizes[0], timeout=120.0, pythons=(here,)
        )
        made = Deployed(aws, where, Path(folder, "deployment.toml"), runtime_zip())
        made.rewritten(Path(folder))
        for size in sizes:
            made.function(size, **options)
        for name, value in aws.environment().items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("PYWREN_NG_DEPLOYMENT", str(made.file))
        if "PYTHONPATH" in options.get("variables", {}):  # its workers have more than a client can know
            patch.setenv("PYWREN_NG_CHECK_PACKAGES", "0")
        yield made


def describe(counts: Any) -> str:
    """Counters as a failing test shows them."""
    return json.dumps(counts, indent=1, sort_keys=True)
