"""A multipart upload, of which some parts are under way at a time."""

from typing import Any

__all__ = ["PART", "put_parts"]

PART = 16 << 20  # an upload may have 10,000
_AT_ONCE = 4


def put_parts(library: Any, client: Any, path: str, data: object, attributes: dict[str, str] | None = None) -> None:
    """Upload in parts; whatever is raised meanwhile, the library gives the upload up."""
    library.put(
        client, path, data, attributes=attributes, use_multipart=True, chunk_size=PART, max_concurrency=_AT_ONCE
    )
