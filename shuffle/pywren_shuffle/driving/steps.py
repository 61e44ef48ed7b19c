"""What each step of a run took, for its plan to say beside what was expected."""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sized

from pywren_shuffle.planning.plan import Took

__all__ = ["Steps"]


class Steps:
    """Of one run, whose requests so far are `requests`; a step that comes again is added to what it took before."""

    def __init__(self, requests: Counter[str]) -> None:
        self.took: dict[str, Took] = {}
        self.doing = "shuffle"  # the step that is being done, for who looks
        self._requests = requests

    @contextlib.contextmanager
    def step(self, name: str, tasks: Sized, bytes: int | None = None) -> Iterator[None]:
        """What passes meanwhile; `bytes` is what these tasks read, where that is known."""
        begun, before, self.doing = time.monotonic(), Counter(self._requests), name
        yield
        own = Took(len(tasks), bytes, time.monotonic() - begun, dict(self._requests - before))
        self.took[name] = self.took[name].then(own) if name in self.took else own
