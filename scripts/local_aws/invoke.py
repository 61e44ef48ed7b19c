"""The Invoke service: POST /2015-03-31/functions/NAME/invocations, and the queue behind asynchronous Invokes.

request ─► size ─► function ─► faults ─┬─ RequestResponse ─► slot ─► environment ─► faults ─► answer
                                       └─ Event ─► 202 … queue ─► slot ─► environment, again if it fails
"""

import asyncio
import base64
import json
import math
import re
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

from local_aws.credentials import ACCOUNT
from local_aws.environment import Ended, Environment, Execution
from local_aws.faults import Knobs
from local_aws.functions import Function, Functions
from local_aws.http1 import Cut, Request, Response
from local_aws.pool import Pool, Throttled
from local_aws.refusals import lambda_error
from local_aws.runtimes import NoRuntime
from local_aws.sigv4 import parse_query

PATH = re.compile(r"/2015-03-31/functions/([^/]+)/invocations/?\Z")
NAMED = re.compile(
    r"(?:arn:aws:lambda:([a-z0-9-]+):)?(?:(\d{12}):)?(?:function:)?([A-Za-z0-9_-]+)(?::([$A-Za-z0-9_-]+))?\Z"
)
LARGEST_REQUEST = 6_291_456
LARGEST_EVENT = 1_048_576
TAIL = 4096


@dataclass(frozen=True, slots=True)
class Result:
    """What an execution gave: the payload, whether it is an error, and its log."""

    payload: bytes
    failed: bool
    log: bytes


class Invoker:
    """Takes Invokes, runs them in the pool's environments."""

    def __init__(self, functions: Functions, pool: Pool, knobs: Knobs) -> None:
        self._functions = functions
        self._pool = pool
        self._knobs = knobs
        self._running: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[object]] = set()

    async def invoke(self, request: Request, region: str) -> Response:
        """Answer one Invoke whose signature is right."""
        counters = self._knobs.counters
        counters["invokes"] += 1
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        counters[f"invokes_{kind}"] += 1
        limit = LARGEST_EVENT if kind == "Event" else LARGEST_REQUEST
        if len(request.body) > limit:
            text = f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
            return lambda_error(413, "RequestEntityTooLargeException", text)
        match = NAMED.match(unquote(PATH.match(request.path).group(1)))
        if match is None:
            return lambda_error(400, "ValidationException", "Value at 'functionName' failed to satisfy constraint")
        qualifier = dict(parse_query(request.query)).get("Qualifier") or match[4] or ""
        function = await self._functions.find(match[1] or region, match[3], qualifier)
        if function is None:
            arn = f"arn:aws:lambda:{match[1] or region}:{ACCOUNT}:function:{match[3]}"
            return lambda_error(
                404, "ResourceNotFoundException", f"Function not found: {arn}{qualifier and ':'}{qualifier}"
            )
        if function.state != "Active":
            text = f"The operation cannot be performed at this time. The function is in the state {function.state}"
            return lambda_error(409, "ResourceConflictException", text)
        if kind == "DryRun":
            return Response(204)
        try:
            json.loads(request.body or b"{}")
        except ValueError as error:
            return lambda_error(
                400, "InvalidRequestContentException", f"Could not parse request body into json: {error}"
            )
        return await self._taken(request, function, kind)

    async def _taken(self, request: Request, function: Function, kind: str) -> Response:
        name, knobs = function.name, self._knobs
        if knobs.strikes("throttle", name):
            return throttled(Throttled("ConcurrentInvocationLimitExceeded"))
        if knobs.strikes("error", name):
            return lambda_error(500, "ServiceException", "An error occurred and the request cannot be processed.")
        if knobs.strikes("reset_before", name):
            raise Cut("reset_before")
        request_id = str(uuid.uuid4())
        headers = [("Content-Type", "application/json"), ("x-amzn-RequestId", request_id)]
        dropped = knobs.strikes("drop", name)
        body = request.body or b"{}"
        if kind == "Event":
            if not dropped:
                for _ in range(2 if knobs.strikes("duplicate", name) else 1):
                    self._spawn(self._deliver(function, body, request_id))
            await self._faults_after(name)
            return Response(202, headers)
        if dropped:
            await asyncio.Event().wait()  # until the client hangs up
        try:
            self._take_slot(function)
        except Throttled as reason:
            return throttled(reason)
        # A client that hangs up stops nothing.
        running = self._spawn(self._execute(function, body, request_id))
        if knobs.strikes("duplicate", name):
            self._spawn(self._again(function, body, request_id))
        try:
            result = await asyncio.shield(running)
        except Throttled as reason:
            return throttled(reason)
        except NoRuntime as error:
            return lambda_error(502, "InvalidRuntimeException", str(error))
        await self._faults_after(name)
        headers.append(("X-Amz-Executed-Version", function.version))
        if result.failed:
            headers.append(("X-Amz-Function-Error", "Unhandled"))
        if request.headers.get("x-amz-log-type") == "Tail":
            headers.append(("X-Amz-Log-Result", base64.b64encode(result.log[-TAIL:]).decode()))
        return Response(200, headers, result.payload)

    async def _faults_after(self, name: str) -> None:
        if stall := self._knobs.strikes("stall", name):
            await asyncio.sleep(1.0 if stall.delay is None else stall.delay)
        if self._knobs.strikes("reset_after", name):
            raise Cut("reset_after")

    def _spawn(self, work: object) -> "asyncio.Task[object]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, Throttled):
            print(f"local-aws: an execution failed: {error!r}")

    async def _again(self, function: Function, body: bytes, request_id: str) -> None:
        self._take_slot(function)
        await self._execute(function, body, request_id)

    def _take_slot(self, function: Function) -> None:
        """Count one more running; Throttled if the account's or the function's limit is reached."""
        limit = self._knobs.settings.account_concurrency
        if function.reserved is not None and self._running[function.name] >= function.reserved:
            self._knobs.counters["throttled_reserved"] += 1
            raise Throttled("ReservedFunctionConcurrentInvocationLimitExceeded")
        if self._running.total() >= limit:
            self._knobs.counters["throttled_account"] += 1
            raise Throttled("ConcurrentInvocationLimitExceeded")
        self._running[function.name] += 1
        most = self._knobs.counters["most_concurrent"]
        self._knobs.counters["most_concurrent"] = max(most, self._running.total())

    async def _execute(self, function: Function, body: bytes, request_id: str) -> Result:
        """Run one event; the slot it was given is free afterwards."""
        try:
            started = time.monotonic()
            try:
                environment = await self._pool.acquire(function)
            except Throttled:
                self._knobs.counters["throttled_ramp"] += 1
                raise
            except Ended as ended:
                log = report(function, request_id, time.monotonic() - started, None, 0, ended.log)
                self._knobs.counters["failed_initialisations"] += 1
                return Result(payload_of(ended, request_id), True, log)
            return await self._run(environment, body, request_id)
        finally:
            self._running[function.name] -= 1

    async def _run(self, environment: Environment, body: bytes, request_id: str) -> Result:
        function, knobs = environment.function, self._knobs
        done = asyncio.get_running_loop().create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())
        execution = Execution(request_id, body, time.time() + function.timeout, done)
        knobs.counters["executions"] += 1
        kill = knobs.strikes("kill", function.name)
        if kill is not None:
            delay = knobs.chance() * (0.02 if kill.delay is None else kill.delay)
            asyncio.get_running_loop().call_later(delay, environment.kill)
        init, environment.init_seconds = environment.init_seconds, None
        try:
            payload, failed = await environment.run(execution)
            if kill is not None:  # it was quicker than its killer: the work is done, the answer lost
                environment.kill()
                await environment.gone.wait()
                await environment.free()
        except asyncio.CancelledError:  # a reset: what runs is not to go on
            environment.kill()
            raise
        except Ended as ended:
            payload, failed = payload_of(ended, request_id), True
            if ended.kind == "Sandbox.Timedout":
                knobs.counters["timed_out"] += 1
            execution.log += f"{stamp()} {request_id} {ended.text.removeprefix('Error: ')}\n".encode()
        else:
            self._pool.release(environment)
        log = report(function, request_id, execution.seconds, init, environment.peak, bytes(execution.log))
        knobs.counters["billed_ms"] += billed(execution.seconds, init)
        return Result(payload, failed, log)

    async def _deliver(self, function: Function, body: bytes, request_id: str) -> None:
        """An asynchronous event: run it, again after errors, with longer pauses while it is throttled."""
        settings, counters, accepted = self._knobs.settings, self._knobs.counters, time.monotonic()
        errors, pause = 0, settings.throttle_delay
        counters["queued"] += 1
        try:
            while time.monotonic() - accepted <= function.event_age:
                try:
                    self._take_slot(function)
                    result = await self._execute(function, body, request_id)
                except Throttled:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 50 * settings.throttle_delay)
                    continue
                if not result.failed:
                    return
                if errors >= function.retries:
                    break
                errors += 1
                counters["asynchronous_retries"] += 1
                await asyncio.sleep(settings.retry_delay * errors)
            counters["events_given_up"] += 1
        finally:
            counters["queued"] -= 1

    async def forget(self) -> None:
        """Drop what is queued or runs."""
        for task in list(self._tasks):
            task.cancel()
        for task in list(self._tasks):
            with suppress(BaseException):
                await task
        self._running.clear()


def throttled(reason: Throttled) -> Response:
    """Lambda's 429."""
    after = str(max(1, math.ceil(reason.retry_after)))
    return lambda_error(
        429, "TooManyRequestsException", "Rate Exceeded.", headers=(("Retry-After", after),), Reason=reason.reason
    )


def payload_of(ended: Ended, request_id: str) -> bytes:
    """What Lambda answers for an environment that did not survive."""
    text = f"RequestId: {request_id} {ended.text}" if ended.text.startswith("Error: ") else ended.text
    return json.dumps({"errorType": ended.kind, "errorMessage": text}).encode()


def stamp() -> str:
    """Now, as the log writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def billed(seconds: float, init: float | None) -> int:
    """Milliseconds, as AWS counts them: initialisation too, and begun ones."""
    return math.ceil(1000 * (seconds + (init or 0)))


def report(function: Function, request_id: str, seconds: float, init: float | None, peak: int, log: bytes) -> bytes:
    """The log of one execution between its START and REPORT lines."""
    if log and not log.endswith(b"\n"):
        log += b"\n"
    used = min(function.memory, math.ceil(peak / (1 << 20)))
    line = (
        f"REPORT RequestId: {request_id}\tDuration: {1000 * seconds:.2f} ms\t"
        f"Billed Duration: {billed(seconds, init)} ms\tMemory Size: {function.memory} MB\tMax Memory Used: {used} MB\t"
    )
    if init is not None:
        line += f"Init Duration: {1000 * init:.2f} ms\t"
    start = f"START RequestId: {request_id} Version: {function.version}\n".encode()
    return start + log + f"END RequestId: {request_id}\n{line}\n".encode()
