"""Uploads of parts that sorts have begun and nobody will end: no listing shows them, and each month they cost.

The bucket of a deployment ends them by itself, after a day; other buckets need a rule for that, or `pywren-ng clean`.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pywren_ng.credentials import Access

__all__ = ["Upload", "Uploads"]


@dataclass(frozen=True, slots=True)
class Upload:
    """One of them."""

    name: str  # of the object that it was to become, below its place
    begun: float  # seconds since the epoch
    key: str
    id: str


class Uploads:
    """Those below a place in S3. Only boto3 can list them, and the user may have no permission to."""

    def __init__(self, place: str, access: Access) -> None:
        import boto3

        from pywren_runtime.stores.s3_settings import parse

        self._settings = found = parse(place, os.environ)
        region = access.region or (found.region if found.names_region else None)
        session = boto3.Session(profile_name=access.profile or found.profile, region_name=region)
        self._client: Any = session.client("s3", endpoint_url=found.endpoint)

    def __iter__(self) -> Iterator[Upload]:
        bucket, prefix = self._settings.bucket, self._settings.prefix
        for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Uploads", ()):
                key = found["Key"]
                yield Upload(key.removeprefix(prefix), found["Initiated"].timestamp(), key, found["UploadId"])

    def end(self, upload: Upload) -> None:
        """Give it up, and what was sent for it."""
        self._client.abort_multipart_upload(Bucket=self._settings.bucket, Key=upload.key, UploadId=upload.id)
