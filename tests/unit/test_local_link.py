"""The local link: frames, tickets and the board, over real pipes and a real page."""

import hmac
import os
import tempfile
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pywren_runtime.batches import CHUNK, Opener, Sealer
from pywren_runtime.errors import SignatureError
from pywren_runtime.link import CALL, GREETING, TAIL, TICKET, Board, calls, greeting, read_exactly, write_all
from pywren_runtime.spawn import Surroundings, spawn

KEY = bytes(range(32))


class Pipes:
    """Both ends of a link's two pipes towards the worker."""

    def __init__(self) -> None:
        self.frames, self.frames_in = os.pipe()
        self.tickets, self.tickets_in = os.pipe()
        self._sealer = Sealer(KEY, b"calls")

    def send(self, number: int, body: bytes, *, head: bytes = b"") -> None:
        write_all(self.frames_in, self.batch((number, head, body)))

    def batch(self, *sent: tuple[int, bytes, bytes]) -> bytes:
        parts = [CALL.pack(number, number + 1, len(head), len(body)) + head + body for number, head, body in sent]
        return self._sealer.seal(b"".join(parts))

    def found(self) -> Iterator[tuple[int, bytes]]:
        for call in calls(self.frames, self.tickets, Opener(KEY, b"calls")):
            assert call.count == call.number + 1
            yield call.number, bytes(call.tasks)

    def allow(self, *numbers: int) -> None:
        os.write(self.tickets_in, b"".join(TICKET.pack(number) for number in numbers))

    def take_back(self, most: int) -> list[int]:
        return [number for (number,) in TICKET.iter_unpack(os.read(self.tickets, TICKET.size * most))]

    def hang_up(self) -> None:
        """As the backend's end: both pipes at once."""
        os.close(self.frames_in)
        os.close(self.tickets_in)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    os.close(made.frames)
    os.close(made.tickets)


# -- The greeting


def test_the_greeting_comes_first_and_whole(pipes: Pipes) -> None:
    body = os.urandom(100)
    for part in (GREETING.pack(100), body[:10], body[10:]):
        write_all(pipes.frames_in, part)
    pipes.send(1, b"behind it")
    pipes.allow(1)
    pipes.hang_up()
    assert greeting(pipes.frames) == body
    assert list(pipes.found()) == [(1, b"behind it")]


def test_an_owner_that_has_gone_greets_nobody(pipes: Pipes) -> None:
    pipes.hang_up()
    assert greeting(pipes.frames) == b""


# -- Calls


def test_calls_come_in_order_and_each_needs_its_ticket(pipes: Pipes) -> None:
    for number in range(1, 5):
        pipes.send(number, b"body %d" % number)
    pipes.allow(1, 2, 3)
    pipes.hang_up()
    assert list(pipes.found()) == [(n, b"body %d" % n) for n in range(1, 4)]


def test_a_head_is_that_of_the_call_before_until_another_comes(pipes: Pipes) -> None:
    pipes.send(1, b"a", head=b"first")
    pipes.send(2, b"b")
    write_all(pipes.frames_in, pipes.batch((3, b"", b"c"), (4, b"second", b"d"), (5, b"", b"e")))
    pipes.send(6, b"f")
    pipes.allow(2, 3, 5, 6)  # Calls that bring a head may be passed over
    pipes.hang_up()
    heads = [call.head for call in calls(pipes.frames, pipes.tickets, Opener(KEY, b"calls"))]
    assert heads == [b"first", b"first", b"second", b"second"]


def test_calls_whose_tickets_were_taken_back_are_passed_over(pipes: Pipes) -> None:
    for number in range(1, 7):
        pipes.send(number, b"%d" % number)
    pipes.allow(1, 2, 3, 4, 5, 6)
    found = pipes.found()
    assert next(found) == (1, b"1")
    assert pipes.take_back(3) == [2, 3, 4]  # while the worker is busy with the first
    pipes.hang_up()
    assert list(found) == [(5, b"5"), (6, b"6")]


def test_tickets_given_back_are_good_again(pipes: Pipes) -> None:
    for number in range(1, 5):
        pipes.send(number, b"%d" % number)
    pipes.allow(1, 2, 3, 4)
    assert pipes.take_back(4) == [1, 2, 3, 4]
    pipes.allow(2, 4)
    pipes.hang_up()
    assert list(pipes.found()) == [(2, b"2"), (4, b"4")]


def test_a_ticket_may_overtake_its_frame(pipes: Pipes) -> None:
    pipes.allow(1, 2)
    found: list[tuple[int, bytes]] = []
    worker = threading.Thread(target=lambda: found.extend(pipes.found()))
    worker.start()
    data = pipes.batch((1, b"head", b"hi")) + pipes.batch((2, b"", b"in pieces."))
    for at in range(len(data)):  # one byte at a time: a batch may be cut anywhere
        os.write(pipes.frames_in, data[at : at + 1])
    pipes.hang_up()
    worker.join(30)
    assert found == [(1, b"hi"), (2, b"in pieces.")]


@pytest.mark.parametrize("size", [0, CHUNK - 1, CHUNK, CHUNK + 1, 3_000_000])
def test_calls_of_any_size_arrive_whole(pipes: Pipes, size: int) -> None:
    body = os.urandom(size)

    def send() -> None:
        pipes.allow(1, 3)  # first: the calls do not fit into the pipe
        for number in range(1, 4):
            pipes.send(number, body)
        pipes.hang_up()

    sender = threading.Thread(target=send)
    sender.start()
    found = list(pipes.found())
    sender.join(30)
    assert found == [(1, body), (3, body)]


def test_the_end_in_the_middle_of_a_batch_is_the_end(pipes: Pipes) -> None:
    pipes.send(1, b"hello")
    os.write(pipes.frames_in, pipes.batch((2, b"", b"cut"))[:-1])
    pipes.allow(1, 2)
    pipes.hang_up()
    assert list(pipes.found()) == [(1, b"hello")]


def test_each_ticket_goes_to_exactly_one_reader(pipes: Pipes) -> None:
    count = 3000
    ran: list[int] = []
    stolen: list[int] = []
    worker = threading.Thread(target=lambda: ran.extend(n for n, _ in pipes.found()))
    second = os.dup(pipes.tickets)

    def steal() -> None:
        while data := os.read(second, 3 * TICKET.size):
            stolen.extend(number for (number,) in TICKET.iter_unpack(data))

    thief = threading.Thread(target=steal)
    worker.start()
    thief.start()
    for number in range(1, count + 1):
        pipes.send(number, b"x")
        pipes.allow(number)
    pipes.hang_up()
    worker.join(30)
    thief.join(30)
    os.close(second)
    assert sorted(ran + stolen) == list(range(1, count + 1))
    assert all(one < other for one, other in pairwise(ran))


# -- Signatures


def batches(*bodies: bytes, key: bytes = KEY, kind: bytes = b"calls") -> list[bytes]:
    sealer = Sealer(key, kind)
    return [sealer.seal(body) for body in bodies]


def opened(*data: bytes) -> list[bytes]:
    """What a reader takes over from what it reads."""
    opener = Opener(KEY, b"calls")
    return [bytes(body) for read in data for body in opener.open(read)]


def test_the_signatures_are_hmac_sha256_of_all_that_went_before() -> None:
    first, second = batches(b"one", b"two")
    assert first[-32:] == hmac.digest(KEY, b"calls" + first[:-32], "sha256")
    assert second[-32:] == hmac.digest(KEY, b"calls" + first + second[:-32], "sha256")


def test_batches_open_however_they_are_read() -> None:
    bodies = [b"", b"one", os.urandom(5000), b"two"]
    data = b"".join(batches(*bodies))
    for size in (1, 7, 36, 40, 5000, len(data)):
        assert opened(*(data[at : at + size] for at in range(0, len(data), size))) == bodies


def forged(how: str) -> list[bytes]:
    """Three batches of which somebody else has got hold."""
    one, two, three = batches(b"body one", b"body two", b"body three")
    other = batches(b"body one", b"body 2", b"body 3")
    return {
        "changed": [one, two[:6] + bytes([two[6] ^ 1]) + two[7:], three],
        "changed signature": [one, two[:-1] + bytes([two[-1] ^ 1]), three],
        "left out": [one, three],
        "swapped": [two, one, three],
        "sent twice": [one, one, two],
        "unsigned": [one, two[:-32] + bytes(32), three],
        "another worker's": batches(b"body one", key=bytes(32)),
        "the other way's": batches(b"body one", kind=b"outcomes"),
        "another stream's": [one, other[1], three],
    }[how]


FORGED = ["changed", "changed signature", "left out", "swapped", "sent twice", "unsigned"]
FORGED += ["another worker's", "the other way's", "another stream's"]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("how", FORGED)
def test_what_does_not_fit_its_place_is_refused(how: str, together: bool) -> None:
    data = forged(how)
    with pytest.raises(SignatureError, match="were not loaded"):
        opened(*([b"".join(data)] if together else data))


def test_a_worker_runs_nothing_that_was_changed(pipes: Pipes) -> None:
    right = pipes.batch((1, b"head", b"call"))
    pipes.allow(1)
    os.write(pipes.frames_in, right[:-40] + bytes([right[-40] ^ 1]) + right[-39:])
    pipes.hang_up()
    with pytest.raises(SignatureError):
        list(pipes.found())


def test_each_worker_has_a_key_of_its_own(tmp_path: Path) -> None:
    surroundings = Surroundings(directory=str(tmp_path), store="memory:none", private=True, key=KEY, threads=1)
    workers = [spawn(surroundings, None, ()) for _ in range(2)]
    for worker in workers:  # they leave at once, for there is no folder for their modules
        worker.popen.wait(30)
        worker.close()
    assert len({KEY, *(worker.key for worker in workers)}) == 3


# -- Pipes


def test_write_all_waits_for_room_and_read_exactly_for_bytes() -> None:
    reader, writer = os.pipe()
    data = os.urandom(1_000_000)
    sender = threading.Thread(target=write_all, args=(writer, data))
    sender.start()
    assert read_exactly(reader, 10) == data[:10]
    assert read_exactly(reader, len(data) - 10) == data[10:]
    sender.join(30)
    os.write(writer, b"rest")
    os.close(writer)
    assert read_exactly(reader, 100) == b"rest"
    assert read_exactly(reader, 100) == b""
    os.close(reader)


# -- The board


def seen(board: Board) -> tuple[int, int, float] | None:
    running = board.running()
    return running and (running.number, running.position, running.since)


@pytest.fixture
def boards() -> Iterator[tuple[Board, Board]]:
    """The worker's and the backend's view of one page."""
    with tempfile.TemporaryFile() as file:
        file.truncate(Board.SIZE)
        written, read = Board(file.fileno()), Board(file.fileno())
    yield written, read
    written.close()
    read.close()


def test_the_board_says_what_runs(boards: tuple[Board, Board]) -> None:
    worker, backend = boards
    worker.rest()
    assert backend.running() is None
    worker.announce(2**40, 7, 123.5)
    assert seen(backend) == (2**40, 7, 123.5)
    worker.rest()
    assert backend.running() is None


def test_the_first_task_of_the_first_call_is_not_taken_for_rest(boards: tuple[Board, Board]) -> None:
    worker, backend = boards
    worker.announce(0, 0, 0.0)
    assert seen(backend) == (0, 0, 0.0)


def test_the_board_keeps_the_last_of_what_was_printed(boards: tuple[Board, Board]) -> None:
    worker, backend = boards
    assert backend.tail() == b""
    worker.echo(b"one ")
    worker.echo(b"two")
    assert backend.tail() == b"one two"
    worker.echo(b"." * (TAIL - 2))
    assert backend.tail() == b"wo" + b"." * (TAIL - 2)
    worker.echo(bytes(range(256)) * 1000)
    assert backend.tail() == (bytes(range(256)) * 1000)[-TAIL:]


def test_neither_half_of_the_board_touches_the_other(boards: tuple[Board, Board]) -> None:
    worker, backend = boards
    worker.announce(3, 4, 5.0)
    worker.echo(b"x" * 3 * TAIL)
    assert seen(backend) == (3, 4, 5.0)
    worker.announce(2**64 - 1, 2**32 - 2, 1e300)
    assert backend.tail() == b"x" * TAIL


def test_a_reader_never_sees_half_an_announcement(boards: tuple[Board, Board]) -> None:
    worker, backend = boards
    worker.rest()
    stop = threading.Event()

    def announce() -> None:
        number = 0
        while not stop.is_set():
            number = (number + 1) % 1000
            worker.announce(number, number, float(number))

    writer = threading.Thread(target=announce)
    writer.start()
    seen = [running for running in (backend.running() for _ in range(20_000)) if running]
    stop.set()
    writer.join(30)
    assert seen
    assert all(each.number == each.position == each.since for each in seen)
