"""What more than one file of the system tests asks for by name; `scene` has what it is made of."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import Gate, Lifeline


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A gate at which tasks wait."""
    made = Gate(tmp_path)
    yield made
    made.let_go(100)  # or what a failed test leaves behind would stay


@pytest.fixture
def lifeline(tmp_path: Path) -> Lifeline:
    """A pipe that tells whether any of its holders lives."""
    return Lifeline(tmp_path)
