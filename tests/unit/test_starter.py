"""What a worker that starts workers makes of the answers: a scripted Lambda over HTTP, and seconds scaled down."""

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pywren_runtime import settings
from pywren_runtime.aws import Credentials
from pywren_runtime.errors import ConfigError
from pywren_runtime.invoker import Invoker
from pywren_runtime.starter import entries_of, start
from pywren_runtime.stores import open_store
from pywren_runtime.supervisor import Supervisor
from pywren_runtime.wire import stop_key


class Script:
    """A Lambda that gives each Invoke its next answer, a status or a reset; after the last one it says 202."""

    def __init__(self, **answers: list[int | str]) -> None:
        self.came: list[tuple[int, str, str]] = []  # the body, the path and the kind of each Invoke
        self._answers = {int(name[1:]): deque(each) for name, each in answers.items()}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._requests())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _requests(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                number = body if isinstance(body, int) else body["call"]
                script.came.append((number, self.path, self.headers["X-Amz-Invocation-Type"]))
                answers = script._answers.get(number)
                answer = answers.popleft() if answers else 202
                if not isinstance(answer, int):
                    self.close_connection = True  # without a word
                    return
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        return Requests

    def tries(self, number: int) -> int:
        return sum(1 for came, _, _ in self.came if came == number)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)


@pytest.fixture
def scripted() -> Iterator[Callable[..., Script]]:
    made: list[Script] = []

    def make(**answers: list[int | str]) -> Script:
        made.append(Script(**answers))
        return made[-1]

    yield make
    for each in made:
        each.close()


def run(script: Script, count: int, *, seconds: float = 30.0, stopped_at_look: int = 10**9) -> dict[str, object]:
    looks = iter(range(10**9))
    entries = [(f"function-{number % 2}", b"%d" % number) for number in range(count)]
    invoker = Invoker(script.endpoint, "us-east-1", lambda: Credentials("key", "secret"))
    try:
        return start(
            entries,
            invoker,
            until=time.monotonic() + seconds,
            is_stopped=lambda: next(looks) >= stopped_at_look,
            every=0.05,
            scale=0.005,
        )
    finally:
        invoker.close()


def test_each_entry_is_invoked_once_asynchronously_and_counted(scripted: Callable[..., Script]) -> None:
    script = scripted()
    assert run(script, 5) == {"started": 5, "failed": []}
    path = "/2015-03-31/functions/function-{}/invocations"
    assert sorted(script.came) == [(number, path.format(number % 2), "Event") for number in range(5)]


@pytest.mark.parametrize("trouble", [429, 500, 503, 409, "reset"])
def test_what_may_pass_is_tried_again_until_it_has_passed(scripted: Callable[..., Script], trouble: int | str) -> None:
    script = scripted(n1=[trouble] * 3)
    assert run(script, 3) == {"started": 3, "failed": []}
    assert script.tries(1) >= 4  # a reset of a connection that was kept alive is met by the Invoker itself
    assert script.tries(0) == script.tries(2) == 1


@pytest.mark.parametrize("trouble", [403, 404, 413])
def test_what_will_not_pass_is_not_tried_again(scripted: Callable[..., Script], trouble: int) -> None:
    script = scripted(n1=[trouble])
    assert run(script, 3) == {"started": 2, "failed": [1]}
    assert script.tries(1) == 1


def test_what_has_not_passed_when_the_time_is_over_is_named(scripted: Callable[..., Script]) -> None:
    script = scripted(n0=[429] * 10000, n2=[500] * 10000)
    assert run(script, 4, seconds=0.3) == {"started": 2, "failed": [0, 2]}
    assert script.tries(0) > 2


def test_a_lambda_that_nobody_reaches_started_nothing(scripted: Callable[..., Script]) -> None:
    script = scripted()
    script.close()
    assert run(script, 2, seconds=0.1) == {"started": 0, "failed": [0, 1]}


def test_nothing_of_a_cancelled_job_is_started(scripted: Callable[..., Script]) -> None:
    script = scripted()
    assert run(script, 3, stopped_at_look=0) == {"started": 0, "failed": [0, 1, 2]}
    assert script.came == []


def test_a_job_that_is_cancelled_meanwhile_is_not_tried_again(scripted: Callable[..., Script]) -> None:
    script = scripted(n1=[429] * 10000)
    assert run(script, 2, stopped_at_look=1) == {"started": 1, "failed": [1]}


def test_a_start_event_reaches_the_functions_unless_its_job_was_cancelled(
    scripted: Callable[..., Script], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = scripted()
    monkeypatch.setenv("AWS_ENDPOINT_URL", script.endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = open_store(f"file://{tmp_path}/store")
    variables = {"PYWREN_NG_INTERNAL_STORE": store.url, "PYWREN_NG_INTERNAL_KEY": "00", "TMPDIR": str(tmp_path)}
    supervisor = Supervisor(settings.read(variables))
    entries = [{"function": f"f{number}", "event": {"call": number}} for number in (5, 6)]
    event = {"start": entries, "stop_key": stop_key("j")}
    assert supervisor.answer(event, 30.0) == {"started": 2, "failed": []}
    assert sorted(path.split("/")[3] for _, path, _ in script.came) == ["f5", "f6"]
    store.put(stop_key("j"), b"")
    assert supervisor.answer(event, 30.0) == {"started": 0, "failed": [0, 1]}
    assert len(script.came) == 2


def test_the_events_are_handed_on_as_they_came() -> None:
    event = {"start": [{"function": "f", "event": {"call": "abc", "reply": "store"}}], "stop_key": "jobs/j/stopped"}
    assert entries_of(event) == [("f", b'{"call": "abc", "reply": "store"}')]


def test_a_third_level_is_refused() -> None:
    inner = {"function": "f", "event": {"start": []}}
    with pytest.raises(ConfigError, match="two levels"):
        entries_of({"start": [{"function": "f", "event": {"call": "abc"}}, inner]})


@pytest.mark.parametrize("start", [None, 5, [{}], ["call"], [{"function": "f"}], [{"event": {}}]])
def test_what_cannot_be_read_is_refused(start: object) -> None:
    with pytest.raises(ConfigError, match="whoever invokes this function"):
        entries_of({"start": start})
