"""The slow store of the S3 proxy, on a clock of its own: nobody waits, and nothing is measured."""

import asyncio
import selectors
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from support.local_aws import SCRIPTS

sys.path.insert(0, str(SCRIPTS))

from local_aws.s3_rates import BadRates, Rates, rates_of


class Leaping(selectors.SelectSelector):
    """Where nothing happens for a while, that while is over at once."""

    now = 0.0
    late = 0.0  # by so much every wake-up

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout + self.late if timeout else 0.0
        return super().select(0)


class Clockless(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to whatever comes next."""

    def __init__(self, late: float) -> None:
        self.leaping = Leaping()
        self.leaping.late = late
        super().__init__(self.leaping)

    def time(self) -> float:
        return self.leaping.now


def times_of(rates: Rates, *requests: Callable[[Rates], Awaitable[None]], late: float = 0.0) -> list[float]:
    """When each of these requests, begun at once and in that order, was over."""
    loop = Clockless(late)

    async def timed(request: Callable[[Rates], Awaitable[None]]) -> float:
        await request(rates)
        return loop.time()

    async def all_of_them() -> list[float]:
        return await asyncio.gather(*map(timed, requests))

    try:
        return loop.run_until_complete(all_of_them())
    finally:
        loop.close()


def asks(method: str, worker: str, size: int = 0) -> Callable[[Rates], Coroutine[Any, Any, None]]:
    async def ask(rates: Rates) -> None:
        await rates.admit(method, worker, size)

    return ask


def receives(worker: str, *sizes: int) -> Callable[[Rates], Coroutine[Any, Any, None]]:
    async def body() -> Any:
        for size in sizes:
            yield bytes(size)

    async def receive(rates: Rates) -> None:
        assert [len(piece) async for piece in rates.paced(worker, body())] == list(sizes)

    return receive


def slow() -> Rates:
    return rates_of({"puts": 10, "gets": 20, "bandwidth": 1000})


def test_requests_come_at_their_rate_and_none_is_saved_up() -> None:
    assert times_of(slow(), *[asks("PUT", "a")] * 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert times_of(slow(), *[asks("GET", "a")] * 3, asks("DELETE", "a")) == pytest.approx([0.0, 0.05, 0.1, 0.0])
    rates = slow()
    late = times_of(rates, asks("PUT", "a"))
    assert late == [0.0]

    async def after_a_while(rates: Rates) -> None:
        await asyncio.sleep(10)
        await asyncio.gather(*(rates.admit("PUT", "a", 0) for _ in range(3)))

    assert times_of(slow(), after_a_while) == pytest.approx([10.2])


def test_who_is_woken_late_makes_up_for_it() -> None:
    times = times_of(slow(), *[asks("GET", "a")] * 101, late=0.08)  # by more than from one turn to the next
    assert times[100] == pytest.approx(5.0, abs=0.1)


def test_workers_take_turns() -> None:
    times = times_of(slow(), *[asks("PUT", "a")] * 4, *[asks("PUT", "b")] * 2)
    assert times == pytest.approx([0.0, 0.2, 0.4, 0.5, 0.1, 0.3])


def test_bytes_flow_at_the_rate_of_each_worker_and_direction() -> None:
    sent = times_of(slow(), asks("PUT", "a", 500), asks("PUT", "a", 500), asks("PUT", "b", 500), receives("a", 500))
    # The first of each worker have their turns one behind the other; b's bytes do not wait for a's.
    assert sent == pytest.approx([0.5, 1.0, 0.6, 0.5])
    assert times_of(slow(), receives("a", 100, 200), receives("a", 300)) == pytest.approx([0.6, 0.4])


@pytest.mark.parametrize(
    "wrong", [{}, {"puts": 1}, {"puts": 0, "gets": 1, "bandwidth": 1}, {"puts": "1", "gets": 1, "bandwidth": 1}]
)
def test_rates_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRates):
        rates_of(wrong)
