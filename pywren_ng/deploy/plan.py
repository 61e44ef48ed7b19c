"""What a deployment is to be: the options of `pywren-ng setup`, as values, and how those of two set-ups add up.

    options ──► Plan ──┐
                       ├─ plus ─► Plan ─► template, layers, policies
    the stack's ► Plan ┘

Somebody else may use what is there, so a set-up adds to it; it takes something away only if it is told to.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from pywren_ng.deployment import function_name
from pywren_ng.requirements import HERE
from pywren_runtime.errors import ConfigError
from pywren_runtime.stores.redis_settings import PASSWORD
from pywren_runtime.wire import VERSION

NAME = "pywren-ng"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MEMORY = 2048
_LONGEST = 4096  # characters of a stack's parameter


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a layer is made for. Releases of one wire version share functions; those of another have their own."""

    python: str
    arch: str
    wire: int = VERSION


@dataclass(frozen=True, slots=True)
class Function:
    """One function of a deployment."""

    name: str
    runtime: Runtime
    memory: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A deployment as it was asked for; what is empty was not asked for, and `filled` has a default for it."""

    pythons: tuple[str, ...] = ()
    archs: tuple[str, ...] = ()
    memories: tuple[int, ...] = ()  # MB; the first is for tasks that ask for none
    copies: int = 0
    disk: int = 0  # MB
    reads: tuple[str, ...] = ()  # s3://bucket/prefix
    writes: tuple[str, ...] = ()
    bucket: str = ""
    folder: str = ""
    role: str = ""
    boundary: str = ""
    subnets: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()  # security groups
    password: bool = False  # whether the functions know that of a Redis
    tags: tuple[tuple[str, str], ...] = ()
    layers: tuple[tuple[str, str, int, str], ...] = ()  # Python, processor, wire version, and which layer is deployed
    release: str = ""  # that set it up last

    def runtimes(self) -> list[Runtime]:
        """Each Python and processor for which this release has a layer to make."""
        return [Runtime(python, arch) for python, arch in product(self.pythons, self.archs)]

    def others(self) -> dict[Runtime, str]:
        """What functions of other releases are made of: they stay as they are, for who has not upgraded yet."""
        layers = {Runtime(python, arch, wire): layer for python, arch, wire, layer in self.layers}
        return {runtime: layer for runtime, layer in layers.items() if runtime.wire != VERSION}

    def functions(self, name: str) -> list[Function]:
        """All functions of the deployment of that name, this release's and those of others."""
        runtimes = self.runtimes() + list(self.others())
        return [
            Function(function_name(name, on.python, on.arch, memory, copy, wire=on.wire), on, memory)
            for on, memory, copy in product(runtimes, self.memories, range(self.copies))
        ]

    def encode(self) -> str:
        """As a stack keeps it; ConfigError if it is more than one can keep."""
        said = json.dumps({key: value for key, value in asdict(self).items() if value}, separators=(",", ":"))
        if len(said) > _LONGEST:
            raise ConfigError(
                f"these options are {len(said):,} characters long, and a stack keeps {_LONGEST:,}: name fewer buckets"
                " with --read and --write, or give the role its policy yourself (--role-arn)"
            )
        return said

    @classmethod
    def decode(cls, text: str) -> "Plan":
        """What `encode` made; fields of a later release are passed over."""
        found: dict[str, Any] = json.loads(text)
        known = {field.name for field in fields(cls)}
        return cls(**{key: _frozen(value) for key, value in found.items() if key in known})


def plus(old: Plan, new: Plan) -> Plan:
    """What is there, and what is asked for besides; where only one can be, what is asked for now."""
    return Plan(
        pythons=_joined(old.pythons, new.pythons),
        archs=_joined(old.archs, new.archs),
        memories=_joined(old.memories, new.memories),
        copies=new.copies or old.copies,
        disk=new.disk or old.disk,
        reads=_joined(old.reads, new.reads),
        writes=_joined(old.writes, new.writes),
        bucket=new.bucket or old.bucket,
        folder=new.folder or old.folder,
        role=new.role or old.role,
        boundary=new.boundary or old.boundary,
        subnets=new.subnets or old.subnets,
        groups=new.groups or old.groups,
        password=new.password or old.password,
        tags=tuple(sorted({**dict(old.tags), **dict(new.tags)}.items())),
        layers=old.layers,
    )


def filled(plan: Plan, name: str) -> Plan:
    """With a default for what nobody asked for."""
    return replace(
        plan,
        pythons=plan.pythons or (HERE,),
        archs=plan.archs or ("x86_64",),
        memories=plan.memories or (MEMORY,),
        copies=plan.copies or 1,
        disk=plan.disk or 512,
        folder=plan.folder or name,
    )


def parse_place(text: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`, `bucket/prefix` or an S3 ARN; ConfigError if it is none of them."""
    path = re.sub(r"\A(s3://|arn:aws[a-z-]*:s3:::)", "", text)
    bucket, _, prefix = path.partition("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket) or any(c in prefix for c in "*?$"):
        raise ConfigError(f"{text!r} is no place in S3; one looks like this: s3://my-bucket/a/folder")
    return bucket, prefix


def check_name(name: str) -> str:
    """The name, if it can be one; it begins the names of functions, roles and a bucket."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,30}", name):
        raise ConfigError(f"{name!r} cannot name a deployment: a letter, then up to 30 letters, digits and hyphens")
    return name


def check_password(text: str) -> str:
    """The password of a Redis, if it can be one; what is wrong is said without it."""
    if not 1 <= len(text) <= 512 or not text.isprintable() or text != text.strip():
        raise ConfigError(
            "this cannot be the password of a Redis: it is empty, has a blank or a line's end before or behind it, or"
            f" is longer than 512 characters. {PASSWORD} in the environment gives it, or who is asked"
        )
    return text


def check(plan: Plan) -> None:
    """ConfigError for what AWS would refuse after minutes, or take for something else."""
    for memory in plan.memories:
        if not 128 <= memory <= 10_240:
            raise ConfigError(f"--memory {memory}: Lambda has 128 to 10240 MB")
    if plan.disk and not 512 <= plan.disk <= 10_240:
        raise ConfigError(f"--disk {plan.disk}: Lambda has 512 to 10240 MB")
    for python in plan.pythons:
        if python not in PYTHONS:
            raise ConfigError(f"--python {python}: there are {', '.join(PYTHONS)}")
    if bool(plan.subnets) != bool(plan.groups):
        raise ConfigError("--subnets and --security-groups go together: a function in a network needs both")
    if plan.role and (plan.reads or plan.writes or plan.boundary):
        raise ConfigError(
            "--read, --write and --permissions-boundary change the role that setup makes, and --role-arn names another:"
            " give that one what `pywren-ng policy worker` prints for these options"
        )
    for place in (*plan.reads, *plan.writes):
        parse_place(place)
    for kind, option, arn in (("role", "--role-arn", plan.role), ("policy", "--permissions-boundary", plan.boundary)):
        if arn and not re.fullmatch(rf"arn:aws[a-z-]*:iam::(\d{{12}}|aws):{kind}/\S+", arn):
            raise ConfigError(f"{option} {arn}: such a name looks like this: arn:aws:iam::123456789012:{kind}/name")


def _joined(old: Sequence[Any], new: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*old, *new)))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
