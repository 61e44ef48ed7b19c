"""What the Lambda backend decides, without a network: verdicts, pauses, shares, and what to look for when."""

import base64
import json
import math
from typing import Any

import pytest

from pywren_ng.backends import Order, lambda_trees
from pywren_ng.backends.lambda_answers import Again, Asked, Died, Done, Hopeless, Stored, judge
from pywren_ng.backends.lambda_finder import Fetched, Heard, Listed
from pywren_ng.backends.lambda_flights import Flight, Limits, after_refusal, choose, overdue, pause
from pywren_ng.backends.lambda_watch import Watch
from pywren_ng.tracker import Heading
from pywren_runtime.errors import (
    AccessDenied,
    CredentialsError,
    FunctionMissing,
    LambdaError,
    SignatureError,
    StoreError,
    TaskOutOfMemory,
    TaskTimeout,
    WorkerLost,
)
from pywren_runtime.invoker import Answer
from pywren_runtime.wire import Call, Environment, Head, TaskCall

ASKED = Asked("pywren-ng-py311-x86_64-512", "eu-west-3", "https://lambda.eu-west-3.amazonaws.com", 512, 1000)
LIMITS = Limits()


def answer(status: int = 200, body: object = None, *, fault: str = "", sent: bool = True, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(
        tag=1,
        status=status,
        headers=named,
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        fault=fault,
        reason="why",
        sent=sent,
        seconds=1.0,
    )


def failed(kind: str, text: str, log: str = "") -> Answer:
    return answer(
        body={"errorType": kind, "errorMessage": text},
        x_amz_function_error="Unhandled",
        x_amz_log_result=base64.b64encode(log.encode()).decode(),
    )


def flight(
    tasks: int = 1, *, attempt: int = 1, mode: Any = "async", first: int = 0, limit: float | None = None
) -> Flight:
    head = Head("job", b"", b"", limit)
    calls = tuple(TaskCall(first + n, 0, attempt, b"") for n in range(tasks))
    order = Order(Call(head.encode(), calls), Heading(head, Environment(), head.encode()))
    return Flight(first, order, mode, "f", 0.0, set(range(tasks)))


# ── verdicts ──


def test_outcomes_are_taken_out_of_an_answer() -> None:
    frames = [base64.b64encode(frame).decode() for frame in (b"one", b"two")]
    assert judge(answer(body={"outcomes": frames}), ASKED) == Done((b"one", b"two"))


@pytest.mark.parametrize("given", [answer(202, b""), answer(body={"stored": 3})])
def test_what_is_stored_is_to_be_looked_for(given: Answer) -> None:
    assert judge(given, ASKED) == Stored()


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"hello"', b'{"outcomes": [1]}', b'{"outcomes": ["%"]}'])
def test_an_answer_of_another_program_is_no_answer(body: bytes) -> None:
    verdict = judge(answer(body=body), ASKED)
    assert isinstance(verdict, Hopeless) and ASKED.function in str(verdict.error)


@pytest.mark.parametrize(
    ("given", "busy", "unknown"),
    [
        (answer(429, {"Reason": "ConcurrentInvocationLimitExceeded", "message": "Rate Exceeded."}), True, False),
        (answer(500, {"message": "oops"}), False, True),
        (answer(503, b"<html>"), False, True),
        (answer(409, {"message": "Pending"}), False, False),
        (answer(0, b"", fault="refused", sent=False), False, False),
        (answer(0, b"", fault="unresolved", sent=False), False, False),
        (answer(0, b"", fault="reset"), False, True),
        (answer(0, b"", fault="silence"), False, True),
    ],
)
def test_what_may_be_sent_again(given: Answer, busy: bool, unknown: bool) -> None:
    verdict = judge(given, ASKED)
    assert isinstance(verdict, Again) and (verdict.busy, verdict.unknown) == (busy, unknown)


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        (
            answer(404, {"message": "Function not found"}),
            FunctionMissing,
            "pywren-ng setup --region eu-west-3 --memory 512",
        ),
        (
            answer(403, {"Message": "no"}, x_amzn_errortype="AccessDeniedException:"),
            AccessDenied,
            "lambda:InvokeFunction",
        ),
        (answer(403, {"message": "x"}, x_amzn_errortype="ExpiredTokenException"), CredentialsError, "aws sso login"),
        (answer(403, {"message": "Signature expired: 1 is now earlier"}), CredentialsError, "clock"),
        (answer(403, {"message": "x"}, x_amzn_errortype="UnrecognizedClientException"), CredentialsError, "eu-west-3"),
        (answer(413, {"message": "large"}), LambdaError, "1,000 bytes"),
        (answer(0, b"", fault="tls", sent=False), LambdaError, "AWS_CA_BUNDLE"),
        (answer(0, b"", fault="credentials", sent=False), CredentialsError, "why"),
        (failed("SignatureError", "a call does not carry it"), SignatureError, "pywren-ng setup"),
    ],
)
def test_what_is_hopeless_says_what_to_do(given: Answer, kind: type[Exception], says: str) -> None:
    verdict = judge(given, ASKED)
    assert isinstance(verdict, Hopeless) and type(verdict.error) is kind and says in str(verdict.error)


KILLED = "RequestId: 1 Error: Runtime exited with error: signal: killed"
REPORT = "REPORT RequestId: 1\tDuration: 1 ms\tMemory Size: 512 MB\tMax Memory Used: {} MB\t"


@pytest.mark.parametrize(
    ("given", "kind", "says"),
    [
        (failed("Runtime.ExitError", KILLED, REPORT.format(512)), TaskOutOfMemory, "memory of 512 MB (512 MB were"),
        (failed("Runtime.ExitError", KILLED, "hello\n" + REPORT.format(90)), WorkerLost, "  | hello"),
        (failed("Runtime.ExitError", "exit status 3"), WorkerLost, "exit status 3"),
        (failed("", "2026-01-01T00:00:00Z 1 Task timed out after 3.00 seconds"), TaskTimeout, "after 3.00 seconds"),
        (failed("Sandbox.Timedout", "RequestId: 1 Error: Task timed out after 3.00 seconds"), TaskTimeout, "3.00"),
        (failed("Runtime.ImportModuleError", "No module named 'x'"), WorkerLost, "pywren-ng check"),
        (failed("StoreError", "the bucket is away"), WorkerLost, "the bucket is away"),
    ],
)
def test_how_an_environment_ended_is_said(given: Answer, kind: type[Exception], says: str) -> None:
    verdict = judge(given, ASKED)
    assert isinstance(verdict, Died) and type(verdict.error) is kind and says in str(verdict.error)


# ── how to ask, and how to go on ──


def test_a_connection_is_kept_while_there_are_few_and_the_tasks_are_short() -> None:
    def chosen(setting: str, out: int, seconds: float | None = None, **order: Any) -> str:
        return choose(setting, flight(**order).order, out=out, seconds=seconds, limits=LIMITS)

    assert chosen("auto", 0) == "sync" and chosen("auto", LIMITS.synchronous) == "async"
    assert chosen("auto", 0, limit=LIMITS.patient) == "async" and chosen("auto", 0, 10.0, tasks=40) == "async"
    assert chosen("sync", 10**6, limit=800.0) == "sync" and chosen("async", 0) == "async"
    assert chosen("auto", 10**6, attempt=2) == chosen("async", 0, attempt=2) == "sync", "only its answer says why"


def test_how_long_refusals_are_borne() -> None:
    def step(now: float, tries: int = 1, seconds: float = 1.0, *, mode: str = "sync", **kind: Any) -> str:
        out = flight(mode=mode)
        out.tries = tries
        known = {"busy_since": None, "unknown": False, **kind}
        return after_refusal(out, seconds=seconds, now=now, limits=LIMITS, **known)

    assert step(LIMITS.busy + 5, 10**6, busy_since=5.0) == "again", "it gives up before its time"
    assert step(LIMITS.busy + 6, busy_since=5.0) == "give up"
    assert step(LIMITS.away - 1, 10**6) == "again" and step(LIMITS.away) == "give up"
    assert step(10**6, LIMITS.tries - 1, unknown=True) == "again" and step(0, LIMITS.tries, unknown=True) == "give up"
    assert step(0, LIMITS.tries, LIMITS.stores, unknown=True) == "watch", "what ran so long was stored"
    assert step(0, 1, LIMITS.stores, unknown=True, mode="async") == "again"


def test_pauses_grow_and_differ() -> None:
    for tries in (1, 3, 50, 10**6):
        most = min(LIMITS.back * 2.0 ** min(tries - 1, 20), LIMITS.back_most)
        pauses = {pause(tries, LIMITS) for _ in range(50)}
        assert len(pauses) > 10 and all(most / 2 <= one <= most for one in pauses)


def test_who_has_beaten_once_is_waited_for_longer() -> None:
    out = flight()
    out.alive = 100.0
    assert overdue(out, LIMITS) == 100.0 + LIMITS.begins
    out.beats = 1
    assert overdue(out, LIMITS) == 100.0 + LIMITS.beats


def test_limits_are_scaled_in_time_only() -> None:
    scaled = LIMITS.scaled(0.1)
    assert scaled.begins == pytest.approx(2.5) and scaled.busy == pytest.approx(180)
    assert (scaled.tries, scaled.synchronous) == (LIMITS.tries, LIMITS.synchronous)


# ── trees ──


@pytest.mark.parametrize("count", [1, 2, 512, 4096])
def test_starters_get_each_call_once_and_about_the_root_of_all(count: int) -> None:
    loads = [(flight(first=n), b"{}") for n in range(count)]
    groups = lambda_trees.share(loads)
    assert [load for group in groups for load in group] == loads
    root = math.ceil(math.sqrt(count))
    assert len(groups) <= root and max(map(len, groups)) <= root


def test_a_starter_is_handed_no_more_than_an_invoke_can_carry() -> None:
    loads = [(flight(first=n), b"x" * 900_000) for n in range(36)]
    assert max(sum(len(body) for _, body in group) for group in lambda_trees.share(loads)) <= lambda_trees.ROOM


def test_what_a_starter_carries_is_what_each_would_get() -> None:
    loads = [(flight(first=n), json.dumps({"call": str(n)}).encode()) for n in range(3)]
    body = json.loads(lambda_trees.starter(loads))
    assert body["start"] == [{"function": "f", "event": {"call": str(n)}} for n in range(3)]
    assert body["stop_key"] == "jobs/job/stopped"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b'{"started": 3, "failed": []}', set()),
        (b'{"started": 2, "failed": [1]}', {1}),
        (b'{"started": 1, "failed": [1]}', {0, 1, 2}),
        (b"null", {0, 1, 2}),
        (b"{}", {0, 1, 2}),
    ],
)
def test_what_a_starter_does_not_account_for_was_not_started(body: bytes, left: set[int]) -> None:
    assert lambda_trees.failed(answer(200, body), 3) == left


# ── what to look for ──


class Looks:
    """Notes what it is asked to look for."""

    def __init__(self) -> None:
        self.lists: list[int] = []
        self.fetches: list[tuple[int, int]] = []
        self.listens = 0

    def list(self, job: str, lowest: int) -> None:
        self.lists.append(lowest)

    def fetch(self, job: str, wanted: Any) -> None:
        self.fetches += wanted

    def listen(self, job: str, now: float) -> None:
        self.listens += 1


def test_lists_begin_at_the_lowest_open_task_and_come_once_a_second_while_nothing_does() -> None:
    watch, looks, now = Watch("job", LIMITS), Looks(), 0.0
    flights = [flight(first=n) for n in range(3)]
    for one in flights:
        watch.add(one, now)
    for _ in range(1000):
        now += 0.01
        before = len(looks.lists)
        watch.look(looks, now)  # type: ignore[arg-type]
        if len(looks.lists) > before:
            watch.listed(Listed("job", ()), looks, now)  # type: ignore[arg-type]
    assert 9 <= len(looks.lists) <= 10 + math.log2(LIMITS.idle / LIMITS.fresh) and set(looks.lists) == {0}
    watch.listed(Listed("job", ((2, 0), (0, 0))), looks, now)  # type: ignore[arg-type]
    assert looks.fetches == [(2, 0), (0, 0)]
    watch.listed(Listed("job", ((2, 0), (0, 0))), looks, now)  # type: ignore[arg-type]
    assert len(looks.fetches) == 2, "fetched twice"
    assert watch.next() <= now + LIMITS.idle
    assert watch.fetched(Fetched("job", 0, 0, b"x"), now) == (flights[0], False)
    assert watch.fetched(Fetched("job", 0, 0, b"x"), now) == (None, False)
    watch.look(looks, now + 2)  # type: ignore[arg-type]
    assert looks.lists[-1] == 1


def test_what_ended_is_asked_for_once_and_then_it_is_known() -> None:
    watch, looks = Watch("job", LIMITS), Looks()
    out = flight(3)
    watch.add(out, 0.0)
    watch.ask(out, looks)  # type: ignore[arg-type]
    assert sorted(looks.fetches) == [(0, 0), (1, 0), (2, 0)]
    assert watch.fetched(Fetched("job", 1, 0, b"x"), 0.0) == (out, False)
    assert watch.fetched(Fetched("job", 0, 0, None), 0.0) == (out, False)
    assert watch.fetched(Fetched("job", 2, 0, None), 0.0) == (out, True)
    assert watch.drop(out)


def test_an_unreachable_store_does_not_make_an_outcome_missing() -> None:
    watch, looks = Watch("job", LIMITS), Looks()
    out = flight()
    watch.add(out, 0.0)
    watch.ask(out, looks)  # type: ignore[arg-type]
    assert watch.fetched(Fetched("job", 0, 0, None, StoreError("away")), 5.0) == (out, False)
    assert watch.next() <= 5.0 + LIMITS.idle
    watch.look(looks, 10.0)  # type: ignore[arg-type]
    assert looks.lists == [0]


def test_who_is_silent_is_not_lost_while_its_outcome_lies_there_and_cannot_be_read() -> None:
    watch, looks = Watch("job", LIMITS), Looks()
    watch.add(out := flight(), 0.0)
    watch.heard(Heard("job", 9.0, {}), 9.0)
    watch.listed(Listed("job", ((0, 0),)), looks, 9.0)  # type: ignore[arg-type]
    watch.fetched(Fetched("job", 0, 0, None, "denied"), 9.0)
    assert not watch.is_sure(9.0)
    assert watch.unread(9.0 + LIMITS.away) == [] and watch.unread(9.1 + LIMITS.away) == [out]
    watch.fetched(Fetched("job", 0, 0, b"x"), 10.0)
    assert watch.is_sure(9.0)


def test_heartbeats_say_who_is_alive_and_a_failed_look_says_nothing() -> None:
    watch, looks = Watch("job", LIMITS), Looks()
    out = flight(first=7)
    watch.heed(out, 1.0)
    watch.look(looks, 1.0)  # type: ignore[arg-type]
    watch.look(looks, 1.0)  # type: ignore[arg-type]
    assert looks.listens == 1
    watch.heard(Heard("job", 1.0, {}, StoreError("away")), 2.0)
    assert not watch.is_sure(0.5) and out.beats == 0
    watch.heard(Heard("job", 3.0, {(7, 1): 2, (7, 2): 9}), 4.0)
    assert (out.beats, out.alive) == (2, 3.0) and watch.is_sure(3.0) and not watch.is_sure(3.1)
    watch.heard(Heard("job", 9.0, {(7, 1): 2}), 9.0)
    assert out.alive == 3.0, "an old heartbeat is no sign of life"
    watch.heard(Heard("job", 12.0, {(7, 1): 1}), 12.0)
    assert (out.beats, out.alive) == (1, 12.0), "it was sent again, and its new worker counts from the beginning"
