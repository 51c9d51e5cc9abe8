"""Which counters of memory.events mean that a call ran out of memory."""

from __future__ import annotations

import pytest

from agentcgroup.cgroup import Events


@pytest.mark.parametrize(
    ("why", "events", "killed"),
    [
        ("nothing was counted", Events(), False),
        ("no kill", Events(oom=1, oom_kill=0, oom_local=1, oom_kill_local=0), False),
        ("its own limit", Events(oom=1, oom_kill=1, oom_local=1, oom_kill_local=1), True),
        (
            "its own limit, a process below",
            Events(oom=1, oom_kill=1, oom_local=1, oom_kill_local=0),
            True,
        ),
        ("a limit above", Events(oom=0, oom_kill=1, oom_local=0, oom_kill_local=1), True),
        (
            "a limit above, a process below",
            Events(oom=0, oom_kill=1, oom_local=0, oom_kill_local=0),
            True,
        ),
        ("a limit below", Events(oom=2, oom_kill=2, oom_local=0, oom_kill_local=0), False),
        (
            "a limit below, and then one above",
            Events(oom=1, oom_kill=2, oom_local=0, oom_kill_local=1),
            True,
        ),
        (
            "its own limit beside one below",
            Events(oom=2, oom_kill=2, oom_local=1, oom_kill_local=0),
            True,
        ),
        ("a kernel without local counters", Events(oom=1, oom_kill=1), True),
    ],
)
def test_a_limit_below_is_not_the_calls(why: str, events: Events, killed: bool) -> None:
    assert events.out_of_memory is killed, why
