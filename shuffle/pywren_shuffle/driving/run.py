"""One run of a shuffle: its id, its places, and its steps, each of which some tasks of an executor are.

found ──► planned ──► cut ──► sampled ──► partitioned ──► (regrouped, level by level) merged ──► what was written
"""

import os
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final, TypeVar

from pywren_runtime.rates import rates
from pywren_runtime.stores import without_password
from pywren_shuffle.driving.clean import new_id
from pywren_shuffle.driving.grid import Grid
from pywren_shuffle.driving.healing import Healing, blocks_of
from pywren_shuffle.driving.output import Output
from pywren_shuffle.driving.steps import Steps
from pywren_shuffle.driving.traces import Traces, beside
from pywren_shuffle.host import halt, host_of, over_key, submit_all
from pywren_shuffle.phases.merge import MergeTask, Part, merge
from pywren_shuffle.phases.partition import Block, PartitionTask, partition
from pywren_shuffle.phases.regroup import regroup
from pywren_shuffle.phases.sample import Boundary, Hot, Sampled, SampleTask, boundaries, packed, sample
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.places.flights import ONE_IN
from pywren_shuffle.places.inputs import MISTYPED, find, folder_of, store_url
from pywren_shuffle.planning.model import PLACES, with_actual
from pywren_shuffle.planning.plan import Layer, Plan
from pywren_shuffle.planning.planner import make_plan
from pywren_shuffle.planning.terms import Terms, Tier, Workers, free_below, kind_of, tier_named
from pywren_shuffle.records import Batch, Format, Piece, Source
from pywren_shuffle.sizes import gather, groups, sample_size, starts_of

__all__ = ["Place", "Run"]

HEARD: Final = 0.5  # seconds after which a Ctrl-C is heard at the latest
T = TypeVar("T")
R = TypeVar("R")
Reads = TypeVar("Reads", PartitionTask, MergeTask)
Place = str | os.PathLike[str]


class Run:
    """One run of a shuffle, of a sort unless a subclass says otherwise: its id, its places, and its steps."""

    WHAT = "sort"
    IS_SPREAD = False  # by hashes or places: nobody takes a sample, and blocks get names that nobody knows before

    def __init__(
        self,
        executor: Executor,
        format: Format,
        target: Place,
        intermediate: str | None,
        hedging: bool,
        id: str = "",
        terms: Terms | None = None,
        spare: str | None = None,
    ) -> None:
        self.terms = terms
        self.id = id or new_id()
        self._begun = time.monotonic()
        self.requests: Counter[str] = Counter()  # of workers
        self._host = host_of(executor)
        self._over = over_key(self.id) if self._host.lingers else ""
        self.exchange = Exchange(hedging=hedging, open_store=self._host.open_store)
        self._executor = executor
        self._format = format
        self._hedging = hedging
        self._workers: int = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self._target = store_url(target)
        folder = folder_of(self._target)
        is_new = folder is not None and not os.path.isdir(folder)
        self._target = self.exchange.open(self._target).url
        self.output = Output(self.exchange, self._target, self.id, format.suffix)
        stays = beside(self._target) if spare is None else self.exchange.open(spare).url
        tier = stays if intermediate is None else self.exchange.open(intermediate).url
        name = f"{self.WHAT} {self.id}"
        self.healing = Healing(self.exchange, tier, stays, run_all=self._all, name=name, requests=self.requests)
        self.traces = Traces(
            *(self.exchange, self.output, self.healing, self._host),
            tier=tier,
            spare=stays,
            is_new=is_new,
            listed=self.IS_SPREAD,
        )
        self.reads = 0
        self._rows: list[list[Block]] = []  # of layer 1, as far as rounds have filled it
        self._steps = Steps(self.requests)
        self._lists = 0  # requests by which inputs were found

    def found(self, source: Place | Iterable[Place], overwrite: bool) -> list[Source]:
        """All inputs; the output's place is free."""
        sources = self.listed(source)
        self.output.claim(sources, overwrite=overwrite)
        return self._prepared(sources)

    def looked(self, source: Place | Iterable[Place]) -> list[Source]:
        """All inputs; nobody asks whether the output's place is free."""
        return self._prepared(self.listed(source))

    def listed(self, source: Place | Iterable[Place]) -> list[Source]:
        """The objects at these places."""
        before = self.exchange.requests["ListObjectsV2"]
        found = find(source, self.exchange)
        self._lists += self.exchange.requests["ListObjectsV2"] - before
        if not found:
            self.healing.tell(f"nothing lies at {_said(source)}, so that there are no records. {MISTYPED}")
        return found

    def _prepared(self, sources: list[Source]) -> list[Source]:
        self._format = self._format.prepare(sources, self.exchange)
        return sources

    def planned(
        self,
        sources: Sequence[Source],
        partitions: int | None,
        together: int,
        memory: float | None,
        levels: int | None = None,
        splits: int | None = None,
        items: int = 0,
    ) -> Plan:
        """How it is divided."""
        between = self.healing.told(tier_named(kind_of(self.traces.tier)))
        if between is None:
            self.traces.tier = self.traces.spare
            between = tier_named(kind_of(self.traces.tier))
        self.terms = self.terms or self._own_terms(sources, between)
        plan = make_plan(
            sum(source.size for source in sources),
            objects=len(sources),
            record_size=self._format.record_size,
            expansion=self._format.expansion,
            decoded=self._format.decoded_expansion,
            memory=memory,
            partitions=partitions,
            together=together,
            terms=self.terms,
            levels=levels,
            splits=splits,
            listed=self._lists,
            is_spread=self.IS_SPREAD,
            items=items,
        )
        if self.traces.tier != self.traces.spare and plan.tier != between.name:
            whys = (option.why for option in plan.rejected if option.name.endswith(between.name))
            self.healing.forgo(next(whys, "the plan has no use for it"))
            self.traces.tier = self.traces.spare
        return replace(plan, what=self.WHAT)

    def _own_terms(self, sources: Sequence[Source], between: Tier) -> Terms:
        """What the executor says of its workers, `rates.json` of the stores, and a disk of itself."""
        workers = self._host.workers or Workers(self._workers, bandwidth=rates()["lambda"]["bytes_per_second"])
        places = sources[0].store if sources else self._target, self._target
        source, target = (tier_named(kind_of(url)) for url in places)
        folder = folder_of(self.traces.tier)
        if folder is not None:
            between = replace(between, capacity=free_below(folder))
        tiers = (between,) if between == target or folder is not None else (between, target)
        return Terms(replace(workers, lingers=self._host.lingers), source, target, tiers)

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
                PLACES if folder_of(splits[0][0].source.store) is None else max(counts),
                plan.block,
                self._hedging,
            )
            for numbers in groups(len(splits), -(-len(splits) // self._workers))
        ]
        keys: list[Batch] = []
        with self._steps.step("sample", tasks):
            # What it imports, such as numpy, it imports while the workers begin, which takes them as long.
            found: list[Sampled] = self._all(sample, tasks, meanwhile=self._format.writer)
            for sampled in found:
                self.requests += sampled.requests
                keys += sampled.keys
        return boundaries(self._format, keys, plan.partitions)

    def partitioned(self, splits: Sequence[tuple[Piece, ...]], edges: Sequence[Boundary], plan: Plan) -> list[Block]:
        """The first phase; where layer 0 is filled and emptied in rounds, what it had lies in layer 1 afterwards."""
        keys = [self._key(plan, "", number) for number in range(len(splits))]
        place, own_edges = self._place_of(plan.layers[0]), packed(edges)
        self.traces.expect(place, keys)
        tasks = [
            PartitionTask(
                format=self._format,
                split=number,
                pieces=split,
                boundaries=own_edges,
                partitions=plan.partitions,
                store=place,
                key=keys[number],
                block=plan.block,
                hedging=self._hedging,
                over=self._over,
                ranges=plan.layers[1].ranges if plan.levels > 1 else 0,
            )
            for number, split in enumerate(splits)
        ]
        tasks, _ = _in_turn(tasks, 0)
        if plan.rounds == 1:
            return self._partitioned(tasks)
        blocks: list[Block] = []
        for number, (start, stop) in enumerate(pairwise(starts_of(len(tasks), plan.rounds))):
            own = self._partitioned(tasks[start:stop])
            self._rows += self._regrouped(Grid([[block] for block in own], 1, plan.partitions), plan, 1, number)
            self.healing.remove(self.traces.tier, [block.key for block in own])
            blocks += own
        return blocks

    def _partitioned(self, tasks: Sequence[PartitionTask]) -> list[Block]:
        return self._made("partition", partition, tasks)

    def _made(self, step: str, run: Callable[[Any], Any], tasks: Sequence[Reads]) -> list[Block]:
        """The blocks that `run` gives for each task, one or several."""
        with self._steps.step(step, tasks, sum(task.bytes for task in tasks)):
            found = [block for made in self.healing.run(run, tasks) for block in blocks_of(made)]
            for block in found:
                self.requests += block.requests
        return found

    def _regrouped(self, grid: Grid, plan: Plan, level: int, first: int = 0) -> list[list[Block]]:
        """The next layer's blocks, or in rounds its group `first`: a phase between the two."""
        layer, before = plan.layers[level], plan.layers[level - 1]
        finer = plan.layers[level + 1].ranges if level + 1 < plan.levels else plan.partitions
        base = self._base(plan, self._place_of(before), self._place_of(layer))
        number = layer.groups if plan.rounds == 1 else 1
        tasks: list[MergeTask] = []
        counts = []
        for regroup_task, found in grid.regroups(base, number, layer.ranges, finer):
            key = self._key(plan, f"{level}-", first * layer.ranges + len(tasks))
            tasks.append(replace(regroup_task, parts=(key,)))
            counts.append(found)
        for task in tasks:
            self.traces.expect(task.target, task.parts)
        tasks, self.reads = _in_turn(tasks, self.reads)
        blocks = self._made(f"regroup {level}", regroup, tasks)
        made = [replace(block, counts=found) for block, found in zip(blocks, counts, strict=True)]
        return [made[start : start + layer.ranges] for start in range(0, len(made), layer.ranges)]

    def merged(self, blocks: Sequence[Block], plan: Plan) -> list[Part]:
        """The phases between, if there are more levels than one, and the last one."""
        grid = Grid([[block] for block in blocks], 1, plan.partitions)
        if plan.rounds > 1:
            grid = Grid(self._rows, plan.layers[1].ranges, plan.partitions)
        for level in range(1 if plan.rounds == 1 else 2, plan.levels):
            grid = Grid(self._regrouped(grid, plan, level), plan.layers[level].ranges, plan.partitions)
        base = self._base(plan, self._place_of(plan.layers[-1]), self._target)
        tasks, self.reads = _in_turn(grid.merges(base, self.output.keys(plan.partitions), plan.together), self.reads)
        parts: list[Part] = []
        with self._steps.step("merge", tasks, sum(task.bytes for task in tasks)):
            for merged in self.healing.run(merge, tasks):
                self.requests += merged.requests
                parts += merged.parts
        return parts

    def _base(self, plan: Plan, store: str, target: str) -> MergeTask:
        """What all tasks of a phase have alike."""
        none = array("Q")
        return MergeTask(
            format=self._format,
            store=store,
            keys=(),
            starts=none,
            stops=none,
            records=none,
            sums=none,
            counts=none,
            target=target,
            parts=(),
            memory=plan.memory,
            block=plan.block,
            hedging=self._hedging,
            over=self._over,
        )

    def _place_of(self, layer: Layer) -> str:
        """Where the blocks of a layer lie: in the spare place where not in the store that was asked for."""
        return self.traces.tier if layer.tier == kind_of(self.traces.tier) else self.traces.spare

    def _key(self, plan: Plan, name: str, number: int) -> str:
        prefix = f"{number % plan.prefixes:02x}/" if plan.prefixes > 1 else ""
        return f"shuffles/{prefix}{self.id}/{name}{number:06d}"

    def done(self, plan: Plan) -> Plan:
        """The plan with what came of it."""
        assert self.terms is not None
        return with_actual(plan, self._steps.took, self.exchange.requests, time.monotonic() - self._begun, self.terms)

    def _all(
        self, run: Callable[[T], R], tasks: Sequence[T], *, meanwhile: Callable[[], object] = lambda: None
    ) -> list[R]:
        """What `run` gives for each task; if one fails, the rest are cancelled, and over when its error comes out."""
        futures: list[Future[R]] = []
        try:
            submit_all(self._executor, run, tasks, futures)
            look = self._host.show(self._steps.doing, futures)
            meanwhile()
            running = True
            while running:
                # A Ctrl-C that comes just before the interpreter falls asleep is heard when that ends.
                patience = min(HEARD, self.traces.patience)
                done, waiting = wait(futures, timeout=patience, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                running = bool(waiting)
                self.traces.sign()
            look()
            return [future.result() for future in futures]
        except BaseException as error:
            self.traces.late += halt(self._host, futures, error)
            raise


def _said(places: Place | Iterable[Place]) -> str:
    some = [places] if isinstance(places, str | os.PathLike) else list(places)
    return " and ".join(repr(without_password(os.fspath(place))) for place in some) or "no place at all"


def _in_turn(tasks: Iterable[Reads], before: int) -> tuple[list[Reads], int]:
    """The tasks, each with what those before it leave over of the reads that allow a hedge; and reads, with theirs."""
    told = []
    for task in tasks:
        told.append(replace(task, ahead=before % ONE_IN))
        before += task.reads
    return told, before
