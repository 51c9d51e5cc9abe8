"""The app's list of announced cgroups, and its questions to the helper."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from agentcgroup.monitor import announced
from agentcgroup.monitor.announced import AnnouncedCgroups
from agentcgroup.monitor.wire import Message


class _Sent(list[Message]):
    """Messages to the helper."""

    def send(self, message: Message) -> bool:
        self.append(message)
        return True


class _Slots:
    """Counter slots that count from 100."""

    def __init__(self) -> None:
        self.forgotten: list[int] = []

    def follow(self, cgroup: int) -> int:
        return 100 + cgroup

    def forget(self, cgroup: int) -> None:
        self.forgotten.append(cgroup)


def test_a_cgroup_is_announced_with_its_counter_slot_which_an_answer_frees() -> None:
    sent = _Sent()
    cgroups, slots = AnnouncedCgroups(sent.send), _Slots()
    cgroups.announce(1, "/one")
    cgroups.use_slots(slots)
    cgroups.announce(2, "/two", late=True)
    assert [(one["id"], one["slot"], one["late"]) for one in sent] == [
        (1, 0, False),
        (2, 102, True),
    ]
    cgroups.answer({"is": "end", "id": 2})
    assert slots.forgotten == [2]


def test_an_answer_ends_its_question() -> None:
    cgroups: AnnouncedCgroups

    def send(message: Message) -> bool:
        threading.Thread(target=cgroups.answer, args=({"is": "end", "id": message["id"]},)).start()
        return True

    cgroups = AnnouncedCgroups(send)
    answer = cgroups.ask(1, [20], patience=30, hurry=30)
    assert answer == {"is": "end", "id": 1}


def test_after_a_question_without_an_answer_the_next_one_waits_less() -> None:
    cgroups = AnnouncedCgroups(lambda _: True)
    assert cgroups.ask(1, (), patience=0.01, hurry=30) is None
    began = time.monotonic()
    assert cgroups.ask(2, (), patience=30, hurry=0.01) is None
    assert time.monotonic() - began < 10
    cgroups.answer({"is": "end", "id": 1})  # late, but it answers again
    assert cgroups.ask(3, (), patience=0.01, hurry=30) is None


def test_a_question_that_cannot_be_sent_waits_for_nothing() -> None:
    began = time.monotonic()
    assert AnnouncedCgroups(lambda _: False).ask(1, (), patience=30, hurry=30) is None
    assert time.monotonic() - began < 10


def test_the_end_of_the_helper_ends_every_question() -> None:
    cgroups = AnnouncedCgroups(lambda _: True)
    cgroups.keep(1, "/one")
    timer = threading.Timer(0.05, cgroups.clear)
    timer.start()
    began = time.monotonic()
    assert cgroups.ask(1, (), patience=30, hurry=30) is None
    assert time.monotonic() - began < 10
    timer.join()
    assert cgroups.kept() == ()


def test_a_cgroup_that_was_removed_is_pruned_and_forgotten_by_the_helper(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(announced, "_PRUNE", 2)
    sent = _Sent()
    cgroups = AnnouncedCgroups(sent.send)
    cgroups.keep(1, str(tmp_path / "removed"))
    cgroups.prune()
    assert sent == []  # too few to look at
    cgroups.keep(2, str(tmp_path))
    cgroups.prune()
    assert sent == [{"do": "end", "id": 1, "started": []}]
    assert cgroups.kept() == ((2, str(tmp_path)),)
