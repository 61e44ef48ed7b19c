"""The executor suite once more, on local workers that meet their client in S3."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import test_executors as suite
from support.s3_server import S3Server

from pywren_ng import Executor

FIXTURES = {"ex", "apart", "make", "make_apart"}
TESTS = {
    name: test
    for name, test in vars(suite).items()
    if name.startswith("test_") and FIXTURES & set(inspect.signature(test).parameters)
}
globals().update(TESTS)
gate = suite.gate


@pytest.fixture(scope="module")
def ex(s3_server: S3Server) -> Iterator[Executor]:
    with Executor("local", store=s3_server.url(), max_workers=2) as executor:
        yield executor


@pytest.fixture(scope="module")
def apart(ex: Executor) -> Executor:
    return ex


@pytest.fixture
def make(s3_server: S3Server) -> Iterator[Callable[..., Executor]]:
    with ExitStack() as stack:

        def start(**options: Any) -> Executor:
            options = {"store": s3_server.url(), "max_workers": 2} | options
            return stack.enter_context(Executor("local", **options))

        yield start


@pytest.fixture
def make_apart(make: Callable[..., Executor]) -> Callable[..., Executor]:
    return make


def test_the_suite_is_taken_over_whole_and_its_store_is_s3(ex: Executor) -> None:
    assert len(TESTS) > 80
    assert ex.store.url.startswith("s3://")
    assert ex.map(len, [bytes(200_000)] * 2).results() == [200_000] * 2
    assert any(size >= 200_000 for _, size in ex.store.keys("blobs/"))
