"""The tables of limits: every key, its default and the reason for the default.

`model_fields_set` tells a key that was written from one that was not; None in a limit means that
nothing is written to the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from agentcgroup import units
from agentcgroup.cgroup.unified import EXAMPLE as UNIFIED_EXAMPLE
from agentcgroup.cgroup.unified import checked_data, checked_file
from agentcgroup.config.constraints import ORDERED_PAIRS, is_above
from agentcgroup.config.limit_fields import BY_DEVICE, Table, limit_table, plain
from agentcgroup.config.values import (
    Background,
    Glob,
    Grace,
    Isolation,
    OnUnshippable,
    Priority,
    Reuse,
    Timeout,
    whole,
)

__all__ = [
    "BACKGROUND",
    "CALL_DEFAULTS",
    "CPU_WEIGHT",
    "DEFAULT_TIMEOUT",
    "CallLimits",
    "LimitTable",
    "LimitTables",
    "Limiting",
    "Rule",
    "refuse",
]

#: A call that takes longer hangs: the longest recorded one took 308 s.
DEFAULT_TIMEOUT = "10m"

#: The defaults of [limits.call], which are meant to stop a runaway call and nothing else.
CALL_DEFAULTS: Mapping[str, Any] = {
    # Of the recorded calls of coding agents (AgentCgroup study) 99.8 % stay below 256 MB, and none
    # took more than 3.8 GB. Half of the machine is above all of that where agents usually run,
    # lets big builds through on big machines, and leaves half for everything else.
    "memory_max": "50%",
    # A shell whose only child was killed goes on with half the work done; models read that as
    # success.
    "memory_oom_group": True,
    # Threads count too: a compiler with 16 threads on each of 64 cores stays below, a fork bomb
    # ends long before the kernel's smallest default pid_max, 32768.
    "pids_max": 2048,
}

#: The cpu_weight of each priority: ten times more, or less, than the kernel's default.
CPU_WEIGHT: Mapping[Priority, int] = {"high": 1000, "normal": 100, "low": 10}


def refuse(message: str, key: str | None = None) -> NoReturn:
    """Raise a fault from a table's validator; `config.problems` reads it. `key` is at fault."""
    raise PydanticCustomError("agentcgroup", "{message}", {"message": message, "key": key})


_ISOLATION = (
    "Where the tool's own code runs: 'inline' in this process; 'process' in a worker process in "
    "the call's cgroup, so that the limits bound it too; 'auto' is 'inline'. "
    "Its child processes are contained either way."
)
_REUSE = (
    "With isolation = 'process': calls of the same tool that one worker may serve. "
    "Above 1 they share the state of that process, and their counters are differences."
)
_ON_UNSHIPPABLE = (
    "With isolation = 'process', for a tool that no other process can run: 'error' answers the "
    "call with the reason, 'inline' runs the tool here and notes that in the call's record."
)

BACKGROUND = (
    "What happens to processes that outlive their call. 'kill' ends them with the call, 'keep' "
    "with the agent. 'auto' is 'kill', but maintenance that a program detaches and that ends by "
    "itself, such as 'git gc --auto', may go on for a minute."
)
_LEFTOVER_GRACE = (
    "Time that processes which outlive their call have to end after SIGTERM, before SIGKILL; not "
    "after a timeout, an OOM kill or a cancellation. The call's answer waits for them."
)

_UnifiedFile = Annotated[str, BeforeValidator(checked_file)]
_UnifiedData = Annotated[
    str, BeforeValidator(checked_data), WithJsonSchema({"type": ["string", "integer"]})
]


if TYPE_CHECKING:

    class _LimitFields(Table):
        def __getattr__(self, key: str) -> Any: ...

else:
    _LimitFields = limit_table("_LimitFields", Table)


class LimitTable(_LimitFields, defer_build=False):
    """What one cgroup may use; the names are the kernel's with '_' for '.'."""

    unified: Mapping[_UnifiedFile, _UnifiedData] | None = Field(
        default=None,
        description=(
            "Further files of cgroup v2 by their kernel names in quotes, written after the other "
            "limits as they stand."
        ),
        json_schema_extra={"examples": [dict(UNIFIED_EXAMPLE)]},
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        """Refuse two keys of one table that contradict each other."""
        for lower, upper in ORDERED_PAIRS:
            if {lower, upper} <= self.model_fields_set:
                low, high = getattr(self, lower), getattr(self, upper)
                if is_above(low, high):
                    refuse(
                        f"is {units.format_size(low)}, above {upper}, which is "
                        f"{units.format_size(high)}: lower {lower} or raise {upper}",
                        lower,
                    )
        if self.cpu_max is not None and is_above(self.cpu_max_burst, self.cpu_max[0]):
            refuse(
                f"is {self.cpu_max_burst} microseconds, above the quota of cpu_max, which is "
                f"{self.cpu_max[0]}: lower cpu_max_burst or raise cpu_max",
                "cpu_max_burst",
            )
        return self

    def value(self, key: str) -> Any:
        """Return the value of a limit as `Limits` has it."""
        value = getattr(self, key)
        return plain(value) if key in BY_DEVICE else value


if TYPE_CHECKING:

    class _CallFields(LimitTable): ...

else:
    _CallFields = limit_table("_CallFields", LimitTable, CALL_DEFAULTS)


class CallLimits(_CallFields, defer_build=False):
    """What each call may use; these defaults are meant to stop a runaway and nothing else."""

    timeout: Timeout = Field(
        default=DEFAULT_TIMEOUT,
        validate_default=True,
        description="Time a call may take; 'none' for no limit. A bare number is seconds.",
    )
    # Programs remove their lock files and temporary files on SIGTERM within milliseconds.
    leftover_grace: Grace = Field(
        default="200ms", validate_default=True, description=_LEFTOVER_GRACE
    )
    # Inline costs nothing, loses no state and runs every tool, so a worker process is opt-in.
    isolation: Isolation = Field(default="auto", description=_ISOLATION)
    # A worker that serves one call keeps its data from the next call.
    reuse: Annotated[int, whole(1, 1_000_000, "a number of calls")] = Field(
        default=1, description=_REUSE
    )
    # A user who asked for a boundary must get an error where there is none.
    on_unshippable: OnUnshippable = Field(default="error", description=_ON_UNSHIPPABLE)


class Limiting(LimitTable):
    """Every key that a single call can have: in a rule, or as an argument of `call()`."""

    timeout: Timeout = Field(
        default=None,
        description="Time a call may take; 'none' for no limit. A bare number is seconds.",
    )
    background: Background | None = Field(
        default=None,
        description=BACKGROUND,
    )
    leftover_grace: Grace = Field(default=None, description=_LEFTOVER_GRACE)
    isolation: Isolation | None = Field(default=None, description=_ISOLATION)
    reuse: Reuse = Field(default=None, description=_REUSE)
    on_unshippable: OnUnshippable | None = Field(default=None, description=_ON_UNSHIPPABLE)
    priority: Priority | None = Field(
        default=None,
        description=(
            "Share of contended CPU in words: high, normal and low are cpu_weight 1000, 100 and "
            "10. A cpu_weight in the same table wins."
        ),
    )


#: The keys that a rule for agents cannot have.
_OF_CALLS = {
    *("tool", "timeout", "background", "leftover_grace", "isolation", "reuse", "on_unshippable")
}


class Rule(Limiting):
    """Limits for some calls, or some agents; later rules win, key by key."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [key]} for key in ("tool", "agent", "framework")]}
    )

    tool: Glob = Field(default=None, description="Glob that the tool's name must match.")
    agent: Glob = Field(
        default=None,
        description="Glob that the agent's name must match; code without an agent matches '*'.",
    )
    framework: Glob = Field(
        default=None,
        description="Glob that the framework must match: langchain, autogen or crewai.",
    )
    applies_to: Literal["call", "agent"] = Field(
        default="call",
        description=(
            "'call': the limits are for each matching call; "
            "'agent': for all calls of each matching agent together."
        ),
    )

    @model_validator(mode="after")
    def _sense(self) -> Self:
        if self.tool is None and self.agent is None and self.framework is None:
            refuse("says for no call what it is for: add tool, agent or framework ('*' is all)")
        of_calls = self.model_fields_set & _OF_CALLS
        if self.applies_to == "agent" and of_calls:
            refuse(
                f"'agent' does not go with {' and '.join(sorted(of_calls))}: those belong to calls",
                "applies_to",
            )
        return self


class LimitTables(Table):
    """The limits of the three levels; they nest, so the tightest holds."""

    run: LimitTable = Field(
        default_factory=LimitTable, description="All agents of a process together."
    )
    agent: LimitTable = Field(
        default_factory=LimitTable, description="Each agent, all its calls together."
    )
    call: CallLimits = Field(default_factory=CallLimits, description="Each call.")
