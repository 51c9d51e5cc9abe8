"""What `isolation` needs of a call: the protocol that `calls.call.Call` implements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the app imports this at its start, and may isolate no call
    from agentcgroup.config.policy import Policy
    from agentcgroup.errors import Unshippable
    from agentcgroup.isolation.messages import Message
    from agentcgroup.isolation.worker_handle import Worker
    from agentcgroup.records.record import Isolated

__all__ = ["IsolatedCall"]


class IsolatedCall(Protocol):
    """A call whose tool's body may run in a worker."""

    @property
    def policy(self) -> Policy:
        """The limits and choices that hold for the call."""

    @property
    def tool(self) -> str:
        """The tool's name, as the framework gave it."""

    @property
    def stopped(self) -> str | None:
        """The reason for which the call was stopped; None while it was not."""

    def worker_at_once(self) -> bool:
        """Return whether `worker` waits for nothing, so that an event loop may call it."""

    def worker(self) -> Worker:
        """Return a worker in the call's cgroup; it may still be about to be born.

        Raises:
            LimitExceeded: the call was stopped, or its time is over.
            CgroupUnavailable: no worker can be made.
        """

    def restock(self) -> None:
        """Ask for the worker of the next such call, if none is ready; does not wait for it."""

    def kill_worker(self) -> None:
        """Kill every process of the call."""

    def learn(self, message: Message) -> None:
        """Have the modules that a LEARNED message names imported for later workers."""

    def note_isolated(self, where: Isolated) -> None:
        """Note for the record where the body runs."""

    def note_importing(self, begins: bool) -> None:
        """Note that the worker begins to import the tool's modules, or has imported them."""

    def note_worker_died(self, how: str) -> None:
        """Note for the record how the worker ended before the body did, such as "exited: 3"."""

    def note_unshippable(self, error: Unshippable, *, refused: bool) -> None:
        """Note for the record what could not be pickled, and whether the call is refused for it."""

    def warn(self, message: str) -> None:
        """Log a warning, once per session for each text."""
