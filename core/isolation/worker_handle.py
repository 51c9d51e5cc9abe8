"""The app's handle for one worker process: where it stands, and what it serves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from agentcgroup.cgroup import Cgroup, Events, Meter
from agentcgroup.isolation.channel import Channel
from agentcgroup.isolation.environment import Changes, Snapshot
from agentcgroup.threads import Event

__all__ = ["Worker", "how_ended"]


class Worker:
    """The app's handle for one worker process.

    Attributes:
        number: identifies the worker in requests and reports.
        channel: the app's end of the socket to it.
        folder: its folder for temporary files; it makes the folder, the app removes it.
        snapshot: the environment that it has inherited from the fork server.
        cgroup: the cgroup made for it; None where it was born in an existing one or in none.
        pid: None until the fork server has reported it.
        how: how it ended, such as "exited: 0", "crashed: SIGSEGV", or "lost: ..." where the fork
            server's end has ended it; None while it lives.
        ended: set when `how` is, or when nothing waits for its birth any more.
        busy: when it was requested, the fork server was starting, or importing modules.
        requested, born_at: when, by `time.monotonic`; `born_at` is None until then.
        born: set when `pid` is, and with `ended`.
        at_birth: called when its birth is reported, None for nothing: its call may be over by then.
        done: it has answered every call that it was sent.
        calls: number of calls that it was given.
        stays: it waits for another call after the present one.
        meter: divides the usage of its cgroup among its calls, where it serves more than one.
        read_usage: reads the usage of its last call; None where it has served none, or may serve
            only one.
        counted: what the kernel had counted in its cgroup before its present call.
        applied: changes of the environment that it has applied for its last call.
    """

    def __init__(
        self, number: int, channel: Channel, folder: str, snapshot: Snapshot, *, busy: bool
    ) -> None:
        self.number = number
        self.channel = channel
        channel.guarded = True
        self.folder = folder
        self.snapshot = snapshot
        self.busy = busy
        self.cgroup: Cgroup | None = None
        self.pid: int | None = None
        self.requested = time.monotonic()
        self.born_at: float | None = None
        self.how: str | None = None
        self.ended = Event()
        self.born = Event()
        self.at_birth: Callable[[], object] | None = None
        self.done = True
        self.calls = 0
        self.stays = False
        self.meter: Meter | None = None
        self.read_usage: Callable[[], object] | None = None
        self.counted = Events()
        self.applied: Changes = {}

    def give_up(self) -> None:
        """Wake the threads that wait for its birth, answer or end; its call is over."""
        self.born.set()
        self.ended.set()
        self.channel.shutdown()

    def end(self, how: str) -> None:
        """Note how it has ended, and wake the thread that waits for its answer."""
        self.how = how
        self.born.set()
        self.ended.set()
        self.channel.shutdown()


def how_ended(status: int) -> str:
    """Return a wait status in words, such as "exited: 3"."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited: {code}"
    try:
        return f"crashed: {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"crashed: signal {-code}"
