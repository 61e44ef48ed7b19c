"""What a Lambda function's configuration says, and its first worker process, started as soon as that is read.

It runs while Lambda initialises the environment: see `pywren_runtime.spawn` on what it may import.
"""

import os
from collections.abc import Mapping

from pywren_runtime.spawn import Spawned, Surroundings, spawn

RESERVE = 48  # MB of the function's memory for the process that supervises
LEAST = 64  # MB that a worker is given in any case
PER_PROCESSOR = 1769  # MB of memory bring one


class Settings:
    """How a supervisor goes about it."""

    __slots__ = ("memory", "scale", "surroundings")

    def __init__(self, surroundings: Surroundings, memory: int | None, scale: float) -> None:
        self.surroundings = surroundings
        self.memory = memory  # MB of the function
        self.scale = scale  # by which all seconds are multiplied: tests are in a hurry

    def spawn(self) -> Spawned:
        """Start a worker process for whatever comes first."""
        return spawn(self.surroundings, self.memory, ())


def read(variables: Mapping[str, str]) -> Settings:
    """From a function's environment variables. ConfigError if one of ours is missing or unreadable."""
    try:
        size = variables.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        memory = int(size) if size else None
        surroundings = Surroundings(
            directory=f"{variables.get('TMPDIR', '/tmp')}/pywren-{os.getpid()}-{os.urandom(4).hex()}",
            store=variables["PYWREN_NG_INTERNAL_STORE"],
            private=False,
            key=bytes.fromhex(variables["PYWREN_NG_INTERNAL_KEY"]),
            threads=-(-(memory or PER_PROCESSOR) // PER_PROCESSOR),
            most=None if memory is None else max(memory - RESERVE, LEAST),
            # It gets the key by a pipe, and nothing of it may poll for events.
            hidden=("PYWREN_NG_INTERNAL_KEY", "AWS_LAMBDA_RUNTIME_API"),
            advice="give it more with options(memory=…), or give it less to do at a time",
        )
        settings = Settings(surroundings, memory, float(variables.get("PYWREN_NG_INTERNAL_SCALE", "1")))
    except (KeyError, ValueError) as error:
        from pywren_runtime.errors import ConfigError

        raise ConfigError(
            f"this Lambda function's environment variables are not those that pywren-ng gives it ({error!r}): it "
            "needs PYWREN_NG_INTERNAL_STORE and PYWREN_NG_INTERNAL_KEY; run `pywren-ng setup` again"
        ) from error
    os.makedirs(os.path.join(surroundings.directory, "modules"), mode=0o700)
    return settings
