"""Bodies in workers, for a call that has no session: `isolation` needs only `IsolatedCall`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agentcgroup.config.loading import load
from agentcgroup.config.policy import Policy, Resolver
from agentcgroup.errors import Unshippable, WorkerDied
from agentcgroup.isolation import bodies
from agentcgroup.isolation.launcher import Launcher
from agentcgroup.isolation.messages import Message
from agentcgroup.isolation.worker_handle import Worker


class _Anywhere:
    """A `scope.SpawnTarget` without a cgroup."""

    over = False

    def background(self) -> _Anywhere:
        return self

    def note_helpers(self) -> None:
        pass

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        return None

    def end_spawn(self, pid: int | None) -> None:
        pass

    def note_child(self, pid: int) -> None:
        pass


class _Call:
    """An `IsolatedCall` that writes down its notes."""

    tool = "tool"
    stopped: str | None = None

    def __init__(self, launcher: Launcher, **limits: Any) -> None:
        self._launcher = launcher
        self.policy: Policy = Resolver(load({})).call("python", None, self.tool, **limits)
        self.notes: list[tuple[object, ...]] = []

    def worker_at_once(self) -> bool:
        return False

    def worker(self) -> Worker:
        return self._launcher.spawn(None)

    def restock(self) -> None:
        self.notes.append(("restock",))

    def kill_worker(self) -> None:
        self.notes.append(("kill_worker",))

    def learn(self, message: Message) -> None:
        self.notes.append(("learn",))

    def note_importing(self, begins: bool) -> None:
        """The worker imports modules, or not, as it has them already."""

    def note_isolated(self, where: str) -> None:
        self.notes.append(("isolated", where))

    def note_worker_died(self, how: str) -> None:
        self.notes.append(("worker_died", how))

    def note_unshippable(self, error: Unshippable, *, refused: bool) -> None:
        self.notes.append(("unshippable", error.what, refused))

    def warn(self, message: str) -> None:
        self.notes.append(("warn", message))


class _Counter:
    """A tool that changes an attribute of its own."""

    def __init__(self) -> None:
        self.count = 0

    def run(self) -> int:
        self.count += 1
        return os.getpid()


def _pid(lock: object) -> int:
    return os.getpid()


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    launcher = Launcher(_Anywhere(), 10, lambda: None, lambda job: job(), time.time())
    yield launcher
    launcher.close()


def test_a_body_runs_in_a_worker_and_the_next_one_is_asked_for_meanwhile(
    launcher: Launcher,
) -> None:
    call = _Call(launcher, isolation="process")
    assert bodies.run(call, bodies.Body(os.getpid), (), {}) != os.getpid()
    assert call.notes == [("isolated", "process"), ("restock",)]


def test_a_policy_that_says_inline_leaves_the_body_as_it_is(launcher: Launcher) -> None:
    assert bodies.placed(_Call(launcher), bodies.Body(os.getpid)) is os.getpid


def test_the_end_of_a_worker_is_noted_and_nothing_is_left_to_kill(launcher: Launcher) -> None:
    call = _Call(launcher, isolation="process")
    with pytest.raises(WorkerDied, match="exited: 3"):
        bodies.run(call, bodies.Body(os._exit), (3,), {})
    assert ("worker_died", "exited: 3") in call.notes


def test_the_end_of_a_worker_that_was_stopped_is_not_noted(launcher: Launcher) -> None:
    """The reason for which the call was stopped is the call's own."""
    call = _Call(launcher, isolation="process")
    call.stopped = "timeout"
    with pytest.raises(WorkerDied):
        bodies.run(call, bodies.Body(os._exit), (3,), {})
    assert "worker_died" not in [note[0] for note in call.notes]


def test_a_change_of_a_tools_own_attributes_is_warned_of(launcher: Launcher) -> None:
    call, tool = _Call(launcher, isolation="process"), _Counter()
    assert bodies.run(call, bodies.Body.of_method(tool, "run"), (), {}) != os.getpid()
    assert tool.count == 0
    kind, text = call.notes[-1]
    assert kind == "warn"
    assert "changed its own count in a worker process" in str(text)


@pytest.mark.parametrize("choice", ["error", "inline"])
def test_an_argument_that_cannot_be_sent_is_noted_before_a_worker_is_taken(
    launcher: Launcher, choice: str
) -> None:
    call = _Call(launcher, isolation="process", on_unshippable=choice)
    body, lock = bodies.Body(_pid), threading.Lock()
    if choice == "inline":
        assert bodies.run(call, body, (lock,), {}) == os.getpid()
    else:
        with pytest.raises(Unshippable, match="argument 'lock'"):
            bodies.run(call, body, (lock,), {})
    notes = [note for note in call.notes if note[0] != "warn"]
    assert notes[0] == ("unshippable", "argument 'lock'", choice == "error")
    assert notes[1:] == ([("isolated", "inline")] if choice == "inline" else [])
