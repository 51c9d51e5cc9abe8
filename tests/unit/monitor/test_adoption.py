"""The adoption of a process that was born outside: the call gets a cgroup, or the process ends."""

from __future__ import annotations

import threading
import time

import pytest

from agentcgroup.cgroup import Cgroup
from agentcgroup.monitor.adoption import Adoptions
from agentcgroup.monitor.client import _note_charged
from agentcgroup.monitor.thread_board import ThreadBoard
from agentcgroup.monitor.wire import Message


class _Call:
    """A call in `cgroup`; None: it is over."""

    number = 7
    id = "run-7"

    def __init__(self, cgroup: Cgroup | None = None) -> None:
        self.cgroup = cgroup
        self.adopted: list[int] = []
        self.charged: list[int] = []

    def stop(self, reason: str) -> None:
        raise AssertionError(reason)

    def adopt(self, pid: int) -> Cgroup | None:
        self.adopted.append(pid)
        return self.cgroup

    def note_charged(self, charged: int) -> None:
        self.charged.append(charged)


class _Broken(_Call):
    def adopt(self, pid: int) -> Cgroup | None:
        raise OSError("no cgroup")


def _adoptions(*calls: _Call) -> tuple[Adoptions, list[Message]]:
    sent: list[Message] = []

    def send(message: Message) -> bool:
        sent.append(message)
        return True

    return Adoptions({call.number: call for call in calls}, send), sent


def _waited(adoptions: Adoptions) -> float:
    """Return the seconds that the end of the call waits."""
    began = time.monotonic()
    adoptions.wait(7, 30)
    return time.monotonic() - began


def test_the_helper_moves_a_process_to_the_cgroup_that_its_call_has_got(box: Cgroup) -> None:
    call = _Call(box)
    adoptions, sent = _adoptions(call)
    adoptions.adopt(20, 7)
    assert call.adopted == [20]
    assert sent == [{"do": "move_in", "pid": 20, "id": box.id}]


@pytest.mark.parametrize("calls", [[], [_Call()]], ids=["gone", "over"])
def test_the_helper_kills_the_process_of_a_call_that_is_over(
    calls: list[_Call], caplog: pytest.LogCaptureFixture
) -> None:
    adoptions, sent = _adoptions(*calls)
    adoptions.adopt(20, 7)
    assert sent == [{"do": "kill", "pid": 20}]
    assert "ended a process that a call had started unseen: 20" in caplog.text


def test_a_process_that_cannot_be_contained_is_logged_and_its_call_waits_no_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    adoptions, sent = _adoptions(_Broken())
    adoptions.adopt(20, 7)
    assert _waited(adoptions) < 10
    assert sent == []
    assert "is not contained" in caplog.text


def test_the_end_of_a_call_waits_for_its_adoption_and_for_no_dead_helper(box: Cgroup) -> None:
    adoptions, _ = _adoptions(_Call(box))
    timer = threading.Timer(0.05, adoptions.adopt, (20, 7))
    timer.start()
    assert 0.01 < _waited(adoptions) < 10
    timer.join()
    adoptions.done.pop(7)
    timer = threading.Timer(0.05, adoptions.release_all)
    timer.start()
    assert 0.01 < _waited(adoptions) < 10
    timer.join()


class _Switches:
    """Kernel switches of which each thread is charged 100 bytes for each look."""

    def __init__(self) -> None:
        self.bytes = 0

    def assign(self, slot: int, thread: int) -> None: ...

    def unassign(self, slot: int, thread: int) -> None: ...

    def switch(self, slot: int, on: bool) -> None: ...

    def charged(self, slot: int) -> int | None:
        self.bytes += 100
        return self.bytes


def test_memory_that_a_thread_was_charged_is_noted_by_a_method_of_its_call() -> None:
    board, call = ThreadBoard(), _Call()
    board.use_switches(_Switches())
    slot = board.occupy(call.number)
    assert slot is not None
    _note_charged(call, slot)
    _note_charged(None, slot)  # a thread that works for no call
    slot.vacate()
    board.close()
    board.close_fd()
    assert call.charged == [100]
