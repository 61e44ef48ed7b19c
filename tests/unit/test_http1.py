"""Answers put together from whatever pieces arrive."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywren_runtime.http1 import GarbageError, Reply, ask

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-Amz-Function-Error: Unhandled\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;name=value\r\n world\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n"
)


def fed(data: bytes, cuts: list[int]) -> Reply:
    """The reply made of that data, cut at these places."""
    reply, at = Reply(), 0
    for cut in [*sorted({cut % len(data) for cut in cuts}), len(data)]:
        if cut > at:
            reply.feed(data[at:cut])
            at = cut
    return reply


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 1000), max_size=30))
@pytest.mark.parametrize(("data", "status"), [(LENGTH, 200), (CHUNKED, 413)])
def test_it_does_not_matter_where_an_answer_is_cut(data: bytes, status: int, cuts: list[int]) -> None:
    reply = fed(data, cuts)
    assert (reply.complete, reply.status, reply.body, reply.keep) == (True, status, b"hello world", True)


def test_names_of_headers_are_in_lower_case() -> None:
    assert fed(LENGTH, [3]).headers == {"content-length": "11", "x-amz-function-error": "Unhandled"}


@pytest.mark.parametrize("data", [LENGTH, CHUNKED])
def test_byte_by_byte_it_is_complete_with_the_last(data: bytes) -> None:
    reply = Reply()
    for at in range(len(data)):
        assert not reply.complete
        reply.feed(data[at : at + 1])
    assert reply.complete


def test_without_a_length_it_ends_with_the_connection() -> None:
    reply = fed(b"HTTP/1.1 200 OK\r\n\r\nhello", [])
    assert not reply.complete
    assert reply.close()
    assert (reply.body, reply.keep) == (b"hello", False)


def test_an_end_in_the_middle_is_none() -> None:
    assert not fed(LENGTH[:-1], []).close()
    assert not Reply().close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 202 Accepted\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\nConnection: Close\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\nmore than that",
    ],
)
def test_no_other_request_follows_on_such_a_connection(head: bytes) -> None:
    reply = fed(head, [])
    assert reply.complete
    assert not reply.keep


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"H\x00",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    ],
)
def test_garbage_is_named(data: bytes) -> None:
    with pytest.raises(GarbageError):
        fed(data, list(range(100)))


@settings(deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_anything_is_an_answer_or_garbage(data: bytes, cuts: list[int]) -> None:
    for prefix in (b"", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"):
        try:
            reply = fed(prefix + data + b"\n", cuts)
        except GarbageError:
            continue
        reply.close()


def test_a_request_says_its_length() -> None:
    head = ask("POST", "/x", {"host": "here"}, b"12345")
    assert head == b"POST /x HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\n\r\n"
