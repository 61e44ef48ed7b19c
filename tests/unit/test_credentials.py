"""Who the client is for AWS, found as boto3 finds it and handed on to workers that have no boto3."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.s3_server import S3Server

from pywren_ng.credentials import Chain, find, has_keys, open_s3
from pywren_runtime.aws import Credentials
from pywren_runtime.errors import CredentialsError
from pywren_runtime.stores import open_store

KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_SESSION_TOKEN": "T"}
EXPIRY = "2999-01-01T00:00:00Z"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the settings of AWS, and nothing else from which credentials could come."""
    for name in (*KEYS, "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


def profile_by_process(home: Path) -> Path:
    """A profile whose credentials a program prints; each run of it leaves a line in the file that is returned."""
    said = {"Version": 1, "AccessKeyId": "PK", "SecretAccessKey": "PS", "SessionToken": "PT", "Expiration": EXPIRY}
    log, script = home / "runs", home / "give.py"
    script.write_text(f"open({str(log)!r}, 'a').write('run\\n')\nprint({json.dumps(said)!r})\n")
    (home / "config").write_text(
        f"[profile work]\nregion = us-east-1\ncredential_process = {sys.executable} {script}\n"
    )
    return log


def test_keys_in_the_environment_are_taken_as_they_are_and_without_boto3() -> None:
    assert find(environ=KEYS)() == Credentials("AK", "SK", "T")
    code = "import sys\nfrom pywren_ng.credentials import find\nprint(find()().key_id, 'boto3' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=KEYS | {"PYTHONPATH": ":".join(sys.path)}, capture_output=True
    )
    assert done.stdout == b"AK False\n", done.stderr


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (KEYS, True),
        (KEYS | {"AWS_PROFILE": "work"}, False),
        (KEYS | {"AWS_PROFILE": ""}, True),
        ({"AWS_ACCESS_KEY_ID": "AK"}, False),
        ({}, False),
    ],
)
def test_when_the_environment_says_it_all(environ: dict[str, str], expected: bool) -> None:
    assert has_keys(environ) is expected


def test_a_profile_is_asked_once_and_says_until_when(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = profile_by_process(home)
    monkeypatch.setenv("AWS_PROFILE", "work")
    chain = Chain()
    found = chain()
    assert (found.key_id, found.secret, found.token) == ("PK", "PS", "PT")
    assert found.expires is not None and found.expires > 4e9 * 8
    assert chain() == found
    assert chain.region() == "us-east-1"
    assert log.read_text() == "run\n"


def test_what_is_about_to_expire_is_renewed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = profile_by_process(home)
    monkeypatch.setenv("AWS_PROFILE", "work")
    chain = Chain()
    chain()
    chain._found._expiry_time = datetime.now(UTC) + timedelta(seconds=30)
    chain._until = 0.0
    assert chain().expires > 4e9  # type: ignore[operator]
    assert log.read_text() == "run\nrun\n"


def test_no_credentials_says_what_to_run(home: Path) -> None:
    with pytest.raises(CredentialsError, match=r"no AWS credentials.*aws configure"):
        find()()


def test_an_unknown_profile_says_which(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "wrok")
    with pytest.raises(CredentialsError, match=r"wrok.*aws configure list-profiles"):
        find()()


def test_a_log_in_that_is_over_says_how_to_log_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config").write_text(
        "[profile work]\nsso_start_url = https://example.org\nsso_region = us-east-1\nsso_account_id = 1\n"
        "sso_role_name = r\n"
    )
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(CredentialsError, match="aws sso login --profile work"):
        find()()


def test_a_worker_asks_its_client_and_has_no_boto3(
    home: Path, s3_double: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = profile_by_process(home)
    monkeypatch.setenv("AWS_PROFILE", "work")
    store = open_s3(s3_double.url().replace("&region=us-east-1", ""))
    store.put("k", b"from the client")
    assert store.url.endswith("&region=us-east-1&credentials=client&conditional=trusted")
    code = (
        "import sys\nfrom pywren_runtime.stores import open_store\nstore = open_store(sys.argv[1])\n"
        "print(store.get('k'), store.get('k'), 'boto3' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, store.url], capture_output=True, text=True, timeout=60)
    assert done.stdout == "b'from the client' b'from the client' False\n", done.stderr
    assert log.read_text() == "run\nrun\n"


def test_a_worker_that_its_client_cannot_help_says_why(
    home: Path, s3_double: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "wrok")
    store = open_store(s3_double.url() + "&credentials=client")
    with pytest.raises(CredentialsError, match=r"wrok.*list-profiles"):
        store.get("k")
