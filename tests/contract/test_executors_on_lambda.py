"""The executor suite once more, on a local AWS that runs the zip which is deployed: Invokes of both kinds."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import test_executors as suite
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws

from pywren_ng import Executor

FIXTURES = {"ex", "apart", "make", "make_apart"}
SHARED = {"test_the_first_task_of_a_worker_is_cold"}  # environments are: an executor finds those of another warm
TESTS = {
    name: test
    for name, test in vars(suite).items()
    if name.startswith("test_") and name not in SHARED and FIXTURES & set(inspect.signature(test).parameters)
}
globals().update(TESTS)
gate = suite.gate


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, 512, variables=PACKAGES) as made:
        yield made


@pytest.fixture(scope="module", params=["sync", "async"])
def start(request: pytest.FixtureRequest, there: Deployed) -> Iterator[Callable[..., Executor]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYWREN_NG_INVOKE", request.param)
        # Outcomes are looked for now and then: with two at a time most of the time would go into waiting for that.
        workers = 2 if request.param == "sync" else 8
        yield lambda **options: Executor("lambda", **{"max_workers": workers} | options)


@pytest.fixture(scope="module")
def ex(start: Callable[..., Executor]) -> Iterator[Executor]:
    with start() as executor:
        yield executor


@pytest.fixture(scope="module")
def apart(ex: Executor) -> Executor:
    return ex


@pytest.fixture
def make(start: Callable[..., Executor]) -> Iterator[Callable[..., Executor]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(start(**options))


@pytest.fixture
def make_apart(make: Callable[..., Executor]) -> Callable[..., Executor]:
    return make


def test_the_suite_is_taken_over_whole_and_runs_on_lambda(ex: Executor, there: Deployed) -> None:
    assert len(TESTS) > 80
    executed = there.aws.counters()
    assert ex.map(abs, range(-3, 0)).results() == [3, 2, 1]
    now = there.aws.counters()
    assert now["invokes"] - executed.get("invokes", 0) == 3, (executed, now)


def test_the_worker_is_the_one_that_was_deployed(ex: Executor) -> None:
    def whose() -> tuple[str, str]:
        import os

        import pywren_runtime

        return pywren_runtime.__file__, os.environ["LAMBDA_TASK_ROOT"]

    file, root = ex.submit(whose).result(60)
    assert file.startswith(root + "/")
