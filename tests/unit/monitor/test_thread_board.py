"""The thread board, from which the helper reads which call a thread of the app works for."""

from __future__ import annotations

import errno
import os
import threading

import pytest

import agentcgroup
from agentcgroup.bpf import bpf_syscall
from agentcgroup.monitor.thread_board import BoardReader, ThreadBoard
from tests.support.monitored import Register, registered
from tests.support.spawn_modes import deny

__all__ = ["registered"]


def test_a_fork_takes_no_slot_away_and_has_none() -> None:
    board = ThreadBoard()
    reader = BoardReader(os.dup(board.fd))
    occupied, over = threading.Event(), threading.Event()
    threads: list[int] = []

    def occupy() -> None:
        slot = board.occupy(7)
        assert slot is not None
        slot.vacate()
        threads.append(threading.get_native_id())
        occupied.set()
        over.wait()

    thread = threading.Thread(target=occupy)
    thread.start()
    occupied.wait()
    slot = reader.slot_of(threads[0])
    child = os.fork()
    if child == 0:  # which drops the slot of the thread, as it drops everything of other threads
        os._exit(0 if board.occupy(8) is None else 1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert slot is not None
        assert reader.slot_of(threads[0]) == slot
    finally:
        over.set()
        thread.join()


def test_the_slot_of_a_thread_that_has_ended_is_free_again() -> None:
    board = ThreadBoard()
    slots = []
    for number in range(3):

        def occupy(number: int = number) -> None:
            slot = board.occupy(number)
            assert slot is not None
            slots.append(slot._words.at)
            slot.vacate()

        thread = threading.Thread(target=occupy)
        thread.start()
        thread.join()
    assert len(set(slots)) == 1


@pytest.mark.parametrize("backend", ["libbpf"])
def test_calls_run_in_a_thread_that_cannot_register_its_slot_with_the_kernel(
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
