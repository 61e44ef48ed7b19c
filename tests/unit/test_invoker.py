"""The Invoker against real sockets: a server that does what each test says."""

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from support.scripted import ACCEPTED, Peer, Proxy, Scripted, answer, listening

from pywren_runtime.aws import Credentials
from pywren_runtime.invoker import Answer, Invoker, Limits

KEYS = Credentials("AKIDEXAMPLE", "secret", "token")
SHORT = Limits(connect=0.3)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="session")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(made)
    return made


Make = Callable[..., Invoker]


@pytest.fixture
def make(ca: str) -> Iterator[Make]:
    """Makes Invokers and closes them."""
    made: list[Invoker] = []

    def make(place: Scripted | str, scheme: str = "http", **options: Any) -> Invoker:
        url = place if isinstance(place, str) else f"{scheme}://127.0.0.1:{place.port}"
        credentials = options.pop("credentials", lambda: KEYS)
        made.append(Invoker(url, "us-east-1", credentials, **{"ca": ca, "proxy": "", **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def gather(invoker: Invoker, count: int) -> dict[object, Answer]:
    """So many answers by their tags, each of them once."""
    found: dict[object, Answer] = {}
    while len(found) < count:
        for one in invoker.collect(invoker.wait(600)):
            assert one.tag not in found
            found[one.tag] = one
    return found


def one(invoker: Invoker, body: bytes = b"{}", *, event: bool = True, silence: float = 60) -> Answer:
    """The answer to one Invoke."""
    invoker.send("one", "f", body, event=event, silence=silence)
    return gather(invoker, 1)["one"]


def accept(peer: Peer) -> None:
    """Take every request."""
    while peer.request() is not None:
        peer.say(ACCEPTED)


def echo(peer: Peer) -> None:
    """Answer every request with its own body."""
    while (request := peer.request()) is not None:
        peer.say(answer(request[1]))


def until_gone(peer: Peer) -> None:
    """Say nothing."""
    while peer.link.recv(1 << 16):
        pass


# -- what is sent


def test_an_invoke_is_sent_as_lambda_wants_it(make: Make) -> None:
    heads: list[str] = []

    def keep(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            heads.append(request[0])
            peer.say(answer(request[1], "200 OK", "X-Amz-Log-Result: bG9n"))

    with listening(keep) as server:
        invoker = make(server)
        later = one(invoker, b"later")
        now = one(invoker, b"now", event=False)
        assert (later.status, later.body, later.fault, later.sent) == (200, b"later", "", True)
        assert (now.body, now.headers["x-amz-log-result"]) == (b"now", "bG9n")
        assert server.connections == 1
    assert heads[0].startswith("POST /2015-03-31/functions/f/invocations HTTP/1.1\r\n")
    assert "x-amz-invocation-type: Event\r\n" in heads[0] and "x-amz-log-type" not in heads[0]
    assert "x-amz-invocation-type: RequestResponse\r\n" in heads[1] and "x-amz-log-type: Tail\r\n" in heads[1]
    assert f"host: 127.0.0.1:{server.port}\r\n" in heads[0] and "x-amz-security-token: token\r\n" in heads[0]
    assert "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/" in heads[0]


def test_names_are_quoted_and_other_requests_can_be_made(make: Make) -> None:
    heads: list[str] = []

    def keep(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            heads.append(request[0].partition(" HTTP")[0])
            peer.say(ACCEPTED)

    with listening(keep) as server:
        invoker = make(server, connections=1)
        invoker.send(1, "arn:aws:lambda:us-east-1:1:function:f:$LATEST", b"", event=True, silence=60)
        invoker.request(2, "GET", "/2016-08-19/account-settings/", headers={"Accept": "application/json"})
        gather(invoker, 2)
    assert heads == [
        "POST /2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A1%3Afunction%3Af%3A%24LATEST/invocations",
        "GET /2016-08-19/account-settings/",
    ]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_thousands_queued_over_a_hundred_connections(make: Make, tls: ssl.SSLContext, scheme: str) -> None:
    with listening(echo, tls if scheme == "https" else None) as server:
        invoker = make(server, scheme, connections=100)
        for number in range(4000):
            invoker.send(number, "f", b"%d" % number, event=number % 2 == 0, silence=60)
        assert (invoker.in_flight, invoker.room()) == (4000, 0)
        found = gather(invoker, 4000)
        assert {number: one.body for number, one in found.items()} == {n: b"%d" % n for n in range(4000)}
        assert 1 < server.connections <= 100
        assert (invoker.in_flight, invoker.room()) == (0, 100)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_six_megabytes_there_and_back(make: Make, tls: ssl.SSLContext, scheme: str) -> None:
    body = os.urandom(6 << 20)
    with listening(echo, tls if scheme == "https" else None) as server:
        invoker = make(server, scheme)
        assert one(invoker, body).body == body
        assert one(invoker, b"again").body == b"again"
        assert server.connections == 1


def test_short_requests_pass_those_that_hold_connections(make: Make) -> None:
    release = threading.Event()

    def hold(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if "RequestResponse" in request[0]:
                release.wait()
            peer.say(ACCEPTED)

    with listening(hold) as server:
        invoker = make(server, connections=4)
        for number in range(10):
            invoker.send(number, "f", b"", event=False, silence=60)
        assert one(invoker).status == 202
        release.set()
        assert gather(invoker, 10).keys() == set(range(10))


def test_credentials_that_cannot_be_had_are_a_fault_and_the_next_request_goes(make: Make) -> None:
    refusals = [RuntimeError("run: aws sso login")]

    def credentials() -> Credentials:
        if refusals:
            raise refusals.pop()
        return KEYS

    with listening(accept) as server:
        invoker = make(server, credentials=credentials, connections=1)
        failed = one(invoker)
        assert (failed.fault, failed.sent, failed.status) == ("credentials", False, 0)
        assert "aws sso login" in failed.reason
        assert one(invoker).status == 202


# -- answers of all kinds


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refusal_counts_while_the_request_is_still_being_sent(make: Make, tls: ssl.SSLContext, scheme: str) -> None:
    def refuse(peer: Peer) -> None:
        if "content-length: 6" in peer.head():
            peer.say(answer(b"too large", "413 Too Large", "Connection: close"))
            return  # which resets the connection, for most of the request lies unread
        raise AssertionError("not the large one")

    with listening(refuse, tls if scheme == "https" else None) as server:
        found = one(make(server, scheme), bytes(6_291_000))
        assert (found.status, found.body, found.fault) == (413, b"too large", "")


def test_a_refusal_that_leaves_the_connection_open_does_not_get_it_another_request(make: Make) -> None:
    def refuse(peer: Peer) -> None:
        if peer.number:
            accept(peer)
        else:
            peer.head()
            peer.say(answer(b"", "413 Too Large"))
            done.wait()

    done = threading.Event()
    with listening(refuse) as server:
        invoker = make(server, connections=1)
        assert one(invoker, bytes(6_291_000)).status == 413
        assert one(invoker).status == 202
        done.set()
        assert server.connections == 2


def test_chunks(make: Make) -> None:
    def chunked(peer: Peer) -> None:
        while peer.request() is not None:
            peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(300):
                peer.say(b"400\r\n" + b"x" * 1024 + b"\r\n")
            peer.say(b"0\r\n\r\n")

    with listening(chunked) as server:
        invoker = make(server, connections=1)
        assert one(invoker).body == b"x" * 1024 * 300
        assert one(invoker).body == b"x" * 1024 * 300
        assert server.connections == 1


def test_a_connection_that_the_server_does_not_keep_is_not_used_again(make: Make) -> None:
    def brief(peer: Peer) -> None:
        peer.request()
        peer.say(answer(b"", "202 Accepted", "Connection: close"))

    with listening(brief) as server:
        invoker = make(server, connections=3)
        for number in range(20):
            invoker.send(number, "f", b"", event=True, silence=60)
        assert {found.status for found in gather(invoker, 20).values()} == {202}
        assert server.connections == 20


@pytest.mark.parametrize("garbage", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_garbage_is_a_fault(make: Make, garbage: bytes) -> None:
    def babble(peer: Peer) -> None:
        peer.request()
        peer.say(garbage)
        until_gone(peer)

    with listening(babble) as server:
        found = one(make(server))
        assert (found.fault, found.sent, found.status) == ("reset", True, 0)
        assert "begins with" in found.reason or "length" in found.reason


# -- faults on the way


def test_refused(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    invoker = make(f"http://127.0.0.1:{port}")
    for number in range(500):
        invoker.send(number, "f", b"", event=True, silence=60)
    found = gather(invoker, 500)
    assert {(one.fault, one.sent) for one in found.values()} == {("refused", False)}
    assert f"127.0.0.1:{port}" in found[0].reason


def test_a_name_that_leads_nowhere(make: Make) -> None:
    invoker = make("http://no..where")
    found = one(invoker)
    assert (found.fault, found.sent) == ("unresolved", False)
    assert "no..where" in found.reason
    assert one(invoker).fault == "unresolved"


def test_a_name_server_that_does_not_answer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [][release.wait() :])
    found = one(make("http://slow.example", limits=SHORT))
    release.set()
    assert (found.fault, found.sent) == ("unresolved", False)


def test_the_next_address_is_tried_and_names_are_looked_up_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: list[str] = []

    def look(host: str, port: int, **kwargs: object) -> list[Any]:
        lookups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", look)
    with listening(accept) as server:
        invoker = make(f"http://two.example:{server.port}", connections=4)
        for number in range(20):
            invoker.send(number, "f", b"", event=True, silence=60)
        assert {found.status for found in gather(invoker, 20).values()} == {202}
    assert lookups == ["two.example"]


def test_silence_after_the_request_and_before(make: Make, ca: str) -> None:
    with listening(until_gone) as server:
        found = one(make(server), silence=0.2)
        assert (found.fault, found.sent) == ("silence", True)
        assert "no answer came for 0.2 s" in found.reason
        found = one(make(server, "https", limits=SHORT))
        assert (found.fault, found.sent) == ("silence", False)
        assert "TLS was not agreed on" in found.reason
        assert server.connections == 2


def test_an_answer_that_came_while_this_process_slept_counts(make: Make) -> None:
    said = threading.Event()

    def late(peer: Peer) -> None:
        while peer.request() is not None:
            peer.say(ACCEPTED)
            if said_first.is_set():
                said.set()
            said_first.set()

    said_first = threading.Event()
    with listening(late) as server:
        invoker = make(server)
        one(invoker)
        invoker.send("late", "f", b"", event=True, silence=0)
        said.wait()
        (found,) = invoker.collect([])  # as if the selector had seen nothing, and then the process had slept
        assert (found.status, found.fault) == (202, "")


def test_a_reset_after_the_request_is_reported(make: Make) -> None:
    def reset(peer: Peer) -> None:
        peer.request()
        peer.reset()

    with listening(reset) as server:
        found = one(make(server))
        assert (found.fault, found.sent) == ("reset", True)
        assert server.connections == 1


def test_an_end_in_the_middle_of_an_answer_is_reported(make: Make) -> None:
    def half(peer: Peer) -> None:
        peer.request()
        peer.say(ACCEPTED)
        peer.request()
        peer.say(ACCEPTED[:20])

    with listening(half) as server:
        invoker = make(server)
        assert one(invoker).status == 202
        found = one(invoker)
        assert (found.fault, found.sent, server.connections) == ("reset", True, 1)
        assert "in the middle" in found.reason


@pytest.mark.parametrize("end", ["fin", "rst"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_kept_connection_that_ends_before_it_takes_a_request_is_replaced_unseen(
    make: Make, tls: ssl.SSLContext, scheme: str, end: str
) -> None:
    resets: list[int] = []

    def stale(peer: Peer) -> None:
        if peer.number:
            return accept(peer)
        peer.request()
        peer.say(ACCEPTED)
        peer.request()
        resets.append(peer.number)
        if end == "rst":
            peer.reset()

    with listening(stale, tls if scheme == "https" else None) as server:
        invoker = make(server, scheme, connections=1)
        assert one(invoker).status == 202
        again = one(invoker, b"again")
        assert (again.status, again.fault) == (202, "")
        assert (resets, server.connections) == ([0], 2)


def test_a_request_that_was_under_way_for_long_is_not_sent_twice(make: Make) -> None:
    taken: list[bytes] = []

    def cut(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            taken.append(request[1])
            if len(taken) == 2:
                return
            peer.say(ACCEPTED)

    with listening(cut) as server:
        invoker = make(server, limits=Limits(stale=0))
        one(invoker, b"first")
        found = one(invoker, b"second", event=False)
        assert (found.fault, found.sent, taken) == ("reset", True, [b"first", b"second"])


# -- TLS


def test_another_authority_is_not_trusted(make: Make, tls: ssl.SSLContext, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with listening(accept, tls) as server:
        found = one(make(server, "https", ca=str(other)))
        assert (found.fault, found.sent) == ("tls", False)
        assert "unable to get local issuer certificate" in found.reason and str(other) in found.reason
        assert one(make(server, "https")).status == 202
    assert len(server.failures) == 1


def test_a_certificate_for_another_name_is_not_accepted(make: Make, authority: trustme.CA) -> None:
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("elsewhere.example").configure_cert(other)
    with listening(accept, other) as server:
        found = one(make(server, "https"))
        assert found.fault == "tls"
        assert "127.0.0.1" in found.reason and "not valid for" in found.reason


def test_a_server_without_tls(make: Make) -> None:
    def babble(peer: Peer) -> None:
        peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        until_gone(peer)

    with listening(babble) as server:
        found = one(make(server, "https"))
        assert (found.fault, found.sent) == ("tls", False)


def test_sessions_are_resumed(make: Make, authority: trustme.CA) -> None:
    resumed: list[bool] = []
    together = threading.Barrier(2)

    def note(peer: Peer) -> None:
        resumed.append(bool(peer.link.session_reused))  # type: ignore[attr-defined]
        while (request := peer.request()) is not None:
            if request[1] == b"together":
                together.wait()
            peer.say(ACCEPTED)

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(made)
    with listening(note, made) as server:
        invoker = make(server, "https")
        one(invoker)
        for number in range(2):
            invoker.send(number, "f", b"together", event=True, silence=60)
        gather(invoker, 2)
    assert resumed == [False, True]


# -- proxies


def test_through_a_proxy_only(make: Make, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    try:
        with listening(echo, tls) as server:
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass@127.0.0.1:{proxy.port}")
            monkeypatch.delenv("NO_PROXY", raising=False)
            invoker = make(server, "https", proxy=None, connections=5)
            for number in range(50):
                invoker.send(number, "f", b"%d" % number, event=True, silence=60)
            assert {found.body for found in gather(invoker, 50).values()} == {b"%d" % n for n in range(50)}
            invoker.close()
            tunnels = len(proxy.heads)
            assert 1 <= tunnels == server.connections  # none of them went straight
            assert f"CONNECT 127.0.0.1:{server.port} HTTP/1.1" in proxy.heads[0]
            assert "proxy-authorization: Basic dXNlcjpwYXNz" in proxy.heads[0]
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            assert one(make(server, "https", proxy=None)).status == 200
            assert len(proxy.heads) == tunnels
    finally:
        proxy.close()


def test_a_proxy_that_refuses(make: Make) -> None:
    proxy = Proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    try:
        found = one(make("https://lambda.example", proxy=f"http://user:hush@127.0.0.1:{proxy.port}"))
    finally:
        proxy.close()
    assert (found.fault, found.sent) == ("proxy", False)
    assert "407 Proxy Authentication Required" in found.reason and "lambda.example" in found.reason
    assert "hush" not in found.reason
    assert one(make("https://lambda.example", proxy=f"127.0.0.1:{proxy.port}")).fault == "proxy"  # it has gone


# -- waking, forgetting, descriptors


def test_anybody_can_wake_who_waits(make: Make) -> None:
    invoker = make("http://127.0.0.1:1")
    thread = threading.Thread(target=invoker.wake)
    thread.start()
    assert invoker.collect(invoker.wait(600)) == []
    thread.join()
    invoker.close()
    invoker.wake()
    assert invoker.collect(invoker.wait(600)) == []


def test_a_limit_sooner_than_who_waits_looks_is_kept(make: Make) -> None:
    """On a connection that is idle nothing happens when another thread sends, but that somebody is woken."""

    def once(peer: Peer) -> None:
        peer.request()
        peer.say(ACCEPTED)
        until_gone(peer)

    with listening(once) as server:
        invoker = make(server, limits=Limits(connect=900, idle=900))
        one(invoker, silence=900)
        found: list[Answer] = []
        thread = threading.Thread(target=lambda: found.extend(gather(invoker, 1).values()))
        thread.start()
        while not 0 < invoker._until < float("inf"):  # until it waits
            os.sched_yield()
        invoker.send("one", "f", b"", event=True, silence=0.1)
        thread.join()
        assert found[0].fault == "silence"


def test_what_is_forgotten_gets_no_answer(make: Make) -> None:
    def hold(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request[1] == b"held":
                taken.set()
                until_gone(peer)
                gone.set()
                return
            peer.say(ACCEPTED)

    taken, gone = threading.Event(), threading.Event()
    with listening(hold) as server:
        invoker = make(server, connections=1)
        for tag, body in (("sent", b"held"), ("waits", b""), ("stays", b"")):
            invoker.send(tag, "f", body, event=True, silence=60)
        while not taken.is_set():
            assert invoker.collect(invoker.wait(0.01)) == []
        assert (invoker.forget("waits"), invoker.forget("sent"), invoker.forget("waits")) == (True, False, False)
        assert list(gather(invoker, 1)) == ["stays"]
        gone.wait()
        assert invoker.in_flight == 0


def descriptors() -> set[int]:
    """Those that are open here; no folder that lists them is needed, for not every system has one."""
    found = set()
    for number in range(1024):
        with contextlib.suppress(OSError):
            os.fstat(number)
            found.add(number)
    return found


def test_close_leaves_no_descriptor(make: Make, tls: ssl.SSLContext) -> None:
    before = descriptors()
    with listening(accept, tls) as server:
        invoker = make(server, "https", connections=20)
        for number in range(100):
            invoker.send(number, "f", b"", event=True, silence=60)
        gather(invoker, 50)
        assert server.connections > 1
        invoker.close()
    assert descriptors() == before


SCARCE = """
import os, resource, sys
from pywren_runtime.aws import Credentials
from pywren_runtime.invoker import Invoker

def gather(count):
    found = []
    while len(found) < count:
        found += invoker.collect(invoker.wait(600))
    return found

def ask(count, body=b""):
    for number in range(count):
        invoker.send(number, "f", body, event=False, silence=60)
    return sorted({(one.status, one.fault) for one in gather(count)})

hard = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
invoker = Invoker(f"http://127.0.0.1:{sys.argv[1]}", "us-east-1", lambda: Credentials("a", "b"), proxy="")
assert 10 < invoker.connections < hard - 64 < resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
taken = []
def exhaust():
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
exhaust()
none = ask(20)
os.close(taken.pop())
few = ask(200)
exhaust()
still = ask(200)
for fd in taken:
    os.close(fd)
print(none, few, still, ask(2, b"together"))
"""


def test_when_descriptors_run_out_those_there_are_do_the_work() -> None:
    together = threading.Barrier(2)

    def wait_or_accept(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if request[1] == b"together":
                together.wait()
            peer.say(ACCEPTED)

    with listening(wait_or_accept) as server:
        command = [sys.executable, "-c", SCARCE, str(server.port), "160"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        good = [(202, "")]
        assert run.stdout.strip() == f"{[(0, 'refused')]} {good} {good} {good}"
        assert server.connections == 2
