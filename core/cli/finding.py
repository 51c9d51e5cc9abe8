"""One line of the report of `agentcgroup doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "State"]

State = Literal["yes", "partly", "no"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        what: the subject of the line.
        state: "yes", "partly" or "no".
        detail: the finding, as text.
        fix: what the user can do about it; None if nothing.
        enforces: False if no limit depends on the finding, only figures in records; such a
            finding does not change the exit status.
    """

    what: str
    state: State
    detail: str
    fix: str | None = None
    enforces: bool = True
