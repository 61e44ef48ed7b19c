"""What killed sorts leave is found and removed; what runs, was published or was copied stays."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import boto3
import pytest
from support.s3_server import S3Server

import pywren_shuffle.phases.merge as merging
import pywren_shuffle.sort as sorting
from pywren_ng.cli import main
from pywren_runtime.errors import ConfigError
from pywren_runtime.stores import Store, open_store
from pywren_shuffle.driving import run as running
from pywren_shuffle.driving import traces
from pywren_shuffle.driving.clean import SILENT, Left, find_left, new_id, remove, sign_key
from pywren_shuffle.records.rows_records import dump

OLD, OLDER = "20200101T000000-0123abcd", "20190101T000000-89abcdef"
NOW = 1_577_836_800.0  # when OLD began


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server) -> str:
    return f"file://{tmp_path}" if request.param == "file" else s3_server.url()


def fill(url: str, *keys: str, published: str | None = None) -> Store:
    store = open_store(url)
    for key in keys:
        store.put(key, b"data")
    if published:
        store.put("manifest.json", json.dumps({"id": published}).encode())
    return store


def found(*places: str) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(left.place, left.id, tuple(left.keys)) for left in find_left(places, open_store)]


def test_blocks_and_parts_of_a_killed_sort_go(place: str) -> None:
    blocks = f"shuffles/{OLD}/000000", f"shuffles/{OLD}/1-000001", f"shuffles/0f/{OLD}/000001"
    store = fill(place, *blocks, f"part-00000-{OLD}.dat", "mine.txt")
    for left in find_left([place], open_store):
        assert left.id == OLD
        assert not left.runs(NOW + SILENT, SILENT)
        remove(left, open_store)
    assert [key for key, _ in store.keys()] == ["mine.txt"]
    assert found(place) == []


def test_parts_go_before_what_says_that_they_are_left(place: str) -> None:
    fill(place, f"shuffles/{OLD}/000000", f"part-00000-{OLD}.dat")
    assert found(place) == [
        (place, OLD, (f"part-00000-{OLD}.dat",)),
        (place, OLD, (f"shuffles/{OLD}/000000",)),
    ]


def test_what_was_published_or_copied_stays(place: str) -> None:
    fill(place, f"part-00000-{OLD}.dat", f"shuffles/{OLD}/000000", published=OLD)
    assert found(place) == [(place, OLD, (f"shuffles/{OLD}/000000",))]
    open_store(place).delete_many([f"shuffles/{OLD}/000000", "manifest.json"])
    assert found(place) == []  # nothing says that these parts are left


def test_parts_that_were_being_replaced_go_with_the_sort_that_did_it(place: str) -> None:
    fill(place, f"part-00000-{OLD}.dat", f"part-00000-{OLDER}.dat", f"shuffles/{OLD}/000000", published=OLD)
    assert found(place)[0] == (place, OLD, (f"part-00000-{OLDER}.dat",))


def test_parts_of_an_output_stay_while_a_killed_sort_was_to_replace_it(place: str) -> None:
    fill(place, f"part-00000-{OLD}.dat", f"part-00000-{OLDER}.dat", f"shuffles/{OLD}/000000", published=OLDER)
    assert found(place)[0] == (place, OLD, (f"part-00000-{OLD}.dat",))


def test_intermediate_data_may_lie_apart(place: str, tmp_path: Path) -> None:
    apart = f"file://{tmp_path}/apart"
    fill(place, f"part-00000-{OLD}.dat")
    fill(apart, f"shuffles/{OLD}/000000")
    assert found(place) == []
    assert [(where, len(keys)) for where, _, keys in found(place, apart)] == [(place, 1), (apart, 1)]


def test_the_last_sign_counts(place: str) -> None:
    def last() -> Left:
        return find_left([place], open_store)[-1]

    fill(place, f"shuffles/{OLD}/000000", f"part-00000-{OLD}.dat")
    assert last().last_sign == NOW
    fill(place, sign_key(OLD, NOW + 300), sign_key(OLD, NOW + 600))
    assert last().last_sign == NOW + 600
    assert last().runs(NOW + 600 + SILENT - 1, SILENT)
    assert not last().runs(NOW + 600 + SILENT, SILENT)
    assert {left.last_sign for left in find_left([place], open_store)} == {NOW + 600}  # the parts', too


def test_a_place_that_is_not_there_is_an_error_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        find_left([tmp_path / "typo"], open_store)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
import pywren_shuffle.driving.run as running
import pywren_shuffle.sort as sorting

def partition_and_die(task):
    partition(task)
    os.kill(os.getpid(), signal.SIGKILL)

partition, running.partition = running.partition, partition_and_die
with ThreadPoolExecutor(1) as pool:
    sorting.sort(pool, sys.argv[1] + "/in.rows", sys.argv[1] + "/out", records="rows")
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The target of a sort that was killed just now."""
    (tmp_path / "in.rows").write_bytes(b"".join(dump(range(100))))
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert done.returncode == -9
    return tmp_path / "out"


def test_the_command_leaves_alone_what_may_run(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", str(killed)]) == 0
    assert "may run: left alone" in capsys.readouterr().out
    assert len(list(killed.rglob("00000*"))) == 1


def test_the_command_shows_and_removes(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clean", "--silent", "0", "--dry-run", str(killed)]) == 0
    assert "1 objects" in (shown := capsys.readouterr().out) and "would go" in shown
    assert len(list(killed.rglob("00000*"))) == 1
    assert main(["clean", "--silent", "0", str(killed)]) == 0
    assert "removed" in capsys.readouterr().out
    assert list(killed.rglob("*")) == []
    assert main(["clean", str(killed)]) == 0
    assert "Nothing is left" in capsys.readouterr().out


def test_uploads_that_were_never_ended_go(s3_server: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    place = s3_server.url()
    prefix = place.partition("?")[0].removeprefix(f"s3://{s3_server.bucket}/")
    client = boto3.client("s3", endpoint_url=s3_server.endpoint, region_name="us-east-1")

    def begin(*names: str) -> None:
        for name in names:
            client.create_multipart_upload(Bucket=s3_server.bucket, Key=f"{prefix}/{name}")

    def uploads() -> list[str]:
        found = client.list_multipart_uploads(Bucket=s3_server.bucket, Prefix=prefix)
        return [upload["Key"].removeprefix(f"{prefix}/") for upload in found.get("Uploads", [])]

    part = f"part-00001-{OLD}.dat"
    begin(part, "somebody's.dat")
    assert main(["clean", place]) == 0
    assert f"an upload of {part}: may run: left alone" in capsys.readouterr().out  # it was begun just now
    assert main(["clean", "--silent", "0", "--dry-run", place]) == 0
    assert sorted(uploads()) == [part, "somebody's.dat"]
    assert main(["clean", "--silent", "0", place]) == 0
    assert "removed" in capsys.readouterr().out
    assert uploads() == ["somebody's.dat"]


def test_ids_say_when_a_sort_began(tmp_path: Path) -> None:
    fill(f"file://{tmp_path}", f"shuffles/{new_id()}/000000")
    (left,) = find_left([tmp_path], open_store)
    assert left.runs(left.last_sign, SILENT)
    assert left.last_sign > 1.7e9


def test_a_sort_that_runs_gives_signs_and_takes_them_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Left] = []

    def slow_merge(task: merging.MergeTask) -> merging.Merged:
        end = monotonic() + 20
        while not (seen and "alive-" in seen[0].keys[-1]) and monotonic() < end:
            seen[:] = find_left([tmp_path / "out"], open_store)
        return merging.merge(task)

    (tmp_path / "in.rows").write_bytes(b"".join(dump(range(100))))
    monkeypatch.setattr(traces, "EVERY", 0.01)
    monkeypatch.setattr(running, "merge", slow_merge)
    with ThreadPoolExecutor(1) as pool:
        sorting.sort(pool, tmp_path / "in.rows", tmp_path / "out", records="rows")
    assert seen[0].keys[-1].startswith(f"shuffles/{seen[0].id}/alive-")
    assert sorted(path.name[:5] for path in (tmp_path / "out").iterdir()) == ["manif", "part-"]
