"""Plans: what fits, what is fastest, what is said of the rest. Nothing is read and nothing is sorted here."""

from dataclasses import replace
from math import ceil, inf, isqrt
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywren_runtime.errors import ConfigError
from pywren_runtime.rates import rates
from pywren_shuffle.planning.levels import layers_of
from pywren_shuffle.planning.model import seconds_of
from pywren_shuffle.planning.plan import Layer, Plan
from pywren_shuffle.planning.planner import make_plan
from pywren_shuffle.planning.terms import FOLDER, Terms, Tier, Workers, lambda_workers, tier_named
from pywren_shuffle.records import Piece, Source
from pywren_shuffle.sizes import gather, starts_of

S3 = tier_named("s3")
MB, GB, TB = 10**6, 10**9, 10**12


def plan_of(total: int, *, workers: Workers | None = None, tiers: tuple[Tier, ...] = (S3,), **options: Any) -> Plan:
    terms = Terms(workers or lambda_workers(1000, 1769), S3, S3, tiers)
    if tiers[0].name == "folder":
        terms = Terms(workers or Workers(4), *tiers, *tiers, tiers)
    given: dict[str, Any] = {"objects": 1, "record_size": 100, "expansion": 1.2, "decoded": 1.2, "together": 1}
    given |= {"memory": 1600, "partitions": None, "terms": terms}
    return make_plan(total, **(given | options))


def reads_of(plan: Plan) -> int:
    """Of intermediate objects."""
    return sum(step.requests["GetRange"] for step in plan.steps if step.name.startswith(("regroup", "merge")))


def refused(total: int, why: str, **options: Any) -> str:
    with pytest.raises(ConfigError, match=why) as caught:
        plan_of(total, **options)
    return str(caught.value)


# ── folders, of which nothing is known ──


def test_in_folders_splits_fit_into_memory_and_all_workers_have_some() -> None:
    for total in (1, 10**6, 10**8, 10**9, 10**12):
        plan = plan_of(total, tiers=(FOLDER,), memory=256, expansion=0.5)
        assert plan.split * 1.5 <= 256 << 20
        assert plan.partitions == plan.splits == -(-total // plan.split)
        assert total < 10**8 or plan.partitions % 4 == 0
        assert plan.levels == 1
        assert (plan.seconds, plan.dollars, plan.requests) == (None, None, {})


def test_nothing_and_one_record_are_one_split_and_one_partition() -> None:
    for tiers in ((FOLDER,), (S3,)):
        for total in (0, 100):
            plan = plan_of(total, tiers=tiers)
            assert (plan.splits, plan.partitions, plan.levels) == (1, 1, 1)
            assert str(plan)


@pytest.mark.parametrize(
    "wrong",
    [{"memory": 0}, {"memory": -1.0}, {"partitions": 0}, {"together": 0}, {"levels": 4}, {"partitions": 100_001}],
)
def test_what_makes_no_sense_is_said(wrong: dict[str, Any]) -> None:
    for tiers in ((FOLDER,), (S3,)):
        refused(10**6, next(iter(wrong)), tiers=tiers, **wrong)


# ── levels ──


@pytest.mark.parametrize(
    ("partitions", "levels", "puts", "gets"),
    [(64, 1, 64, 4096), (64, 2, 128, 1024), (256, 2, 512, 8192), (64, 3, 192, 768), (7, 2, 15, 42), (50, 2, 100, 750)],
)
def test_so_many_requests_for_so_many_levels(partitions: int, levels: int, puts: int, gets: int) -> None:
    plan = plan_of(100 * MB, splits=partitions, partitions=partitions, levels=levels)
    assert plan.splits == partitions
    assert sum(layer.objects for layer in plan.layers) == puts
    assert reads_of(plan) == gets


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(2, 3))
@settings(max_examples=200, deadline=None)
def test_layers_are_nested_and_read_little(splits: int, partitions: int, levels: int) -> None:
    layers = layers_of(splits, partitions, levels, "s3")
    assert layers[0] == Layer(splits, 1, "s3")
    ranges = [layer.ranges for layer in layers] + [partitions]
    for one, next_ranges in zip(layers[1:], ranges[2:], strict=True):
        assert one.objects >= max(splits, partitions)  # none is larger than a split, or a partition, is on average
        assert set(starts_of(partitions, one.ranges)) <= set(starts_of(partitions, next_ranges))
        assert one.groups <= splits


@given(st.integers(1, 3000))
@settings(max_examples=200, deadline=None)
def test_two_levels_of_as_many_partitions_as_splits_read_no_more_than_sides_of_a_square(partitions: int) -> None:
    _, between = layers_of(partitions, partitions, 2, "s3")
    side = isqrt(partitions)
    assert between.groups + between.ranges <= min(side + ceil(partitions / side), partitions + 1)


def test_more_levels_where_they_win() -> None:
    assert plan_of(100 * MB).levels == 1
    assert plan_of(TB).levels == 2
    slow = replace(S3, gets=S3.gets / 100)
    assert plan_of(TB, tiers=(slow,)).levels == 3
    assert plan_of(TB, tiers=(replace(S3, gets=inf, puts=inf, per_get=0.0),)).levels == 1


# ── seconds and dollars ──


def test_seconds_are_the_larger_of_bytes_and_requests_and_one_request_of_the_lesser() -> None:
    terms = Terms(Workers(4, bandwidth=10 * MB), S3, S3, (S3,))
    assert seconds_of(80 * MB, 4, 4, 100, terms, S3) == pytest.approx(2 + 0.04)  # all begin, one after the other
    assert seconds_of(80 * MB, 4000, 4, 100, terms, S3) == pytest.approx(40 + 2 / 1000)
    assert seconds_of(80 * MB, 5, 5, 1e9, terms, S3) == pytest.approx(2 * 1.6)  # the fifth waits for a whole turn
    assert seconds_of(80 * MB, 4, 4, 1e9, terms, replace(S3, bandwidth=MB)) == pytest.approx(80)
    assert seconds_of(0, 0, 4, 100, terms, S3) == 0


def test_who_has_read_writes_while_others_wait_for_their_turns() -> None:
    store = replace(S3, puts=10.0, gets=20.0)
    for workers, apart in ((8, 7 / 20), (1, 0.0)):
        terms = Terms(Workers(workers, bandwidth=MB), store, store, (store,))
        plan = plan_of(8 * MB, terms=terms, splits=8, partitions=8, levels=1)
        merge = next(step for step in plan.steps if step.name == "merge")
        reading, writing = (seconds_of(8 * MB, *way, terms, store) for way in ((64, 8, 20.0), (8, 8, 10.0)))
        assert merge.seconds == pytest.approx(reading + writing - apart)


@pytest.mark.parametrize(
    ("objects", "asked", "made"), [(1, 7, 7), (10, 8, 10), (50, 8, 10), (50, 32, 50), (3, 32, 33), (8, 4, 4), (8, 1, 1)]
)
def test_splits_are_as_many_as_objects_make(objects: int, asked: int, made: int) -> None:
    plan = plan_of(10 * MB, objects=objects, splits=asked, partitions=4)
    assert plan.splits == made
    size = 10 * MB // objects  # as the input is cut: each object for itself, and small ones together
    pieces = [Piece(Source("", str(number), size), 0, size) for number in range(objects)]
    if size > plan.split:
        assert objects * ceil(size / plan.split) == made
    else:
        assert len(gather(pieces, plan.split)) == made


def test_slices_that_will_be_empty_are_not_asked_for() -> None:
    full, sparse = (plan_of(100 * each * 64, splits=8, partitions=8, levels=1) for each in (20, 1))
    assert reads_of(full) == 64
    assert reads_of(sparse) == 40  # of 64 records each may be in any of 64


def test_the_plan_is_the_fastest_or_cheapest_of_those_about_as_fast() -> None:
    best = plan_of(GB)
    assert best.seconds is not None
    for partitions in (1, 4, 16, 100, 400):
        other = plan_of(GB, partitions=partitions)
        assert other.seconds is not None
        phases = 0.3 * (other.levels - best.levels)  # what one more level must save
        assert best.seconds <= max(1.05 * (other.seconds + phases), other.seconds + phases + 0.05)
    for option in best.rejected:
        assert option.why
        assert option.seconds is None or best.seconds <= option.seconds * 1.05 + 0.65


def test_dollars_are_requests_and_seconds_and_bytes_and_hours() -> None:
    free = Workers(8, bandwidth=75 * MB)
    told = rates()["s3"]
    plan = plan_of(GB, workers=free, partitions=8, splits=8)
    asked = plan.requests
    puts = sum(number for kind, number in asked.items() if not kind.startswith(("Get", "Delete")))
    assert plan.dollars == pytest.approx(asked["GetRange"] * told["per_get"] + puts * told["per_put"])
    paid = plan_of(GB, workers=replace(free, per_second=1.0), partitions=8, splits=8)
    assert paid.seconds == plan.seconds
    assert paid.dollars == pytest.approx((plan.dollars or 0) + 8 * (plan.seconds or 0), rel=0.01)
    rented = plan_of(GB, workers=free, tiers=(Tier("redis", per_hour=7.0),), partitions=8, splits=8)
    assert rented.dollars == pytest.approx(7.0, abs=0.01)
    express = replace(tier_named("s3express"), per_put=0.0, per_get=0.0)
    carried = plan_of(GB, workers=free, tiers=(express,), partitions=8, splits=8)
    ends = plan_of(GB, workers=free, tiers=(Tier("free"),), partitions=8, splits=8)
    assert (carried.dollars or 0) - (ends.dollars or 0) == pytest.approx(GB * 3.8e-12)


def test_partitions_that_were_asked_for_are_honoured_and_explained() -> None:
    for tiers in ((FOLDER,), (S3,)):
        plan = plan_of(GB, tiers=tiers, partitions=77)
        assert plan.partitions == 77
        assert "partitions=77 was asked for" in str(plan)


def test_more_work_than_workers_is_done_in_whole_turns() -> None:
    plan = plan_of(TB, workers=lambda_workers(100, 1769))
    assert plan.splits % 100 == 0
    assert plan.at_once == 100
    assert "100 at once is what there is" in plan.why
    assert lambda_workers(5000, 1769).at_once == 1000  # what an account has


def test_keys_spread_over_prefixes_where_that_is_faster() -> None:
    spread = replace(S3, prefixes=16, prefixes_after=0.0)
    assert plan_of(100 * MB, tiers=(spread,), levels=1).prefixes == 1
    one, more = (plan_of(TB, tiers=(tier,), levels=1) for tier in (replace(S3, prefixes=1), spread))
    assert (one.prefixes, more.prefixes) == (1, 16)
    assert (more.seconds or 0) < (one.seconds or 0) / 5
    assert "16 prefixes" in str(more)


def test_a_prefix_is_not_split_at_once() -> None:
    asked: dict[str, Any] = {"levels": 1, "workers": Workers(1000, bandwidth=75 * MB)}
    never = plan_of(2 * TB, tiers=(replace(S3, prefixes=1),), **asked)
    at_once = plan_of(2 * TB, tiers=(replace(S3, prefixes_after=0.0),), **asked)
    after = plan_of(2 * TB, tiers=(replace(S3, prefixes_after=1000.0),), **asked)
    assert never.seconds and at_once.seconds and after.seconds
    assert after.seconds == pytest.approx(1000 + (1 - 1000 / never.seconds) * at_once.seconds)
    assert plan_of(TB, levels=1).prefixes == 1  # it would be over before


# ── what cannot be ──


def test_what_does_not_fit_is_refused_in_words() -> None:
    refused(10 * TB, r"memory: .* would merge .* slices each", memory=64, partitions=10, levels=1)
    refused(TB, r"uploads: each output part of 1 TB .* 59,605 parts .* at least 6", partitions=1, workers=Workers(9))
    refused(100 * GB, r"time: each of 1 tasks of the step 'merge' .* a worker has 900", partitions=1)
    many = replace(tier_named("redis"), connections=2000)
    refused(GB, r"file descriptors: .* may have 1,024", tiers=(many,))
    full = replace(FOLDER, capacity=GB)
    said = refused(GB, r"room: 2 GB of intermediate data and output would lie on the disk", tiers=(full,))
    assert "room for 1 GB" in said
    refused(100 * TB, "the driver's memory: it would keep", memory=10_000, partitions=100_000, levels=1)


def test_a_way_that_cannot_be_is_among_the_rejected_with_its_reason() -> None:
    plan = plan_of(10 * TB)
    refusals = {option.name: option.why for option in plan.rejected if option.seconds is None}
    assert refusals.keys() == {"1 level on s3"}
    assert "a worker has 900" in refusals["1 level on s3"]


def test_what_a_store_cannot_hold_goes_through_it_in_rounds_or_elsewhere() -> None:
    small = Tier("redis", puts=1e5, gets=1e5, capacity=300 * GB)
    plan = plan_of(TB, tiers=(small, S3))
    assert plan.rounds == 4
    assert [layer.tier for layer in plan.layers] == ["redis", "s3"]
    assert plan.layers[1].groups == 4
    assert "in 4 rounds" in str(plan)
    large = replace(small, capacity=3 * TB)
    assert {layer.tier for layer in plan_of(TB, tiers=(large, S3)).layers} == {"redis"}
    nothing = replace(small, capacity=1)
    elsewhere = plan_of(TB, tiers=(nothing, S3))
    assert {layer.tier for layer in elsewhere.layers} == {"s3"}
    refused(TB, "room: 1 TB of intermediate data would lie on redis", tiers=(small,))


def test_a_redis_of_which_only_the_url_is_known() -> None:
    """It is one server, whose price is not known, and which lets in so many."""
    one = replace(tier_named("redis"), capacity=40 * GB)
    plan = plan_of(10 * GB, tiers=(one, S3))
    assert plan.tier == "redis" and "without what redis costs by the hour" in str(plan)
    assert "$0.22 for 1 cache.r7g.large" in str(plan)
    assert plan.seconds is not None and plan.seconds > 2 * 10 * GB / one.bandwidth
    (option,) = (option for option in plan.rejected if option.name.startswith("1 level on s3"))
    assert option.why == "redis was asked for" and option.seconds is not None and option.seconds < plan.seconds
    rented = plan_of(10 * GB, tiers=(replace(one, per_hour=3.0), S3))
    assert rented.dollars == pytest.approx((plan.dollars or 0) + 3) and "without what" not in str(rented)
    few = plan_of(10 * GB, tiers=(replace(one, most_workers=3), S3))
    assert few.tier == "s3"
    assert {option.why for option in few.rejected if option.name.endswith("redis")} == {
        "connections: 1,000 workers at once would read and write redis, which lets in 3 more (its maxclients)"
    }


@given(st.integers(0, 10**14), st.integers(1, 3000), st.floats(60, 10_000), st.floats(10, 10_000))
@settings(max_examples=100, deadline=None)
def test_every_plan_fits_or_is_refused(total: int, workers: int, memory: float, record: float) -> None:
    try:
        plan = plan_of(total, workers=lambda_workers(workers, memory), memory=memory, record_size=record)
    except ConfigError as error:
        assert "cannot be done" in str(error)
        return
    assert plan.split * 2.2 <= memory * (1 << 20)
    assert plan.partitions <= 100_000
    assert total / plan.partitions <= 10_000 * (16 << 20)
    for step in plan.steps:
        assert step.seconds / ceil(step.tasks / plan.at_once) <= 900 or step.tasks <= 1
    assert 24 * sum(layer.objects for layer in plan.layers) < 4 << 30


def test_in_folders_partitions_that_would_not_fit_are_more_of_them() -> None:
    """Small rows take more memory between the phases than they took before: no worker merges them in rounds."""
    tiny = {"tiers": (FOLDER,), "record_size": 13, "expansion": 12.7, "decoded": 22.1, "memory": 16}
    plan = plan_of(210 * MB, **tiny)
    assert plan.partitions > plan.splits
    assert plan.bytes / plan.partitions * (1 + 22.1) < plan.memory
    refused(210 * MB, r"memory: 252 tasks.*give workers more, or let there be more partitions", partitions=252, **tiny)


# ── words ──


def test_a_plan_says_what_was_chosen_and_what_was_not() -> None:
    said = str(plan_of(TB))
    for text in ("sort 1 TB", "2 levels of exchange on s3", "not taken:", "1 level on s3", "reads at 5,500 a second"):
        assert text in said
    for step in ("sample", "partition", "regroup 1", "merge", "in all", "dollars"):
        assert f"\n  {step}" in said


def test_rates_are_dated_and_say_where_they_are_from() -> None:
    found = rates()
    for service in ("lambda", "s3", "s3express", "redis"):
        assert found[service]["date"] > "2026"
        assert found[service]["source"].startswith("https://")
