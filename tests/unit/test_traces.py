"""What a run that ends leaves: its mark where somebody may still write, nothing of its own, all of another run's."""

import logging
import socket
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.redis_servers import Redis

from pywren_runtime.errors import StoreError
from pywren_runtime.stores import open_store
from pywren_shuffle.driving.healing import Healing
from pywren_shuffle.driving.output import Output
from pywren_shuffle.driving.traces import Traces
from pywren_shuffle.host import Host, over_key
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.places.spare import BlocksLost
from pywren_shuffle.planning.terms import FOLDER, Terms, Tier, Workers
from pywren_shuffle.sort import plan_sort

ID = "20260101T000000-01234567"


def healing_of(tier: str, spare: str) -> Healing:
    return Healing(
        Exchange(hedging=False), tier, spare, run_all=lambda run, tasks: [], name="group", requests=Counter()
    )


def traces_of(tier: str, folder: Path, *, listed: bool, lingers: bool) -> Traces:
    exchange, spare = Exchange(hedging=False), f"file://{folder}"
    output = Output(exchange, f"file://{folder}/out", ID, ".rows")
    return Traces(
        *(exchange, output, healing_of(tier, spare), Host(lingers=lingers)),
        tier=tier,
        spare=spare,
        is_new=True,
        listed=listed,
    )


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("listed", [False, True])
def test_the_mark_stays_until_nobody_writes_any_more(tmp_path: Path, listed: bool) -> None:
    store = f"file://{tmp_path}"
    for lingers in (True, False):
        late: Future[None] = Future()
        traces = traces_of(store, tmp_path, listed=listed, lingers=lingers)
        traces.expect(store, [f"shuffles/{ID}/000000"])
        open_store(store).put(f"shuffles/{ID}/000000", b"block")
        traces.late = [late]
        traces.give_up(KeyboardInterrupt())
        assert files(tmp_path) == [over_key(ID)]
    late.set_result(None)
    for thread in [one for one in threading.enumerate() if one.name == "pywren-sort-end"]:
        thread.join()
    assert files(tmp_path) == []


def test_what_is_left_in_a_tier_goes_whatever_it_is_called(tmp_path: Path, redis_server: Redis) -> None:
    tier, before = redis_server.url(), redis_server.size()
    traces = traces_of(tier, tmp_path, listed=True, lingers=False)
    keys = [f"shuffles/{ID}/000000", f"shuffles/0a/{ID}/000010"]
    traces.expect(tier, keys)
    for key in keys:
        open_store(tier).put(f"{key}-01234567-0000", b"block")
        open_store(traces.spare).put(f"{key}-89abcdef-0000", b"block that was made again")
    traces.leave_tier(BlocksLost("a reason"))
    assert redis_server.size() == before and len(files(tmp_path)) == 2
    traces.clean()
    assert files(tmp_path) == []


def test_only_what_is_left_in_the_tier_goes_by_itself(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"redis://127.0.0.1:{free.getsockname()[1]}?patience=0.1"
    healing = healing_of(nobody, nobody + "&bytes=1")
    assert healing.keys(nobody, "shuffles/") == []
    (notice,) = healing.notices
    assert "goes by itself" in notice
    with pytest.raises(StoreError, match="could not be reached"):
        healing.keys(nobody + "&bytes=1", "shuffles/")
    assert healing.notices == [notice]


def test_a_plan_leaves_alone_what_another_run_is_writing(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("b\na\n")
    writing = tmp_path / "out" / "~shuffle" / "~partial" / "0-1-2"
    writing.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        writing.write_text("half a block")
        plan_sort(pool, tmp_path / "in", tmp_path / "out", records="text")
    assert writing.read_text() == "half a block"


def test_a_place_that_was_asked_for_and_is_not_used_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").write_text("b\na\n" * 100)
    terms = Terms(Workers(2), FOLDER, FOLDER, (Tier("memory", capacity=1), FOLDER))
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING):
        plan = plan_sort(pool, tmp_path / "in", tmp_path / "out", records="text", intermediate="memory:x", terms=terms)
    assert plan.tier == "folder"
    (message,) = caplog.messages
    assert "memory:x is not used" in message and "room" in message
