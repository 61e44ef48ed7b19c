"""`pywren-ng check`: what can be wrong between a user and a worker, one look after the other, and what mends it.

Each look raises what it finds; an error of ours says already what to do. What these credentials may not look at is said
and not held against the deployment, for who only runs jobs need not be allowed to.
"""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pywren_ng import deployment
from pywren_ng.credentials import Access, open_store
from pywren_ng.deploy import stack
from pywren_ng.deploy.account import Account
from pywren_ng.deployment import Deployment
from pywren_runtime import __version__
from pywren_runtime.errors import AccessDenied, DeploymentError, PywrenError, SignatureError
from pywren_runtime.stores.redis_settings import PASSWORD
from pywren_runtime.wire import stop_key

_USUAL = 1000  # what an account may run at once before anybody asked for more


@dataclass(frozen=True, slots=True)
class Found:
    """What one look found: `fix` is said where it is not good."""

    name: str
    text: str
    fix: str = ""
    is_good: bool = True


Look = Callable[[], str]


def look_at(profile: str | None, region: str | None, file: str, run: Callable[[str], str]) -> Iterator[Found]:
    """All checks, but for those that need what one before found missing.

    `run` runs a task by that kind of Invoke, and says how it went.
    """
    found = _look("file", lambda: _file(file, region))
    yield found
    if not found.is_good:
        return
    where = deployment.load(file, region)
    found = _look("credentials", lambda: _who(Account(profile, where.region)))
    yield found
    if not found.is_good:
        return
    account = Account(profile, where.region)
    is_whole = True
    for name, look in (
        ("stack", lambda: _stack(account, where)),
        ("functions", lambda: _functions(account, where)),
        ("bucket", lambda: _bucket(where, Access(profile, where.region))),
        ("concurrency", lambda: _concurrency(account)),
    ):
        found = _look(name, look)
        is_whole &= found.is_good
        yield found
    if is_whole:
        yield _look("task", lambda: run("sync"))
        yield _look("stored task", lambda: run("async"))  # its worker must be able to write


def _look(name: str, look: Look) -> Found:
    try:
        return Found(name, look())
    except AccessDenied as error:
        if name in ("stack", "concurrency"):
            return Found(name, "these credentials may not look, and to run tasks they need not")
        return Found(name, "failed", str(error), is_good=False)
    except PywrenError as error:
        return Found(name, "failed", str(error), is_good=False)


def _file(file: str, region: str | None) -> str:
    where = deployment.load(file, region)
    where.check()
    path = Path(file).expanduser()
    return f"{path} ({stat.filemode(path.stat().st_mode)}): {where.prefix} in {where.region}, {where.store}"


def _who(account: Account) -> str:
    number, arn = account.who()
    return f"{arn}, account {number}"


def _stack(account: Account, where: Deployment) -> str:
    found = stack.find(account, where.prefix)
    if found is None:
        raise DeploymentError(
            f"there is no stack {where.prefix} in {where.region} in this account. If the account is right (--profile"
            f" names another), make one: pywren-ng setup --region {where.region} --name {where.prefix}"
        )
    if not found.status.endswith(("CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE")):
        raise DeploymentError(
            f"the stack {found.name} is in the state {found.status}: {stack.why(account, found.id)}. Wait if somebody"
            " changes it; otherwise run `pywren-ng setup` again"
        )
    if not found.is_whole:
        raise DeploymentError(f"the stack {found.name} is not one of pywren-ng's; set one up under another --name")
    plan = found.plan
    sizes = ", ".join(map(str, sorted(plan.memories)))
    text = f"{found.status}: {sizes} MB for Python {', '.join(plan.pythons)} on {', '.join(plan.archs)}"
    if plan.release == __version__:
        return f"{text}, release {__version__}"
    return f"{text}; release {plan.release} set it up, and `pywren-ng setup` brings it to yours, {__version__}"


def _functions(account: Account, where: Deployment) -> str:
    """The function that tasks go to: there, ready, of our key, and AWS tries nothing again by itself."""
    client, name = account.client("lambda"), where.function(None)
    again = f"run: pywren-ng setup --region {where.region} --name {where.prefix} --memory {where.memory}"
    try:
        with account.asking(f"look at the function {name}"):
            found = client.get_function_configuration(FunctionName=name)
    except DeploymentError as error:
        raise DeploymentError(f"{error}. If it is not there, {again}") from error
    if found.get("State", "Active") != "Active":
        raise DeploymentError(f"{name} is {found['State']}: {found.get('StateReason', 'no reason given')}; {again}")
    variables = found.get("Environment", {}).get("Variables", {})
    if variables.get("PYWREN_NG_INTERNAL_KEY") != where.key.hex():
        raise SignatureError(
            f"{name} has another key than your file: the deployment was made anew since. Fetch the file again:"
            f" pywren-ng join --region {where.region} --name {where.prefix}"
        )
    knows = ", with the password of a Redis" if PASSWORD in variables else ""
    return f"{name}: {found['MemorySize']} MB, {found['Timeout']} s, {found['Runtime']}{knows}"


def _bucket(where: Deployment, access: Access) -> str:
    """Put, get, list and delete, as jobs do."""
    store, key = open_store(where.store, access), stop_key("check")
    try:
        store.put(key, b"check")
        if store.get(key) != b"check" or [found for found, _ in store.keys(key)] != [key]:
            raise DeploymentError(f"{where.store} did not give back what was put there")
        store.delete_many([key])
    finally:
        store.close()
    return f"{where.store} takes, gives back, lists and deletes"


def _concurrency(account: Account) -> str:
    with account.asking("ask for the account's limits"):
        limits = account.client("lambda").get_account_settings()["AccountLimit"]
    most, free = limits["ConcurrentExecutions"], limits["UnreservedConcurrentExecutions"]
    if most < _USUAL:
        return (
            f"{most} at once, which is few: ask for more at https://{account.region}.console.aws.amazon.com/servicequotas"
            "/home/services/lambda/quotas/L-B99A9384"
        )
    return f"{most:,} at once in this account and region, {free:,} of them not reserved"
