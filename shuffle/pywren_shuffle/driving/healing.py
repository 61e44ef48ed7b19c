"""The driver's side of `spare`: what was made by which task, so that it can be made again where it stays.

run(tasks) ──► some lost what they should read ──► which blocks are gone? ──► their tasks once more ──► these once more
                                                                                   └─ other blocks? ──► BlocksLost

What is made again stands for what was lost only if it is the same, slice by slice: others may have read that already.
A function of a user's may give something else each time that it runs; then the whole shuffle is to be done again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from math import inf
from typing import Any

from pywren_runtime.errors import StoreError
from pywren_shuffle.phases.merge import MergeTask
from pywren_shuffle.phases.partition import Block, PartitionTask
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.places.inputs import folder_of
from pywren_shuffle.places.spare import BlocksLost, Roomy, missing, said
from pywren_shuffle.planning.terms import Tier

__all__ = ["Healing", "blocks_of"]

Task = PartitionTask | MergeTask
Function = Callable[[Any], Any]


class Healing:
    """Of one sort whose blocks lie in `tier`: where that may lose them, or not take them, they lie in `place` then.

    It is `active` where the tier is such a store; else it does what it is asked to and no more.
    """

    def __init__(
        self,
        exchange: Exchange,
        tier: str,
        place: str,
        *,
        run_all: Callable[[Function, Sequence[Any]], list[Any]],
        name: str,
        requests: Counter[str],
    ) -> None:
        # To open a store of files would be to make its folder.
        self.active = folder_of(tier) is None and isinstance(exchange.open(tier), Roomy)
        self.notices: list[str] = []
        self._exchange = exchange
        self._tier, self._place = tier, place
        self._named = place.partition("?")[0]  # for the user, who has not written its options
        self._run_all, self._name = run_all, name
        self._requests = requests
        self._made: dict[str, tuple[Function, Task, Sequence[Block]]] = {}  # by which task, and what else that gave
        self._now: dict[str, Block] = {}  # what stands for each block: itself, or what was made again of it

    def told(self, tier: Tier) -> Tier | None:
        """The tier as its store describes it; None if it is of no use, and not used. The user is told of doubts."""
        store: object = self._exchange.open(self._tier) if self.active else None
        if not isinstance(store, Roomy):
            return tier
        try:
            room = store.room()
        except StoreError as error:
            self.forgo(said(error))
            return None
        for doubt in room.doubts:
            self.tell(f"{self._tier} may lose data, which is then made again in {self._named}: {doubt}")
        if room.bytes == 0:
            self.forgo("its memory is full")
            return None
        return replace(
            tier,
            capacity=inf if room.bytes is None else float(room.bytes),
            puts=room.servers * tier.puts,
            gets=room.servers * tier.gets,
            bandwidth=room.servers * tier.bandwidth,
            most_workers=inf if room.processes is None else room.processes,
        )

    def forgo(self, why: str) -> None:
        """Do without the tier, in which nothing lies yet."""
        self.active = False
        self.tell(f"{self._tier} is not used, and {self._named} is instead: {why}")

    def run(self, run: Function, tasks: Sequence[Task]) -> list[Any]:
        """What `run` gives for each task, though what it reads was lost, or what it writes was not taken."""
        if not self.active:
            return self._run_all(run, tasks)
        tasks = [self._directed(task) for task in tasks]
        found = self._run_all(run, tasks)
        while lost := [number for number, made in enumerate(found) if getattr(made, "lost", "")]:
            self._requests.update(sum((found[number].requests for number in lost), Counter()))
            self._make_again([tasks[number] for number in lost], found[lost[0]].lost)
            again = [self._directed(tasks[number]) for number in lost]
            for number, made in zip(lost, self._run_all(run, again), strict=True):
                found[number] = made
        given = [blocks_of(made) for made in found]
        for task, own in zip(tasks, given, strict=True):
            self._made.update((block.key, (run, task, own)) for block in own)
        blocks = [block for own in given for block in own]
        self._now.update((block.key, block) for block in blocks)
        self._tell_of([block.notice for block in blocks if block.notice], len(blocks))
        return found

    def keys(self, place: str, prefix: str) -> list[str]:
        """What lies there; nothing of a tier that cannot be asked."""
        try:
            return [key for key, _ in self._exchange.keys(place, prefix)]
        except StoreError as error:
            self._tell_of_rest(place, error)
            return []

    def leave(self, lost: BlocksLost, keys: Sequence[str]) -> None:
        """Use the tier no more, and remove these from it."""
        self.tell(f"blocks were lost in {self._tier}, and all is made again in {self._named}: {lost}")
        self.remove(self._tier, keys)
        self.active = False

    def moved(self) -> list[str]:
        """The keys of blocks that lie in the spare place though they were meant for the tier."""
        return [block.key for block in self._now.values() if block.store != self._tier]

    def remove(self, place: str, keys: Sequence[str]) -> None:
        """Remove these; what the tier cannot be asked to remove goes when its time is over."""
        try:
            self._exchange.delete(place, keys)
        except StoreError as error:
            self._tell_of_rest(place, error)

    def _directed(self, task: Task) -> Task:
        """The task with what is known of where blocks lie."""
        if isinstance(task, PartitionTask):
            return replace(task, spare=self._place if task.store == self._tier else "")
        blocks = [self._now[key] for key in task.keys]
        where = [block.store for block in blocks]
        doubtful = not where or self._tier in where or task.target == self._tier
        store = where[0] if len(set(where)) == 1 else task.store
        return replace(
            task,
            keys=tuple(block.key for block in blocks),
            store=store,
            stores=tuple(where) if len(set(where)) > 1 else (),
            spare=self._place if doubtful else "",
        )

    def _make_again(self, tasks: Iterable[Task], reason: str) -> None:
        """Make again, in the spare place, what is gone of all that these tasks read."""
        read = {key for task in tasks if isinstance(task, MergeTask) for key in task.keys}
        doubtful = {key: self._now[key].offsets[-1] for key in sorted(read) if self._now[key].store == self._tier}
        if not doubtful:
            raise BlocksLost(reason)
        gone = missing(self._exchange, self._tier, doubtful)
        self.tell(
            f"{len(gone):,} of {len(doubtful):,} blocks were lost in {self._tier}, and are made again in"
            f" {self._named}: {reason}"
        )
        for run, keys in groupby(gone, lambda key: self._made[key][0]):
            lost = {had[0].key: (task, had) for _, task, had in map(self._made.__getitem__, keys)}  # each task once
            again = self.run(run, [self._elsewhere(task) for task, _ in lost.values()])
            for (_, had), made in zip(lost.values(), again, strict=True):
                self._put_instead(had, blocks_of(made))

    def _put_instead(self, had: Sequence[Block], made: Sequence[Block]) -> None:
        """Let these stand for those, of which some are gone."""
        self._requests.update(sum((block.requests for block in made), Counter()))
        if list(map(_slices, had)) != list(map(_slices, made)):
            raise BlocksLost(
                f"{had[0].key!r} came out otherwise when it was made again: a function of yours gives something else"
                " each time that it runs, or the input was changed"
            )
        self._now.update((old.key, new) for old, new in zip(had, made, strict=True) if old.store == self._tier)

    def _elsewhere(self, task: Task) -> Task:
        if isinstance(task, PartitionTask):
            return replace(task, store=self._place)
        return replace(task, target=self._place)

    def _tell_of_rest(self, place: str, error: StoreError) -> None:
        if not self.active or place != self._tier:
            raise error
        self.tell(f"what was left in {self._tier} could not be removed, and goes by itself: {said(error)}")

    def tell(self, notice: str) -> None:
        """The user, in the log and among the notices of the result."""
        import logging

        self.notices.append(notice)
        logging.getLogger("pywren_ng").warning("the %s: %s", self._name, notice)

    def _tell_of(self, reasons: Sequence[str], tasks: int) -> None:
        if reasons:
            self.tell(
                f"{len(reasons):,} of {tasks:,} blocks went to {self._named}, as {self._tier} did not take them:"
                f" {reasons[0]}"
            )


def _slices(block: Block) -> tuple[object, ...]:
    """What whoever reads the block expects there."""
    return block.offsets, block.records, block.sums


def blocks_of(made: Any) -> Sequence[Block]:
    """The blocks that a task gave: one, several or none."""
    if isinstance(made, Block):
        return (made,)
    return [each for each in made if isinstance(each, Block)] if isinstance(made, list | tuple) else ()
