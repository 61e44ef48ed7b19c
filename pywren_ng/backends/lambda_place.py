"""Which deployment on Lambda, reached as whom: what the settings and the executor's `profile` and `region` come to."""

from dataclasses import replace
from typing import Any

from pywren_ng import config, deployment
from pywren_ng.credentials import Access, find, open_store
from pywren_ng.deployment import Deployment
from pywren_ng.requirements import HERE, Target, on_lambda
from pywren_runtime.aws import endpoint_of
from pywren_runtime.invoker import Invoker
from pywren_runtime.stores import Store


def deployed(access: Access) -> Deployment:
    """The deployment; ConfigError where none is known, VersionError where it is of another release."""
    where = deployment.load(setting("deployment"), access.region)
    where.check()
    return where


def own_store(directory: str, access: Access) -> Store:
    """Where the executor's data lies if the user names no store: the deployment's bucket."""
    where = deployed(access)
    return open_store(where.store, replace(access, region=where.region))


def target(access: Access) -> Target:
    """The packages that its workers can be given."""
    return on_lambda(HERE, deployed(access).arch)


def billed(access: Access) -> tuple[str, int]:
    """By which processor's price its workers are paid, and how many MB one has for tasks that ask for none."""
    where = deployed(access)
    return where.arch, where.memory


def invoker(where: Deployment, access: Access) -> Invoker:
    """What invokes its functions; CredentialsError now, and not after a connection, where there are no credentials."""
    credentials = find(access)
    credentials()
    return Invoker(endpoint_of("lambda", where.region), where.region, credentials)


def setting(key: str) -> Any:
    """What variables or files say."""
    return config.load({})[key].value
