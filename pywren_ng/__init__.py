"""pywren_ng: a `concurrent.futures` executor whose workers are clean processes here, or thousands elsewhere."""

from typing import TYPE_CHECKING

from pywren_ng.executor import Executor
from pywren_ng.job import Job
from pywren_runtime import __version__, errors
from pywren_runtime.errors import (
    AccessDenied,
    ConfigError,
    CredentialsError,
    DeploymentError,
    FunctionMissing,
    InitializerError,
    KeyMissing,
    KeysIncomparable,
    KeyUnsupported,
    LambdaError,
    ModulesError,
    OutputInUse,
    PackagesError,
    PackingError,
    PywrenError,
    RecordError,
    RemoteError,
    ShuffleCorrupt,
    ShuffleError,
    SignatureError,
    StoreCredentialsError,
    StoreError,
    StoreFull,
    TaskOutOfMemory,
    TaskTimeout,
    Throttled,
    VersionError,
)

if TYPE_CHECKING:
    from pywren_runtime.errors import WorkerLost

__all__ = [
    "AccessDenied",
    "ConfigError",
    "CredentialsError",
    "DeploymentError",
    "Executor",
    "FunctionMissing",
    "InitializerError",
    "Job",
    "KeyMissing",
    "KeyUnsupported",
    "KeysIncomparable",
    "LambdaError",
    "ModulesError",
    "OutputInUse",
    "PackagesError",
    "PackingError",
    "PywrenError",
    "RecordError",
    "RemoteError",
    "ShuffleCorrupt",
    "ShuffleError",
    "SignatureError",
    "StoreCredentialsError",
    "StoreError",
    "StoreFull",
    "TaskOutOfMemory",
    "TaskTimeout",
    "Throttled",
    "VersionError",
    "WorkerLost",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name == "WorkerLost":  # made when it is first asked for: see `pywren_runtime.errors`
        return errors.WorkerLost
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
