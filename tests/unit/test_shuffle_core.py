"""What the sort is made of: order and hash of many records, boundaries, plans, requests in flight, the proof."""

import random
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from pywren_runtime.errors import ShuffleCorrupt
from pywren_shuffle.phases.sample import Boundary, boundaries, cuts, packed, unpacked
from pywren_shuffle.places.exchange import joined
from pywren_shuffle.places.flights import AT_ONCE, Flights
from pywren_shuffle.proof import MASK, NOTHING, Tally, compare
from pywren_shuffle.records import Piece, Source, open_format
from pywren_shuffle.records.vectors import Mixer
from pywren_shuffle.sizes import gather, reads, round_block, sample_size

FIXED = open_format("fixed:100:10")


def batch_of(records: list[bytes], spec: str = "fixed:100:10", **options: Any) -> Any:
    return open_format(spec, **options).decode(memoryview(b"".join(records)))[0]


def encoded(batch: Any) -> bytes:
    return b"".join(bytes(buffer) for buffer in batch.encode())


# ── many records at once ──


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("letters", [1, 2, 256])
@pytest.mark.parametrize(("width", "key"), [(1, 1), (3, 2), (8, 8), (10, 4), (12, 10), (20, 17), (40, 40)])
def test_the_order_is_that_of_sorted(width: int, key: int, letters: int, reverse: bool) -> None:
    chance = random.Random(width * letters)
    for count in (0, 1, 2, 700):
        records = [bytes(chance.randrange(letters) for _ in range(width)) for _ in range(count)]
        batch = batch_of(records, f"fixed:{width}:{key}", reverse=reverse).sort()
        assert encoded(batch) == b"".join(sorted(records, key=lambda record: record[:key], reverse=reverse))
        writer = batch.format.writer()
        list(writer.write(batch))
        assert writer.tally.in_order
        assert [writer.tally.checksum] == batch.sums([0, count])


def test_keys_that_differ_in_one_bit_only_are_told_apart() -> None:
    chance = random.Random(1)
    records = [bytearray(40) for _ in range(40 * 8)]
    for place, record in enumerate(records):
        record[place // 8] = 1 << place % 8
    chance.shuffle(records)
    found = encoded(batch_of([bytes(record) for record in records], "fixed:40:40").sort())
    assert found == b"".join(sorted(map(bytes, records)))


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_a_hash_depends_on_every_byte_and_the_sum_on_who_has_it(place: int) -> None:
    records = np.random.default_rng(3).integers(0, 256, (2, 100), np.uint8)

    def hashes(changed: np.ndarray) -> Any:
        out = np.empty(2, np.uint64)
        Mixer(100, 2).hashes(changed, out)
        return out

    flipped = records.copy()
    flipped[0, place] ^= 128
    assert hashes(flipped)[0] != hashes(records)[0]
    swapped = records.copy()
    swapped[:, place:] = records[::-1, place:]
    if place:
        assert hashes(swapped).sum() != hashes(records).sum()


def test_two_highest_bits_of_a_record_do_not_cancel_out() -> None:
    records = np.zeros((1, 96), np.uint8)
    other = records.copy()
    other[0, [7, 15]] ^= 128  # the highest bit of two words: linear sums cannot see it
    before, after = np.empty(1, np.uint64), np.empty(1, np.uint64)
    Mixer(96, 1).hashes(records, before)
    Mixer(96, 1).hashes(other, after)
    assert before[0] != after[0]


def test_disorder_is_seen_within_a_block_and_between_blocks() -> None:
    records = [bytes([number // 256, number % 256]) + bytes(98) for number in range(9000)]
    for place in (10, 8999):
        wrong = list(records)
        wrong[place], wrong[place - 1] = wrong[place - 1], wrong[place]
        writer = FIXED.writer()
        list(writer.write(batch_of(wrong)))
        assert not writer.tally.in_order


# ── boundaries ──


def test_a_key_that_is_everything_is_spread_evenly_and_in_order() -> None:
    splits = [[b"0123456789" + b"%090d" % (1000 * split + row) for row in range(1000)] for split in range(3)]
    keys = [batch_of([record[:10] for record in split], "fixed:10:10") for split in splits]
    found, hot = boundaries(open_format("fixed:10:10"), keys, 7)
    assert [(one.key, one.share) for one in hot] == [(b"0123456789", 1.0)]
    parts: list[list[bytes]] = [[] for _ in range(7)]
    for number, split in enumerate(splits):
        batch = batch_of(split).sort()
        places = cuts(batch, number, found, 7)
        for part, (start, stop) in enumerate(pairwise(places)):
            data = encoded(batch.part(start, stop))
            parts[part] += [data[at : at + 100] for at in range(0, len(data), 100)]
    assert [record for part in parts for record in part] == [record for split in splits for record in split]
    assert max(map(len, parts)) - min(map(len, parts)) <= 3


def test_without_keys_there_are_no_boundaries_and_all_is_in_the_first_partition() -> None:
    assert boundaries(FIXED, [], 5) == ([], [])
    assert cuts(batch_of([bytes(100)]), 0, [], 3) == [0, 1, 1, 1]


def test_boundaries_of_plain_keys_are_pickled_once_for_all_tasks() -> None:
    plain = [Boundary(key, 3, 0.5) for key in (b"k", "k", 1, 2.5)]
    assert isinstance(packed(plain), bytes)
    own = [Boundary((b"k", 1), 3, 0.5)]
    assert not isinstance(packed(own), bytes)
    for found in (plain, own, []):
        assert list(unpacked(packed(found))) == found


def test_a_sample_is_large_enough_and_no_larger_than_that() -> None:
    assert sample_size(10**6, 1) == 0
    assert sample_size(10**6, 2) == 10_000
    assert sample_size(10**5, 32) == 48_000
    assert sample_size(1e12, 3000) == 10_000_000
    assert sample_size(1e12, 30_000) == 45_000_000


# ── splits, and requests for them ──


def test_small_inputs_share_a_split() -> None:
    sources = [Source("file:///in", f"{number}", size) for number, size in enumerate([5, 5, 5, 20, 1])]
    splits = gather([Piece(source, 0, source.size) for source in sources], 12)
    assert [[piece.source.key for piece in split] for split in splits] == [["0", "1"], ["2"], ["3"], ["4"]]


def test_one_range_for_each_slice_that_fits_and_counted_blocks_for_those_that_do_not() -> None:
    assert reads([100] * 64, 1 << 20, 0.5, 4096) == 64
    assert reads([0, 5000], 1 << 20, 0.5, 4096) == 2
    step = round_block(2, 1 << 20, 0.5)
    assert reads([10 * step, 10 * step + 1], 1 << 20, 0.5, step) == 21
    assert reads([10 * step, 10 * step], 1 << 20, 0.5, step - 1) == 40


def test_neighbouring_ranges_are_one() -> None:
    source = Source("s3://b", "k", 100)
    pieces = [Piece(source, 0, 10), Piece(source, 10, 10), Piece(source, 10, 30), Piece(source, 40, 50)]
    assert joined(pieces) == [Piece(source, 0, 30), Piece(source, 40, 50)]


# ── requests in flight ──


def test_no_more_than_so_many_are_in_flight() -> None:
    gate, here, most = threading.Semaphore(0), 0, 0
    lock = threading.Lock()

    def send() -> bytes:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        gate.acquire()
        with lock:
            here -= 1
        return b""

    flights = Flights(hedging=False)
    found = [flights.start(send, lambda data: None) for _ in range(3 * AT_ONCE)]
    for _ in found:
        gate.release()
    for flight in found:
        flight.result()
    assert flights.sent == 3 * AT_ONCE
    assert most <= AT_ONCE
    flights.close()


def test_a_late_request_is_sent_again_and_only_the_first_answer_is_delivered() -> None:
    late, sends, delivered = threading.Event(), [], []

    def send() -> bytes:
        sends.append(1)
        if len(sends) == 1:
            late.wait()
            return b"late"
        return b"hedge"

    flights = Flights(hedging=True, ahead=49)
    flights.start(send, delivered.append).result()
    assert delivered == [b"hedge"]
    assert (flights.sent, flights.hedges) == (2, 1)
    late.set()
    flights.close()
    assert delivered == [b"hedge"]


def test_one_request_in_fifty_may_be_sent_again_and_those_of_earlier_tasks_count() -> None:
    never = threading.Event()

    def send() -> bytes:
        never.wait()
        return b""

    for ahead, allowed in ((0, 0), (46, 0), (47, 1), (99, 2)):
        flights = Flights(hedging=True, ahead=ahead)
        begun = [threading.Semaphore(0) for _ in range(3)]
        for each in begun:
            flights.start(lambda each=each: (each.release(), send())[1], len)  # type: ignore[misc]
        for each in begun:
            assert each.acquire(timeout=10)
        for hours in range(1, 5):
            flights._hedge(time.monotonic() + 3600 * hours)
        assert (flights.hedges, flights.sent) == (allowed, 3 + allowed)
        flights.close()
    never.set()


@pytest.mark.parametrize("hedging", [False, True])
def test_what_a_request_raises_comes_out(hedging: bool) -> None:
    def send() -> bytes:
        raise TimeoutError("no answer")

    def refuse(data: bytes) -> None:
        raise ShuffleCorrupt("too short")

    flights = Flights(hedging=hedging)
    with pytest.raises(TimeoutError, match="no answer"):
        flights.start(send, refuse).result()
    with pytest.raises(ShuffleCorrupt, match="too short"):
        flights.start(bytes, refuse).result()
    flights.close()


# ── the proof ──


def tally(records: int, first: bytes, last: bytes, checksum: int = 0, in_order: bool = True) -> Tally:
    return Tally(records, 100 * records, checksum, first, last, in_order)


def test_tallies_add_up() -> None:
    whole = tally(1, b"a", b"c", MASK).then(tally(2, b"c", b"d", 3))
    assert whole == tally(3, b"a", b"d", 2)
    assert not whole.then(tally(1, b"c", b"e")).in_order
    assert NOTHING.then(whole) == whole.then(NOTHING) == whole
    assert tally(1, b"b", b"x").beside(tally(1, b"a", b"c")) == tally(2, b"a", b"x")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ([tally(3, b"a", b"d", 5)], "records"),
        ([tally(4, b"a", b"d", 6)], "checksum"),
        ([tally(4, b"b", b"d", 5)], "first key"),
        ([tally(4, b"a", b"c", 5)], "last key"),
        ([tally(4, b"a", b"d", 5, in_order=False)], "part-0"),
        ([tally(2, b"b", b"d", 2), tally(2, b"a", b"a", 3)], "part-1"),
    ],
)
def test_what_differs_is_said(written: list[Tally], words: str) -> None:
    read = [tally(1, b"c", b"d", 2), tally(3, b"a", b"c", 3)]
    assert compare(read, [tally(4, b"a", b"d", 5)], ["part-0"]).records == 4
    with pytest.raises(ShuffleCorrupt, match=words):
        compare(read, written, [f"part-{number}" for number in range(len(written))])
