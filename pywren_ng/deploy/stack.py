"""One CloudFormation stack: what it is now, made or brought up to date, and removed.

`changed` and `removed` come back when AWS is done, or raise a DeploymentError with the reason of the first failure.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pywren_ng.deploy.account import Account, is_missing
from pywren_ng.deploy.plan import Plan
from pywren_ng.deploy.template import parameters
from pywren_runtime.errors import DeploymentError

_LONGEST_PAUSE = 5.0  # seconds between two looks
_EMPTY = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "REVIEW_IN_PROGRESS")  # it never came to be


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack as CloudFormation describes it."""

    name: str
    id: str
    status: str
    outputs: Mapping[str, str]
    tags: tuple[tuple[str, str], ...]

    @property
    def plan(self) -> Plan:
        """What it was set up for."""
        return Plan.decode(self.outputs["Setup"])

    @property
    def is_whole(self) -> bool:
        """Whether it has ever been made to its end."""
        return "Setup" in self.outputs and self.status not in _EMPTY


def find(account: Account, name: str) -> Stack | None:
    """The stack of that name, or None; its id finds it after it was removed too."""
    with account.asking(f"look at the stack {name} in {account.region}"):
        try:
            (found,) = account.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
        except Exception as error:
            if is_missing(error):
                return None
            raise
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", ())}
    tags = tuple((tag["Key"], tag["Value"]) for tag in found.get("Tags", ()))
    return Stack(found["StackName"], found["StackId"], found["StackStatus"], outputs, tags)


def changed(account: Account, name: str, body: str, plan: Plan, secrets: Mapping[str, str | None]) -> Stack:
    """Make the stack, or bring it up to date: of the secrets None is what it has, and with no key it is there."""
    client = account.client("cloudformation")
    given: list[dict[str, object]] = [
        {"ParameterKey": name, **({"UsePreviousValue": True} if value is None else {"ParameterValue": value})}
        for name, value in {**parameters(plan), **secrets}.items()
    ]
    wish: dict[str, Any] = {
        "StackName": name,
        "TemplateBody": body,
        "Parameters": given,
        "Capabilities": ["CAPABILITY_IAM"],
        "Tags": [{"Key": key, "Value": value} for key, value in plan.tags],
    }
    with account.asking(f"set up the stack {name}"):
        if secrets["Key"]:
            id = client.create_stack(**wish)["StackId"]
        else:
            try:
                id = client.update_stack(**wish)["StackId"]
            except Exception as error:
                if "No updates are to be performed" not in str(error):
                    raise
                id = name
    return _settled(account, id, ("CREATE_COMPLETE", "UPDATE_COMPLETE"))


def removed(account: Account, stack: Stack) -> bool:
    """Remove it; whether nothing of it is left."""
    with account.asking(f"remove the stack {stack.name}"):
        account.client("cloudformation").delete_stack(StackName=stack.id)
    left = _waited(account, stack.id)
    return left is None or left.status == "DELETE_COMPLETE"


def why(account: Account, id: str) -> str:
    """The first thing that failed in it, and its reason."""
    with account.asking("read why the stack failed"):
        pages = account.client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=id)
        events = [event for page in pages for event in page["StackEvents"]]
    failed = [
        f"{event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason', 'no reason')}"
        for event in events
        if event["ResourceStatus"].endswith("_FAILED") and "cancelled" not in event.get("ResourceStatusReason", "")
    ]
    return failed[-1] if failed else "CloudFormation gives no reason"  # the newest come first


def _settled(account: Account, id: str, good: tuple[str, ...]) -> Stack:
    stack = _waited(account, id)
    if stack is None:
        raise DeploymentError(f"the stack {id} is gone: somebody removes it at the same time")
    if stack.status not in good:
        reason = why(account, stack.id)
        if stack.status in _EMPTY:
            removed(account, stack)
            raise DeploymentError(f"the stack {stack.name} could not be made, and what was begun is removed: {reason}")
        raise DeploymentError(f"the stack {stack.name} is as it was before ({stack.status}): {reason}")
    return stack


def _waited(account: Account, id: str) -> Stack | None:
    pause = 0.1
    while (stack := find(account, id)) is not None and stack.status.endswith("_IN_PROGRESS"):
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, 1.5 * pause)
    return stack
