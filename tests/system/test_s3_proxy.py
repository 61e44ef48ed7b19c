"""The S3 proxy of the local AWS, before a real server and behind real boto3: what it counts, and each of its faults."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError, ResponseStreamingError
from support.s3_server import S3Server

SCRIPTS = Path(__file__).parents[2] / "scripts"
BUCKET = "proxied"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy and clients that go through it."""

    url: str
    made: list[Any] = field(default_factory=list)

    def control(self, method: str, path: str, wish: Any = None) -> Any:
        data = None if wish is None else json.dumps(wish).encode()
        request = urllib.request.Request(f"{self.url}/_proxy/{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def inject(self, fault: str, **rest: Any) -> None:
        self.control("POST", "faults", {"fault": fault, **rest})

    def injected(self) -> list[int]:
        return [rule["injected"] for rule in self.control("GET", "faults")]

    def client(self, *, access_key: str = "AKTESTS", timeout: float = 10, attempts: int = 1) -> Any:
        config = Config(
            retries={"total_max_attempts": attempts, "mode": "standard"},
            read_timeout=timeout,
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            max_pool_connections=16,
        )
        client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=access_key,
            aws_secret_access_key="secret",
            config=config,
        )
        self.made.append(client)
        return client


@contextmanager
def serving(upstream: str) -> Iterator[Proxy]:
    command = [sys.executable, "-m", "local_aws.s3_proxy", "--upstream", upstream]
    with subprocess.Popen(command, cwd=SCRIPTS, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Proxy(process.stdout.readline().strip())
        finally:
            process.kill()


@pytest.fixture(scope="module")
def running(s3_server: S3Server) -> Iterator[Proxy]:
    with serving(s3_server.endpoint) as proxy:
        proxy.client().create_bucket(Bucket=BUCKET)
        yield proxy


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    """Without rules, and counting from zero."""
    running.control("DELETE", "faults")
    running.control("DELETE", "counts")
    yield running
    running.control("DELETE", "faults")
    for client in running.made:
        client.close()
    running.made.clear()


def code_of(failed: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    answer = failed.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_a_known_sequence_is_counted_request_by_request(proxy: Proxy) -> None:
    s3 = proxy.client()
    s3.put_object(Bucket=BUCKET, Key="a/1", Body=b"12345")
    s3.put_object(Bucket=BUCKET, Key="a/2", Body=b"123", IfNoneMatch="*")
    with pytest.raises(ClientError) as failed:
        s3.put_object(Bucket=BUCKET, Key="a/2", Body=b"456", IfNoneMatch="*")
    assert code_of(failed) == (412, "PreconditionFailed")
    assert s3.get_object(Bucket=BUCKET, Key="a/2")["Body"].read() == b"123"
    assert s3.get_object(Bucket=BUCKET, Key="a/1", Range="bytes=1-2")["Body"].read() == b"23"
    assert s3.head_object(Bucket=BUCKET, Key="a/1")["ContentLength"] == 5
    s3.head_bucket(Bucket=BUCKET)
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="a/", StartAfter="a/1")
    assert [entry["Key"] for entry in listed["Contents"]] == ["a/2"]
    s3.get_object_tagging(Bucket=BUCKET, Key="a/1")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="a/3")["UploadId"]
    part = s3.upload_part(Bucket=BUCKET, Key="a/3", UploadId=upload, PartNumber=1, Body=b"part")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket=BUCKET, Key="a/3", UploadId=upload, MultipartUpload=parts)
    other = s3.create_multipart_upload(Bucket=BUCKET, Key="a/4")["UploadId"]
    s3.abort_multipart_upload(Bucket=BUCKET, Key="a/4", UploadId=other)
    s3.delete_object(Bucket=BUCKET, Key="a/1")
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "a/2"}, {"Key": "a/3"}]})

    counts = proxy.control("GET", "counts")

    assert counts["kinds"] == {
        "PutObject": 1,
        "ConditionalPut": 2,
        "GetObject": 1,
        "GetRange": 1,
        "HeadObject": 1,
        "HeadBucket": 1,
        "ListObjectsV2": 1,
        "Other": 1,
        "CreateMultipartUpload": 2,
        "UploadPart": 1,
        "CompleteMultipartUpload": 1,
        "AbortMultipartUpload": 1,
        "DeleteObject": 1,
        "DeleteObjects": 1,
    }
    assert counts["requests"] == 16
    assert counts["statuses"]["412"] == 1
    assert counts["faults"] == {}
    gets = proxy.control("GET", "counts?kind=^Get")
    assert (gets["bytes_in"], gets["bytes_out"]) == (0, 5)
    puts = proxy.control("GET", "counts?kind=Put&key=^a/1$")
    assert (puts["requests"], puts["bytes_in"]) == (1, 5)


def test_clients_are_told_apart_and_keys_chosen(proxy: Proxy) -> None:
    ours, worker = proxy.client(access_key="AKCLIENT"), proxy.client(access_key="AKWORKER")
    ours.put_object(Bucket=BUCKET, Key="blobs/x y", Body=b"1")
    for _ in range(3):
        worker.get_object(Bucket=BUCKET, Key="blobs/x y")["Body"].read()
    address = worker.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "blobs/x y"})
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.read() == b"1"

    counts = proxy.control("GET", "counts?key=^blobs/x%20y$")

    kinds = [(who["access_key"], who["agent"].partition("/")[0], who["kinds"]) for who in counts["clients"]]
    assert kinds == [
        ("AKCLIENT", "Boto3", {"PutObject": 1}),
        ("AKWORKER", "Boto3", {"GetObject": 3}),
        ("AKWORKER", "Python-urllib", {"GetObject": 1}),
    ]
    assert proxy.control("GET", "counts?access_key=AKWORKER")["kinds"] == {"GetObject": 4}
    assert proxy.control("GET", "counts?access_key=AKWORKER&agent=urllib")["kinds"] == {"GetObject": 1}
    assert proxy.control("GET", "counts?key=^jobs/")["requests"] == 0


def test_bodies_pass_unchanged_whatever_their_size_and_framing(proxy: Proxy) -> None:
    s3 = proxy.client(timeout=60)
    large = os.urandom(1 << 20) * 20
    s3.put_object(Bucket=BUCKET, Key="large", Body=large)
    assert s3.get_object(Bucket=BUCKET, Key="large")["Body"].read() == large
    s3.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    assert s3.get_object(Bucket=BUCKET, Key="empty")["Body"].read() == b""
    # The transfer's own chunks end here; S3's own (aws-chunked, here with a checksum as trailer) pass as they are.
    ours = b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"
    assert raw_put(proxy, "chunked", ours, b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert s3.get_object(Bucket=BUCKET, Key="chunked")["Body"].read() == b"abcde"
    theirs = (
        b"Content-Encoding: aws-chunked\r\nx-amz-decoded-content-length: 5\r\nx-amz-trailer: x-amz-checksum-crc32\r\n"
        b"x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\nContent-Length: SIZE\r\nExpect: 100-continue\r\n"
    )
    checked = b"5\r\nabcde\r\n0\r\nx-amz-checksum-crc32:hYfYZQ==\r\n\r\n"
    raw_put(proxy, "checked", theirs.replace(b"SIZE", b"%d" % len(checked)), checked)
    assert s3.get_object(Bucket=BUCKET, Key="checked")["Body"].read() == b"abcde"


def raw_put(proxy: Proxy, key: str, headers: bytes, body: bytes) -> bytes:
    """The beginning of the answer to a PUT written by hand, which waits for 100 Continue."""
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=10) as raw:
        raw.sendall(b"PUT /%b/%b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (BUCKET.encode(), key.encode(), headers))
        assert raw.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(body)
        return raw.recv(100)


def test_a_body_over_the_bound_is_refused(proxy: Proxy) -> None:
    with socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), timeout=10) as raw:
        raw.sendall(b"PUT /%b/over HTTP/1.1\r\nHost: a\r\nContent-Length: 67108865\r\n\r\n" % BUCKET.encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("503", (503, "SlowDown")),
        ("500", (500, "InternalError")),
        ("409", (409, "ConditionalRequestConflict")),
        ("404", (404, "NoSuchKey")),
        ("403", (403, "AccessDenied")),
    ],
)
def test_an_error_is_answered_and_the_deed_is_not_done(proxy: Proxy, fault: str, expected: tuple[int, str]) -> None:
    s3 = proxy.client()
    proxy.inject(fault, kind="ConditionalPut", key="^e/", times=1)
    with pytest.raises(ClientError) as failed:
        s3.put_object(Bucket=BUCKET, Key=f"e/{fault}", Body=b"1", IfNoneMatch="*")
    assert code_of(failed) == expected
    s3.put_object(Bucket=BUCKET, Key=f"e/{fault}", Body=b"2", IfNoneMatch="*")  # times=1, and it was not there
    assert proxy.injected() == [1]
    assert proxy.control("GET", "counts")["faults"] == {fault: 1}


def test_an_error_after_the_deed(proxy: Proxy) -> None:
    s3 = proxy.client()
    proxy.inject("500", kind="PutObject", forward=True, times=1)
    with pytest.raises(ClientError) as failed:
        s3.put_object(Bucket=BUCKET, Key="after", Body=b"done")
    assert code_of(failed) == (500, "InternalError")
    assert s3.get_object(Bucket=BUCKET, Key="after")["Body"].read() == b"done"
    assert proxy.injected() == [1]


@pytest.mark.parametrize(("fault", "is_done"), [("reset_before", False), ("reset_after", True)])
def test_a_reset_comes_before_or_after_the_deed(proxy: Proxy, fault: str, is_done: bool) -> None:
    s3 = proxy.client()
    proxy.inject(fault, kind="PutObject", times=1)
    with pytest.raises(Exception, match=r"(?i)connection (was closed|reset)|could not connect"):
        s3.put_object(Bucket=BUCKET, Key=f"r/{fault}", Body=b"1")
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"r/{fault}")
    assert listed["KeyCount"] == is_done
    assert proxy.injected() == [1]


@pytest.mark.parametrize("is_done", [False, True])
def test_silence_is_never_answered(proxy: Proxy, is_done: bool) -> None:
    s3 = proxy.client(timeout=1)
    proxy.inject("silence", kind="PutObject", times=1, forward=is_done)
    with pytest.raises(ReadTimeoutError):
        s3.put_object(Bucket=BUCKET, Key=f"s/{is_done}", Body=b"1")
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix=f"s/{is_done}")["KeyCount"] == is_done
    assert proxy.injected() == [1]


def test_silence_ends_in_a_cut_after_its_seconds(proxy: Proxy) -> None:
    proxy.inject("silence", seconds=0.1, times=1)
    with pytest.raises(ConnectionClosedError):
        proxy.client().head_bucket(Bucket=BUCKET)
    assert proxy.injected() == [1]


def test_slow_is_answered_later(proxy: Proxy) -> None:
    proxy.inject("slow", kind="HeadBucket", seconds=1, times=1)
    with pytest.raises(ReadTimeoutError):
        proxy.client(timeout=0.3).head_bucket(Bucket=BUCKET)
    proxy.inject("slow", kind="HeadBucket", seconds=0.01)
    proxy.client().head_bucket(Bucket=BUCKET)
    assert proxy.injected() == [1, 1]


def test_half_a_body_and_then_nothing(proxy: Proxy) -> None:
    s3 = proxy.client()
    s3.put_object(Bucket=BUCKET, Key="half", Body=b"x" * 1_000_000)
    proxy.inject("truncate", kind="GetObject", times=1)
    with pytest.raises(ResponseStreamingError, match="500000 bytes read, 500000 more"):
        s3.get_object(Bucket=BUCKET, Key="half")["Body"].read()
    assert len(s3.get_object(Bucket=BUCKET, Key="half")["Body"].read()) == 1_000_000
    assert proxy.injected() == [1]
    assert proxy.control("GET", "counts?kind=GetObject")["bytes_out"] == 1_500_000


def test_the_same_seed_hits_the_same_requests(proxy: Proxy) -> None:
    s3 = proxy.client()

    def hits() -> list[int]:
        proxy.control("DELETE", "faults")
        proxy.inject("503", kind="HeadObject", fraction=0.3, seed=7)
        found = []
        for number in range(40):
            try:
                s3.head_object(Bucket=BUCKET, Key="half")
            except ClientError as failed:
                if failed.response["ResponseMetadata"]["HTTPStatusCode"] == 503:
                    found.append(number)
        assert proxy.injected() == [len(found)]
        return found

    s3.put_object(Bucket=BUCKET, Key="half", Body=b"1")
    first = hits()
    assert 0 < len(first) < 40
    assert hits() == first


def test_all_is_counted_when_many_write_at_once_and_errors_are_met_by_tries(proxy: Proxy) -> None:
    s3 = proxy.client(attempts=8)
    proxy.inject("503", kind="PutObject", fraction=0.1, seed=3)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: s3.put_object(Bucket=BUCKET, Key=f"many/{n:03}", Body=b"1"), range(200)))
    hit = proxy.injected()[0]
    assert hit > 0
    assert proxy.control("GET", "counts")["kinds"] == {"PutObject": 200 + hit}
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="many/")["KeyCount"] == 200


def test_a_slow_store_is_told_its_rates_and_forgets_them(proxy: Proxy) -> None:
    rates = {"puts": 500, "gets": 500, "bandwidth": 10_000_000}
    assert proxy.control("GET", "rates") == {}
    try:
        assert proxy.control("POST", "rates", rates) == rates
        client = proxy.client()
        client.put_object(Bucket=BUCKET, Key="slow", Body=bytes(1000))
        assert client.get_object(Bucket=BUCKET, Key="slow")["Body"].read() == bytes(1000)
        assert proxy.control("GET", "rates") == rates
        with pytest.raises(urllib.error.HTTPError) as failed:
            proxy.control("POST", "rates", {"puts": 0})
        assert failed.value.code == 400
    finally:
        assert proxy.control("DELETE", "rates") == {}
    assert proxy.control("GET", "rates") == {}


def test_a_rule_that_makes_no_sense_is_refused(proxy: Proxy) -> None:
    for wish, said in [
        ({"fault": "flood"}, "fault 'flood' is unknown"),
        ({"fault": "503", "kind": "PutObjects"}, "kind PutObjects is unknown"),
        ({"fault": "503", "keys": "x"}, "keys: no part of a rule"),
        ({"fault": "503", "key": "("}, "is no regular expression"),
        ({"fault": "503", "fraction": 5}, "is not between 0 and 1"),
    ]:
        with pytest.raises(urllib.error.HTTPError) as failed:
            proxy.control("POST", "faults", wish)
        assert failed.value.code == 400
        assert said in json.loads(failed.value.read())["error"]
    assert proxy.injected() == []


def test_an_upstream_out_of_reach_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with serving(f"http://127.0.0.1:{taken.getsockname()[1]}") as proxy:
            with pytest.raises(ClientError, match="the proxy cannot reach S3") as failed:
                proxy.client().get_object(Bucket=BUCKET, Key="a")
            assert code_of(failed) == (502, "BadGateway")
