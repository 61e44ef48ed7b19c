"""What was seen of records, phase by phase, and the comparison that proves that none was lost, doubled or changed.

splits ── Tally of what was read ──┐
                                   ├─► compare ──► ShuffleCorrupt, or it is proven
parts ─── Tally of what was written┘
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pywren_runtime.errors import ShuffleCorrupt

__all__ = ["MASK", "NOTHING", "Tally", "compare"]

MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Tally:
    """Count, bytes and checksum of some records, with the first and the last key where they have an order."""

    records: int = 0
    bytes: int = 0
    checksum: int = 0  # modulo 2**64
    first: Any = None
    last: Any = None
    in_order: bool = True

    def then(self, later: "Tally") -> "Tally":
        """The tally of these records and those that come after them."""
        if not self.records or not later.records:
            return replace(later if later.records else self, in_order=self.in_order and later.in_order)
        return Tally(
            self.records + later.records,
            self.bytes + later.bytes,
            (self.checksum + later.checksum) & MASK,
            self.first,
            later.last,
            self.in_order and later.in_order and not later.first < self.last,
        )

    def beside(self, other: "Tally") -> "Tally":
        """The tally of both, where neither comes before the other: the first of all and the last of all."""
        if not self.records or not other.records:
            return self if self.records else other
        return Tally(
            self.records + other.records,
            self.bytes + other.bytes,
            (self.checksum + other.checksum) & MASK,
            other.first if other.first < self.first else self.first,
            other.last if self.last < other.last else self.last,
        )


NOTHING = Tally()


def compare(read: Sequence[Tally], written: Sequence[Tally], names: Sequence[str]) -> Tally:
    """The tally of all that was written, if it is what was read, and in order; ShuffleCorrupt if not."""
    before = after = NOTHING
    for tally in read:
        before = before.beside(tally)
    for tally, name in zip(written, names, strict=True):
        if not tally.in_order:
            raise ShuffleCorrupt(f"the records of {name} are not in order. {ADVICE}")
        after = after.then(tally)
        if not after.in_order:
            raise ShuffleCorrupt(f"{name} begins with a key below the last one of the part before it. {ADVICE}")
    for what, had, has in (
        ("records", before.records, after.records),
        ("bytes", before.bytes, after.bytes),
        ("checksum", before.checksum, after.checksum),
        ("first key", before.first, after.first),
        ("last key", before.last, after.last),
    ):
        if had != has:
            raise ShuffleCorrupt(
                f"what was written is not what was read: {what} {has!r} in the output, {had!r} in the input. {ADVICE}"
            )
    return after


ADVICE = (
    "Nothing of this output was published. Run it again; if it happens again, suspect the memory or the disks of"
    " these machines, or report it as a fault of pywren-ng."
)
