"""The zip that Lambda runs: built, unpacked, and run by AWS's own client in real processes."""

import base64
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from runtime_api import Deployed
from scene import until

from pywren_ng.deploy import bundle
from pywren_ng.deploy.bundle import Bundle, build
from pywren_runtime.errors import ConfigError
from pywren_runtime.failures import rebuild
from pywren_runtime.pickling import Ref, digest_of, dumps, loads
from pywren_runtime.stores import Store, open_store
from pywren_runtime.wire import Call, Environment, Head, Outcome, Signer, Status, TaskCall, blob_key, outcome_key

KEY = bytes(range(32))
HANDLER = "pywren_runtime.handler.handle"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build(tmp_path_factory.mktemp("built") / "runtime.zip")


@pytest.fixture(scope="module")
def deployed(built: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip as Lambda lays it out, where nobody can write."""
    folder = tmp_path_factory.mktemp("task")
    with zipfile.ZipFile(built.path) as archive:
        archive.extractall(folder)
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def start(deployed: Path, store: Store, tmp_path: Path) -> Iterator[Callable[..., Deployed]]:
    """Starts environments, and ends them after the test."""
    running: list[Deployed] = []

    def begin(**more: str) -> Deployed:
        variables = {
            "PYWREN_NG_INTERNAL_STORE": store.url,
            "PYWREN_NG_INTERNAL_KEY": KEY.hex(),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "TMPDIR": str(tmp_path),
            **more,
        }
        running.append(Deployed(deployed, HANDLER, {name: text for name, text in variables.items() if text}))
        return running[-1]

    yield begin
    for each in running:
        each.close()


@pytest.fixture(scope="module", autouse=True)
def _by_value() -> Iterator[None]:
    """The deployed worker cannot import this module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def call_of(store: Store, fn: Callable[..., object], *arguments: object, **more: object) -> dict[str, object]:
    """An event with a task for each argument; the function lies in the store, as it does in use."""
    data = cloudpickle.dumps((fn, ()))
    digest = digest_of(memoryview(data))
    store.put_new(blob_key(digest), data)
    function = _as_blob(Ref(blob_key(digest), len(data), digest))
    head = Head("job", function, Environment().encode()).encode()
    tasks = (TaskCall(number, 0, 0, b"\0" + cloudpickle.dumps(((it,), {}))) for number, it in enumerate(arguments))
    frame = Signer(KEY).seal(b"call", Call(head, tuple(tasks)).encode())
    return {"call": base64.b64encode(frame).decode(), **more}


def _as_blob(ref: Ref) -> bytes:
    import struct

    key = ref.key.encode()
    return b"\1" + struct.pack("<II", 1, 0) + struct.pack("<BQH32s", 1, ref.size, len(key), ref.digest) + key


def opened(answer: dict[str, Any]) -> list[Outcome]:
    frames = (base64.b64decode(frame) for frame in answer["outcomes"])
    return [Outcome.decode(Signer(KEY).open(b"outcome", frame)) for frame in frames]


# -- The zip


def test_the_same_sources_give_the_same_bytes(built: Bundle, tmp_path: Path) -> None:
    again = build(tmp_path / "again.zip")
    assert (again.sha256, again.size) == (built.sha256, built.size)
    assert again.path.read_bytes() == built.path.read_bytes()


def test_it_holds_what_a_worker_needs_compiled_and_nothing_else(built: Bundle) -> None:
    names = zipfile.ZipFile(built.path).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"cloudpickle", "hiredis", "obstore", "pywren_runtime", "pywren_shuffle", "redis", "tblib"}
    sources = [name for name in names if name.endswith(".py")]
    tag = sys.implementation.cache_tag
    compiled = {f"{os.path.dirname(name)}/__pycache__/{Path(name).stem}.{tag}.pyc" for name in sources}
    assert {name for name in names if name.endswith(".pyc")} == compiled
    assert [name for name in names if "LICEN" in name]


def test_what_is_compiled_is_believed_without_a_look_at_its_source(deployed: Path) -> None:
    for path in (deployed / "pywren_runtime" / "__pycache__").iterdir():
        assert int.from_bytes(path.read_bytes()[4:8], "little") == 1  # by hash, unchecked


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cloudpickle is not installed in .*pip install cloudpickle"):
        build(tmp_path / "runtime.zip", packages=tmp_path)
    assert not list(tmp_path.iterdir())


def test_one_that_lambda_would_refuse_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "LIMIT", 1_000_000)
    with pytest.raises(ConfigError, match="Lambda takes 1,000,000"):
        build(tmp_path / "runtime.zip")


def test_the_entry_point_imports_the_standard_library_only(deployed: Path) -> None:
    script = (
        "import json, sys; before = set(sys.modules); import pywren_runtime.handler, pywren_runtime.supervisor; "
        "print(json.dumps([pywren_runtime.__file__, *(set(sys.modules) - before)]))"
    )
    variables = {"PATH": os.environ["PATH"]}
    ran = subprocess.run([sys.executable, "-c", script], cwd=deployed, env=variables, capture_output=True, check=True)
    file, *names = json.loads(ran.stdout)
    assert file.startswith(str(deployed))
    assert {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) == {"pywren_runtime"}


# -- In AWS's own client


def test_calls_run_in_a_warm_environment(start: Callable[..., Deployed], store: Store) -> None:
    environment = start()
    for number in range(3):
        outcomes = opened(environment.invoke(call_of(store, lambda it: it * 2, number, "ab")))
        values = [loads(each.payload, lambda ref: b"") for each in outcomes]
        assert values == [number * 2, "abab"]
    assert [key for key, _ in store.keys("jobs/")] == []


def test_it_runs_what_was_deployed_and_not_the_checkout(
    start: Callable[..., Deployed], store: Store, deployed: Path
) -> None:
    def where(_: object) -> tuple[str, list[str]]:
        import sys

        import pywren_runtime

        return pywren_runtime.__file__, [name for name in sys.modules if name.startswith(("boto", "pywren_ng"))]

    [outcome] = opened(start().invoke(call_of(store, where, None)))
    file, heavy = loads(outcome.payload, lambda ref: b"")
    assert file.startswith(str(deployed))
    assert heavy == []


def test_asynchronous_calls_store_their_outcomes(start: Callable[..., Deployed], store: Store) -> None:
    assert start().invoke(call_of(store, abs, -1, -2, reply="store")) == {"stored": 2}
    keys = [key for key, _ in store.keys("jobs/")]
    assert keys == [outcome_key("job", number, 0) for number in (0, 1)]


def test_an_environment_outlives_the_death_of_its_worker(start: Callable[..., Deployed], store: Store) -> None:
    environment = start()
    [outcome] = opened(environment.invoke(call_of(store, os._exit, 3)))
    assert outcome.status is Status.LOST
    assert "exited with code 3" in str(rebuild(outcome, lambda packed: None))
    [outcome] = opened(environment.invoke(call_of(store, abs, -1)))
    assert outcome.status is Status.PLAIN


def test_what_a_task_prints_is_in_its_outcome_and_in_the_log(start: Callable[..., Deployed], store: Store) -> None:
    environment = start()
    [outcome] = opened(environment.invoke(call_of(store, print, "said by the task")))
    assert outcome.output == b"said by the task\n"
    assert "said by the task\n" in environment.close()


def test_the_worker_dies_with_its_environment(start: Callable[..., Deployed], store: Store) -> None:
    environment = start()
    [outcome] = opened(environment.invoke(call_of(store, lambda _: os.getpid(), None)))
    worker = loads(outcome.payload, lambda ref: b"")
    os.kill(worker, 0)
    os.kill(environment.process.pid, signal.SIGKILL)
    assert until(lambda: not Path(f"/proc/{worker}").exists())


def test_a_call_near_the_functions_end_is_reported_before_it(start: Callable[..., Deployed], store: Store) -> None:
    def wait(_: object) -> None:
        import time

        time.sleep(3600)

    environment = start(PYWREN_NG_INTERNAL_SCALE="0.1")
    environment.invoke(call_of(store, abs, 1))
    [outcome] = opened(environment.invoke(call_of(store, wait, None), left=1.0))
    assert isinstance(rebuild(outcome, lambda packed: None), TimeoutError)


def test_bytes_that_somebody_else_signed_are_the_functions_error(start: Callable[..., Deployed], store: Store) -> None:
    environment = start()
    with pytest.raises(RuntimeError, match=r"SignatureError.*was not loaded"):
        environment.invoke({"call": base64.b64encode(bytes(200)).decode()})
    assert opened(environment.invoke(call_of(store, abs, -1)))


def test_a_function_without_its_variables_fails_to_initialise_and_says_why(start: Callable[..., Deployed]) -> None:
    environment = start(PYWREN_NG_INTERNAL_KEY="")
    environment.wait()
    assert environment.init_error is not None
    assert environment.init_error["errorType"] == "ConfigError"
    assert "PYWREN_NG_INTERNAL_KEY" in environment.init_error["errorMessage"]


def test_large_arguments_are_fetched_and_may_be_changed(start: Callable[..., Deployed], store: Store) -> None:
    def put(data: memoryview) -> Ref:
        digest = digest_of(data)
        store.put_new(blob_key(digest), data)
        return Ref(blob_key(digest), len(data), digest)

    def change(data: bytearray) -> int:
        data[0] += 1
        return data[0]

    import pickle

    data = pickle.PickleBuffer(bytearray(3_000_000))
    arguments = dumps(((data,), {}), put, cloudpickle.Pickler)
    head = Head("job", b"\0" + cloudpickle.dumps((change, ())), Environment().encode()).encode()
    frame = Signer(KEY).seal(b"call", Call(head, tuple(TaskCall(n, 0, 0, arguments) for n in range(2))).encode())
    outcomes = opened(start().invoke({"call": base64.b64encode(frame).decode()}))
    assert [loads(each.payload, lambda ref: b"") for each in outcomes] == [1, 1]
