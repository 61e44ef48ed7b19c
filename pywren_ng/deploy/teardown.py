"""`pywren-ng teardown`: everything that a set-up made, and what jobs have left, is removed.

objects and their versions ─► stack ─► what was written meanwhile, and the stack again ─► layers, log groups ─► file
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from pywren_ng import deployment
from pywren_ng.deploy import layers, stack
from pywren_ng.deploy.account import Account, is_missing
from pywren_ng.deploy.layers import Say
from pywren_ng.deploy.setup import Ask, Deployed
from pywren_ng.deploy.stack import Stack
from pywren_runtime.errors import ConfigError, DeploymentError, PywrenError

_TRIES = 5  # a task that still runs may write while we delete
_AT_ONCE = 8


def teardown(there: Deployed, *, say: Say, ask: Ask) -> None:
    """Remove the deployment; in a bucket that was there before, only what is ours."""
    account, name = there.account, there.name
    number, _ = account.who()
    found = stack.find(account, name)
    if found is None:
        say(f"There is no stack {name} in {account.region}, account {number}.")
    else:
        say(f"This removes the stack {name} from {account.region}, account {number}, and whatever lies in")
        say(f"{found.outputs.get('Store', 'its bucket')}. Jobs that run on it fail.")
        if not ask("Remove all of it?"):
            raise ConfigError("nothing was done")
        _remove(account, found, say)
    versions = layers.forget(account, name, frozenset())
    groups = _forget_logs(account, name)
    say(f"Removed also {versions} layers, and {groups} log groups that the stack had not made.")
    file = Path(there.file).expanduser()
    if _is_ours(file, there):
        file.unlink()
        say(f"Removed {file}.")


def empty(account: Account, bucket: str, prefix: str) -> int:
    """Delete all objects below a prefix, each version of them, and uploads that never ended; how many."""
    s3, count = account.client("s3"), 0
    with account.asking(f"empty s3://{bucket}/{prefix}"), ThreadPoolExecutor(_AT_ONCE) as threads:
        try:
            pages = _versions(s3, bucket, prefix)
            while some := list(islice(pages, _AT_ONCE)):  # of millions of objects not all names at once
                count += sum(threads.map(lambda page: _deleted(s3, bucket, page), some))
            for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
                for upload in page.get("Uploads", ()):
                    s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        except Exception as error:
            if not is_missing(error):
                raise
    return count


def _remove(account: Account, found: Stack, say: Say) -> None:
    store = found.outputs.get("Store", "").removeprefix("s3://")
    bucket, _, folder = store.partition("/")
    for _ in range(_TRIES):
        if store:
            count = empty(account, bucket, f"{folder}/" if found.plan.bucket else "")
            say(f"Deleted {count:,} objects and versions.")
        say(f"Removing the stack {found.name} …")
        if stack.removed(account, found):
            return
    raise DeploymentError(
        f"the stack {found.name} could not be removed: {stack.why(account, found.id)}. End what still uses it, and run"
        " teardown again"
    )


def _versions(s3: Any, bucket: str, prefix: str) -> Iterator[list[dict[str, str]]]:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        if found:
            yield [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in found]


def _deleted(s3: Any, bucket: str, page: list[dict[str, str]]) -> int:
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": page, "Quiet": True})
    if errors := answer.get("Errors"):
        first = errors[0]
        raise DeploymentError(f"could not delete s3://{bucket}/{first['Key']}: {first['Code']}: {first.get('Message')}")
    return len(page)


def _forget_logs(account: Account, name: str) -> int:
    """Log groups that Lambda makes by itself for a function whose own is gone."""
    logs, count = account.client("logs"), 0
    with account.asking("remove the log groups"):
        for page in logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=f"/aws/lambda/{name}"):
            for group in page["logGroups"]:
                rest = group["logGroupName"].removeprefix(f"/aws/lambda/{name}")
                if not rest or rest.startswith("-w"):
                    logs.delete_log_group(logGroupName=group["logGroupName"])
                    count += 1
    return count


def _is_ours(file: Path, there: Deployed) -> bool:
    try:
        found = deployment.load(str(file))
    except PywrenError:
        return False
    return (found.prefix, found.region) == (there.name, there.account.region)
