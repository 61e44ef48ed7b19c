"""The local link: frames, tickets and the board, over real pipes and a real page."""

import os
import tempfile
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest

from pywren_runtime.link import CALL, TAIL, TICKET, Board, calls, read_exactly, write_all


class Pipes:
    """Both ends of a link's two pipes towards the worker."""

    def __init__(self) -> None:
        self.frames, self.frames_in = os.pipe()
        self.tickets, self.tickets_in = os.pipe()

    def send(self, number: int, body: bytes) -> None:
        write_all(self.frames_in, CALL.pack(number, len(body)) + body)

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


# -- Calls


def test_calls_come_in_order_behind_the_greeting(pipes: Pipes) -> None:
    for number in range(4):
        pipes.send(number, b"body %d" % number)
    pipes.allow(1, 2, 3)
    pipes.hang_up()
    assert list(calls(pipes.frames, pipes.tickets)) == [(n, b"body %d" % n) for n in range(4)]


def test_the_greeting_needs_no_ticket_and_the_others_do(pipes: Pipes) -> None:
    pipes.send(0, b"hello")
    pipes.send(1, b"not allowed")
    pipes.hang_up()
    assert list(calls(pipes.frames, pipes.tickets)) == [(0, b"hello")]


def test_calls_whose_tickets_were_taken_back_are_passed_over(pipes: Pipes) -> None:
    pipes.send(0, b"")
    for number in range(1, 7):
        pipes.send(number, b"%d" % number)
    pipes.allow(1, 2, 3, 4, 5, 6)
    found = calls(pipes.frames, pipes.tickets)
    assert [next(found), next(found)] == [(0, b""), (1, b"1")]
    assert pipes.take_back(3) == [2, 3, 4]  # while the worker is busy with the first
    pipes.hang_up()
    assert list(found) == [(5, b"5"), (6, b"6")]


def test_tickets_given_back_are_good_again(pipes: Pipes) -> None:
    pipes.send(0, b"")
    for number in range(1, 5):
        pipes.send(number, b"%d" % number)
    pipes.allow(1, 2, 3, 4)
    assert pipes.take_back(4) == [1, 2, 3, 4]
    pipes.allow(2, 4)
    pipes.hang_up()
    assert list(calls(pipes.frames, pipes.tickets)) == [(0, b""), (2, b"2"), (4, b"4")]


def test_a_ticket_may_overtake_its_frame(pipes: Pipes) -> None:
    pipes.allow(1)
    found: list[tuple[int, bytes]] = []
    worker = threading.Thread(target=lambda: found.extend(calls(pipes.frames, pipes.tickets)))
    worker.start()
    head = CALL.pack(0, 2) + b"hi" + CALL.pack(1, 10) + b"in pieces."
    for at in range(len(head)):  # one byte at a time: a frame may be cut anywhere
        os.write(pipes.frames_in, head[at : at + 1])
    pipes.hang_up()
    worker.join(30)
    assert found == [(0, b"hi"), (1, b"in pieces.")]


@pytest.mark.parametrize("size", [0, 65535, 65536, 65537, 3_000_000])
def test_frames_of_any_size_arrive_whole(pipes: Pipes, size: int) -> None:
    body = os.urandom(size)

    def send() -> None:
        pipes.allow(1, 3)  # first: the frames do not fit into the pipe
        pipes.send(0, b"hello")
        for number in range(1, 4):
            pipes.send(number, body)
        pipes.hang_up()

    sender = threading.Thread(target=send)
    sender.start()
    found = list(calls(pipes.frames, pipes.tickets))
    sender.join(30)
    assert found == [(0, b"hello"), (1, body), (3, body)]


def test_the_end_in_the_middle_of_a_frame_is_the_end(pipes: Pipes) -> None:
    pipes.send(0, b"hello")
    os.write(pipes.frames_in, CALL.pack(1, 100)[:5])
    pipes.allow(1)
    pipes.hang_up()
    assert list(calls(pipes.frames, pipes.tickets)) == [(0, b"hello")]


def test_each_ticket_goes_to_exactly_one_reader(pipes: Pipes) -> None:
    count = 3000
    ran: list[int] = []
    stolen: list[int] = []
    worker = threading.Thread(target=lambda: ran.extend(n for n, _ in calls(pipes.frames, pipes.tickets)))
    second = os.dup(pipes.tickets)

    def steal() -> None:
        while data := os.read(second, 3 * TICKET.size):
            stolen.extend(number for (number,) in TICKET.iter_unpack(data))

    thief = threading.Thread(target=steal)
    worker.start()
    thief.start()
    for number in range(count + 1):
        pipes.send(number, b"x")
        if number:
            pipes.allow(number)
    pipes.hang_up()
    worker.join(30)
    thief.join(30)
    os.close(second)
    assert sorted(ran + stolen) == list(range(count + 1))
    assert all(one < other for one, other in pairwise(ran))


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
