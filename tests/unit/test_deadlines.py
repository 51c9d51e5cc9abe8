"""The watcher: who ends calls whose time is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from agentcgroup.enforcement import Watcher


class _Stopped(threading.Event):
    """Something with an end."""

    def stop(self, reason: str) -> None:
        assert reason == "timeout"
        self.set()


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    watcher = Watcher()
    yield watcher
    watcher.close()


def test_an_older_call_that_comes_later_to_its_first_child_ends_in_time(watcher: Watcher) -> None:
    young, old = _Stopped(), _Stopped()
    now = time.monotonic()
    watcher.arm(young, now + 600)
    watcher.arm(old, now + 0.05)
    assert old.wait(20)
    assert not young.is_set()


def test_a_call_that_has_ended_is_left_alone(watcher: Watcher) -> None:
    ended, other = _Stopped(), _Stopped()
    now = time.monotonic()
    watcher.arm(ended, now + 0.05)
    watcher.arm(other, now + 0.1)
    watcher.disarm(ended)
    assert other.wait(20)
    assert not ended.is_set()
