"""The arithmetic of sizes that driver and workers share, and what of memory is for what."""

from collections.abc import Sequence
from math import ceil
from typing import Final

from pywren_shuffle.records import Piece

__all__ = [
    "MEMORY",
    "SMALL",
    "fits",
    "gather",
    "groups",
    "least_memory",
    "reads",
    "round_block",
    "sample_size",
    "starts_of",
]

MEMORY: Final = 256.0  # MB for a worker's data where nobody says how much it has
SMALL: Final = 4 << 20  # bytes in a folder that are not worth another worker's while
_LEAST_BLOCK: Final = 4096  # less is not worth a request, however little memory there is
# At a time, of each slice: half a block that is left and one behind it, both again as they are merged, and the next.
_HELD: Final = 4.0
_SAMPLED: Final = 0.01
_SAMPLED_AT_MOST: Final = 10_000_000  # keys, which the driver has in memory, unless there must be more
_SAMPLED_PER_PARTITION: Final = 1500


def starts_of(count: int, ranges: int) -> list[int]:
    """Where each of so many even ranges of `count` things begins, and `count`. Those of a multiple are among them."""
    return [count * number // ranges for number in range(ranges + 1)]


def gather(pieces: Sequence[Piece], size: int) -> list[tuple[Piece, ...]]:
    """Neighbouring pieces put together into splits of that size at most, as far as pieces are small enough."""
    splits: list[tuple[Piece, ...]] = []
    own: list[Piece] = []
    held = 0
    for piece in pieces:
        if own and held + piece.stop - piece.start > size:
            splits.append(tuple(own))
            own, held = [], 0
        own.append(piece)
        held += piece.stop - piece.start
    return [*splits, tuple(own)] if own else splits


def sample_size(records: float, partitions: int) -> int:
    """How many keys to look at so that partitions come out alike; none where there is but one."""
    if partitions == 1:
        return 0
    return ceil(max(min(_SAMPLED * records, _SAMPLED_AT_MOST), _SAMPLED_PER_PARTITION * partitions))


def groups(count: int, size: int) -> list[range]:
    """`count` numbers in ranges of that size."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def fits(sizes: Sequence[int], memory: int, expansion: float) -> bool:
    """Whether slices of these sizes can be merged at once."""
    return sum(sizes) * (1 + expansion) <= memory


def round_block(count: int, memory: int, expansion: float) -> int:
    """How many bytes of each of so many slices are asked for at a time where they do not all fit."""
    return max(_LEAST_BLOCK, int(memory / (count * (_HELD + 1.5 * expansion))))


def least_memory(count: int, record: float, expansion: float) -> float:
    """Bytes without which so many slices cannot be merged in rounds."""
    return count * max(_LEAST_BLOCK, record) * (_HELD + 1.5 * expansion)


def reads(sizes: Sequence[int], memory: int, expansion: float, block: int) -> int:
    """How many ranges are asked for to merge slices of these sizes, hedges apart."""
    sizes = [size for size in sizes if size]
    if not sizes or fits(sizes, memory, expansion):
        return len(sizes) if max(sizes, default=0) <= block else sum(-(-size // block) for size in sizes)
    step = round_block(len(sizes), memory, expansion)
    return sum(size // step * -(-step // block) + -(-(size % step) // block) for size in sizes)
