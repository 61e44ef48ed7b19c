"""The tracker as a state machine: whatever happens, in whatever order, every task settles exactly once."""

import math
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pywren_ng.tracker import (
    BACKOFF,
    BACKOFF_MOST,
    Cancelled,
    Heading,
    Lost,
    Pace,
    Policy,
    State,
    Task,
    Tasks,
    Tracker,
    backoff,
    chunk,
)
from pywren_runtime.errors import TaskTimeout
from pywren_runtime.wire import Environment, Head, Outcome, Status

OK = (Status.PLAIN, Status.VALUE)


class Nobody:
    """A watcher that does not care."""

    def outcome(self, outcome):
        pass

    def lost(self, lost):
        pass

    def settled(self, task):
        pass


def make_tasks(job="j", retries=2, *, retry_on=(), chunksize=1):
    policy = Policy(retries, retry_on, None)
    return Tasks(job, policy=policy, chunksize=chunksize, pace=Pace(), watcher=Nobody())


def heading(job="j"):
    return Heading(Head(job, b"", b""), Environment(), b"")


def grow(tasks, count, head):
    new = [Task(tasks, len(tasks.all) + i, head, b"", (), 0.0) for i in range(count)]
    tasks.all.extend(new)
    return new


def outcome_of(task, status=Status.VALUE, *, round=None, attempt=None):
    round = task.round if round is None else round
    attempt = task.attempt if attempt is None else attempt
    return Outcome(task.tasks.job, task.index, round, attempt, status, b"\0", b"", b"")


def loss_of(task, *, charged=True, attempt=None, error=None):
    attempt = task.attempt if attempt is None else attempt
    return Lost(task.tasks.job, task.index, attempt, charged, error or OSError("killed"))


class AnyOrder(RuleBasedStateMachine):
    """Everything that the engine and its backend may tell a tracker, in any order and more than once."""

    def __init__(self):
        super().__init__()
        self.tracker = Tracker()
        self.now = 0.0
        self.jobs = []
        self.headings = {}
        self.ends = {}  # how each settled task ended: nothing may change it but `reopen`
        self.uncharged = {}  # attempts that each task has had for nothing

    def tasks(self):
        return [task for tasks in self.jobs for task in tasks.all]

    def pick(self, data, states=tuple(State)):
        found = [task for task in self.tasks() if task.state in states]
        return data.draw(st.sampled_from(found)) if found else None

    def note(self, task, settled, ending):
        """What an event returned must be what it did."""
        assert settled is None or settled is task
        if settled is not None:
            assert task not in self.ends, "settled twice"
            assert task.ending is ending
            self.ends[task] = ending

    @precondition(lambda self: len(self.jobs) < 4)
    @rule(retries=st.integers(0, 3), stubborn=st.booleans())
    def new_job(self, retries, stubborn):
        name = f"job{len(self.jobs)}"
        retry_on = (TimeoutError,) if stubborn else ()
        self.jobs.append(make_tasks(name, retries, retry_on=retry_on))
        self.headings[name] = [heading(name), heading(name)]

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), count=st.integers(1, 5), which=st.integers(0, 1))
    def add(self, data, count, which):
        tasks = data.draw(st.sampled_from(self.jobs))
        self.tracker.add(tasks, grow(tasks, count, self.headings[tasks.job][which]))

    @rule(most=st.integers(1, 4))
    def take(self, most):
        first, ready = self.tracker.first(), self.tracker.ready
        before = {task: task.attempt for task in self.tasks()}
        taken = self.tracker.take(most)
        assert (first is None) == (not taken) == (ready == 0), "something is ready, and nothing was to be had"
        assert len(taken) <= most and taken[:1] == ([first] if first else [])
        assert len({task.heading for task in taken}) <= 1, "tasks of two headings in one Call"
        assert all(task.state is State.OUT and task.attempt == before[task] + 1 for task in taken)
        assert len(taken) == 1 or not any(task.losses for task in taken), "what was lost before does not go alone"

    @rule(data=st.data(), status=st.sampled_from(Status))
    def outcome(self, data, status):
        """Of any attempt that ever was: late, twice, or of a round that is over."""
        task = self.pick(data)
        if task is None or not task.attempt:
            return
        found = outcome_of(
            task,
            status,
            round=data.draw(st.integers(0, task.round)),
            attempt=data.draw(st.integers(1, task.attempt)),
        )
        self.bring(task, found)

    @rule(data=st.data(), status=st.sampled_from(Status))
    def prompt_outcome(self, data, status):
        task = self.pick(data, (State.OUT,))
        if task is not None:
            self.bring(task, outcome_of(task, status))

    def bring(self, task, found):
        was, losses, raises = task.state, task.losses, task.raises
        expected = was is State.OUT and found.attempt == task.attempt
        counts = was is not State.SETTLED and found.round == task.round
        tries_again = (found.status is Status.RETRY and raises < task.tasks.policy.retries) or (
            found.status is Status.LOST and losses < task.tasks.policy.retries
        )
        settled = self.tracker.outcome(found, self.now)
        self.note(task, settled, found)
        if counts and found.status in OK:
            assert settled is task, "the first value of a round did not win"
        elif counts and expected and not tries_again:
            assert settled is task, "nothing was left to try, and the task did not settle"
        elif counts and expected:
            assert task.state is State.WAITING and (task.losses, task.raises) > (losses, raises)
            assert task.round == found.round + 1, "the outcome is committed, and the next attempt could not be"
        else:
            assert settled is None and task.state is was, "what is late or a duplicate changed something"

    @rule(data=st.data(), charged=st.booleans(), limit=st.booleans(), late=st.booleans(), final=st.booleans())
    def lost(self, data, charged, limit, late, final):
        task = self.pick(data) if late else self.pick(data, (State.OUT,))
        if task is None or not task.attempt:
            return
        attempt = data.draw(st.integers(1, task.attempt)) if late else task.attempt
        error = TaskTimeout("long") if limit else None
        event = replace(loss_of(task, charged=charged, attempt=attempt, error=error), final=final, committed=late)
        round = task.round
        was, losses, policy = task.state, task.losses, task.tasks.policy
        settled = self.tracker.lost(event, self.now)
        self.note(task, settled, event.error)
        if was is not State.OUT or attempt != task.attempt:
            assert settled is None and task.state is was
        elif not charged:
            self.uncharged[task] = self.uncharged.get(task, 0) + 1
            assert task.state is State.READY and task.losses == losses, "charged for what it did not begin"
            assert task.round == round + late
        elif losses < policy.retries and (not (limit or final) or (limit and policy.retry_on)):
            assert task.state is State.WAITING and task.losses == losses + 1
        else:
            assert settled is task

    @rule(data=st.data(), running=st.booleans())
    def cancel(self, data, running):
        task = self.pick(data)
        if task is None:
            return
        may = task.state is not State.SETTLED and (running or task.state is not State.OUT)
        settled = self.tracker.cancel(task, running=running)
        assert (settled is task) == may
        self.note(task, settled, task.ending)
        assert settled is None or isinstance(task.ending, Cancelled)

    @rule(data=st.data())
    def give_up(self, data):
        """As when the executor breaks."""
        task = self.pick(data, (State.READY, State.OUT, State.WAITING))
        if task is not None:
            error = CancelledError()
            self.note(task, self.tracker.settle(task, error), error)

    @rule(seconds=st.floats(0, 30))
    def due(self, seconds):
        waiting = [task for task in self.tasks() if task.state is State.WAITING]
        self.now += seconds
        following = self.tracker.due(self.now)
        assert following is None or following > self.now
        assert all(task.state in (State.WAITING, State.READY) for task in waiting)
        if any(task.state is State.WAITING for task in waiting):
            assert following is not None, "something waits, and nobody will wake it"

    @rule(data=st.data())
    def reopen(self, data):
        task = self.pick(data, (State.SETTLED,))
        if task is None:
            return
        over = [other for other in task.tasks.all if other.state is State.SETTLED]
        again = data.draw(st.lists(st.sampled_from(over), min_size=1, unique=True))
        rounds = [task.round for task in again]
        self.tracker.reopen(task.tasks, again)
        assert [task.round for task in again] == [number + 1 for number in rounds]
        for each in again:
            del self.ends[each]

    @invariant()
    def counts_agree(self):
        for tasks in self.jobs:
            states = [task.state for task in tasks.all]
            assert list(tasks.ready).count(None) == 0 and len(set(tasks.ready)) == len(tasks.ready)
            assert set(tasks.ready) == {task for task in tasks.all if task.state is State.READY}
            assert tasks.unsettled == len(states) - states.count(State.SETTLED)
            assert (self.tracker.jobs.get(tasks.job) is tasks) == (tasks.unsettled > 0)
        assert self.tracker.ready == sum(task.state is State.READY for task in self.tasks())

    @invariant()
    def what_is_settled_stays_so(self):
        for task in self.tasks():
            assert (task.state is State.SETTLED) == (task.ending is not None) == (task in self.ends)
            assert task.ending is self.ends.get(task)

    @invariant()
    def tries_are_bounded(self):
        for task in self.tasks():
            assert max(task.losses, task.raises) <= task.tasks.policy.retries
            lives = task.round + 1
            most = lives * (1 + 2 * task.tasks.policy.retries) + self.uncharged.get(task, 0)
            assert task.attempt <= most

    def teardown(self):
        """From here on all goes well: whatever has not settled must come out, once."""
        for _ in range(1 + len(self.tasks())):
            self.tracker.due(math.inf)
            while taken := self.tracker.take(3):
                for task in taken:
                    assert task.state is State.OUT
            for task in self.tasks():
                if task.state is State.OUT:
                    found = outcome_of(task)
                    self.note(task, self.tracker.outcome(found, self.now), found)
        assert all(task.state is State.SETTLED for task in self.tasks()), "a task was lost"
        assert not self.tracker.jobs and not self.tracker.ready and self.tracker.first() is None
        self.counts_agree()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def started(retries=2, count=1, **options):
    tracker, tasks = Tracker(), make_tasks(retries=retries, **options)
    tracker.add(tasks, grow(tasks, count, heading()))
    return tracker, tasks


def test_tasks_go_out_in_order_and_never_more_than_asked_for():
    tracker, _ = started(count=5)
    assert [[task.index for task in tracker.take(2)] for _ in range(4)] == [[0, 1], [2, 3], [4], []]


def test_jobs_take_their_turn():
    tracker, first = started(count=2)
    second = make_tasks("k")
    tracker.add(second, grow(second, 1, heading("k")))
    tracker.add(first, grow(first, 1, first.all[0].heading))
    assert [tracker.take(10)[0].tasks.job for _ in range(2)] == ["j", "k"]


def test_a_value_of_an_attempt_that_was_given_up_still_counts_and_the_second_does_not():
    tracker, tasks = started()
    (task,) = tracker.take(1)
    early = outcome_of(task)
    tracker.lost(loss_of(task), 0.0)
    tracker.due(math.inf)
    assert tracker.take(1) == [task] and task.attempt == 2
    assert tracker.outcome(early, 1.0) is task
    assert tracker.outcome(outcome_of(task, attempt=2), 1.0) is None
    assert task.ending is early and tasks.unsettled == 0


def test_a_failure_of_an_attempt_that_was_given_up_does_not_count():
    tracker, _ = started()
    (task,) = tracker.take(1)
    late = outcome_of(task, Status.RAISED)
    tracker.lost(loss_of(task), 0.0)
    assert tracker.outcome(late, 0.0) is None
    assert task.state is State.WAITING


def test_a_retry_opens_the_next_round_and_the_old_one_is_closed():
    tracker, _ = started(retries=1)
    (task,) = tracker.take(1)
    first = outcome_of(task, Status.RETRY)
    assert tracker.outcome(first, 0.0) is None and task.round == 1
    tracker.due(math.inf)
    tracker.take(1)
    assert tracker.outcome(first, 0.0) is None, "a duplicate of the old round"
    last = outcome_of(task, Status.RETRY)
    assert tracker.outcome(last, 0.0) is task, "its retries are used up"
    assert (task.round, task.attempt) == (1, 2)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_a_task_that_kills_every_worker_gets_its_retries_and_no_more(retries):
    tracker, _ = started(retries=retries)
    errors = []
    for attempt in range(1, retries + 2):
        (task,) = tracker.take(1)
        assert task.attempt == attempt
        errors.append(OSError(attempt))
        settled = tracker.lost(loss_of(task, error=errors[-1]), 0.0)
        tracker.due(math.inf)
    assert settled is task and task.ending is errors[-1]
    assert tracker.take(1) == []


def test_a_task_that_had_not_begun_is_first_in_line_again_and_not_charged():
    tracker, _ = started(retries=0, count=3)
    first, second = tracker.take(2)
    for _ in range(50):
        assert tracker.lost(loss_of(second, charged=False), 0.0) is None
        assert tracker.first() is second
        tracker.take(1)
    assert second.losses == 0 and second.attempt == 51 and first.state is State.OUT


def test_a_time_out_is_not_tried_again_unless_that_was_asked_for():
    for retry_on, state in ((), State.SETTLED), ((TimeoutError,), State.WAITING):
        tracker, _ = started(retry_on=retry_on)
        (task,) = tracker.take(1)
        tracker.lost(loss_of(task, error=TaskTimeout("too long")), 0.0)
        assert task.state is state


def test_an_outcome_of_no_job_or_no_task_is_ignored():
    tracker, tasks = started()
    (task,) = tracker.take(1)
    strangers = [
        Outcome("elsewhere", 0, 0, 1, Status.VALUE, b"", b"", b""),
        Outcome("j", 7, 0, 1, Status.VALUE, b"", b"", b""),
        outcome_of(task, attempt=2),
        outcome_of(task, round=1),
    ]
    assert [tracker.outcome(stranger, 0.0) for stranger in strangers] == [None] * 4
    assert tasks.unsettled == 1


def test_back_off_doubles_up_to_a_limit():
    waits = [backoff(times) for times in range(1, 30)]
    assert waits[:4] == [BACKOFF, 2 * BACKOFF, 4 * BACKOFF, 8 * BACKOFF]
    assert waits == sorted(waits) and waits[-1] == BACKOFF_MOST


def test_what_waits_is_ready_when_its_time_has_come_and_not_before():
    tracker, _ = started()
    (task,) = tracker.take(1)
    tracker.lost(loss_of(task), 100.0)
    assert tracker.due(100.0 + 0.9 * BACKOFF) == pytest.approx(100.0 + BACKOFF)
    assert tracker.ready == 0
    assert tracker.due(100.0 + 1.1 * BACKOFF) is None
    assert tracker.ready == 1


def chunk_of(*, chunksize=None, seconds=None, ready=1000, workers=4):
    tracker, tasks = started(count=ready, chunksize=chunksize)
    if seconds is not None:
        tasks.pace.note(seconds)
    assert tracker.ready == ready
    return chunk(tasks, workers)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"chunksize": 7, "seconds": 1.0}, 7),
        ({"seconds": None}, 1),
        ({"seconds": 1.0}, 1),
        ({"seconds": 0.025, "ready": 100_000}, 2),
        ({"seconds": 0.001, "ready": 100_000}, 50),
        ({"seconds": 0.001, "ready": 160}, 10),
        ({"seconds": 0.001, "ready": 3}, 1),
        ({"seconds": 0.0, "ready": 100_000}, 1000),
        ({"seconds": 0.001, "ready": 100, "workers": 1}, 25),
    ],
)
def test_chunks_follow_from_what_tasks_take(given, expected):
    assert chunk_of(**given) == expected


def test_the_pace_is_a_moving_mean():
    pace = Pace()
    pace.note(1.0)
    assert pace.seconds == 1.0
    for _ in range(100):
        pace.note(0.1)
    assert pace.seconds == pytest.approx(0.1, rel=1e-3)
