"""The sort: a sample, two phases, a proof.

sort ──► find, cut ──► sample ──► boundaries ──► partition × splits ──► merge × partitions ──► compare ──► publish
                        └────────── tasks of any concurrent.futures.Executor ──────────┘
"""

import contextlib
import os
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from dataclasses import dataclass
from typing import TypeVar

from pywren_runtime.errors import PywrenError
from pywren_shuffle.clean import EVERY, INTERMEDIATE, new_id, sign_key
from pywren_shuffle.exchange import Exchange
from pywren_shuffle.inputs import find, folder_of, store_url
from pywren_shuffle.merge import MergeTask, Part, merge
from pywren_shuffle.output import Output, tidy_folder
from pywren_shuffle.partition import Block, PartitionTask, partition
from pywren_shuffle.plan import Plan, gather, groups, make_plan, reads, sample_size
from pywren_shuffle.proof import compare
from pywren_shuffle.records import Batch, Format, Piece, Source, open_format
from pywren_shuffle.sample import Boundary, Hot, Sampled, SampleTask, boundaries, sample

__all__ = ["Sorted", "sort"]

T = TypeVar("T")
R = TypeVar("R")
Place = str | os.PathLike[str]
_PLACES = 16  # from which a split's sample comes where each costs a request


@dataclass(frozen=True, slots=True)
class Sorted:
    """A sort that was done, and proven: what was written is what was read."""

    id: str
    parts: tuple[str, ...]  # paths, or URLs, in order
    records: int
    bytes: int
    checksum: int
    splits: int
    reads: int  # of slices, as ranges: so many requests where they lie in no folder, and hedges come on top
    requests: dict[str, int]  # by kind, of driver and workers; hedges are among them, and counted apart, too
    seconds: float
    hot: tuple[Hot, ...]  # keys that fill more than a partition
    plan: Plan


def sort(
    executor: Executor,
    source: Place | Iterable[Place],
    target: Place,
    *,
    records: str,
    key: object = None,
    reverse: object = False,
    partitions: int | None = None,
    memory: float | None = None,
    together: int = 1,
    overwrite: bool = False,
    intermediate: str | None = None,
    hedging: bool = True,
) -> Sorted:
    """Sort all records at `source` into parts at `target`, and return when that is done and proven.

    `memory` is what a worker may use for data, in MB beside its interpreter and imports. One task merges `together`
    neighbouring partitions, and reads of each block what is theirs at once. Intermediate data lies below `shuffles/` in
    the store `intermediate`, by default that of the target, and goes whatever happens.
    """
    begun = time.monotonic()
    format = open_format(records, key=key, reverse=reverse)
    run = _Run(executor, format, target, intermediate, hedging)
    try:
        found = run.found(source, overwrite)
        plan = run.planned(found, partitions, together, memory)
        splits = run.cut(found, plan)
        edges, hot = run.sampled(splits, plan)
        blocks = run.partitioned(splits, edges, plan)
        parts = run.merged(blocks, plan)
        total = compare([block.tally for block in blocks], [part.tally for part in parts], [part.key for part in parts])
        run.output.publish(parts, total)
    except BaseException as error:
        run.give_up(error)
        raise
    run.output.remove_old()
    run.clean()
    return Sorted(
        id=run.id,
        parts=tuple(run.output.url_of(part.key) for part in parts),
        records=total.records,
        bytes=total.bytes,
        checksum=total.checksum,
        splits=len(blocks),
        reads=run.reads,
        requests=dict(run.requests + run.exchange.requests),
        seconds=time.monotonic() - begun,
        hot=tuple(hot),
        plan=plan,
    )


class _Run:
    """One sort: its id, its places, and its steps."""

    def __init__(
        self, executor: Executor, format: Format, target: Place, intermediate: str | None, hedging: bool
    ) -> None:
        self.id = new_id()
        self._signed = time.time()
        self._born = time.time()
        self.requests: Counter[str] = Counter()
        self.exchange = Exchange(hedging=hedging)
        self._executor = executor
        self._format = format
        self._hedging = hedging
        self._workers: int = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self._target = store_url(target)
        folder = folder_of(self._target)
        self._made = folder is not None and not os.path.isdir(folder)
        self._target = self.exchange.open(self._target).url
        self.output = Output(self.exchange, self._target, self.id, format.suffix)
        self._own_place = intermediate is None and folder is not None
        self._blocks = intermediate or (f"{self._target}/{INTERMEDIATE}" if folder is not None else self._target)
        self.reads = 0
        self._keys: list[str] = []

    def found(self, source: Place | Iterable[Place], overwrite: bool) -> list[Source]:
        """All inputs; the output's place is free."""
        sources = find(source, self.exchange)
        self.output.claim(sources, overwrite=overwrite)
        self._format = self._format.prepare(sources, self.exchange)
        return sources

    def planned(self, sources: Sequence[Source], partitions: int | None, together: int, memory: float | None) -> Plan:
        """How it is divided."""
        return make_plan(
            sum(source.size for source in sources),
            memory=memory,
            partitions=partitions,
            together=together,
            expansion=self._format.expansion,
            workers=self._workers,
            remote=folder_of(self._blocks) is None,
        )

    def cut(self, sources: Sequence[Source], plan: Plan) -> list[tuple[Piece, ...]]:
        """The input in splits."""
        pieces = [piece for source in sources for piece in self._format.cut(source, plan.split, self.exchange)]
        return gather(pieces, plan.split)

    def sampled(self, splits: Sequence[tuple[Piece, ...]], plan: Plan) -> tuple[list[Boundary], list[Hot]]:
        """The boundaries between partitions."""
        if plan.partitions == 1 or not splits:
            return [], []
        wanted = sample_size(plan.bytes / self._format.record_size, plan.partitions)
        sizes = [sum(piece.stop - piece.start for piece in split) for split in splits]
        counts = [max(1, -(-wanted * size // plan.bytes)) for size in sizes]
        tasks = [
            SampleTask(
                self._format,
                tuple(splits[number] for number in numbers),
                tuple(counts[number] for number in numbers),
                _PLACES if folder_of(splits[0][0].source.store) is None else max(counts),
                plan.block,
                self._hedging,
            )
            for numbers in groups(len(splits), -(-len(splits) // self._workers))
        ]
        found: list[Sampled] = self._all(sample, tasks)
        keys: list[Batch] = []
        for sampled in found:
            self.requests += sampled.requests
            keys += sampled.keys
        return boundaries(self._format, keys, plan.partitions)

    def partitioned(self, splits: Sequence[tuple[Piece, ...]], edges: Sequence[Boundary], plan: Plan) -> list[Block]:
        """The first phase."""
        self._keys = [f"shuffles/{self.id}/{number:06d}" for number in range(len(splits))]
        tasks = [
            PartitionTask(
                format=self._format,
                split=number,
                pieces=split,
                boundaries=tuple(edges),
                partitions=plan.partitions,
                store=self._blocks,
                key=self._keys[number],
                block=plan.block,
                hedging=self._hedging,
            )
            for number, split in enumerate(splits)
        ]
        blocks: list[Block] = self._all(partition, tasks)
        for block in blocks:
            self.requests += block.requests
        return blocks

    def merged(self, blocks: Sequence[Block], plan: Plan) -> list[Part]:
        """The second phase."""
        keys = self.output.keys(plan.partitions)
        tasks = [self._merge_task(blocks, numbers, keys, plan) for numbers in groups(plan.partitions, plan.together)]
        self.reads = sum(reads(task.sizes, task.memory, task.format.decoded_expansion, task.block) for task in tasks)
        parts: list[Part] = []
        for merged in self._all(merge, tasks):
            self.requests += merged.requests
            parts += merged.parts
        return parts

    def _merge_task(self, blocks: Sequence[Block], numbers: range, keys: Sequence[str], plan: Plan) -> MergeTask:
        first, stop = numbers.start, numbers.stop
        full = [block for block in blocks if block.offsets[stop] > block.offsets[first]]
        return MergeTask(
            format=self._format,
            store=self._blocks,
            keys=tuple(block.key for block in full),
            starts=array("Q", [block.offsets[first] for block in full]),
            stops=array("Q", [block.offsets[stop] for block in full]),
            records=array("Q", [sum(block.records[first:stop]) for block in full]),
            sums=array("Q", [sum(block.sums[first:stop]) & (1 << 64) - 1 for block in full]),
            counts=array("Q", [sum(block.records[number] for block in full) for number in numbers]),
            target=self._target,
            parts=tuple(keys[first:stop]),
            memory=plan.memory,
            block=plan.block,
            hedging=self._hedging,
        )

    def give_up(self, error: BaseException) -> None:
        """Remove all that was written; what cannot be removed is a note on the error."""
        for step in (self.output.abandon, self.clean):
            try:
                step()
            except PywrenError as failure:
                error.add_note(f"and not all of it could be removed: {failure}")

    def clean(self) -> None:
        """Remove the intermediate data."""
        if self._keys:
            self.exchange.delete(self._blocks, self._keys)
        if self._own_place:
            tidy_folder(self._blocks, made=True, since=self._born)
        tidy_folder(self._target, made=self._made, since=self._born if self._keys else None)
        self.exchange.close()

    def _sign(self) -> None:
        """Say every few minutes that this driver lives, as soon as there is something that `clean` might find."""
        now = time.time()
        if now < self._signed + EVERY:
            return
        self._signed = now
        if self._keys:
            self._keys.append(sign_key(self.id, now))
            with contextlib.suppress(OSError):  # the next one may work, and the sort itself will say what is wrong
                self.exchange.put(self._blocks, self._keys[-1], ())

    def _all(self, run: Callable[[T], R], tasks: Sequence[T]) -> list[R]:
        """What `run` gives for each task; if one fails, the rest are cancelled, and over when its error comes out."""
        futures: list[Future[R]] = []
        try:
            futures += (self._executor.submit(run, task) for task in tasks)
            running = True
            while running:
                patience = max(0.0, self._signed + EVERY - time.time())
                done, waiting = wait(futures, timeout=patience, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                running = bool(waiting)
                self._sign()
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            wait(futures)
            raise
