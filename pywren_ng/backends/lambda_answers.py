"""What an answer to an Invoke means: pure, one verdict for each of the ways in which it can go.

200, outcomes ──────────────► Done          429 ─────────────────► Again, busy
200, stored; 202 ───────────► Stored        5xx, refused, reset ─► Again
function error, ran out ────► Died          404, 403, 413, TLS ──► Hopeless
"""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from pywren_runtime.aws import LOG_IN
from pywren_runtime.errors import (
    AccessDenied,
    CredentialsError,
    FunctionMissing,
    LambdaError,
    SignatureError,
    TaskOutOfMemory,
    TaskTimeout,
    VersionError,
)
from pywren_runtime.invoker import Answer
from pywren_runtime.wire import Outcome, Signer, misplaced, outcome_key


@dataclass(frozen=True, slots=True)
class Done:
    """Outcomes, signed, for the tasks that were run."""

    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """The outcomes lie in the store, or will."""


@dataclass(frozen=True, slots=True)
class Again:
    """It was not run, or nobody knows: it may be sent once more."""

    why: str
    busy: bool = False  # for want of concurrency
    unknown: bool = False  # it may have been run, or be running


@dataclass(frozen=True, slots=True)
class Died:
    """The environment ended, or the runtime failed, while it had the Call."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Hopeless:
    """However often it is sent, the answer will be the same."""

    error: BaseException


Verdict = Done | Stored | Again | Died | Hopeless


@dataclass(frozen=True, slots=True)
class Asked:
    """What was invoked, for the texts of errors."""

    function: str
    region: str
    endpoint: str
    memory: int
    size: int  # bytes of the request


def judge(answer: Answer, asked: Asked) -> Verdict:
    """What became of an Invoke."""
    if answer.fault:
        return _unanswered(answer, asked)
    if answer.status == 202:
        return Stored()
    if answer.status == 200:
        return _function_error(answer, asked) if "x-amz-function-error" in answer.headers else _result(answer, asked)
    kind, text = _error_of(answer)
    if answer.status == 429:
        return Again(f"Lambda has no room ({kind}: {text})", busy=True)
    if answer.status >= 500 or answer.status == 409:
        return Again(f"Lambda answered {answer.status} ({kind}: {text})", unknown=answer.status != 409)
    return Hopeless(_refusal(answer.status, kind, text, asked))


def opened(frame: bytes, signer: Signer, place: str | None = None) -> Outcome:
    """The outcome in a signed frame; SignatureError if it is not one of ours, or was signed for another place."""
    outcome = Outcome.decode(signer.open(b"outcome", frame))
    own = outcome_key(outcome.job, outcome.task, outcome.round)
    if place not in (None, own):
        raise misplaced(own, str(place))
    return outcome


def concurrency(answer: Answer) -> int | None:
    """What the account may run at once, from the answer to GetAccountSettings."""
    try:
        return int(json.loads(answer.body)["AccountLimit"]["ConcurrentExecutions"])
    except (ValueError, KeyError, TypeError):
        return None


def _unanswered(answer: Answer, asked: Asked) -> Verdict:
    where = f"{asked.endpoint}: {answer.reason}"
    if answer.fault == "tls":
        return Hopeless(
            LambdaError(
                f"no trusted connection to {where}; if your company's proxy signs with its own certificate, "
                "name its file in AWS_CA_BUNDLE"
            )
        )
    if answer.fault == "credentials":
        return Hopeless(CredentialsError(answer.reason))
    return Again(f"{answer.fault} at {where}{_CURES.get(answer.fault, '')}", unknown=answer.sent)


_CURES = {
    "proxy": " (correct HTTPS_PROXY, or name the host in NO_PROXY)",
    "unresolved": " (look at the network and the region's name; where a proxy is needed, name it in HTTPS_PROXY)",
    "refused": " (look at the network; where a proxy is needed, name it in HTTPS_PROXY)",
}


def _result(answer: Answer, asked: Asked) -> Verdict:
    try:
        body: Any = json.loads(answer.body)
        if "stored" in body:
            return Stored()
        return Done(tuple(base64.b64decode(frame, validate=True) for frame in body["outcomes"]))
    except (ValueError, TypeError, KeyError):
        return Hopeless(
            LambdaError(
                f"the function {asked.function} in {asked.region} answered {answer.body[:200]!r}, which is no "
                "answer of pywren-ng's: another program lies there, or another release; run `pywren-ng setup`"
            )
        )


def _function_error(answer: Answer, asked: Asked) -> Verdict:
    try:
        body: Any = json.loads(answer.body)
        kind, text = str(body.get("errorType", "")), str(body.get("errorMessage", ""))
    except (ValueError, AttributeError):
        kind, text = "", repr(answer.body[:200])
    log = _log_of(answer)
    where = f"in the function {asked.function}"
    if kind == "Sandbox.Timedout" or "Task timed out after" in text:
        return Died(
            TaskTimeout(
                f"it did not end within the function's time-out ({text.split(' ', 2)[-1]}) {where}; give it less to do "
                "at a time, or a deployment with a longer time-out (at most 900 s)"
            )
        )
    peak = re.search(r"Memory Size: (\d+) MB\s+Max Memory Used: (\d+) MB", log)
    if kind in ("Runtime.ExitError", "Runtime.OutOfMemory", "Sandbox.Failure"):
        if peak is not None and ("OutOfMemory" in kind or int(peak[2]) >= 0.97 * int(peak[1])):
            return Died(
                TaskOutOfMemory(
                    f"it needed more than its memory of {peak[1]} MB ({peak[2]} MB were in use at the peak) {where}; "
                    f"give it more with options(memory={2 * int(peak[1])}), or give it less to do at a time"
                )
            )
        return Died(_lost(f"its environment ended {where} ({kind}: {text}){_last_lines(log)}"))
    if kind == "SignatureError":
        return Hopeless(
            SignatureError(
                f"{text} {where}. If that is so for every Call, the key of your deployment is not the function's; run "
                "`pywren-ng setup`, which fetches it anew"
            )
        )
    if kind == "VersionError":
        return Hopeless(VersionError(f"{text} {where}; run `pywren-ng setup` with this client's release"))
    if kind.startswith("Runtime.") or "Init" in kind:
        return Died(
            _lost(
                f"the function {asked.function} could not start ({kind}: {text}): its deployment is damaged, or the "
                f"runtime's Python lacks something; run `pywren-ng check`{_last_lines(log)}"
            )
        )
    return Died(_lost(f"the worker failed {where} ({kind}: {text}){_last_lines(log)}"))


def silent(function: str, store: str, seconds: float) -> BaseException:
    """The error of a Call that nothing was heard of."""
    return _lost(
        f"its worker in {function} gave no sign of life for {seconds:.0f} s: the Call was dropped, the environment was "
        f"ended, or it cannot write to {store}"
    )


def told_of(error: BaseException, task: str) -> BaseException:
    """The same error, with the task in front: each task has its own."""
    return type(error)(f"{task}: {error}")


def _lost(text: str) -> BaseException:
    from pywren_runtime.errors import WorkerLost

    return WorkerLost(text)


def _refusal(status: int, kind: str, text: str, asked: Asked) -> BaseException:
    said = f"Lambda answered {status} {kind}: {text}"
    if status == 404:
        return FunctionMissing(
            f"there is no function {asked.function} in {asked.region} ({said}); to make it run: {_setup(asked)}, or "
            "ask for a size that is there: `pywren-ng check` names them. If it was there before, another release may "
            "have set the deployment up since: install that one here, too"
        )
    if kind == "AccessDeniedException":
        return AccessDenied(
            f"lambda:InvokeFunction on {asked.function} in {asked.region} is not allowed to these credentials "
            f"({said}); `pywren-ng policy user` prints the permissions that a user needs"
        )
    if status == 403 or kind in ("MissingAuthenticationTokenException", "MissingAuthenticationToken"):
        if "Signature expired" in text or "skew" in text.lower():
            why = "this machine's clock differs from AWS's by minutes"
            cure = "Set the clock, for instance: timedatectl set-ntp true"
        elif "Expired" in kind:
            why, cure = "the credentials have expired", LOG_IN
        else:
            why = "the credentials are not valid"
            cure = f"See whose they are: aws sts get-caller-identity. {LOG_IN}"
        return CredentialsError(f"{asked.function} in {asked.region} was not invoked: {why} ({said}). {cure}.")
    return LambdaError(f"the function {asked.function} in {asked.region} took no Call of {asked.size:,} bytes ({said})")


def _setup(asked: Asked) -> str:
    """The command that makes the function."""
    command = f"pywren-ng setup --region {asked.region} --memory {asked.memory}"
    named = re.match(r"(.+)-w\d+-py\d+-(x86_64|arm64)-\d+", asked.function)
    if named and named[1] != "pywren-ng":
        command += f" --name {named[1]}"
    return f"{command} --arch arm64" if named and named[2] == "arm64" else command


def _error_of(answer: Answer) -> tuple[str, str]:
    kind = answer.headers.get("x-amzn-errortype", "").partition(":")[0]
    text = ""
    try:
        body: Any = json.loads(answer.body)
        text = str(body.get("message") or body.get("Message") or "")
        kind = kind or str(body.get("__type") or body.get("Code") or body.get("code") or "").rpartition("#")[2]
    except (ValueError, AttributeError):
        text = answer.body[:200].decode("utf-8", "replace")
    return kind or "without a name", text or "without a text"


def _log_of(answer: Answer) -> str:
    try:
        return base64.b64decode(answer.headers.get("x-amz-log-result", "")).decode("utf-8", "replace")
    except ValueError:
        return ""


def _last_lines(log: str) -> str:
    lines = [line for line in log.splitlines() if line and not line.startswith(("START ", "END ", "REPORT "))][-10:]
    return "".join(["; it printed last:", *(f"\n  | {line}" for line in lines)]) if lines else ""
