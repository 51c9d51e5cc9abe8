"""The page by which the helper knows whose a thread of the host is."""

from __future__ import annotations

import errno
import os
import threading

import pytest

import agentcgroup
from agentcgroup.bpf import bpf_syscall
from agentcgroup.monitor.thread_board import Board, View
from tests.support.monitored import Register, registered
from tests.support.spawn_modes import deny

__all__ = ["registered"]


def test_a_fork_takes_no_seat_away_and_has_none() -> None:
    board = Board()
    view = View(os.dup(board.fd))
    sat, over = threading.Event(), threading.Event()
    threads: list[int] = []

    def sit() -> None:
        sitting = board.sit(7)
        assert sitting is not None
        sitting.leave()
        threads.append(threading.get_native_id())
        sat.set()
        over.wait()

    thread = threading.Thread(target=sit)
    thread.start()
    sat.wait()
    seat = view.seat(threads[0])
    child = os.fork()
    if child == 0:  # in which the thread's seat is let go of, as is everything of other threads
        os._exit(0 if board.sit(8) is None else 1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert seat is not None
        assert view.seat(threads[0]) == seat
    finally:
        over.set()
        thread.join()


def test_the_seat_of_a_thread_that_has_ended_is_free_again() -> None:
    board = Board()
    seats = []
    for number in range(3):

        def sit(number: int = number) -> None:
            sitting = board.sit(number)
            assert sitting is not None
            seats.append(sitting._seat.at)
            sitting.leave()

        thread = threading.Thread(target=sit)
        thread.start()
        thread.join()
    assert len(set(seats)) == 1


@pytest.mark.parametrize("backend", ["libbpf"])
def test_a_thread_whose_seat_the_kernel_does_not_hear_of_has_its_calls(
    registered: Register, caplog: pytest.LogCaptureFixture
) -> None:
    """A process may give up its rights, or be confined, once it runs."""
    session = registered()

    def confined() -> None:
        deny([bpf_syscall._number()], errno.EPERM)
        with agentcgroup.call("confined"):
            pass

    for _ in range(2):
        thread = threading.Thread(target=confined)
        thread.start()
        thread.join()
    assert [one.outcome for one in session.records] == ["ok", "ok"]
    assert caplog.text.count("have no escape net") == 1
