"""What the S3 store does when the server, the network or the credentials fail."""

import os
import random
import re
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from support.s3_server import S3Server

from pywren_runtime.aws import Credentials
from pywren_runtime.errors import ConfigError, CredentialsError, KeyMissing, StoreError, StoreFull
from pywren_runtime.stores.s3_faults import Fault, Patience, Verdict, pause, read
from pywren_runtime.stores.s3_listing import first_possible, start_after
from pywren_runtime.stores.s3_settings import parse
from pywren_runtime.stores.s3_store import S3Store
from pywren_runtime.stores.s3_upload import PART

QUICK = Patience(
    connect=2.0, silence=0.2, slowest=1e9, total=30.0, unreachable=0.3, first_pause=0.001, longest_pause=0.01
)
IMPATIENT = Patience(connect=2.0, silence=0.1, total=0.3, unreachable=0.2, first_pause=0.01, longest_pause=0.02)


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    status: int = 200
    code: str = ""
    more: str = ""
    lines: str = ""
    fate: str = ""  # "reset" or "silence" instead of an answer, "lost" for a reset after the request was carried out
    body: bytes | None = None

    def content(self) -> bytes:
        return self.body if self.body is not None else f"<Error><Code>{self.code}</Code>{self.more}</Error>".encode()


@dataclass
class Script:
    """A server that keeps objects, and does to the next requests of a method what it was told."""

    port: int = 0
    planned: dict[str, list[Reply]] = field(default_factory=dict)
    met: Counter[str] = field(default_factory=Counter)
    requests: list[str] = field(default_factory=list)
    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[str, bytes]]] = field(default_factory=dict)
    ignores_conditions: bool = False
    keeps_marks: bool = True
    lists_backwards: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def plan(self, method: str, *replies: Reply) -> None:
        self.planned.setdefault(method, []).extend(replies)

    def open(self, *, trusted: bool = True, **options: Any) -> S3Store:
        more = "&conditional=trusted" if trusted else ""
        url = f"s3://bucket/p?endpoint=http://127.0.0.1:{self.port}&region=eu-west-1{more}"
        return S3Store(url, **({"patience": QUICK} | options))

    def carry_out(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        path, _, query = path.partition("?")
        if "upload" in query:
            return self.carry_on(method, path, query, headers, body)
        if method == "PUT":
            if path in self.objects and "if-none-match" in headers and not self.ignores_conditions:
                return Reply(412, "PreconditionFailed")
            mark = headers.get("x-amz-meta-pywren-put", "") if self.keeps_marks else ""
            self.objects[path] = body, mark
            return Reply(lines='ETag: "1"\r\n', body=b"")
        if method == "POST" and "delete" in query:
            keys = re.findall(rb"<Key>(.*?)</Key>", body)
            for key in keys:
                self.objects.pop(f"/bucket/{key.decode()}", None)
            rows = b"".join(b"<Deleted><Key>%s</Key></Deleted>" % key for key in keys)
            return Reply(body=b"<DeleteResult>%s</DeleteResult>" % rows)
        if "list-type" in query:
            return self.list_page(parse_qs(query))
        if path not in self.objects:
            return Reply(404, "NoSuchKey")
        data, mark = self.objects[path]
        lines = 'ETag: "1"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n'
        return Reply(lines=lines + (f"x-amz-meta-pywren-put: {mark}\r\n" if mark else ""), body=data)

    def list_page(self, asked: dict[str, list[str]]) -> Reply:
        """Two keys at a time."""
        after = asked.get("continuation-token", asked.get("start-after", [""]))[0]
        keys = [path.removeprefix("/bucket/") for path in sorted(self.objects, reverse=self.lists_backwards)]
        left = [key for key in keys if key.startswith(asked["prefix"][0]) and (key > after or self.lists_backwards)]
        rows = "".join(
            f"<Contents><Key>{key}</Key><Size>1</Size><ETag>1</ETag>"
            "<LastModified>2026-11-21T00:00:00.000Z</LastModified></Contents>"
            for key in left[:2]
        )
        more = "true" if len(left) > 2 else "false"
        token = f"<NextContinuationToken>{left[1]}</NextContinuationToken>" if len(left) > 2 else ""
        text = f"<ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{rows}</ListBucketResult>"
        return Reply(body=text.encode())

    def carry_on(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Reply:
        """What becomes of an upload in parts."""
        if "uploads" in query:
            self.uploads[path] = headers.get("x-amz-meta-pywren-put", ""), {}
            return Reply(body=b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
        if path not in self.uploads:
            return Reply(404, "NoSuchUpload")
        if method == "PUT":
            self.uploads[path][1][query] = body
            return Reply(lines='ETag: "1"\r\n', body=b"")
        mark, parts = self.uploads.pop(path)
        if method == "POST":
            self.objects[path] = b"".join(parts[part] for part in sorted(parts)), mark
        return Reply(body=b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>")


class Conversation(socketserver.StreamRequestHandler):
    """One connection to a scripted server."""

    def handle(self) -> None:
        script: Script = self.server.script  # type: ignore[attr-defined]
        while first := self.rfile.readline().decode():
            method, path, _ = first.split(" ")
            headers = {}
            while line := self.rfile.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", 0)))
            with script.lock:
                script.requests.append(f"{method} {path}")
                planned = script.planned.get(method)
                reply = planned.pop(0) if planned else Reply(fate="serve")
                script.met[reply.fate or str(reply.status)] += 1
                if reply.fate in ("serve", "lost"):
                    done = script.carry_out(method, path, headers, body)
            if reply.fate == "silence":
                script.ended.wait()
                return
            if reply.fate in ("reset", "lost"):
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            answer = done if reply.fate == "serve" else reply
            content = answer.content()
            size = f"HTTP/1.1 {answer.status} X\r\nContent-Length: {len(content)}\r\n{answer.lines}\r\n"
            self.wfile.write(size.encode() + (b"" if method == "HEAD" else content))


class Server(socketserver.ThreadingTCPServer):
    script: Script
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], conversation: type, *, secure: ssl.SSLContext | None = None) -> None:
        super().__init__(address, conversation)
        if secure is not None:
            self.socket = secure.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has hung up is what many of these tests are about."""


@pytest.fixture
def script(s3_keys: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    with Server(("127.0.0.1", 0), Conversation) as server:
        script = Script(port=server.server_address[1])
        server.script = script
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield script
        script.ended.set()
        server.shutdown()
        thread.join()


SLOW_DOWN = Reply(503, "SlowDown")
RESET = Reply(fate="reset")
SILENCE = Reply(fate="silence")
LOST = Reply(fate="lost")

USES: dict[str, tuple[str, Callable[[S3Store], object], object]] = {
    "put": ("PUT", lambda store: store.put("k", b"new"), None),
    "put_new": ("PUT", lambda store: store.put_new("n", b"new"), True),
    "put_stream": ("PUT", lambda store: store.put_stream("s", [b"ab", b"c"]), 3),
    "get": ("GET", lambda store: store.get("old"), b"here"),
    "delete": ("POST", lambda store: store.delete_many(["old", "other"]), None),
}


# ── what passes ──


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("fate", "reply"),
    [
        ("503", SLOW_DOWN),
        ("500", Reply(500, "InternalError")),
        ("429", Reply(429, "TooManyRequests")),
        ("400", Reply(400, "RequestTimeout")),
        ("reset", RESET),
        ("silence", SILENCE),
    ],
)
def test_what_passes_is_met_by_trying_again(script: Script, use: str, fate: str, reply: Reply) -> None:
    store = script.open()
    store.put("old", b"here")
    method, run, expected = USES[use]
    script.plan(method, reply, reply)
    assert run(store) == expected
    assert script.met[fate] == 2
    assert not script.planned[method]


def test_a_conflict_is_tried_again_and_is_no_loss(script: Script) -> None:
    store = script.open()
    script.plan("PUT", *[Reply(409, "ConditionalRequestConflict")] * 3)
    assert store.put_new("k", b"mine") is True
    assert script.met["409"] == 3
    script.plan("PUT", Reply(409, "ConditionalRequestConflict"))
    assert store.put_new("k", b"mine") is False
    assert script.met["409"] == 4
    assert not any(line.startswith(("GET", "HEAD")) for line in script.requests)  # no answer was lost


@pytest.mark.parametrize("keeps_marks", [True, False])
def test_who_was_first_and_never_heard_is_first(script: Script, keeps_marks: bool) -> None:
    script.keeps_marks = keeps_marks
    store = script.open()
    script.plan("PUT", LOST)
    assert store.put_new("k", b"mine") is True
    assert script.met["lost"] == 1
    assert store.get("k") == b"mine"
    script.plan("PUT", LOST)
    assert store.put_new("k", b"other") is False
    assert script.met["lost"] == 2
    assert store.get("k") == b"mine"


def test_the_same_bytes_by_another_writer_do_not_make_one_first(script: Script) -> None:
    assert script.open().put_new("k", b"same")
    script.plan("PUT", RESET)
    assert script.open().put_new("k", b"same") is False
    assert script.met["reset"] == 1


def test_what_was_put_first_and_deleted_meanwhile_is_not_put_again(script: Script) -> None:
    store = script.open()
    script.objects["/bucket/p/k"] = b"theirs", ""
    script.plan("PUT", RESET)
    script.plan("HEAD", Reply(404, body=b""))
    assert store.put_new("k", b"mine") is False
    assert (script.met["reset"], script.met["404"]) == (1, 1)


class Weather(list[Reply]):
    """A plan without an end, of which half are faults."""

    FAULTS = (LOST, RESET, SLOW_DOWN, Reply(409, "ConditionalRequestConflict"))

    def __init__(self) -> None:
        self._random = random.Random(7)

    def __bool__(self) -> bool:
        return True

    def pop(self, index: Any = -1) -> Reply:
        return self._random.choice([*self.FAULTS, *[Reply(fate="serve")] * 4])


def test_in_foul_weather_exactly_one_is_first_and_what_it_wrote_stays(script: Script) -> None:
    script.planned |= {method: Weather() for method in ("PUT", "GET", "HEAD")}
    store = script.open()

    def race(writer: int) -> list[int]:
        return [n for n in range(30) if store.put_new(f"k{n}", b"same" if n % 2 else b"%d" % writer)]

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(race, range(8)))
    assert sorted(n for numbers in won for n in numbers) == list(range(30))
    for writer, numbers in enumerate(won):
        assert all(store.get(f"k{n}") == (b"same" if n % 2 else b"%d" % writer) for n in numbers)
    assert min(script.met[fate] for fate in ("lost", "reset", "503", "409")) > 10


def test_a_server_that_stays_silent_ends_in_an_error(script: Script) -> None:
    store = script.open(patience=IMPATIENT)
    script.plan("PUT", *[SILENCE] * 50)
    with pytest.raises(StoreError, match=r"could not write 'k'.*no answer.* in \d+ tries") as caught:
        store.put("k", b"x")
    assert f"127.0.0.1:{script.port}" in str(caught.value)
    assert 2 <= script.met["silence"] < 50


def test_nobody_there_is_an_error_sooner(s3_keys: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    store = S3Store(f"s3://bucket?endpoint=http://127.0.0.1:{port}", patience=QUICK)
    with pytest.raises(StoreError, match=rf"127.0.0.1:{port} could not be reached \(.*refused.*the endpoint"):
        store.get("k")


def test_the_pause_grows_is_bounded_and_ends() -> None:
    patience = Patience(first_pause=0.1, longest_pause=5.0, total=100.0, unreachable=3.0)
    busy, refused = Fault("", 503, "SlowDown", ""), Fault("", None, "", "Connect")
    assert [pause(busy, tries, 0.0, 1.0, patience) for tries in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert pause(busy, 1000, 0.0, 1.0, patience) == 5.0
    assert pause(busy, 3, 0.0, 0.0, patience) == 0.1
    assert pause(busy, 1000, 94.0, 1.0, patience) == 5.0
    assert pause(busy, 1000, 95.0, 1.0, patience) is None
    assert pause(refused, 9, 2.0, 1.0, patience) is None
    assert pause(refused, 1, 2.0, 1.0, patience) == 0.1


@pytest.mark.parametrize("reply", [SLOW_DOWN, RESET, SILENCE], ids=["503", "reset", "silence"])
def test_a_part_of_an_upload_is_sent_again(script: Script, reply: Reply) -> None:
    store = script.open()
    script.plan("PUT", reply, reply)
    script.plan("POST", Reply(fate="serve"), SLOW_DOWN)
    assert store.put_stream("k", [b"a" * PART, b"b" * PART, b"c"]) == 2 * PART + 1
    assert store.get("k") == b"a" * PART + b"b" * PART + b"c"
    assert script.met[reply.fate or "503"] >= 2
    assert not script.planned["PUT"] and not script.planned["POST"]


@pytest.mark.parametrize("reply", [SLOW_DOWN, RESET, SILENCE], ids=["503", "reset", "silence"])
def test_a_listing_goes_on_where_it_was(script: Script, reply: Reply) -> None:
    store = script.open()
    for number in range(7):
        store.put(f"jobs/{number}", b"x")
    script.plan("GET", Reply(fate="serve"), reply, reply, Reply(fate="serve"), reply)
    assert list(store.keys("jobs/", after="jobs/0")) == [(f"jobs/{number}", 1) for number in range(1, 7)]
    assert script.met[reply.fate or "503"] == 3


def test_a_server_that_lists_in_another_order_is_refused(script: Script) -> None:
    store = script.open()
    store.put("a", b"x")
    store.put("b", b"x")
    script.lists_backwards = True
    with pytest.raises(StoreError, match="gave 'a' after 'b'"):
        list(store.keys())


def test_a_large_object_has_longer_and_still_more_than_one_try() -> None:
    patience = Patience(silence=15.0, slowest=1e6, total=180.0)
    assert patience.for_size(0) == patience
    assert (patience.for_size(5_000_000).silence, patience.for_size(5_000_000).total) == (20.0, 180.0)
    assert patience.for_size(1_000_000_000).total >= 3 * patience.for_size(1_000_000_000).silence > 3000


# ── what does not pass ──


@pytest.mark.parametrize(
    ("method", "reply", "words"),
    [
        ("PUT", Reply(404, "NoSuchBucket"), ["no bucket 'bucket'", "region eu-west-1", "aws s3 mb s3://bucket"]),
        ("GET", Reply(404, "NoSuchBucket"), ["no bucket 'bucket'", "aws s3 mb s3://bucket --region eu-west-1"]),
        ("PUT", Reply(403, "AccessDenied"), ["s3:PutObject on arn:aws:s3:::bucket/p/k was denied", "policy"]),
        ("GET", Reply(403, "AccessDenied"), ["s3:GetObject on arn:aws:s3:::bucket/p/k", "s3:ListBucket"]),
        ("PUT", Reply(400, "ExpiredToken"), ["expired", "aws sso login", "AWS_SESSION_TOKEN"]),
        ("GET", Reply(403, "InvalidAccessKeyId"), ["not valid", "aws sts get-caller-identity"]),
        ("GET", Reply(403, "SignatureDoesNotMatch"), ["not valid", "AWS_SECRET_ACCESS_KEY"]),
        ("GET", Reply(403, "RequestTimeTooSkewed"), ["clock", "timedatectl"]),
        (
            "PUT",
            Reply(400, "AuthorizationHeaderMalformed", "<Region>us-west-2</Region>"),
            ["in region us-west-2", "not in region eu-west-1", "AWS_REGION=us-west-2"],
        ),
        ("PUT", Reply(400, "EntityTooLarge"), ["too large", "5 GiB"]),
        ("PUT", Reply(501, "NotImplemented"), ["501 NotImplemented"]),
    ],
    ids=lambda value: value.code if isinstance(value, Reply) else None,
)
def test_what_does_not_pass_is_said_at_once(script: Script, method: str, reply: Reply, words: list[str]) -> None:
    store = script.open()
    script.plan(method, reply)
    with pytest.raises(StoreError) as caught:
        store.put_new("k", b"x") if method == "PUT" else store.get("k")
    text = str(caught.value)
    assert [word for word in [*words, "'k'", store.url] if word not in text] == []
    assert not isinstance(caught.value, KeyMissing)
    assert len(script.requests) == 1


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_without_a_word_is_followed_by_a_question(script: Script, status: int) -> None:
    store = script.open()
    script.plan("PUT", Reply(status, "PermanentRedirect"))
    script.plan("HEAD", Reply(403, lines="x-amz-bucket-region: ap-south-1\r\n", body=b""))
    with pytest.raises(StoreError, match="is in region ap-south-1, and not in region eu-west-1"):
        store.put("k", b"")
    assert script.met["403"] == 1


def test_a_full_server_is_a_full_store(script: Script) -> None:
    script.plan("PUT", Reply(507, "XMinioStorageFull"))
    with pytest.raises(StoreFull, match="no room left"):
        script.open().put("k", b"x")
    assert script.met["507"] == 1


def test_a_denied_delete_inside_a_good_answer_is_an_error(script: Script) -> None:
    body = b"<DeleteResult><Error><Key>p/k</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    script.plan("POST", Reply(body=body))
    with pytest.raises(StoreError, match="s3:DeleteObject on arn:aws:s3:::bucket/p/k"):
        script.open().delete_many(["k"])
    assert script.met["200"] == 1


def test_an_upload_that_is_refused_in_the_end_leaves_nothing(script: Script) -> None:
    script.plan("POST", Reply(fate="serve"), Reply(403, "AccessDenied"))
    with pytest.raises(StoreError, match="s3:PutObject"):
        script.open().put_stream("k", [bytes(PART), bytes(PART)])
    assert script.met["403"] == 1
    assert (script.uploads, script.objects) == ({}, {})


# ── by which way ──


def test_a_private_authority_is_trusted_if_it_is_named(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, bundle = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with Server(("127.0.0.1", 0), Conversation, secure=context) as server:
        server.script = script
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"s3://bucket/p?endpoint=https://localhost:{server.server_address[1]}&conditional=trusted"
        monkeypatch.setenv("NO_PROXY", "localhost")
        try:
            monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
            S3Store(url, patience=QUICK).put("k", b"x")
            monkeypatch.delenv("AWS_CA_BUNDLE")
            with pytest.raises(StoreError, match=r"certificate of https://localhost:\d+ was refused.*AWS_CA_BUNDLE"):
                S3Store(url, patience=QUICK).put("k", b"x")
        finally:
            server.shutdown()
            thread.join()
    assert script.requests == ["PUT /bucket/p/k"]


def test_a_proxy_is_asked_but_for_hosts_that_need_none(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{script.port}")
    store = S3Store("s3://bucket/p?endpoint=http://s3.example.org&conditional=trusted", patience=QUICK)
    store.put("k", b"x")
    assert script.requests == ["PUT http://s3.example.org/bucket/p/k"]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    script.open().put("k", b"x")
    assert len(script.requests) == 2


# ── credentials ──


def test_expired_credentials_are_asked_for_again_once(script: Script) -> None:
    asked: list[int] = []

    def credentials() -> Credentials:
        asked.append(len(asked))
        return Credentials(f"key-{len(asked)}", "secret", "token")

    store = script.open(credentials=credentials)
    script.plan("PUT", Reply(400, "ExpiredToken"))
    store.put("k", b"x")
    assert asked == [0, 1]
    script.plan("PUT", *[Reply(400, "ExpiredToken")] * 2)
    with pytest.raises(StoreError, match="expired"):
        store.put("k", b"x")
    assert script.met["400"] == 3


def test_why_there_are_no_credentials_is_said_in_the_words_of_who_knows(script: Script) -> None:
    def credentials() -> Credentials:
        raise CredentialsError("run: aws sso login --profile work")

    with pytest.raises(CredentialsError, match="aws sso login --profile work"):
        script.open(credentials=credentials).put("k", b"x")
    assert script.requests == []


# ── whether the server lets only one be first ──


def test_a_server_that_lets_two_be_first_is_refused(script: Script) -> None:
    script.ignores_conditions = True
    store = script.open(trusted=False)
    with pytest.raises(StoreError, match=r"2 were first at http://127.0.0.1:\d+\. The server ignores If-None-Match"):
        store.put_new("k", b"x")
    assert script.objects == {}
    assert script.met["serve"] == 3


def test_a_server_is_tried_once_and_others_need_not_know(script: Script) -> None:
    store = script.open(trusted=False)
    assert store.put_new("k", b"x")
    assert [line.split()[0] for line in script.requests] == ["PUT", "PUT", "POST", "PUT"]
    assert store.put_new("l", b"x")
    again = S3Store(store.url, patience=QUICK)
    assert again.put_new("m", b"x")
    assert len(script.requests) == 6
    assert set(script.objects) == {"/bucket/p/k", "/bucket/p/l", "/bucket/p/m"}


@pytest.mark.timeout(20)
def test_where_no_second_thread_can_be_started_a_server_is_not_tried_for_ever(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, []

    def only_one(thread: threading.Thread) -> None:
        if thread.name.startswith("ThreadPoolExecutor"):
            started.append(thread)
            if len(started) > 1:
                raise RuntimeError("can't start new thread")
        start(thread)

    store = script.open(trusted=False)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", only_one)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            store.put_new("k", b"x")
    assert len(started) == 2
    assert store.put_new("k", b"x")


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket?endpoint=https://s3.eu-west-1.amazonaws.com"])
def test_amazon_is_not_tried(url: str) -> None:
    assert parse(url, {}).is_aws
    assert not parse("s3://bucket?endpoint=http://127.0.0.1:1", {}).is_aws
    assert not parse("s3://bucket?endpoint=https://amazonaws.com.example.org", {}).is_aws


# ── forks ──

FORKING = """
import os, sys, threading
from pywren_runtime.stores import open_store
store = open_store(sys.argv[1])
store.put("k", b"parent")

def use(depth):
    assert store.get("k") == b"parent"
    assert store.put_new(f"child-{depth}", b"x")
    threads = [threading.Thread(target=store.get, args=("k",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert store.get("k") == b"parent"
    if depth:
        fork(depth - 1)

def fork(depth):
    child = os.fork()
    if not child:
        use(depth)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

fork(1)
assert store.get("k") == b"parent"
print(*[key for key, _ in store.keys()])
"""


def test_a_forked_child_and_its_child_use_the_store(s3_double: S3Server) -> None:
    done = subprocess.run([sys.executable, "-c", FORKING, s3_double.url()], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "child-0 child-1 k\n"), done.stderr


def test_a_worker_gets_no_boto3(s3_double: S3Server) -> None:
    code = (
        "import sys\nfrom pywren_runtime.stores import open_store\nstore = open_store(sys.argv[1])\n"
        "store.put_new('k', b'x')\nprint(store.get('k'), {'boto3', 'botocore', 'asyncio', 'ssl'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, s3_double.url()], capture_output=True, text=True, timeout=60)
    assert done.stdout == "b'x' set()\n", done.stderr


# ── large and many ──


def test_streams_in_parts_and_more_keys_than_a_page(s3_double: S3Server) -> None:
    store = S3Store(s3_double.url())
    pieces = [os.urandom(PART // 2 + 1)] * 5
    assert store.put_stream("big", iter(pieces)) == 5 * (PART // 2 + 1)
    assert store.get("big") == b"".join(pieces)
    assert store.get_range("big", PART - 3, 6) == b"".join(pieces)[PART - 3 : PART + 3]
    keys = [f"many/{number:05}" for number in range(2500)]
    for key in keys:
        store.put(key, b"")
    assert [key for key, _ in store.keys("many/")] == keys
    assert [key for key, _ in store.keys("many/00", after="many/00499")] == keys[500:1000]
    store.delete_many(keys)
    assert list(store.keys("many/")) == []


@pytest.mark.parametrize("fate", ["lost", "refused"])
def test_a_stream_whose_last_answer_was_lost_is_known_by_its_mark(script: Script, fate: str) -> None:
    store = script.open()
    store.put("k", b"old")
    pieces = [bytes(PART), b"end"]
    if fate == "lost":
        script.plan("POST", Reply(fate="serve"), LOST)  # the library completes again, and hears of no such upload
        assert store.put_stream("k", iter(pieces)) == PART + 3
        assert store.get("k") == b"".join(pieces)
        assert script.met["lost"] == 1
    else:
        script.plan("POST", Reply(fate="serve"), Reply(404, "NoSuchUpload"))
        with pytest.raises(StoreError, match="404 NoSuchUpload"):
            store.put_stream("k", iter(pieces))
        assert store.get("k") == b"old"
    assert any(line.startswith("HEAD") for line in script.requests)


# ── addresses and settings ──


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("s3:", "no bucket"),
        ("s3://", "no bucket"),
        ("s3://b!d", "no bucket"),
        ("s3://bucket/a b", "'a b'"),
        ("s3://bucket/a//b", "'a//b'"),
        ("s3://bucket?secret=x", "secret is no option"),
        ("s3://bucket--use1-az4--x-s3", "directory bucket"),
        ("s3://bucket?endpoint=localhost:9000", "http:// or https://"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(url: str, word: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(word)):
        S3Store(url)


def test_the_url_decides_over_the_environment() -> None:
    environ = {
        "AWS_ENDPOINT_URL": "https://general",
        "AWS_ENDPOINT_URL_S3": "https://special/",
        "AWS_DEFAULT_REGION": "eu-north-1",
        "HTTPS_PROXY": "http://proxy:3128",
        "NO_PROXY": "localhost",
    }
    found = parse("s3://bucket/a/b/", environ)
    assert (found.endpoint, found.region, found.prefix) == ("https://special", "eu-north-1", "a/b/")
    assert found.client_options() == {
        "allow_http": False,
        "proxy_url": "http://proxy:3128",
        "proxy_excludes": "localhost",
    }
    assert found.config()["virtual_hosted_style_request"] is False
    told = parse("s3://bucket?endpoint=http://here:1&region=af-south-1", environ)
    assert (told.endpoint, told.region, told.prefix) == ("http://here:1", "af-south-1", "")
    assert told.client_options() == {"allow_http": True}
    assert parse("s3://bucket", {}).config()["virtual_hosted_style_request"] is True
    assert parse("s3://buck.et", {}).config()["virtual_hosted_style_request"] is False


def test_a_bundle_of_certificates_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE='.*none.pem' cannot be read: No such file"):
        parse("s3://bucket", {"AWS_CA_BUNDLE": str(tmp_path / "none.pem")}).client_options()


def test_what_another_process_needs_is_added_to_the_url_once() -> None:
    found = parse("s3://bucket/a?region=eu-west-1", {})
    url = found.url_with(region="x", trusted=True, asks_client=True)
    assert url == "s3://bucket/a?region=eu-west-1&conditional=trusted&credentials=client"
    assert parse(url, {}).url_with(trusted=True, asks_client=True) == url


@given(st.text("ab-./0=_zZ", max_size=6), st.text("ab-./0=_zZ", max_size=6))
def test_a_listing_begins_before_every_key_with_the_prefix(prefix: str, rest: str) -> None:
    asked = start_after("", first_possible(prefix))
    assert asked <= first_possible(prefix)
    if rest and not prefix.endswith("/"):
        assert first_possible(prefix) < prefix + rest
    if prefix and not prefix.endswith("/"):
        assert first_possible(prefix) < prefix


@pytest.mark.parametrize(
    ("key", "expected"),
    [("", ""), ("a/b", "root/a/b"), ("a/", "root/a"), ("a//b", "root/a"), ("/a", ""), ("../a", ""), ("a/..", "root/a")],
)
def test_only_what_is_a_path_is_asked_for(key: str, expected: str) -> None:
    assert start_after("root/", key) == expected


def test_an_answer_that_quotes_another_is_not_taken_for_it() -> None:
    fault = read("Error performing PUT in 1ms - HTTP error: error sending request\n\nDebug source:\nkind: Interrupted,")
    assert (fault.status, fault.verdict, fault.maybe_done) == (None, Verdict.PASSING, True)
    refused = read("… - HTTP error: error sending request\n\nDebug source:\nkind: Connect, invalid peer certificate")
    assert refused.verdict is Verdict.FINAL
    assert read("something else").verdict is Verdict.FINAL
