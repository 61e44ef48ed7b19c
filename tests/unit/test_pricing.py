"""What is counted, times dated prices: each way in which a Call can go is paid for as AWS would."""

import base64
from typing import Any

import pytest

from pywren_ng.backends import Order, lambda_bills
from pywren_ng.backends.lambda_flights import Flight
from pywren_ng.pricing import Cost, Usage, cost_of
from pywren_ng.tracker import Heading
from pywren_runtime.invoker import Answer
from pywren_runtime.rates import rates
from pywren_runtime.wire import STATS, Call, Environment, Head, Outcome, Status, TaskCall

REPORT = "REPORT RequestId: 1\tDuration: 1 ms\tBilled Duration: {} ms\tMemory Size: 2048 MB\tMax Memory Used: 61 MB\n"


def flight(**fields: Any) -> Flight:
    head = Head("job", b"", b"")
    tasks = tuple(TaskCall(index, 0, 1, b"") for index in range(2))
    order = Order(Call(b"", tasks), Heading(head, Environment(), b"", Usage("x86_64")))
    return Flight(1, order, "sync", "f", 0.0, {0, 1}, **{"memory": 1024, **fields})


def usage_of(one: Flight) -> Usage:
    assert one.order.heading.usage is not None
    return one.order.heading.usage


def answer(status: int = 200, log: str = "", *, sent: bool = True) -> Answer:
    headers = {"x-amz-log-result": base64.b64encode(log.encode()).decode()} if log else {}
    return Answer(1, status, headers, b"", "" if status else "reset", "", sent, 0.1)


def outcome(started: float, stored: float) -> Outcome:
    stats = STATS.pack(started, 0, 0, 0, stored, 0, 0, 1, False)
    return Outcome("job", 0, 0, 1, Status.PLAIN, b"", b"", stats)


def test_what_aws_reports_is_what_counts() -> None:
    one = flight()
    lambda_bills.posted(one)
    lambda_bills.answered(one, answer(log="printed\n" * 500 + REPORT.format(1500)))
    lambda_bills.brought(one, outcome(10, 90))
    lambda_bills.over(one)
    assert usage_of(one) == Usage("x86_64", invokes=1, gb_seconds=3.0)


def test_a_report_in_json_is_understood() -> None:
    one = flight()
    lambda_bills.posted(one)
    lambda_bills.answered(one, answer(log='{"type":"platform.report","record":{"metrics":{"billedDurationMs":250}}}'))
    assert usage_of(one).gb_seconds == 0.25


@pytest.mark.parametrize("refused", [answer(429), answer(403), answer(0, sent=False)])
def test_what_was_refused_or_never_sent_costs_nothing(refused: Answer) -> None:
    one = flight()
    lambda_bills.posted(one)
    lambda_bills.answered(one, refused)
    lambda_bills.over(one)
    assert usage_of(one) == Usage("x86_64")


def test_without_a_report_the_workers_clock_counts_from_the_first_task_to_the_last() -> None:
    one = flight(watched=True, beats=2)
    lambda_bills.posted(one)
    lambda_bills.answered(one, answer(202))
    lambda_bills.brought(one, outcome(100.0, 100.4))
    lambda_bills.brought(one, outcome(100.4, 101.0003))
    lambda_bills.over(one)
    lambda_bills.over(one)
    assert usage_of(one) == Usage("x86_64", 1, gb_seconds=1.001, estimated=1.001, writes=4, reads=2)


@pytest.mark.parametrize("answered", [None, answer(0), answer(500), answer(200, "cut off")])
def test_an_invoke_of_unknown_length_is_said_to_be_one(answered: Answer | None) -> None:
    one = flight()
    lambda_bills.posted(one)
    if answered is not None:
        lambda_bills.answered(one, answered)
    lambda_bills.over(one)
    assert usage_of(one) == Usage("x86_64", invokes=1, untold=1)
    assert str(cost_of(usage_of(one))).endswith(" and 1 Invokes of unknown length")


def test_a_starter_is_paid_for_by_its_first_calls_job() -> None:
    group = [flight(), flight(), flight()]
    lambda_bills.planted(group, answer(log=REPORT.format(500)), {2})
    assert usage_of(group[0]) == Usage("x86_64", invokes=2, gb_seconds=1.0)
    assert [usage_of(one).invokes for one in group[1:]] == [1, 0]


def test_dollars_are_counts_times_prices() -> None:
    prices = {
        "lambda": {"date": "2030-01", "per_request": 2.0, "per_gb_second": {"arm64": 3.0}},
        "s3": {"per_put": 5.0, "per_get": 7.0},
    }
    usage = Usage("arm64", invokes=1, gb_seconds=10.0, writes=100, reads=1000)
    assert cost_of(usage, prices) == Cost(7532.0, 1, 10.0, 0.0, 0, 100, 1000, "2030-01")
    assert str(cost_of(usage, prices)) == "$7,532.00"


def test_costs_add_up() -> None:
    one = Cost(1.0, 2, 3.0, 4.0, 5, 6, 7, "2030-01-01")
    assert one + Cost(10.0, 20, 30.0, 40.0, 50, 60, 70, "2030-01-02") == Cost(11, 22, 33, 44, 55, 66, 77, "2030-01-02")


def test_the_prices_have_a_date_and_a_source() -> None:
    for service in ("lambda", "s3"):
        assert rates()[service]["date"] >= "2026-11"
        assert rates()[service]["source"].startswith("https://aws.amazon.com/")
    million = Usage("x86_64", invokes=1_000_000, gb_seconds=1_000_000)
    assert cost_of(million).dollars == pytest.approx(0.20 + 16.6667)
    assert cost_of(Usage("arm64", gb_seconds=1_000_000)).dollars == pytest.approx(13.3334)
