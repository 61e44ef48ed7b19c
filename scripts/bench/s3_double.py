"""A fast S3 for measurements: one process, one event loop, objects in memory, no signatures checked.

    python scripts/bench/s3_double.py [PORT]      prints its URL; buckets exist as soon as they are named

It does what `S3Store` and boto3 ask of S3 for objects, conditions, ranges, listings, batched deletes and uploads in
parts, and passes the store contract suite, so that what is measured against it is measured doing the right thing.
"""

import asyncio
import bisect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

PAGE = 1000
MODIFIED = "Sat, 21 Nov 2026 00:00:00 GMT"
REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 404: "Not Found", 412: "Precondition Failed"}
KEY_IN_XML = re.compile(rb"<Key>([^<]*)</Key>")
RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")
Headers = dict[bytes, bytes]


@dataclass
class Item:
    """An object: its bytes, and the header lines of its metadata."""

    data: bytes
    lines: bytes = b""


@dataclass
class Bucket:
    """The objects of one bucket, and their keys in order."""

    objects: dict[str, Item] = field(default_factory=dict)
    uploads: dict[str, tuple[bytes, dict[int, bytes]]] = field(default_factory=dict)
    ordered: list[str] | None = None  # None while nobody has listed since the last change of keys

    def put(self, key: str, item: Item) -> None:
        if key not in self.objects:
            self.ordered = None
        self.objects[key] = item

    def delete(self, key: str) -> None:
        if self.objects.pop(key, None) is not None:
            self.ordered = None

    def keys(self) -> list[str]:
        if self.ordered is None:
            self.ordered = sorted(self.objects)
        return self.ordered


def answer(status: int, body: bytes = b"", lines: bytes = b"", *, length: int | None = None) -> bytes:
    """A response; `length` where the body is left out, as for HEAD."""
    reason = REASONS.get(status, "Error")
    size = len(body) if length is None else length
    return b"HTTP/1.1 %d %s\r\nContent-Length: %d\r\n%s\r\n%s" % (status, reason.encode(), size, lines, body)


def refuse(status: int, code: str) -> bytes:
    """An error as S3 words it."""
    return answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())


STORED = answer(200, lines=b'ETag: "0"\r\n')


class Double:
    """What the server holds, and what it does for one request."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.serial = 0

    def respond(self, method: bytes, target: str, headers: Headers, body: bytes) -> bytes:
        path, _, query = target.partition("?")
        name, _, key = unquote(path[1:]).partition("/") if "%" in path else path[1:].partition("/")
        bucket = self.buckets.get(name) or self.buckets.setdefault(name, Bucket())
        if not query or query.startswith("x-id="):
            act = _PLAIN.get(method)
            return act(bucket, key, headers, body) if key and act else answer(200)
        asked = {word: values[0] for word, values in parse_qs(query, keep_blank_values=True).items()}
        if "list-type" in asked:
            return list_page(bucket, name, asked)
        if "delete" in asked:
            keys = KEY_IN_XML.findall(body)
            for found in keys:
                bucket.delete(found.decode())
            rows = b"".join(b"<Deleted><Key>%s</Key></Deleted>" % found for found in keys)
            return answer(200, b"<DeleteResult>%s</DeleteResult>" % rows)
        return self.upload(bucket, method, key, asked, headers, body)

    def upload(
        self, bucket: Bucket, method: bytes, key: str, asked: dict[str, str], headers: Headers, body: bytes
    ) -> bytes:
        if "uploads" in asked:
            self.serial += 1
            bucket.uploads[str(self.serial)] = (metadata(headers), {})
            return answer(
                200,
                f"<InitiateMultipartUploadResult><Key>{escape(key)}</Key><UploadId>{self.serial}</UploadId>"
                "</InitiateMultipartUploadResult>".encode(),
            )
        found = bucket.uploads.get(asked.get("uploadId", ""))
        if found is None:
            return refuse(404, "NoSuchUpload")
        if method == b"PUT":
            found[1][int(asked["partNumber"])] = body
            return STORED
        del bucket.uploads[asked["uploadId"]]
        if method == b"DELETE":
            return answer(204)
        bucket.put(key, Item(b"".join(found[1][number] for number in sorted(found[1])), found[0]))
        return answer(200, b'<CompleteMultipartUploadResult><ETag>"0"</ETag></CompleteMultipartUploadResult>')


def metadata(headers: Headers) -> bytes:
    return b"".join(b"%s: %s\r\n" % (name, value) for name, value in headers.items() if name.startswith(b"x-amz-meta-"))


def put(bucket: Bucket, key: str, headers: Headers, body: bytes) -> bytes:
    if b"if-none-match" in headers and key in bucket.objects:
        return refuse(412, "PreconditionFailed")
    bucket.put(key, Item(body, metadata(headers)))
    return STORED


def get(bucket: Bucket, key: str, headers: Headers, body: bytes, *, head: bool = False) -> bytes:
    item = bucket.objects.get(key)
    if item is None:
        return answer(404) if head else refuse(404, "NoSuchKey")
    lines = b'ETag: "0"\r\nLast-Modified: %s\r\n%s' % (MODIFIED.encode(), item.lines)
    size = len(item.data)
    if head:
        return answer(200, lines=lines, length=size)
    asked = RANGE.match(headers[b"range"].decode()) if b"range" in headers else None
    if asked is None:
        return answer(200, item.data, lines)
    start, stop = int(asked[1]), min(int(asked[2]) + 1 if asked[2] else size, size)
    if start >= size:
        return refuse(416, "InvalidRange")
    return answer(206, item.data[start:stop], lines + b"Content-Range: bytes %d-%d/%d\r\n" % (start, stop - 1, size))


def head(bucket: Bucket, key: str, headers: Headers, body: bytes) -> bytes:
    return get(bucket, key, headers, body, head=True)


def delete(bucket: Bucket, key: str, headers: Headers, body: bytes) -> bytes:
    bucket.delete(key)
    return answer(204)


def list_page(bucket: Bucket, name: str, asked: dict[str, str]) -> bytes:
    prefix = asked.get("prefix", "")
    keys = bucket.keys()
    after = asked.get("continuation-token") or asked.get("start-after", "")
    first = max(bisect.bisect_right(keys, after), bisect.bisect_left(keys, prefix))
    most = int(asked.get("max-keys", PAGE))
    page: list[str] = []
    more = False
    for key in keys[first : first + most + 1]:
        if not key.startswith(prefix):
            break
        if len(page) == most:
            more = True
            break
        page.append(key)
    rows = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{len(bucket.objects[key].data)}</Size><ETag>&quot;0&quot;</ETag>"
        "<LastModified>2026-11-21T00:00:00.000Z</LastModified></Contents>"
        for key in page
    )
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    return answer(
        200,
        f'<?xml version="1.0"?><ListBucketResult><Name>{name}</Name><Prefix>{escape(prefix)}</Prefix>'
        f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}"
        "</ListBucketResult>".encode(),
        b"Content-Type: application/xml\r\n",
    )


_PLAIN: dict[bytes, Callable[[Bucket, str, Headers, bytes], bytes]] = {
    b"PUT": put,
    b"GET": get,
    b"HEAD": head,
    b"DELETE": delete,
}


class Connection(asyncio.Protocol):
    """One connection: requests come in, each is answered before the next is looked at."""

    def __init__(self, double: Double) -> None:
        self._double = double
        self._data = bytearray()
        self._request: tuple[bytes, str, Headers] | None = None
        self._length = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._request is not None or self._read_head():
            if len(self._data) < self._length or self._request is None:
                return
            body = bytes(memoryview(self._data)[: self._length])
            del self._data[: self._length]
            method, target, headers = self._request
            self._request = None
            if headers.get(b"content-encoding", b"").startswith(b"aws-chunked"):
                body = unchunked(body)
            self._transport.write(self._double.respond(method, target, headers, body))

    def _read_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = bytes(self._data[:end]).split(b"\r\n")
        del self._data[: end + 4]
        method, target, _ = first.split(b" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        if b"expect" in headers:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._request = method, target.decode(), headers
        self._length = int(headers.get(b"content-length", 0))
        return True


def unchunked(body: bytes) -> bytes:
    """What boto3 sends in signed chunks or with a trailing checksum."""
    pieces: list[bytes] = []
    start = 0
    while True:
        end = body.index(b"\r\n", start)
        size = int(body[start:end].partition(b";")[0], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + size])
        start = end + 4 + size


async def serve(port: int) -> None:
    double = Double()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(double), "127.0.0.1", port, backlog=512)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
