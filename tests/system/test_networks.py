"""Where people work: behind a proxy that only makes tunnels, with a company's own authority, as this or that user."""

import hashlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from support.deployed import PACKAGES, Deployed, deployed
from support.local_aws import LocalAws
from support.scripted import Peer, Proxy, answer, listening
from support.wheels import module, only_index, without

from pywren_ng import ConfigError, CredentialsError, Executor

SIZE = 512
PATIENCE = 20
NAME = "aws.test"  # which nobody but the proxy can find

pytestmark = pytest.mark.timeout(90)


# -- Behind a proxy


@pytest.fixture(scope="module")
def secure() -> Iterator[LocalAws]:
    with LocalAws("--tls") as aws:
        yield aws


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


@pytest.fixture
def office(secure: LocalAws, proxy: Proxy, tmp_path: Path) -> dict[str, str]:
    """The environment of somebody whose machine reaches AWS through the proxy, and in no other way."""
    with pytest.raises(OSError):
        socket.getaddrinfo(NAME, 443)
    (tmp_path / "config").write_text("[default]\ns3 =\n    addressing_style = path\n")
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYWREN_NG_"))}
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    return {
        **kept,
        **secure.environment(),
        "AWS_ENDPOINT_URL": f"https://{NAME}:{urlsplit(secure.endpoint).port}",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}",
        "XDG_CONFIG_HOME": str(tmp_path),
        "PYTHONPATH": path,
        "CONNECTIONS": str(tmp_path / "connections"),
    }


# Notes whom each process of a session connects to; what libraries do in C or Rust it does not see.
WATCH = """
import os, socket, sys
def watch(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        with open(os.environ["CONNECTIONS"], "a") as file:
            file.write(f"{args[1][0]}:{args[1][1]}\\n")
sys.addaudithook(watch)
"""
SESSION = """
import os
from pywren_ng import Executor
for invoke in ("sync", "async"):
    os.environ["PYWREN_NG_INVOKE"] = invoke
    with Executor("lambda", max_workers=4) as ex:
        table = os.urandom(200_000)
        assert ex.map(lambda x: (x, len(table)), range(20)).results() == [(x, 200_000) for x in range(20)]
        assert ex.submit(bytes, 200_000).result() == bytes(200_000)
        if invoke == "sync":
            lines = [b"%06d\\n" % x for x in range(3000)]
            ex.store.put("in/numbers", b"".join(reversed(lines)))
            place = ex.store.url.partition("?")[0]
            ex.sort(f"{place}/in", f"{place}/out", records="text")
            parts = [key for key, _ in ex.store.keys("out/") if "part" in key]
            assert b"".join(map(ex.store.get, parts)) == b"".join(lines), parts
"""


def test_a_whole_session_goes_through_the_proxy(office: dict[str, str], proxy: Proxy, secure: LocalAws) -> None:
    name = f"net{os.urandom(3).hex()}"
    typed = [
        ["-m", "pywren_ng", "setup", "--yes", "--name", name, "--memory", str(SIZE)],
        ["-m", "pywren_ng", "check"],
        ["-c", SESSION],
        ["-m", "pywren_ng", "teardown", "--yes"],
    ]
    tunnels = []
    for line in typed:
        ran = subprocess.run(
            [sys.executable, "-P", *line], env=office, capture_output=True, text=True, cwd=office["XDG_CONFIG_HOME"]
        )
        assert ran.returncode == 0, f"{line[:4]}: {ran.stdout}{ran.stderr}\n{secure.logs()}"
        tunnels.append(len(proxy.heads))
    assert 0 < tunnels[0] < tunnels[1] < tunnels[2] < tunnels[3], f"something did without the proxy: {tunnels}"
    target = f"{NAME}:{urlsplit(secure.endpoint).port}"
    assert {tuple(head.split()[:2]) for head in proxy.heads} == {("CONNECT", target)}
    connections = set(Path(office["CONNECTIONS"]).read_text().split())
    assert connections == {f"127.0.0.1:{proxy.port}"}


def says(code: str, environ: dict[str, str]) -> str:
    """What somebody reads who runs that: the last line."""
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environ, capture_output=True, text=True, cwd=environ["XDG_CONFIG_HOME"]
    )
    assert ran.returncode, ran.stdout
    return ran.stderr.strip().splitlines()[-1]


ASK = """
from pywren_runtime.stores.s3_faults import Patience
from pywren_runtime.stores.s3_store import S3Store
S3Store("s3://some-bucket/x", patience=Patience(unreachable=0.5)).get("k")
"""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"HTTPS_PROXY": "http://127.0.0.1:1"},
            r"could not be reached by the proxy http://127.0.0.1:1 .*Look at the network, the proxy",
        ),
        ({"AWS_CA_BUNDLE": ""}, r"certificate of https://aws.test:\d+ was refused.*AWS_CA_BUNDLE"),
        ({"AWS_CA_BUNDLE": "/nowhere.pem"}, r"AWS_CA_BUNDLE='/nowhere.pem' cannot be read: No such file"),
        ({}, r"there is no bucket 'some-bucket'"),
    ],
    ids=["proxy", "authority", "file", "bucket"],
)
def test_what_is_wrong_with_the_way_is_said(office: dict[str, str], wrong: dict[str, str], said: str) -> None:
    line = says(ASK, {**office, **wrong})
    assert re.search(said, line), line


# -- As somebody


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    with deployed(one_local_aws, SIZE, variables=PACKAGES) as made:
        yield made


@pytest.fixture
def home(there: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose `config` is all that says who somebody is."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path


def work(**options: str) -> None:
    """A job that uses all there is: the store, Invokes of both kinds, and a local worker's own way to the bucket."""
    with Executor("lambda", max_workers=2, **options) as ex:
        table = os.urandom(200_000)
        assert ex.map(lambda x: (x, len(table)), range(3)).results() == [(x, 200_000) for x in range(3)]
        url = ex.store.url
    with Executor("local", max_workers=1, store=url, **options) as ex:
        assert ex.submit(len, table).result(PATIENCE) == 200_000


def profile(home: Path, name: str, *lines: str) -> None:
    with (home / "config").open("a") as file:
        file.write("\n".join([f"[profile {name}]", *lines, ""]))


def keys(aws: LocalAws) -> list[str]:
    return [f"aws_access_key_id = {aws.access_key}", f"aws_secret_access_key = {aws.secret}"]


def test_static_keys(home: Path, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    profile(home, "work", *keys(local_aws))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASOMEBODYELSE")  # the profile that is named decides
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    work(profile="work", region=local_aws.region)
    monkeypatch.setenv("PYWREN_NG_PROFILE", "work")
    work()


def test_a_role(home: Path, local_aws: LocalAws) -> None:
    profile(home, "work", *keys(local_aws))
    profile(home, "boss", f"role_arn = {local_aws.role()}", "source_profile = work", "region = us-east-1")
    work(profile="boss")
    assert local_aws.counters().get("refused_expired", 0) == 0


def log_in(home: Path, seconds: float) -> None:
    """What `aws sso login` leaves."""
    start = "https://example.org/start"
    profile(
        home, "office", f"sso_start_url = {start}", "sso_region = us-east-1", "sso_account_id = 1", "sso_role_name = r"
    )
    cache = home / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    until = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    token = {"startUrl": start, "region": "us-east-1", "accessToken": "token", "expiresAt": until}
    (cache / f"{hashlib.sha1(start.encode()).hexdigest()}.json").write_text(json.dumps(token))


def test_a_log_in_page(home: Path, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    def portal(peer: Peer) -> None:
        while head := peer.head():
            assert "/federation/credentials?" in head and "x-amz-sso_bearer_token: token" in head.lower()
            made = local_aws.credentials(seconds=3600)
            role = {"accessKeyId": made["access_key"], "secretAccessKey": made["secret"]}
            role |= {"sessionToken": made["token"], "expiration": int(made["expires"] * 1000)}
            peer.say(answer(json.dumps({"roleCredentials": role}).encode(), "200 OK", "content-type: application/json"))

    log_in(home, 3600)
    # Botocore looks for the home when it is imported, which here was long ago.
    monkeypatch.setattr("botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", str(home / ".aws/sso/cache"))
    with listening(portal) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", f"http://127.0.0.1:{server.port}")
        work(profile="office")
        assert server.connections


def test_a_log_in_that_is_over_says_the_command(home: Path) -> None:
    log_in(home, -10)
    with pytest.raises(CredentialsError, match=r"aws sso login --profile office$"):
        work(profile="office")


def test_no_profile_of_that_name_and_no_credentials(home: Path) -> None:
    with pytest.raises(CredentialsError, match=r"wrok.*aws configure list-profiles"):
        work(profile="wrok")
    with pytest.raises(CredentialsError, match=r"no AWS credentials.*aws configure"):
        work()


def test_a_region_without_a_deployment_says_how_to_make_one(home: Path, there: Deployed) -> None:
    with pytest.raises(ConfigError, match=r"no deployment in eu-west-9 .*pywren-ng setup --region eu-west-9"):
        Executor("lambda", region="eu-west-9")


GIVE = """
import json, sys, time, urllib.request
wish = json.dumps({{"seconds": {seconds}}}).encode()
made = json.load(urllib.request.urlopen(urllib.request.Request("{endpoint}/_local/credentials", wish, method="POST")))
until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made["expires"]))
open("{log}", "a").write("given\\n")
print(json.dumps({{"Version": 1, "AccessKeyId": made["access_key"], "SecretAccessKey": made["secret"],
                  "SessionToken": made["token"], "Expiration": until}}))
"""


def test_credentials_that_end_are_renewed_in_the_middle_of_a_job(
    home: Path, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program gives keys for three seconds, and the job takes longer: a minute and three, scaled down."""
    log, script, seconds = home / "log", home / "give.py", 3
    script.write_text(GIVE.format(seconds=seconds, endpoint=local_aws.endpoint, log=log))
    profile(home, "short", f"credential_process = {sys.executable} {script}")
    monkeypatch.setenv("PYWREN_NG_INVOKE", "async")  # so that it needs both, Lambda and the bucket, all the time
    began = time.monotonic()
    with Executor("lambda", max_workers=2, profile="short") as ex:
        assert ex.map(pause, range(8)).results() == list(range(8))
    took = time.monotonic() - began
    assert took >= seconds + 1
    # Two need them. How often they are asked for anew, a busy machine decides: who has nothing to send need not ask.
    assert 2 < len(log.read_text().split()) <= 2 * (took // 1.5 + 1), "not renewed, or asked for at each request"
    assert local_aws.counters().get("refused_expired", 0) == 0


def pause(x: int) -> int:
    time.sleep(1.0)  # the work
    return x


def test_credentials_that_have_ended_are_refused_there(
    home: Path, local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = local_aws.credentials(seconds=-1)
    for name, value in {"ACCESS_KEY_ID": "access_key", "SECRET_ACCESS_KEY": "secret", "SESSION_TOKEN": "token"}.items():
        monkeypatch.setenv(f"AWS_{name}", ended[value])
    with pytest.raises(CredentialsError, match=r"expired.*aws sso login"):
        work()
    assert local_aws.counters()["refused_expired"] > 0


# -- Packages, from a company's index


class Index(ThreadingHTTPServer):
    """A package index over TLS whose certificate only a private authority vouches for, with one wheel."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.bundle = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.bundle))
        wheel = module(folder / "wheels", "office_pk", "1.0")
        pages = {
            "/simple/office-pk/": f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode(),
            f"/files/{wheel.name}": wheel.read_bytes(),
        }

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = pages.get(self.path)
                self.send_response(200 if found is not None else 404)
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/zip")
                self.send_header("Content-Length", str(len(found or b"")))
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else found or b"")

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Answer)
        settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(INDEX).configure_cert(settings)
        self.socket = settings.wrap_socket(self.socket, server_side=True)


INDEX = "index.test"  # which nobody but the proxy can find


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_packages_come_through_the_proxy_and_by_the_companys_authority(
    tool: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tool == "pip":
        without(monkeypatch, "uv")
    only_index(monkeypatch, tmp_path / "none")
    mine = ("SSL_CERT_FILE", "SSL_CERT_DIR", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY", "no_proxy")
    for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS", "PIP_NO_INDEX", *mine):
        monkeypatch.delenv(name, raising=False)
    with Index(tmp_path) as index:
        threading.Thread(target=index.serve_forever, daemon=True).start()
        address = f"https://{INDEX}:{index.server_port}/simple/"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("PIP_INDEX_URL", address)  # which uv is told, too
        monkeypatch.delenv("UV_DEFAULT_INDEX")
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(index.bundle))
        with Executor("local", max_workers=1, requirements=["office_pk"]) as ex:
            assert ex.submit(lambda: __import__("office_pk").version).result(timeout=PATIENCE) == "1.0"
        index.shutdown()
    assert {tuple(head.split()[:2]) for head in proxy.heads} == {("CONNECT", f"{INDEX}:{index.server_port}")}
