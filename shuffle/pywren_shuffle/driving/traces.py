"""What a run writes between its phases, and how all of it goes again however the run ends.

expect ──► blocks are written ──► (a sign of life, every few minutes) ──► clean
                                          given up ──► abandon the output, clean ──► (workers still write? later, again)
"""

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from pywren_runtime.errors import PywrenError
from pywren_shuffle.driving.clean import EVERY, INTERMEDIATE, sign_key
from pywren_shuffle.driving.healing import Healing
from pywren_shuffle.driving.output import Output, tidy_folder
from pywren_shuffle.host import Host, later, over_key
from pywren_shuffle.places.exchange import Exchange
from pywren_shuffle.places.inputs import folder_of
from pywren_shuffle.places.spare import BlocksLost

__all__ = ["Traces", "beside"]


def beside(target: str) -> str:
    """Where intermediate data lies beside an output."""
    return f"{target}/{INTERMEDIATE}" if folder_of(target) is not None else target


class Traces:
    """What one run has written, or may have, in its `tier`, and in the `spare` place where that may lose things.

    `is_new` if the run makes its output's folder. Where blocks get names that nobody knows before they are written (see
    `spill`), they are `listed` to be removed.
    """

    def __init__(
        self,
        exchange: Exchange,
        output: Output,
        healing: Healing,
        host: Host,
        *,
        tier: str,
        spare: str,
        is_new: bool,
        listed: bool,
    ) -> None:
        self.tier, self.spare = tier, spare
        self.late: list[Future[Any]] = []  # of a run that was given up: what may still write
        self._exchange, self._output, self._healing, self._host = exchange, output, healing, host
        self._is_new, self._listed = is_new, listed
        self._keys: defaultdict[str, list[str]] = defaultdict(list)  # by place
        self._born = self._signed = time.time()

    def expect(self, place: str, keys: Iterable[str]) -> None:
        """These will be written there, or blocks whose names begin so."""
        self._keys[place] += keys

    @property
    def patience(self) -> float:
        """Seconds until the next sign of life is due."""
        return max(0.0, self._signed + EVERY - time.time())

    def sign(self) -> None:
        """Say every few minutes that this driver lives, as soon as there is something that `clean` might find."""
        if self.patience:
            return
        self._signed = time.time()
        if self._is_any:
            key = sign_key(self._output.id, self._signed)
            places = {self.spare: None} if self._healing.active else {}  # there lies what the tier did not take
            if not (self._healing.active and self._host.lingers):  # else a worker would have to write it, in its turn
                places[self.tier] = None
            for place in places:
                self.expect(place, [key])
                with contextlib.suppress(OSError):  # the next one may work, and the run itself will say what is wrong
                    self._exchange.put(place, key, ())

    def leave_tier(self, lost: BlocksLost) -> None:
        """Nothing lies in the tier any more: whatever was done between the phases is done again, in the spare place."""
        self._healing.leave(lost, self._found(self.tier))
        self.expect(self.spare, self._keys.pop(self.tier, ()))  # what the tier did not take or lost lies there
        self.tier = self.spare

    @property
    def mark(self) -> str:
        """Where workers look whether the run was given up."""
        return self.spare if self._healing.active else self.tier

    def give_up(self, error: BaseException) -> None:
        """Remove all that was written; what cannot be removed is a note on the error."""
        late = self.late if self._is_any else []  # before there are keys, nobody writes
        mark = self.mark
        if self._healing.active:
            self.expect(self.spare, self._keys[self.tier])  # what was not taken, and nobody has heard of
        steps: list[Callable[[], object]] = [self._output.abandon, self.clean]
        if late:
            steps.insert(0, lambda: self._exchange.put(mark, over_key(self._output.id), ()))
        for step in steps:
            try:
                step()
            except PywrenError as failure:
                if str(failure) != str(error):  # what nobody lets us do, nobody let us do before
                    error.add_note(f"and not all of it could be removed: {failure}")
        if late and not self._host.lingers:
            self.expect(mark, [over_key(self._output.id)])
            later(late, self._clean_late)

    def clean(self) -> None:
        """Remove the intermediate data."""
        if self._is_any:
            if self._healing.active and (self._listed or self._healing.moved()):
                self.expect(self.spare, self._keys[self.tier])  # what was not taken, and nobody has heard of
            if self.tier != self.spare:
                self._healing.remove(self.tier, self._found(self.tier))
            self._exchange.delete(self.spare, self._found(self.spare) + self._healing.moved())
            tidy_folder(self.spare, made=True, since=self._born)  # else what lies there is another run's
        if self.tier != self.spare:
            tidy_folder(self.tier, made=False)
        tidy_folder(self._output.url, made=self._is_new, since=self._born if self._is_any else None)
        self._exchange.close()

    def _clean_late(self) -> None:
        """Once all tasks are over: what they wrote after this run was given up. What fails, `clean` will find."""
        with contextlib.suppress(PywrenError):
            self._output.abandon()
            self.clean()

    @property
    def _is_any(self) -> bool:
        return any(self._keys.values())

    def _found(self, place: str) -> list[str]:
        keys = self._keys[place]
        if not self._listed:
            return keys
        folders = sorted({os.path.dirname(key) for key in keys})
        found = [key for folder in folders for key in self._healing.keys(place, f"{folder}/")]
        over = over_key(self._output.id)  # stays for whoever still writes, until nobody does
        return [key for key in found if key != over or over in keys]
