"""`profile=` and `region=`: whose credentials, for how long, and which deployment."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pywren_ng import ConfigError, CredentialsError, VersionError, credentials, deployment
from pywren_ng.credentials import Access, Chain, as_told, find
from pywren_ng.deployment import Deployment
from pywren_runtime.aws import Credentials
from pywren_runtime.stores.s3_settings import parse
from pywren_runtime.wire import VERSION

KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}


class Clock:
    """Seconds as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Given(Chain):
    """What stands behind the chain: keys for so many seconds each time, until it refuses."""

    def __init__(self, clock: Clock, seconds: float | None) -> None:
        super().__init__("work")
        self.asked = 0
        self.refuses = False
        self._clock = clock
        self._seconds = seconds

    def _ask(self) -> Credentials:
        self.asked += 1
        if self.refuses:
            raise CredentialsError("no more")
        expires = None if self._seconds is None else self._clock.now + self._seconds
        return Credentials(f"key {self.asked}", "secret", None, expires)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(credentials, "time", made)
    return made


@pytest.mark.parametrize(
    ("seconds", "renewed"), [(60.0, 45.0), (900.0, 675.0), (1200.0, 900.0), (3600.0, 3300.0), (None, None)]
)
def test_credentials_are_asked_for_again_before_they_end(
    clock: Clock, seconds: float | None, renewed: float | None
) -> None:
    chain = Given(clock, seconds)
    for later in (0.0, 1.0, (renewed or 1e9) - 1.0):
        clock.now = 1000.0 + later
        assert chain().key_id == "key 1"
    if renewed is not None:
        clock.now = 1000.0 + renewed
        assert chain().key_id == "key 2"
        assert chain().key_id == "key 2"


def test_what_cannot_be_renewed_serves_to_its_end(clock: Clock) -> None:
    chain = Given(clock, 60.0)
    chain()
    chain.refuses = True
    clock.now += 50
    assert chain().key_id == chain().key_id == "key 1"
    assert chain.asked == 2, "a log-in that is over is not asked at each request"
    clock.now += 9.9
    assert chain().key_id == "key 1"
    clock.now += 0.1
    with pytest.raises(CredentialsError):
        chain()
    chain.refuses = False
    assert chain().key_id == "key 4"


def test_a_profile_that_is_named_decides_over_the_environment() -> None:
    assert find(Access(), KEYS)().key_id == "AK"
    assert isinstance(find(Access("work"), KEYS), Chain)


def test_all_that_an_executor_asks_shares_one_chain() -> None:
    access = Access("work", "eu-west-9")
    _, chain = as_told("s3://bucket/prefix", replace(access, region="us-east-1"), KEYS)
    assert chain is find(access, KEYS)
    assert find(Access("work", "eu-west-9"), KEYS) is not chain, "another executor's"


def test_a_worker_is_told_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parse("s3://bucket/prefix", {})
    url = settings.url_with(region="eu-west-9", asks_client=True, profile="my work")
    told = parse(url, {})
    assert (told.region, told.asks_client, told.profile) == ("eu-west-9", True, "my work")
    assert parse(url, {}).url_with(region="us-east-1", profile="other") == url


def test_the_process_that_a_worker_asks_takes_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").write_text("[profile 'my work']\naws_access_key_id = PK\naws_secret_access_key = PS\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["pywren_ng.credentials", "my work"])
    credentials.main()
    assert json.loads(capsys.readouterr().out) == ["PK", "PS", None, None]


# -- Which deployment


def write(folder: Path, **changes: Any) -> Deployment:
    made = Deployment(**{"region": "eu-west-3", "store": "s3://bucket/x", "key": b"k" * 32, **changes})
    deployment.write(made, deployment.default_file(), over=False)
    return made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_a_region_leads_to_the_deployment_that_is_there(home: Path) -> None:
    first, second = write(home), write(home, region="us-east-1", store="s3://other/x")
    assert deployment.load(None) == deployment.load(None, "eu-west-3") == first
    assert deployment.load(None, "us-east-1") == second


def test_a_region_without_a_deployment_says_what_there_is(home: Path) -> None:
    write(home)
    with pytest.raises(ConfigError, match=r"in us-east-1 .* is about eu-west-3; .* setup --region us-east-1"):
        deployment.load(None, "us-east-1")


@pytest.mark.parametrize("wire", [VERSION - 1, VERSION + 1])
def test_a_deployment_of_another_wire_version_is_not_used(home: Path, wire: int) -> None:
    write(home, wire=wire, release="7.7")
    found = deployment.load(None)
    with pytest.raises(VersionError, match=r"set up by pywren-ng 7\.7") as refused:
        found.check()
    assert ("pip install 'pywren-ng>=7.7'" in str(refused.value)) == (wire > VERSION)


def test_a_function_has_the_wire_version_in_its_name(home: Path) -> None:
    assert f"-w{VERSION}-py" in write(home).function(None)
