"""Every error a user can meet, in one tree.

    PywrenError
    ├── ConfigError        (ValueError)            a wrong option or setting
    ├── PackingError       (pickle.PicklingError)  a function, argument or result that cannot travel
    ├── ModulesError       (ImportError)           a local module that cannot travel, or two versions of one
    ├── PackagesError      (ImportError)           packages that a worker cannot have, or that differ from the client's
    ├── RemoteError                                a task's exception that cannot travel: its text is kept
    ├── TaskTimeout        (TimeoutError)          a task ran longer than its time limit
    ├── TaskOutOfMemory    (MemoryError)           a task wanted more than its memory
    ├── WorkerLost         (BrokenProcessPool)     the process that ran a task died under it
    ├── InitializerError   (BrokenExecutor)        the initializer failed, so nothing can run
    ├── SignatureError                             bytes that do not carry the executor's signature
    ├── VersionError                               client and runtime are of releases that do not understand each other
    ├── CredentialsError   (PermissionError)       AWS credentials are missing, wrong or expired
    ├── DeploymentError                            what should be set up in the account could not be
    ├── LambdaError                                AWS Lambda did not run what it was asked to
    │   ├── AccessDenied     (PermissionError)     a permission is lacking
    │   ├── FunctionMissing  (LookupError)         no function goes by that name there
    │   └── Throttled                              the account was busy for too long
    ├── ShuffleError                               a sort, group or join could not be done
    │   ├── ShuffleCorrupt                         what came out is not what went in
    │   ├── RecordError      (ValueError)          the input is not made of such records
    │   ├── KeysIncomparable (TypeError)           two keys of a sort have no order
    │   ├── KeyUnsupported   (TypeError)           nothing can be grouped or joined by such a key
    │   └── OutputInUse      (FileExistsError)     something lies where the output is to go
    └── StoreError         (OSError)               the store did not do what was asked
        ├── StoreCredentialsError                  it does not accept the credentials: a CredentialsError, too
        ├── KeyMissing     (KeyError)              nothing lies at that key
        └── StoreFull                              no room left

Each message says what happened, to which task, the likely cause and the next step.
"""

from concurrent.futures import BrokenExecutor
from pickle import PicklingError
from typing import TYPE_CHECKING

__all__ = [
    "AccessDenied",
    "ConfigError",
    "CredentialsError",
    "DeploymentError",
    "FunctionMissing",
    "InitializerError",
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
]


class PywrenError(Exception):
    """The root of every error that pywren_ng raises by itself."""


class ConfigError(PywrenError, ValueError):
    """An option or a setting has a value that cannot be used."""


class PackingError(PywrenError, PicklingError):
    """A function, an argument or a result cannot be pickled; the message names the part that cannot."""


class ModulesError(PywrenError, ImportError):
    """The sources of a local module cannot travel, or two versions of it were asked of one worker."""


class PackagesError(PywrenError, ImportError):
    """The packages that were asked for cannot be had in a worker, or those that a task needs are not there."""


class RemoteError(PywrenError):
    """A task raised an exception that could not be pickled or rebuilt; its text and traceback are kept here."""


class TaskTimeout(PywrenError, TimeoutError):
    """A task ran longer than its time limit and was stopped."""


class TaskOutOfMemory(PywrenError, MemoryError):
    """A task wanted more memory than its limit."""


class InitializerError(PywrenError, BrokenExecutor):
    """The initializer failed in a worker; the executor cannot run anything."""


class SignatureError(PywrenError):
    """Bytes that should be ours do not carry the executor's signature, and were not loaded."""


class VersionError(PywrenError):
    """Client and runtime come from releases that do not understand each other; nothing was run."""


class CredentialsError(PywrenError, PermissionError):
    """There are no AWS credentials, or they are wrong or expired; the message says what to run."""


class DeploymentError(PywrenError):
    """What should be set up in the account, changed or removed, could not be; the message says what AWS said."""


class LambdaError(PywrenError):
    """AWS Lambda did not run what it was asked to."""


class AccessDenied(LambdaError, PermissionError):
    """The credentials are good, and do not permit that; the message names the action and the resource."""


class FunctionMissing(LambdaError, LookupError):
    """No function goes by that name in that region; the message says which command makes it."""


class Throttled(LambdaError):
    """Lambda refused for so long, for want of concurrency, that it was given up."""


class ShuffleError(PywrenError):
    """A sort, or another shuffle, could not be done, or its result must not be believed."""


class ShuffleCorrupt(ShuffleError):
    """What came out of a shuffle, or arrived between its phases, is not what went in; the message names the block."""


class RecordError(ShuffleError, ValueError):
    """The input is not made of such records as the shuffle was told; the message names the place."""


class KeysIncomparable(ShuffleError, TypeError):
    """Two keys of a sort cannot be compared; the message shows both."""


class KeyUnsupported(ShuffleError, TypeError):
    """Nothing can be grouped or joined by a key of that type; the message names the type, and what to do."""


class OutputInUse(ShuffleError, FileExistsError):
    """Something lies where the output is to go."""


class StoreError(PywrenError, OSError):
    """A store did not do what was asked of it."""


class StoreCredentialsError(StoreError, CredentialsError):
    """The store does not accept the credentials, or there are none; the message says what to run."""


class KeyMissing(StoreError, KeyError):
    """Nothing lies at that key."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would show the repr of the message


class StoreFull(StoreError):
    """The store has no room left."""


if TYPE_CHECKING:
    from concurrent.futures.process import BrokenProcessPool

    class WorkerLost(PywrenError, BrokenProcessPool):
        """The process that ran a task died under it."""
else:

    def __getattr__(name):
        # BrokenProcessPool lives in a module that imports multiprocessing (40 ms): paid only once a worker was lost.
        if name != "WorkerLost":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from concurrent.futures.process import BrokenProcessPool
        except RuntimeError:  # the interpreter ends, and that module cannot be imported any more
            from concurrent.futures import BrokenExecutor as BrokenProcessPool

        lost = type(
            name,
            (PywrenError, BrokenProcessPool),
            {"__doc__": "The process that ran a task died under it.", "__module__": __name__},
        )
        return globals().setdefault(name, lost)
