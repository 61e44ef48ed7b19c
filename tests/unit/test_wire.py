"""What crosses between client and worker arrives as it was, or is refused."""

import hmac
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywren_runtime import wire
from pywren_runtime.errors import SignatureError, VersionError
from pywren_runtime.modules import Unit
from pywren_runtime.wire import STATS, Call, Environment, Head, Outcome, Signer, Stats, Status, TaskCall

KEY = bytes(range(32))
SHORT = st.integers(0, 2**16 - 1)
LONG = st.integers(0, 2**32 - 1)
NAMES = st.from_regex(r"[A-Za-z0-9._=-]{1,40}", fullmatch=True)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)

TASK_CALLS = st.builds(TaskCall, LONG, SHORT, SHORT, st.binary(max_size=200))
CALLS = st.builds(Call, st.binary(max_size=300), st.lists(TASK_CALLS, max_size=6).map(tuple))
ENVIRONMENTS = st.builds(
    Environment,
    memory=st.none() | st.integers(1, 100_000),
    env=st.lists(st.tuples(TEXTS, TEXTS), max_size=4).map(tuple),
    initializer=st.binary(max_size=200),
    modules=st.lists(st.builds(Unit, TEXTS, DIGESTS), max_size=4).map(tuple),
)
LIMITS = st.none() | st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)
HEADS = st.builds(
    Head, NAMES, st.binary(max_size=300), ENVIRONMENTS.map(Environment.encode) | st.binary(max_size=50), LIMITS
)
OUTCOMES = st.builds(
    Outcome,
    job=NAMES,
    task=LONG,
    round=SHORT,
    attempt=SHORT,
    status=st.sampled_from(Status),
    payload=st.binary(max_size=300),
    output=st.binary(max_size=300),
    stats=st.binary(max_size=80),
)


@given(CALLS)
def test_a_call_arrives_as_it_was(call):
    assert Call.decode(call.encode()) == call
    assert Call.decode(memoryview(call.encode())) == call


@given(HEADS)
def test_a_head_arrives_as_it_was(head):
    assert Head.decode(head.encode()) == head


@given(ENVIRONMENTS)
def test_an_environment_arrives_as_it_was(environment):
    assert Environment.decode(environment.encode()) == environment


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_environments_are_equal_where_their_bytes_are(one, other):
    assert (one == other) == (one.encode() == other.encode())


@given(OUTCOMES)
def test_an_outcome_arrives_as_it_was(outcome):
    assert Outcome.decode(outcome.encode()) == outcome
    assert Outcome.decode(memoryview(outcome.encode())) == outcome


@given(OUTCOMES)
def test_an_outcome_does_not_hold_the_pipe_s_buffer(outcome):
    buffer = bytearray(outcome.encode())
    decoded = Outcome.decode(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert decoded == outcome


def test_stats_have_a_field_for_each_value():
    values = (1.5, 2.5, 3.5, 4.5, 5.5, 0.25, 2**40, 2**31, True)
    stats = Stats(*STATS.unpack(STATS.pack(*values)))
    assert (stats.started, stats.stored, stats.cpu, stats.peak, stats.worker, stats.cold) == (
        1.5,
        5.5,
        0.25,
        2**40,
        2**31,
        True,
    )


def test_a_worker_of_another_release_says_so(monkeypatch):
    old = Call(b"head", ()).encode()
    monkeypatch.setattr(wire, "VERSION", wire.VERSION + 1)
    with pytest.raises(VersionError, match="different releases"):
        Call.decode(old)


@given(key=st.binary(max_size=200), kind=st.binary(max_size=10), body=st.binary(max_size=300))
def test_the_signature_is_hmac_sha256(key, kind, body):
    assert Signer(key).sign(kind, body) == hmac.digest(key, kind + body, "sha256")


@given(body=st.binary(max_size=300))
def test_a_sealed_frame_opens(body):
    assert Signer(KEY).open(b"call", Signer(KEY).seal(b"call", body)) == body


def frame_of(kind=b"outcome"):
    outcome = Outcome("job-1", 3, 0, 1, Status.VALUE, b"\0payload", b"printed", bytes(STATS.size))
    return Signer(KEY).seal(kind, outcome.encode())


def refused(frame, kind=b"outcome", key=KEY):
    with pytest.raises(SignatureError, match="signature"):
        Signer(key).open(kind, frame)


def test_a_change_of_any_bit_is_refused():
    frame = frame_of()
    for at in range(len(frame)):  # the signature, the header, the job, the payload, the output and the stats
        for bit in (0x01, 0x80):
            changed = bytearray(frame)
            changed[at] ^= bit
            refused(bytes(changed))


def test_a_frame_that_is_cut_or_longer_is_refused():
    frame = frame_of()
    for size in range(len(frame)):
        refused(frame[:size])
    refused(frame + b"\0")
    refused(b"\0" + frame)
    refused(frame + frame)


def test_a_frame_of_somebody_else_is_refused():
    refused(frame_of(), key=bytes(32))
    refused(frame_of(), key=KEY[:31])
    refused(frame_of()[32:])
    refused(bytes(32) + frame_of()[32:])


def test_a_call_is_no_outcome():
    refused(frame_of(b"call"))
    refused(frame_of(b"outcome"), kind=b"call")


@given(OUTCOMES, OUTCOMES)
def test_a_signature_does_not_fit_another_body(one, other):
    if one != other:
        signature = Signer(KEY).sign(b"outcome", one.encode())
        refused(signature + other.encode())


def test_keys_tell_everything_apart():
    digits = list(itertools.product(("j1", "j"), *[(1, 11)] * 4))
    assert len({wire.result_key(*each) for each in digits}) == len(digits)
    assert wire.result_key("j", 9, 0, 1, 0) < wire.result_key("j", 10, 0, 1, 0), "lists are in the tasks' order"
    assert wire.blob_key(b"\xab" * 32) == "blobs/" + "ab" * 32
