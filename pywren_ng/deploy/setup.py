"""`pywren-ng setup`: from options to a deployment that answers, and the file that says where it is.

options ─► plan ─► shown, asked ─► layers ─► stack ─► looked at, mended ─► file of this user's
            ▲                                  │
            └── what is there already ◄────────┘
"""

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pywren_ng import deployment
from pywren_ng.deploy import layers, stack, template
from pywren_ng.deploy.account import Account
from pywren_ng.deploy.layers import Say
from pywren_ng.deploy.plan import Function, Plan, Runtime, check, filled, plus
from pywren_ng.deploy.stack import Stack
from pywren_ng.deployment import Deployment
from pywren_ng.requirements import HERE
from pywren_runtime import __version__
from pywren_runtime.errors import ConfigError, DeploymentError, PywrenError
from pywren_runtime.stores.redis_settings import PASSWORD
from pywren_runtime.wire import VERSION

Ask = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Deployed:
    """Which deployment: in which account, and by what name."""

    account: Account
    name: str
    file: str  # the deployment's
    over: bool  # whether it may be written over where it is about another deployment


def setup(there: Deployed, asked: Plan, *, only: bool, say: Say, ask: Ask, password: str = "") -> Path:
    """Make the deployment, or bring it up to date and add to it what is asked for; the file that was written.

    With `only`, what is there and was not asked for is taken away. Who has jobs running keeps them: Lambda lets what
    runs end as it began. A `password` of a Redis goes to the functions and nowhere else; without one they keep theirs.
    """
    asked = replace(asked, password=bool(password))
    account, name = there.account, there.name
    number, who = account.who()
    found = _usable(account, stack.find(account, name))
    before = found.plan if found else Plan()
    plan = filled(asked if only else plus(before, asked), name)
    check(plan)
    if found and (plan.bucket, plan.folder) != (before.bucket, before.folder):
        raise ConfigError(f"{name} stores in {found.outputs['Store']}; to have it store elsewhere, tear it down first")
    say(described(plan, name, f"account {number}, region {account.region}, as {who}", before if found else None))
    if not ask("Go on?"):
        raise ConfigError("nothing was done")
    made = {**plan.others(), **layers.publish(account, name, plan, say)}
    deployed = tuple((runtime.python, runtime.arch, runtime.wire, arn) for runtime, arn in made.items())
    plan = replace(plan, layers=deployed, release=__version__)
    say(f"{'Updating' if found else 'Making'} the stack {name} …")
    hidden = {
        "Key": None if found else secrets.token_hex(32),
        "RedisPassword": (password or None) if plan.password else "",
    }
    try:
        whole = stack.changed(account, name, template.render(plan, name, made), plan, hidden)
    except PywrenError:
        layers.forget(account, name, frozenset(layer for *_, layer in before.layers))
        raise
    variables = _verified(account, whole, made, password, say)
    file = written(there, whole, variables, asked)
    layers.forget(account, name, frozenset(made.values()))
    return file


def join(there: Deployed, asked: Plan) -> Path:
    """Write the file for a deployment that somebody else has set up, with this user's own permissions."""
    account, name = there.account, there.name
    found = stack.find(account, name)
    if found is None or not found.is_whole:
        raise DeploymentError(
            f"there is no deployment {name} in {account.region}; set one up with `pywren-ng setup --region"
            f" {account.region}`, or name another with --region and --name"
        )
    plan = found.plan
    for wanted, has, option in (
        ((HERE,), plan.pythons, "--python"),
        (asked.archs, plan.archs, "--arch"),
        (asked.memories, plan.memories, "--memory"),
    ):
        said = ", ".join(map(str, has))
        for each in wanted:
            if each not in has:
                raise DeploymentError(
                    f"the deployment {name} in {account.region} has functions for {said} and not for"
                    f" {each}; to make them: pywren-ng setup --region {account.region} --name {name} {option} {each}"
                )
    return written(there, found, variables_of(account, plan.functions(name)[0].name), asked)


def written(there: Deployed, whole: Stack, variables: Mapping[str, str], asked: Plan) -> Path:
    """The deployment's file, for who asked for this size and processor."""
    plan = whole.plan
    wires = {wire for _, _, wire, _ in plan.layers}
    chosen = VERSION if VERSION in wires else max(wires)
    where = Deployment(
        region=there.account.region,
        store=whole.outputs["Store"],
        key=bytes.fromhex(variables["PYWREN_NG_INTERNAL_KEY"]),
        prefix=there.name,
        arch=(asked.archs or plan.archs)[0],
        memory=(asked.memories or plan.memories)[0],
        timeout=float(template.TIMEOUT),
        copies=plan.copies,
        wire=chosen,
        release=plan.release,
        pythons=tuple(sorted({python for python, _, wire, _ in plan.layers if wire == chosen})),
    )
    return deployment.write(where, there.file, over=there.over)


def described(plan: Plan, name: str, where: str, before: Plan | None) -> str:
    """What there will be, and what it costs while nothing runs."""
    functions = [function.name for function in plan.functions(name)]
    old = {function.name for function in before.functions(name)} if before else set()
    lines = [f"{name}: {where}"]
    for function in functions:
        lines.append(f"  {'=' if function in old else '+'} function {function}")
    lines += [f"  - function {function}" for function in sorted(old - set(functions))]
    sign = "=" if before else "+"
    kept = "" if plan.bucket else ", encrypted, TLS only, not public, emptied by age"
    lines.append(f"  {sign} bucket {plan.bucket or 'of its own'}: objects below {plan.folder}/{kept}")
    lines.append(f"  {sign} role {plan.role or 'of its own'}")
    lines += [f"      may read {place}" for place in plan.reads]
    lines += [f"      may write {place}" for place in plan.writes]
    if plan.password:
        lines.append(
            f"  {'=' if before and before.password else '+'} the password of a Redis, which each function knows"
        )
    lines.append(f"  {sign} log group /aws/lambda/{name}, kept for 30 days")
    lines.append(f"  {sign} a layer of code for each Python and processor")
    lines.append(IDLE)
    if plan.bucket:
        lines.append(
            f"The bucket is yours, and so is its life cycle: see that what lies below {plan.folder}/ goes in time."
        )
    if plan.subnets:
        lines.append(NETWORK)
    return "\n".join(lines)


IDLE = """\
While nothing runs it costs nothing, but for what lies in the bucket ($0.023 per GB and month) and in the log ($0.03).
Functions, layers and role are free."""
NETWORK = """\
In your network the functions reach S3 only by a gateway endpoint for S3 in the subnets' route tables (free), or by NAT;
workers that start workers need NAT or an interface endpoint for Lambda; a Redis needs a security group that lets theirs
in on its port."""


_MOST_VARIABLES = 4096  # bytes of a function's environment

BROKEN = {
    "DELETE_FAILED": "a teardown did not come to its end; run `pywren-ng teardown` again, and setup then",
    "UPDATE_ROLLBACK_FAILED": "an upgrade failed, and so did going back; see the stack's events in the console, and run"
    " `aws cloudformation continue-update-rollback`, or tear it down",
}


def variables_of(account: Account, function: str) -> dict[str, str]:
    """A function's environment variables."""
    with account.asking(f"look at the function {function}"):
        return _variables(account.client("lambda").get_function_configuration(FunctionName=function))


def _usable(account: Account, found: Stack | None) -> Stack | None:
    """What can be brought up to date; the remains of what never came to be are removed."""
    if found and found.status in BROKEN:
        raise DeploymentError(f"the stack {found.name} is in the state {found.status}: {BROKEN[found.status]}")
    if found is None or found.is_whole:
        return found
    if found.status.endswith("_IN_PROGRESS"):
        raise DeploymentError(f"the stack {found.name} is being changed ({found.status}); wait until that has ended")
    if "Setup" not in found.outputs and found.status.endswith("_COMPLETE") and "ROLLBACK" not in found.status:
        raise DeploymentError(f"the stack {found.name} is not one of pywren-ng's; choose another name with --name")
    stack.removed(account, found)
    return None


def _verified(account: Account, whole: Stack, made: Mapping[Runtime, str], password: str, say: Say) -> dict[str, str]:
    """Each function is as the stack has it, which does not look whether somebody changed it by hand; its variables.

    One that was changed is set back. What runs there ends as it began.
    """
    functions = whole.plan.functions(whole.name)
    found = [_ready(account, function.name) for function in functions]
    key = _usual(found, template.KEY)
    if not key:
        raise DeploymentError(
            f"no function of {whole.name} has a signing key any more: somebody removed it by hand. Make the deployment"
            f" anew: pywren-ng teardown, and setup, with --region {account.region} --name {whole.name}"
        )
    variables = {template.STORE: whole.outputs["Store"] + template.TOLD, template.KEY: key}
    if whole.plan.password:
        if known := password or _usual(found, PASSWORD):
            variables[PASSWORD] = known
        else:
            say("No function has the password of Redis any more: somebody removed it by hand. Say it again: pywren-ng")
            say(f"setup --redis-password --region {account.region} --name {whole.name}")
    for function, has in zip(functions, found, strict=True):
        wrong = _wrong(function, has, whole.plan.disk, made[function.runtime], variables)
        if wrong:
            check_room(function.name, wrong)
            say(f"{function.name} was changed by hand, and is set back: {', '.join(sorted(wrong))}.")
            with account.asking(f"set back the function {function.name}"):
                account.client("lambda").update_function_configuration(FunctionName=function.name, **wrong)
            _ready(account, function.name)
    return variables


def _ready(account: Account, function: str) -> dict[str, Any]:
    """A function's configuration, when AWS is done with it."""
    client = account.client("lambda")
    with account.asking(f"look at the function {function}"):
        client.get_waiter("function_updated_v2").wait(
            FunctionName=function, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
        found: dict[str, Any] = client.get_function_configuration(FunctionName=function)
    return found


def _wrong(
    function: Function, has: Mapping[str, Any], disk: int, layer: str, variables: Mapping[str, str]
) -> dict[str, Any]:
    """What of a function's configuration is not as it was made, and should be."""
    right: dict[str, Any] = {
        "MemorySize": function.memory,
        "EphemeralStorage": {"Size": disk},
        "Timeout": template.TIMEOUT,
        "Handler": template.ENTRY,
    }
    wrong = {name: value for name, value in right.items() if has.get(name, value) != value}
    if [each["Arn"] for each in has.get("Layers", ())] != [layer]:
        wrong["Layers"] = [layer]
    if not variables.items() <= _variables(has).items():  # others that somebody added are no harm
        wrong["Environment"] = {"Variables": {**_variables(has), **variables}}
    return wrong


def check_room(function: str, wrong: Mapping[str, Any]) -> None:
    """DeploymentError if there are too many variables: of these, Lambda's own error would show the values."""
    variables = wrong.get("Environment", {}).get("Variables", {})
    size = len(json.dumps(variables).encode())
    if size > _MOST_VARIABLES:
        raise DeploymentError(
            f"the environment variables of {function} would be {size:,} bytes, and Lambda takes {_MOST_VARIABLES:,}:"
            f" remove what somebody added by hand, of {', '.join(sorted(variables))}; then run setup again"
        )


def _usual(functions: Iterable[Mapping[str, Any]], name: str) -> str | None:
    """What most of them have for a variable; None if none has it."""
    values = Counter(value for each in functions if (value := _variables(each).get(name)))
    return values.most_common(1)[0][0] if values else None


def _variables(function: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = function.get("Environment", {}).get("Variables", {})
    return found
