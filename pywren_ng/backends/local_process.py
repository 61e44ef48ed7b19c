"""One worker process of the local backend: the Calls that were sent ahead to it, and which may still be taken back."""

import os

from pywren_ng.backends import Event, Order
from pywren_runtime import link
from pywren_runtime.process import WorkerProcess
from pywren_runtime.spawn import Surroundings
from pywren_runtime.wire import Environment, Outcome


class LocalProcess(WorkerProcess):
    """A worker process and the Calls that were sent to it and have not come back."""

    def __init__(self, surroundings: Surroundings, environment: Environment) -> None:
        self.sent: dict[int, Order] = {}  # the first is the one that runs
        self._done = 0  # outcomes that the running Call has brought
        super().__init__(surroundings, environment)

    def send(self, number: int, order: Order) -> None:
        """Queue a Call for it; `flush` sends it."""
        self.sent[number] = order
        self.queue(number, order.call, order.heading.environment)

    def allow_again(self, numbers: list[int], orders: dict[int, Order]) -> None:
        """Give back Calls that were taken from it."""
        for number in numbers:
            self.sent[number] = orders[number]
        self._allow(numbers)

    def take_back(self, most: int) -> list[tuple[int, Order]]:
        """Up to `most` Calls that it has not begun and now will not begin."""
        if most <= 0:
            return []
        try:
            data = os.read(self._tickets_back, link.TICKET.size * most)
        except BlockingIOError:
            return []
        numbers = [number for (number,) in link.TICKET.iter_unpack(data)]
        return [(number, self.sent.pop(number)) for number in numbers if number in self.sent]

    def receive(self) -> list[Event]:
        """The outcomes that have come in. EOFError once it is dead and there are no more."""
        return [self._take(body) for body in self.receive_bodies()]

    def _take(self, body: memoryview) -> Event:
        outcome = Outcome.decode(body)
        for number, order in self.sent.items():
            self._done += 1
            if self._done == len(order.call.tasks):
                del self.sent[number]
                self._done = 0
            break
        return outcome

    def done_of(self, number: int) -> int:
        """How many tasks of a sent Call have brought their outcome."""
        return self._done if number == next(iter(self.sent), None) else 0

    def time_limit(self) -> float | None:
        for order in self.sent.values():
            return order.heading.head.time_limit
        return None
