"""A phase between the two where data is exchanged more than once, in a worker: some blocks' slices become one block.

slices of a range of partitions, of neighbouring blocks ──► merged as ever ──► sliced more finely ──► one object

The order of splits is kept, and with it that of equal keys: partitions are cut where their counts say, and those of all
these blocks add up to what the first phase cut.
"""

from array import array
from collections.abc import Iterator
from dataclasses import replace

from pywren_runtime.errors import ShuffleCorrupt, StoreError
from pywren_runtime.stores import Buffer
from pywren_shuffle.host import heed
from pywren_shuffle.phases.merge import MergeTask, batches_of, following
from pywren_shuffle.phases.partition import Block
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.places.spare import BlocksLost, said
from pywren_shuffle.proof import ADVICE, MASK, NOTHING
from pywren_shuffle.records import Batch
from pywren_shuffle.sizes import fits

__all__ = ["regroup"]


def regroup(task: MergeTask) -> Block:
    """Read, merge, and write a block with a slice for each count; if it is run again, the same bytes lie there."""
    try:
        return _regroup(task)
    except StoreError as error:
        if not task.spare or task.target == task.spare:
            raise
        return replace(_regroup(replace(task, target=task.spare)), notice=said(error))


def _regroup(task: MergeTask) -> Block:
    exchange = Exchange(hedging=task.hedging, block=task.block, ahead=task.ahead)
    (key,) = task.parts
    try:
        offsets, sums = array("Q", [0]), array("Q")
        slices = _slices(task, batches_of(task, exchange), offsets, sums)
        # One object in memory beside the batch that it is made of, or in parts.
        put = exchange.put if fits(task.sizes, task.memory, task.format.decoded_expansion + 1) else exchange.put_stream
        put(task.target, key, slices)
        heed(exchange, task.spare or task.store, task.over, [(task.target, key)])
        if sum(sums) & MASK != sum(task.sums) & MASK:
            raise ShuffleCorrupt(f"the slices of {key!r} are not, together, those it was made of. {ADVICE}")
        return Block(key, offsets, task.counts, sums, NOTHING, exchange.requests, array("Q"), task.target)
    except BlocksLost as lost:
        none = array("Q")
        return Block(key, none, none, none, NOTHING, exchange.requests, none, task.target, lost=str(lost))
    finally:
        exchange.close()


def _slices(task: MergeTask, batches: Iterator[Batch], offsets: "array[int]", sums: "array[int]") -> Iterator[Buffer]:
    rest: list[Batch] = []
    at = 0
    for count in task.counts:
        found = 0
        own = following(count, rest, batches)
        while (batch := next(own, None)) is not None:
            found += batch.sums([0, len(batch)])[0]
            for buffer in batch.encode():
                at += memoryview(buffer).nbytes
                yield buffer
            del batch  # it need not be in memory while the next one is made
        sums.append(found & MASK)
        offsets.append(at)
