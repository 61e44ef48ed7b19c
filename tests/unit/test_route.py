"""Which way leads to an endpoint: proxies, exceptions from them, authorities, addresses, descriptors."""

import socket
from urllib.parse import quote as standard_quote
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywren_runtime.errors import ConfigError
from pywren_runtime.route import is_excepted, plan_route, ranked, unquote

ENDPOINT = "https://lambda.us-east-1.amazonaws.com"


def test_straight_to_the_endpoint() -> None:
    route = plan_route("http://localhost:4566/prefix/", environ={})
    assert (route.peer, route.authority, route.prefix) == (("localhost", 4566), "localhost:4566", "/prefix")
    assert (route.tls, route.tunnel) == (None, b"")


def test_by_the_proxy_of_the_environment_with_its_credentials() -> None:
    route = plan_route(ENDPOINT, environ={"HTTPS_PROXY": "http://us%40r:p%3Aw@proxy.corp:3128"})
    assert route.peer == ("proxy.corp", 3128)
    assert route.tunnel == (
        b"CONNECT lambda.us-east-1.amazonaws.com:443 HTTP/1.1\r\nhost: lambda.us-east-1.amazonaws.com:443\r\n"
        b"proxy-authorization: Basic dXNAcjpwOnc=\r\n\r\n"
    )


def test_a_proxy_that_is_said_comes_before_the_environments() -> None:
    environ = {"HTTPS_PROXY": "http://one:1"}
    assert plan_route(ENDPOINT, proxy="two:2", environ=environ).peer == ("two", 2)
    assert plan_route(ENDPOINT, proxy="", environ=environ).tunnel == b""


def test_http_takes_no_proxy_from_the_environment() -> None:
    assert plan_route("http://localhost:80", environ={"HTTPS_PROXY": "http://one:1"}).tunnel == b""


@pytest.mark.parametrize(
    ("excepted", "host", "expected"),
    [
        ("", "a.com", False),
        ("*", "a.com", True),
        ("a.com", "a.com", True),
        ("a.com", "x.A.com", True),
        (".a.com", "x.a.com", True),
        ("a.com", "ba.com", False),
        ("b.com, a.com", "a.com", True),
        ("a.com:443", "a.com", True),
        ("a.com:80", "a.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "ten.com", False),
        ("::1", "::1", True),
    ],
)
def test_exceptions_from_the_proxy(excepted: str, host: str, expected: bool) -> None:
    assert is_excepted(host, 443, excepted) is expected


@pytest.mark.parametrize(
    "endpoint", ["localhost:80", "https://", "ftp://x", "https://x:port", "https://.x", "http://x:0", "http://x\r\n"]
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        plan_route(endpoint, environ={})


def test_a_proxy_that_is_none_is_refused_and_its_password_not_shown() -> None:
    for proxy in ("socks5://user:hush@proxy:1", "http://user:hush@proxy:port"):
        with pytest.raises(ConfigError, match="proxy") as caught:
            plan_route(ENDPOINT, proxy=proxy, environ={})
        assert "hush" not in str(caught.value)


def test_authorities_that_cannot_be_read_are_named() -> None:
    with pytest.raises(ConfigError, match=r"/no/such\.pem.*AWS_CA_BUNDLE"):
        plan_route(ENDPOINT, environ={"AWS_CA_BUNDLE": "/no/such.pem"})


def test_families_take_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    found = [(six, "a"), (six, "b"), (six, "b"), (four, "c"), (four, "d")]
    assert ranked(found) == [(six, "a"), (four, "c"), (six, "b"), (four, "d")]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=300), max_size=10), st.booleans())
def test_unquoting_is_the_standard_librarys(text: str, encoded: bool) -> None:
    text = standard_quote(text) if encoded else text
    assert unquote(text) == unquote_to_bytes(text)


@pytest.mark.parametrize("text", ["%", "%4", "%zz", "%4g%41", "a%%41", "100% sure", "% 1", "%+1"])
def test_a_percent_sign_may_stand_for_itself(text: str) -> None:
    assert unquote(text) == unquote_to_bytes(text)
