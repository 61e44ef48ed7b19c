"""What a task was denied, as AWS words it, and the option of `pywren-ng setup` that allows it."""

import re

_DENIED = re.compile(
    r"assumed-role/[^/\s]+/(?P<name>\S+)-w\d+-py\d+-\S* is not authorized to perform: (?P<action>[\w-]+:\w+)"
    r"(?: on resource: \"?(?P<resource>[^\s\"<]+))?(?P<why>.{0,120})",
    re.DOTALL,
)
_OPTIONS = {
    "GetObject": "--read",
    "ListBucket": "--read",
    "PutObject": "--write",
    "DeleteObject": "--write",
    "AbortMultipartUpload": "--write",
}


def advice(text: str) -> str | None:
    """What helps, if an error's text says that the role of a deployment's functions may not do something."""
    denied = _DENIED.search(text.replace("&quot;", '"'))
    if denied is None:
        return None
    action, resource = denied["action"], (denied["resource"] or "*").rstrip(".,;")
    said = f"the role of the workers is not allowed {action} on {resource}"
    if "boundary" in denied["why"] or "explicit deny" in denied["why"]:
        return f"{said}, and something forbids it that setup did not make: ask who gives permissions in this account"
    service, _, operation = action.partition(":")
    if service != "s3" or operation not in _OPTIONS or ":::" not in resource:
        return (
            f"{said}: setup grants places in S3 only. Give a role of yours what `pywren-ng policy worker` prints, and"
            " this besides, and run `pywren-ng setup --role-arn` with it"
        )
    place = resource.partition(":::")[2]
    folder = place.rpartition("/")[0] if "/" in place else place
    named = "" if denied["name"] == "pywren-ng" else f" --name {denied['name']}"
    return f"{said}. To allow it, run: pywren-ng setup{named} {_OPTIONS[operation]} s3://{folder}"
