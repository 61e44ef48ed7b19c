"""How a sort is divided, as a pure function of sizes and memory: splits, partitions, and what that costs in requests.

A split is as large as one worker's memory allows, with all that loading, sorting and encoding it takes; there are as
many partitions as splits unless the user says otherwise, so that a partition fits, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from pywren_runtime.errors import ConfigError
from pywren_shuffle.flights import AT_ONCE
from pywren_shuffle.records import Piece

__all__ = ["MEMORY", "Plan", "fits", "gather", "groups", "make_plan", "reads", "round_block", "sample_size"]

MEMORY: Final = 256.0  # MB for a worker's data where nobody says how much it has
LEAST: Final = 0.05
_UPLOADS: Final = 80 << 20  # bytes that parts of an upload take while they are under way
MOST_PARTS: Final = 100_000
_DATA: Final = 0.85  # of a worker's memory is for data; the rest for what is taken of it at a time, and for objects
_SLACK: Final = 0.8  # of that is planned with: partitions are not all of one size
_LARGEST_BLOCK: Final = 8 << 20
_SMALLEST_BLOCK: Final = 64 << 10
_CACHED: Final = (
    32 << 20
)  # bytes of a split that a processor's cache holds in good part; among files, more cost nothing
_SMALL: Final = 4 << 20  # bytes that are not worth another worker's while
_LEAST_BLOCK: Final = 4096  # less is not worth a request, however little memory there is
# At a time, of each slice: half a block that is left and one behind it, both again as they are merged, and the next.
_HELD: Final = 4.0
_RATE: Final = 5500.0  # requests a second that S3 answers for one prefix, and
_BANDWIDTH: Final = 75e6  # bytes a second of one worker: more workers than follow from both only cost more
_SAMPLED: Final = 0.01
_SAMPLED_PER_PARTITION: Final = 1500


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided before anything was read."""

    bytes: int
    memory: int  # bytes that a worker's data may take
    split: int  # bytes of a split, at most
    partitions: int
    block: int  # bytes of one request at most: so many in flight fit beside the data
    together: int  # neighbouring partitions that one worker reads by one request for each block


def make_plan(
    total: int,
    *,
    memory: float | None,
    partitions: int | None,
    together: int,
    expansion: float,
    workers: int,
    remote: bool,
) -> Plan:
    """The plan for so many bytes of input; ConfigError for what makes no sense.

    What is `remote` costs memory: an object is whole before it is put, and an output part is sent in parts.
    """
    memory = MEMORY if memory is None else memory
    if not memory >= LEAST:
        raise ConfigError(f"memory={memory} (MB for a worker's data) is too little: give it at least {LEAST}.")
    if partitions is not None and not 1 <= partitions <= MOST_PARTS:
        raise ConfigError(f"partitions={partitions} should be from 1 to {MOST_PARTS:,}.")
    if together < 1:
        raise ConfigError(f"together={together} partitions cannot be merged by one task: it is 1 or more.")
    usable = int(_DATA * memory * (1 << 20))
    if remote:
        usable -= min(_UPLOADS, usable // 3)
    most = max(1, int(_SLACK * usable / (1 + expansion + remote)))
    splits = max(1, ceil(total / most))
    if remote:
        workers = max(1, min(workers, ceil((total * _RATE / _BANDWIDTH) ** (1 / 3))))
    else:
        splits = max(splits, min(ceil(total / _CACHED), 8 * workers))
    if splits < workers:
        splits = max(splits, min(workers, ceil(total / _SMALL)))
    elif splits % workers:
        splits += workers - splits % workers  # none is left over for a last round
    return Plan(total, usable, max(1, ceil(total / splits)), partitions or splits, _block(usable), together)


def _block(memory: int) -> int:
    return min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, memory // (4 * AT_ONCE)))


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
    return 0 if partitions == 1 else ceil(max(_SAMPLED * records, _SAMPLED_PER_PARTITION * partitions))


def groups(count: int, size: int) -> list[range]:
    """`count` numbers in ranges of that size."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def fits(sizes: Sequence[int], memory: int, expansion: float) -> bool:
    """Whether slices of these sizes can be merged at once."""
    return sum(sizes) * (1 + expansion) <= memory


def round_block(count: int, memory: int, expansion: float) -> int:
    """How many bytes of each of so many slices are asked for at a time where they do not all fit."""
    return max(_LEAST_BLOCK, int(memory / (count * (_HELD + 1.5 * expansion))))


def reads(sizes: Sequence[int], memory: int, expansion: float, block: int) -> int:
    """How many ranges are asked for to merge slices of these sizes, hedges apart."""
    sizes = [size for size in sizes if size]
    if not sizes or fits(sizes, memory, expansion):
        return sum(-(-size // block) for size in sizes)
    step = round_block(len(sizes), memory, expansion)
    return sum(size // step * -(-step // block) + -(-(size % step) // block) for size in sizes)
