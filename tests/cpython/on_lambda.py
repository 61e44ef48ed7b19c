"""Where `Executor("lambda")` is tested: a local AWS with one function, which runs the zip that is deployed.

Its Python is the one that runs the tests, so workers find CPython's test modules where this process does.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
MEMORY = 512


@contextmanager
def local_deployment() -> Iterator[None]:
    """A deployment, to which the environment leads every Executor("lambda") of this process and its children."""
    sys.path.append(str(TESTS))
    from support.deployed import deployed
    from support.local_aws import LocalAws

    with LocalAws() as aws, deployed(aws, MEMORY):
        yield
