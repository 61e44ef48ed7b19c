"""Packages in workers: on this machine and on the local AWS, by the same code."""

import json
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.deployed import Deployed, deployed
from support.local_aws import LocalAws
from support.wheels import module, only_index, wheel

from pywren_ng import Executor, PackagesError, VersionError
from pywren_ng.packages import prepare
from pywren_ng.requirements import HERE, on_lambda, read

SIZE = 512
AARCH64 = 183  # e_machine in an ELF header


@pytest.fixture(scope="module")
def there(one_local_aws: LocalAws) -> Iterator[Deployed]:
    """A deployment whose workers have what was deployed and nothing else."""
    with deployed(one_local_aws, SIZE) as made:
        yield made


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index with two versions of one package, and a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    only_index(monkeypatch, tmp_path / "index")
    for version in ("1.0", "2.0"):
        module(tmp_path / "index", "tiny_pk", version)
    return tmp_path / "index"


def looking() -> Callable[..., tuple[str, str, int]]:
    """A function that travels by value: this file imports what no worker has."""

    def look(_: object = None) -> tuple[str, str, int]:
        """Which version this worker has, where, and in which process."""
        import tiny_pk

        return tiny_pk.version, tiny_pk.__file__, os.getpid()

    return look


look = looking()


@pytest.mark.parametrize("backend", ["local", "lambda"])
def test_each_set_has_workers_of_its_own(
    backend: str, index: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if backend == "lambda":
        request.getfixturevalue("there")
    found = {}
    for version in ("1.0", "2.0", "1.0"):
        with Executor(backend, requirements=[f"tiny-pk=={version}"], max_workers=2) as ex:
            results = ex.map(look, range(4)).results()
            assert {result[0] for result in results} == {version}
            found[version] = {result[1:] for result in results}
    assert not found["1.0"] & found["2.0"]
    if backend == "local":  # laid out once for this user, and nowhere else
        assert {Path(file).parents[1] for file, _ in found["1.0"]} == {tmp_path / "cache/pywren-ng/packages/laid-out"}


def test_a_set_is_put_once_and_unpacked_once_in_each_environment(index: Path, there: Deployed) -> None:
    module(index, "once_pk", "1")
    there.aws.reset(environments=True)
    for _ in range(3):
        with Executor("lambda", requirements=["once-pk"], max_workers=1) as ex:
            for _ in range(2):
                assert ex.submit(lambda: __import__("once_pk").version).result() == "1"
    seen = [one for one in there.aws.ask("GET", "/_proxy/log") if "/packages/" in one["key"]]
    asked = Counter((one["access_key"] == there.aws.access_key, one["kind"]) for one in seen)
    # The client: does it lie there? then a piece, and the manifest. The one environment: each of them.
    assert asked == {(True, "GetObject"): 3, (True, "ConditionalPut"): 2, (False, "GetObject"): 2}


def test_what_has_gone_from_the_bucket_is_put_again(index: Path, there: Deployed) -> None:
    there.aws.reset(environments=True)
    with Executor("lambda", requirements=["tiny-pk==1.0"], max_workers=1) as ex:
        keys = there.keys("packages/")
        bucket, _, folder = there.where.store.removeprefix("s3://").partition("/")
        for key in keys:
            there.aws.client("s3").delete_object(Bucket=bucket, Key=f"{folder}/{key}")
        assert there.keys("packages/") == []
        assert ex.submit(look).result()[0] == "1.0"
    assert set(there.keys("packages/")) <= set(keys)


def test_what_is_changed_in_the_bucket_is_not_loaded(index: Path, there: Deployed) -> None:
    there.aws.reset(environments=True)
    wheel(index, "evil_pk", "1", {"evil_pk.py": b"version = '1'\n"})
    before = set(there.keys("packages/"))
    with Executor("lambda", requirements=["evil-pk"], max_workers=1, retries=0) as ex:
        bucket, _, folder = there.where.store.removeprefix("s3://").partition("/")
        for key in set(there.keys("packages/")) - before:
            there.aws.client("s3").put_object(Bucket=bucket, Key=f"{folder}/{key}", Body=b"[]")
        with pytest.raises(Exception, match="is not what was stored there"):
            ex.submit(lambda: __import__("evil_pk").version).result()


def test_a_task_that_imports_what_nobody_asked_for_is_not_sent(there: Deployed) -> None:
    def imports() -> str:
        import pytest

        return pytest.__version__

    with Executor("lambda", max_workers=1) as ex:
        there.aws.reset()
        error = ex.submit(imports).exception()
        assert isinstance(error, PackagesError)
        assert f"  pytest  {pytest.__version__}" in str(error) and "requirements=['pytest']" in str(error)
        assert there.aws.counters().get("invokes", 0) == 0
        errors = ex.map(lambda x: pytest.approx(x), range(2)).results(return_exceptions=True)
        assert [type(each) for each in errors] == [PackagesError] * 2


def test_a_client_of_another_python_gets_the_table(
    there: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYWREN_NG_DEPLOYMENT", str(there.rewritten(tmp_path, pythons=("3.10",))))
    there.aws.reset()
    with pytest.raises(VersionError) as caught:
        Executor("lambda", requirements=["no-such-package"])
    lines = str(caught.value).splitlines()
    assert lines[2].split() == ["local", "runtime"]
    assert lines[3].split() == ["Python", HERE, "3.10"]
    assert f"pywren-ng setup --region {there.where.region} --python {HERE}" in lines[-1]


def test_a_bundle_for_another_platform_holds_its_binaries_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real package from the real index, for Python 3.13 on arm64."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = prepare(read(["markupsafe"]), on_lambda("3.13", "arm64"))
    binaries = [found for found in unpacked(made.folder) if found[0].endswith(".so")]
    assert [struct.unpack_from("<H", data, 18)[0] for _, data in binaries] == [AARCH64] * len(binaries) != []
    assert all("cpython-313-aarch64" in path for path, _ in binaries)


def unpacked(folder: str) -> Iterator[tuple[str, bytes]]:
    """The files of a packed set, without a worker of that platform."""
    for piece in Path(folder).iterdir():
        if piece.name != "manifest" and not piece.read_bytes().startswith(b"["):
            data = zlib.decompress(piece.read_bytes())
            (size,) = struct.unpack_from("<I", data)
            at = 4 + size
            for path, _, length, _ in json.loads(data[4:at]):
                yield path, data[at : at + length]
                at += length
