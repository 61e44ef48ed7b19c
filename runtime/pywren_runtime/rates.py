"""What AWS charges, and how fast it answers: one dated file, `rates.json`, in dollars, seconds and bytes."""

import json
from functools import cache
from pkgutil import get_data
from typing import Any

__all__ = ["rates"]


@cache
def rates() -> dict[str, Any]:
    """All of it, by service, each with its date and source; read when it is first asked for."""
    found = get_data(__package__, "rates.json")
    assert found is not None
    loaded: dict[str, Any] = json.loads(found)
    return loaded
