"""No process starts in a call that is over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentcgroup.calls import feedback
from agentcgroup.enforcement.verdict import outcome_of
from agentcgroup.errors import LimitExceeded

if TYPE_CHECKING:
    from agentcgroup.calls.call import Call

__all__ = ["refuse_if_over"]


def refuse_if_over(call: Call) -> None:
    """Raise where no process may start in `call` any more.

    Raises:
        LimitExceeded: it was stopped, or its deadline has passed.
    """
    if call.deadline is not None and call.stopped is None and time.monotonic() > call.deadline:
        call.request_stop("timeout")
    if call.stopped is not None:
        # After its end the cgroup may be gone, and the record is made.
        now = outcome_of(call.stopped)
        record = call.make_record(now) if call.outcome is None else call.record
        told = feedback.sentence(record) or f"the call was stopped: {call.stopped}"
        raise LimitExceeded(told, record=record)
