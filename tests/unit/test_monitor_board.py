"""The page by which the helper knows whose a thread of the host is."""

from __future__ import annotations

import os
import threading

from agentcgroup.monitor.board import Board, View


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
