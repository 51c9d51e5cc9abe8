"""The current call: a ContextVar.

This module stands below all code that runs calls. Of a call it defines only the protocol that
`spawn` needs. asyncio copies the context into every task; `propagation` brings the variables to
threads.

A thread or task may outlive the call that started it, with the call's value. What it starts then is
decided by the call (`calls.Call.begin_spawn`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, Token
from typing import Any, Protocol, TypeVar

from agentcgroup.threads import get_ident

__all__ = [
    "CallGroup",
    "DelegatedSpawns",
    "SpawnTarget",
    "agent",
    "call_group",
    "current",
    "restore",
    "set_thread_tracker",
    "thread_working_for",
]

T = TypeVar("T")


class SpawnTarget(Protocol):
    """The owner of new child processes, and of the cgroup that they are born in.

    A call is the `SpawnTarget` of the processes that its tool starts. Package `spawn` calls the two
    methods around the start of every process.

    Guarantees:

    - `begin_spawn` runs before the child exists, in the thread that starts the child.
    - An `end_spawn` follows each `begin_spawn`, in the same thread, whatever `begin_spawn` returned
      or raised, and also where the start of the child fails. After a `begin_spawn` that raised no
      child runs.
    - A signal handler may raise between any two lines of Python, also before the first line of
      `end_spawn`, which then never runs. A thread between the two is found by its frames, too.
    - A second `begin_spawn`, with `failed`, follows where the first cgroup takes no process. Where
      the second cgroup takes none either, the spawn fails with CgroupUnavailable.
    - Neither method runs in a forked child.
    - Several threads may be between `begin_spawn` and `end_spawn` at the same time.
    """

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        """Return a directory fd of the cgroup that the next child is to be born in.

        None: the child starts in the cgroup of this process. The first call makes the cgroup. The
        fd stays open until the matching `end_spawn`. `failed` is the error of an attempt with the
        fd returned before (the cgroup was removed, or has children of its own now); `end_spawn` has
        ended that attempt.

        Raises:
            LimitExceeded: the call is over (timed out, cancelled); no child may start in it.
            CgroupUnavailable: the cgroup cannot be made, and the policy is to refuse the child.
        """

    def end_spawn(self, pid: int | None) -> None:
        """End the spawn that `begin_spawn` began.

        Args:
            pid: of the child; None where no child started, or where C code forked and did not
                report the pid.
        """

    def note_child(self, pid: int) -> None:
        """Take note of the pid of a child, whose `end_spawn` had none."""

    @property
    def over(self) -> bool:
        """Whether it owns no further process: its call has ended or was stopped."""

    def background(self) -> SpawnTarget:
        """Return the owner of processes that outlive the call, such as those of a pool."""

    def note_helpers(self) -> None:
        """Take note that the call uses processes that it does not own."""


class DelegatedSpawns:
    """The spawns that a `SpawnTarget` has passed on to others and that have not ended.

    Guarantee: the other's `end_spawn` follows its `begin_spawn`, also where that raises.
    """

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        #: By thread; one thread has several where a signal handler starts a process in between.
        self._begun: dict[int, list[SpawnTarget]] = {}

    def begin(self, target: SpawnTarget, failed: OSError | None = None) -> int | None:
        """Begin a spawn of `target`; returns and raises as `SpawnTarget.begin_spawn`."""
        self._begun.setdefault(get_ident(), []).append(target)
        return target.begin_spawn(failed)

    def end(self, pid: int | None) -> bool:
        """End the last spawn of this thread; return False where it has begun none."""
        thread = get_ident()
        begun = self._begun.get(thread)
        if begun is None:
            return False
        target = begun.pop()
        if not begun:
            del self._begun[thread]
        target.end_spawn(pid)
        return True


class CallGroup(Protocol):
    """The calls started from one place, which a cancellation of that place stops."""

    @property
    def cancelled(self) -> bool:
        """Whether that place was cancelled."""

    def append(self, call: Any) -> None:
        """Add `call`, which has just started."""


#: The call whose code is running in this context, or None.
current: ContextVar[SpawnTarget | None] = ContextVar("agentcgroup_call", default=None)

#: The agent named by `agentcgroup.agent`, or None.
agent: ContextVar[Any] = ContextVar("agentcgroup_agent", default=None)

#: The group that calls started in this context join, so that a cancellation also stops calls in
#: threads; or None.
call_group: ContextVar[CallGroup | None] = ContextVar("agentcgroup_call_group", default=None)


def restore(variable: ContextVar[T], token: Token[T]) -> None:
    """Restore the value that a variable had before a generator or coroutine set it.

    Python closes an unfinished generator where its last reference goes, which may be in another
    context. That context never had the value of `token`, and this function changes nothing there.
    Nor does it where the token was used, and a signal handler raised before the next line.
    """
    try:  # contextlib.suppress would be three more functions of Python in every call
        variable.reset(token)
    except (ValueError, RuntimeError):
        return


#: Tracks which call a thread works for; nullcontext without a monitor.
_thread_tracker: Callable[[Any], AbstractContextManager[None]] = nullcontext


def set_thread_tracker(tracker: Callable[[Any], AbstractContextManager[None]] | None) -> None:
    """Have each thread enter `tracker(call)` while it works for a call that it did not begin.

    Args:
        tracker: `Monitor.working_for`; a thread that works for no call passes None to it. None for
            no tracker.
    """
    global _thread_tracker
    _thread_tracker = nullcontext if tracker is None else tracker


def thread_working_for(call: SpawnTarget | None) -> AbstractContextManager[None]:
    """Return the context in which this thread works for a call, or for none."""
    return _thread_tracker(None if getattr(call, "lasting", False) else call)
