"""The first phase of what is grouped or joined, in a worker: a split becomes as many objects as memory makes it.

Functions of the user's may give other bytes each time they run (a set has another order in every process), so objects
bear a name of their own in each run: whoever reads has the names from the outcome that counted.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol, cast

from pywren_shuffle.phases.partition import Block, PartitionTask, write_block
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.records import Batch, Format, Key, Piece, Reader

__all__ = ["Spilling", "spill"]


class Spilling(Format, Protocol):
    """A format whose records are spread by hashes of their keys; how much a split holds, nobody knows before."""

    def edges(self, partitions: int) -> Sequence[Key]:
        """The keys at which all partitions but the first begin; no record has such a key."""
        ...

    def spills(self, pieces: Sequence[Piece], reader: Reader) -> Iterator[Batch]:
        """The records of a split in batches that fit into memory."""
        ...


def spill(task: PartitionTask) -> tuple[Block, ...]:
    """Read a split, and write an object of each batch of it."""
    exchange = Exchange(hedging=task.hedging, block=task.block)
    run = os.urandom(4).hex()
    blocks: list[Block] = []
    try:
        batches = cast(Spilling, task.format).spills(task.pieces, exchange)
        while (batch := next(batches, None)) is not None:
            own = replace(task, key=f"{task.key}-{run}-{len(blocks):04d}")
            block = write_block(own, batch, exchange)
            del batch
            blocks.append(replace(block, requests=Counter()))
        if blocks:
            blocks[-1] = replace(blocks[-1], requests=exchange.requests)
        return tuple(blocks)
    finally:
        exchange.close()
