"""Where a bucket is, asked of the server when it redirects without a word: S3 tells anybody, in a header."""

import dataclasses
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from pywren_runtime.route import trust
from pywren_runtime.stores.s3_faults import Fault
from pywren_runtime.stores.s3_settings import Settings

__all__ = ["with_region"]


def with_region(fault: Fault, settings: Settings) -> Fault:
    """The fault, with the bucket's region if the server tells it within a few seconds."""
    base = settings.endpoint or f"https://s3.{settings.region}.amazonaws.com"
    tls = trust(settings.ca_file or "") if base.startswith("https://") else None
    try:
        headers = urlopen(Request(f"{base}/{settings.bucket}", method="HEAD"), timeout=5, context=tls).headers
    except HTTPError as error:
        headers = error.headers
    except (URLError, OSError, ValueError):
        return fault
    return dataclasses.replace(fault, region=headers.get("x-amz-bucket-region"))
