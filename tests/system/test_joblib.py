"""joblib and scikit-learn on the executor's workers: where their tasks run, what is stored, how they end."""

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
import pytest
from joblib import Parallel, delayed, parallel_config
from scene import Lifeline, hang, lines, note, until
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.tree import DecisionTreeClassifier
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws

from pywren_ng import ConfigError, Executor, PackingError
from pywren_ng.joblib import PywrenBackend
from pywren_runtime.failures import RemoteTraceback

WORKERS = 4
SIZE = 512
X, Y = make_classification(3000, 10, random_state=0)
predicted: list[int] = []


class NotedTree(DecisionTreeClassifier):
    """A tree that knows in which process it was grown."""

    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        self.pid_ = os.getpid()
        return super()._fit(*args, **kwargs)

    def predict_proba(self, *args: Any, **kwargs: Any) -> Any:
        predicted.append(os.getpid())
        return super().predict_proba(*args, **kwargs)


def forest(trees: int) -> RandomForestClassifier:
    made = RandomForestClassifier(trees, random_state=7, n_jobs=-1)
    made.estimator = NotedTree()
    return made


def grown_in(fitted: RandomForestClassifier) -> set[int]:
    return {tree.pid_ for tree in fitted.estimators_}


def nodes(fitted: RandomForestClassifier) -> list[tuple[bytes, bytes]]:
    states = [tree.tree_.__getstate__() for tree in fitted.estimators_]
    return [(state["nodes"].tobytes(), state["values"].tobytes()) for state in states]


def pid_as_score(*_: object) -> int:
    return os.getpid()


def meeting(count: int) -> Callable[[str], bool]:
    """A function that stays until so many processes are there. It goes by value: this file takes long to import."""

    def meet(folder: str) -> bool:
        Path(folder, str(os.getpid())).touch()
        return until(lambda: len(os.listdir(folder)) >= count)

    return meet


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """Four workers, all of them started."""
    with Executor("local", max_workers=WORKERS) as made:
        assert all(made.map(meeting(WORKERS), [str(tmp_path_factory.mktemp("met"))] * WORKERS))
        yield made


@pytest.fixture
def chosen(executor: Executor) -> Iterator[Executor]:
    """joblib told to use the executor, by name."""
    with parallel_config(backend="pywren_ng", executor=executor):
        yield executor


# -- scikit-learn


@pytest.mark.parametrize("way", ["name", "instance"])
def test_a_forest_grows_in_the_workers_and_equals_a_local_one(executor: Executor, way: str) -> None:
    by_name = {"backend": "pywren_ng", "executor": executor}
    with parallel_config(**(by_name if way == "name" else {"backend": PywrenBackend(executor)})):
        fitted = forest(24).fit(X, Y)
    assert len(grown_in(fitted)) == WORKERS and os.getpid() not in grown_in(fitted)
    local = forest(24).set_params(n_jobs=1).fit(X, Y)
    assert grown_in(local) == {os.getpid()}
    assert nodes(fitted) == nodes(local)


def test_predict_needs_shared_memory_and_stays_here(chosen: Executor) -> None:
    fitted = forest(8).fit(X, Y)
    predicted.clear()
    assert (fitted.predict(X) == Y).mean() > 0.9
    assert predicted == [os.getpid()] * 8


def test_cross_validation_and_grid_search_run_in_the_workers(chosen: Executor) -> None:
    scores = cross_val_score(DecisionTreeClassifier(), X, Y, cv=16, scoring=pid_as_score)
    assert len(set(scores)) == WORKERS and os.getpid() not in scores
    found = [
        GridSearchCV(DecisionTreeClassifier(random_state=1), {"max_depth": [1, 3, 5]}, cv=4, n_jobs=n_jobs).fit(X, Y)
        for n_jobs in (-1, 1)
    ]
    assert np.array_equal(*(search.cv_results_["mean_test_score"] for search in found))


# -- What is stored


def test_an_array_of_all_tasks_is_stored_once(chosen: Executor) -> None:
    before, shared = set(chosen.store.keys("blobs/")), np.random.default_rng().random(1_200_000)
    written = psutil.Process().io_counters().write_chars
    sums = Parallel(batch_size=1)(delayed(lambda a, at: a[at::20].sum())(shared, at) for at in range(20))
    assert sums == [shared[at::20].sum() for at in range(20)]
    assert [size for _, size in set(chosen.store.keys("blobs/")) - before] == [shared.nbytes]
    assert psutil.Process().io_counters().write_chars - written < 1.5 * shared.nbytes


def test_an_array_that_changes_between_calls_is_another_one(chosen: Executor) -> None:
    shared = np.zeros(100_000)
    with Parallel() as parallel:
        for value in range(3):
            shared[:] = value
            assert parallel(delayed(np.max)(shared) for _ in range(8)) == [value] * 8


def test_arrays_of_single_tasks_are_not_kept(executor: Executor) -> None:
    """An input of any length fits, as long as few of its tasks are alive."""
    alive: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
    most = 0

    def arrays() -> Iterator[Any]:
        nonlocal most
        for number in range(100):
            alive[number] = array = np.full(20_000, number, float)
            most = max(most, len(alive))
            yield delayed(lambda a: float(a[0]))(array)
            del array

    with parallel_config(backend=PywrenBackend(executor)):
        assert Parallel(batch_size=1)(arrays()) == list(range(100))
    assert most < 50


# -- joblib's own terms


def test_minus_one_is_all_workers(chosen: Executor) -> None:
    for given, meant in ((-1, 4), (None, 4), (-2, 3), (-9, 1), (1, 1), (3, 3), (99, 4)):
        assert joblib.effective_n_jobs(given) == meant
    with pytest.raises(ValueError, match="n_jobs=0 has no meaning"):
        Parallel(n_jobs=0)(delayed(abs)(x) for x in range(3))


def test_no_more_batches_run_than_n_jobs(chosen: Executor) -> None:
    def work() -> tuple[float, float]:
        begun = time.time()
        sum(range(500_000))
        return begun, time.time()

    spans = Parallel(n_jobs=2, batch_size=1, pre_dispatch="all")(delayed(work)() for _ in range(24))
    together = [sum(begun <= at < ended for begun, ended in spans) for at, _ in spans]
    assert max(together) == 2


def test_short_tasks_are_sent_in_batches(chosen: Executor) -> None:
    parallel = Parallel()
    assert parallel(delayed(abs)(-x) for x in range(3000)) == list(range(3000))
    assert parallel.n_dispatched_batches < 300


def test_what_is_parallel_inside_a_task_stays_in_its_worker(chosen: Executor) -> None:
    def outer() -> tuple[int, list[int]]:
        return os.getpid(), Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(4))

    found = Parallel()(delayed(outer)() for _ in range(8))
    assert all(set(inner) == {pid} for pid, inner in found)
    assert os.getpid() not in {pid for pid, _ in found}


def test_a_generator_yields_results_as_they_come(chosen: Executor) -> None:
    ordered = Parallel(return_as="generator")(delayed(abs)(-x) for x in range(50))
    assert list(ordered) == list(range(50))
    assert sorted(Parallel(return_as="generator_unordered")(delayed(abs)(-x) for x in range(50))) == list(range(50))


# -- Failures


class TwoPartError(Exception):
    def __init__(self, what: str, number: int) -> None:
        super().__init__(what, number)
        self.number = number


def test_errors_arrive_as_themselves(chosen: Executor) -> None:
    def fail(x: int) -> int:
        if x == 13:
            raise TwoPartError("unlucky", x)
        return x

    with pytest.raises(TwoPartError) as caught:
        Parallel()(delayed(fail)(x) for x in range(100))
    assert caught.value.number == 13
    assert isinstance(caught.value.__cause__, RemoteTraceback) and 'TwoPartError("unlucky", x)' in str(
        caught.value.__cause__
    )


def test_what_cannot_travel_is_said_and_does_not_hang(chosen: Executor) -> None:
    lock = threading.Lock()
    with pytest.raises(PackingError, match="lock"):
        Parallel(batch_size=1, pre_dispatch=2)(delayed(id)(lock if x > 30 else x) for x in range(5000))


@pytest.mark.parametrize("n_jobs", [2, WORKERS])
def test_after_an_error_nothing_runs_on(n_jobs: int, chosen: Executor, tmp_path: Path, lifeline: Lifeline) -> None:
    log = tmp_path / "begun"

    def task(x: int, lifeline: str, log: str) -> None:
        note(log, x)
        if x != n_jobs - 1:
            hang(lifeline)
        until(lambda: len(lines(log)) >= n_jobs)
        raise ZeroDivisionError

    parallel = Parallel(n_jobs=n_jobs, batch_size=1)
    with pytest.raises(ZeroDivisionError):
        parallel(delayed(task)(x, lifeline.path, str(log)) for x in range(100))
    lifeline.wait_for_holders(n_jobs - 1)
    lifeline.wait_for_death()
    assert len(lines(log)) <= 2 * n_jobs  # of those that joblib had sent when the error came
    assert parallel(delayed(abs)(-x) for x in range(20)) == list(range(20))


def test_an_executor_that_is_shut_down_meanwhile_does_not_hang() -> None:
    ex = Executor("local", max_workers=2)

    def tasks() -> Iterator[Any]:
        for x in range(5000):
            if x == 30:
                ex.shutdown(wait=False)
            yield delayed(abs)(x)

    with ex, parallel_config(backend="pywren_ng", executor=ex), pytest.raises(RuntimeError, match="after shutdown"):
        Parallel(batch_size=1)(tasks())


def test_inner_threads_are_limited(executor: Executor) -> None:
    with parallel_config(backend="pywren_ng", executor=executor, inner_max_num_threads=3):
        found = Parallel()(delayed(os.getenv)("OMP_NUM_THREADS") for _ in range(4))
    assert found == ["3"] * 4


def test_an_executor_after_its_with_says_so() -> None:
    with Executor("local", max_workers=2) as over:
        pass
    with parallel_config(backend="pywren_ng", executor=over), pytest.raises(RuntimeError, match="make a new Executor"):
        Parallel()(delayed(abs)(x) for x in range(9))


def test_something_else_than_an_executor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pywren_ng\.Executor"), parallel_config(backend="pywren_ng", executor=4):
        pass


# -- Its own executor


@pytest.fixture
def no_gc() -> Iterator[None]:
    """What ends here does so because nothing refers to it."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_gc")
def test_its_own_workers_stay_from_call_to_call_and_end_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYWREN_NG_MAX_WORKERS", "2")
    with parallel_config(backend="pywren_ng"):
        assert all(Parallel(batch_size=1)(delayed(meeting(2))(str(tmp_path)) for _ in range(2)))
        workers = {int(name) for name in os.listdir(tmp_path)}
        assert len(workers) == 2 and os.getpid() not in workers
        assert set(Parallel(batch_size=1)(delayed(os.getpid)() for _ in range(8))) <= workers
    assert not [pid for pid in workers if psutil.pid_exists(pid)]


# -- On Lambda


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, SIZE, variables=PACKAGES) as made:
        yield made


def test_the_same_forest_on_lambda(there: Deployed, local_aws: LocalAws) -> None:
    wide = np.random.default_rng(0).random((20_000, 8), np.float32)
    labels = (wide[:, 0] > wide[:, 1]).astype(int)
    make: Callable[[], RandomForestClassifier] = lambda: forest(12).set_params(max_depth=4)  # noqa: E731
    # Two will do: each imports scikit-learn, which takes a second.
    with Executor("lambda", max_workers=2) as ex, parallel_config(backend="pywren_ng", executor=ex):
        fitted = make().fit(wide, labels)
        log = local_aws.ask("GET", "/_proxy/log")
    assert len(grown_in(fitted)) == 2 and os.getpid() not in grown_in(fitted)
    assert nodes(fitted) == nodes(make().set_params(n_jobs=1).fit(wide, labels))
    put = [one["bytes_in"] for one in log if "/blobs/" in one["key"] and "Put" in one["kind"]]
    assert sorted(put) == [8 * len(labels), wide.nbytes]  # scikit-learn makes floats of the labels
