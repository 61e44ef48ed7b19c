"""Signatures against botocore's own, and where a request goes."""

import string
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote as standard_quote

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pywren_runtime.aws import Credentials, Signer, endpoint_of, from_environment, quote, region_of
from pywren_runtime.errors import ConfigError, CredentialsError

HOST = "lambda.eu-west-1.amazonaws.com"
WORDS = st.text(string.ascii_letters + string.digits + "-_.~$:+ /é", max_size=12)
PATHS = st.lists(WORDS.map(lambda word: standard_quote(word, safe="/.~")), max_size=5).map(
    lambda parts: "/" + "/".join(parts)
)
QUERIES = st.lists(st.tuples(WORDS, WORDS), max_size=4).map(
    lambda pairs: "&".join(f"{standard_quote(key, safe='')}={standard_quote(value, safe='')}" for key, value in pairs)
)
HEADERS = st.dictionaries(
    st.sampled_from(["x-amz-invocation-type", "x-amz-log-type", "content-type", "x-other", "x-amz-content"]),
    st.text(string.ascii_letters + "  ;=/", min_size=1, max_size=20),
    max_size=4,
)


def by_botocore(
    credentials: Credentials, method: str, target: str, headers: dict[str, str], body: bytes, now: float
) -> str:
    """The signature that botocore gives the same request at that time."""
    request = AWSRequest(method, f"https://{HOST}{target}", headers=headers, data=body)
    moment = datetime.fromtimestamp(int(now), UTC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.auth, "get_current_datetime", lambda *args, **kwargs: moment)
        keys = BotoCredentials(credentials.key_id, credentials.secret, credentials.token)
        botocore.auth.SigV4Auth(keys, "lambda", "eu-west-1").add_auth(request)
    found: Any = request.headers["Authorization"]
    return str(found)


@settings(deadline=None, max_examples=150)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    path=PATHS,
    query=QUERIES,
    headers=HEADERS,
    body=st.binary(max_size=100),
    secret=st.text(string.ascii_letters + "/+", min_size=1, max_size=40),
    token=st.none() | st.text(string.ascii_letters + "/+=", min_size=1, max_size=80),
    now=st.floats(min_value=1.6e9, max_value=2.2e9),
)
@example("POST", "/2015-03-31/functions/a%3Ab%24LATEST/invocations", "", {}, b"{}", "s", "t", 1.8e9)
@example("GET", "/a//b/../c/./", "b=2&a=1&a=0&novalue", {}, b"", "s", None, 1.8e9)
def test_signatures_are_those_of_botocore(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes, secret: str, token: str | None, now: float
) -> None:
    credentials = Credentials("AKIDEXAMPLE", secret, token)
    target = f"{path}?{query}" if query else path
    headers = {"host": HOST, **headers}
    signed = Signer("lambda", "eu-west-1").sign(credentials, method, target, headers, body, now)
    assert signed["authorization"] == by_botocore(credentials, method, target, headers, body, now)
    assert signed.get("x-amz-security-token") == token


def test_the_kept_key_changes_with_the_day_and_the_credentials() -> None:
    signer = Signer("lambda", "eu-west-1")
    for secret, now in [("one", 1.8e9), ("two", 1.8e9), ("two", 1.8e9 + 86400), ("one", 1.8e9), ("one", 1.8e9 + 1)]:
        credentials = Credentials("AKIDEXAMPLE", secret)
        signed = signer.sign(credentials, "POST", "/x", {"host": HOST}, b"body", now)
        assert signed["authorization"] == by_botocore(credentials, "POST", "/x", {"host": HOST}, b"body", now)


@given(st.text(max_size=20))
def test_quoting_is_the_standard_librarys(text: str) -> None:
    assert quote(text) == standard_quote(text, safe="")
    assert quote(text, "/") == standard_quote(text, safe="/")


def test_secrets_do_not_show() -> None:
    shown = repr(Credentials("AKIDEXAMPLE", "hush", "token"))
    assert "AKIDEXAMPLE" in shown
    assert "hush" not in shown and "'token'" not in shown


def test_credentials_come_from_the_environment() -> None:
    environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": ""}
    assert from_environment(environ) == Credentials("a", "b", None)
    assert from_environment({**environ, "AWS_SESSION_TOKEN": "c"}).token == "c"
    with pytest.raises(CredentialsError, match="AWS_SECRET_ACCESS_KEY"):
        from_environment({"AWS_ACCESS_KEY_ID": "a"})


def test_the_region_comes_from_the_environment() -> None:
    assert region_of({}) is None
    assert region_of({"AWS_DEFAULT_REGION": "eu-west-1"}) == "eu-west-1"
    assert region_of({"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "us-east-2"}) == "us-east-2"


@pytest.mark.parametrize(
    ("region", "environ", "expected"),
    [
        ("us-east-1", {}, "https://lambda.us-east-1.amazonaws.com"),
        ("cn-north-1", {}, "https://lambda.cn-north-1.amazonaws.com.cn"),
        ("us-east-1", {"AWS_ENDPOINT_URL": "http://all"}, "http://all"),
        ("us-east-1", {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_LAMBDA": "http://own"}, "http://own"),
        ("us-east-1", {"AWS_ENDPOINT_URL_S3": "http://other"}, "https://lambda.us-east-1.amazonaws.com"),
        (
            "us-east-1",
            {"AWS_ENDPOINT_URL": "http://all", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "https://lambda.us-east-1.amazonaws.com",
        ),
    ],
)
def test_endpoints(region: str, environ: dict[str, str], expected: str) -> None:
    assert endpoint_of("lambda", region, environ) == expected


@pytest.mark.parametrize("region", ["", "us-east-1.evil.com/", "no where"])
def test_a_region_that_would_lead_elsewhere_is_refused(region: str) -> None:
    with pytest.raises(ConfigError, match="region"):
        endpoint_of("lambda", region.replace(".", "/"), {})


def test_importing_it_is_cheap() -> None:
    script = "import sys; import pywren_runtime.invoker; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "pywren_runtime.invoker" in loaded
    assert not loaded & {"ssl", "asyncio", "http.client", "urllib.request", "urllib.parse", "email", "boto3"}
