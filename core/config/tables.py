"""The tables of a configuration, in the shape of the file: frozen pydantic models.

The tables of limits, rules among them, are in `limit_tables`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, model_validator
from typing_extensions import Self

from agentcgroup.config.constraints import ALONE, would_hang
from agentcgroup.config.limit_fields import Table
from agentcgroup.config.limit_tables import BACKGROUND, LimitTable, LimitTables, Rule, refuse
from agentcgroup.config.toml import Source
from agentcgroup.config.values import Backend, Background, CgroupPath, Mode, Path, Pause, whole

__all__ = ["Config", "MonitorTable", "Workers"]


class MonitorTable(Table):
    """The monitor, which reads events of calls from the kernel; see docs/monitor.md."""

    # The monitor starts a helper process and loads programs into the kernel, so it is opt-in.
    backend: Backend = Field(
        default="off",
        description=(
            "The source of events. 'libbpf': BPF programs (CAP_BPF and CAP_PERFMON); 'procs': "
            "the kernel's process connector (CAP_NET_ADMIN); 'bcc': BPF programs that the "
            "distribution's BCC compiles here, for kernels without BTF (python3-bpfcc and the "
            "kernel's headers); 'auto': the first of these that works here, else the cgroup's "
            "files alone; 'off': those alone."
        ),
    )
    detail: Literal["default", "full"] = Field(
        default="default",
        description=(
            "'default': counters without a measurable cost; 'full': BPF programs on the scheduler "
            "and on memory charging too."
        ),
    )
    escape: Literal["return", "kill"] = Field(
        default="return",
        description=(
            "What the monitor does with a process that leaves its call's cgroup: 'return' moves it "
            "back, 'kill' ends the call. A process born outside is moved in either way."
        ),
    )


_PoolSize = Annotated[int, whole(0, 10_000, "a number of workers")]


class Workers(Table):
    """The warm worker processes for tools with isolation = "process"."""

    min: _PoolSize = Field(
        default=1, description="Workers that stay warm even when no tool uses them."
    )
    max: _PoolSize = Field(
        default=8,
        description="The most workers that wait at once; workers that serve a call do not count.",
    )
    idle: Pause = Field(
        default="1m",
        validate_default=True,
        description="Time after which a worker that no tool has used is ended.",
    )

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min > self.max:
            refuse(f"is {self.min}, above max, which is {self.max}: lower min or raise max", "min")
        return self


class Config(Table):
    """A whole configuration; `load` makes one."""

    mode: Mode = Field(
        default="auto",
        description=(
            "'auto': enforce the limits that this machine can enforce and log the others; "
            "'enforce': refuse to start unless all can be enforced; 'observe': measure and limit "
            "nothing; 'off': do nothing."
        ),
    )
    on_uncontained: Literal["refuse", "run"] = Field(
        default="refuse",
        description=(
            "What happens to a call that can have no cgroup where others have one, such as without "
            "a free file descriptor: 'refuse': no process of it starts; 'run': with mode 'auto' it "
            "runs without limits, which is logged."
        ),
    )
    background: Background = Field(
        default="auto",
        description=BACKGROUND,
    )
    records: Path = Field(
        default=None,
        description=(
            "File that finished calls are appended to as JSON Lines; "
            "relative to the folder of the configuration."
        ),
    )
    records_max: Annotated[int, whole(1, 10_000_000, "a number of records")] = Field(
        default=10_000, description="How many finished calls a session keeps in memory."
    )
    cgroup_root: CgroupPath = Field(
        default=None,
        description="Cgroup to work below, absolute; default: found on this machine.",
    )
    workers: Workers = Field(
        default_factory=Workers,
        description='Warm worker processes for tools with isolation = "process".',
    )
    limits: LimitTables = Field(default_factory=LimitTables, description="The three levels.")
    monitor: MonitorTable = Field(
        default_factory=MonitorTable,
        description="The monitor, which reads events of calls from the kernel.",
    )
    rules: tuple[Rule, ...] = Field(
        default=(), description="Limits for some calls or agents; later rules win, key by key."
    )

    _source: Source = PrivateAttr(default_factory=lambda: Source("the built-in defaults"))

    @property
    def source(self) -> Source:
        """The file or other origin of this configuration."""
        return self._source

    @model_validator(mode="after")
    def _no_hang(self) -> Self:
        """Refuse a memory_high that no other limit ends; each rule is checked by itself."""
        calls = [rule for rule in self.rules if rule.applies_to == "call"]
        # Only calls hang in the cgroup of an agent, so a timeout of every call is enough.
        timeouts = [self.limits.call.timeout]
        timeouts += [rule.timeout for rule in calls if "timeout" in rule.model_fields_set]
        all_end = None if None in timeouts else self.limits.call.timeout
        _must_end(self.limits.run, None, all_end, "limits.run.memory_high")
        _must_end(self.limits.agent, None, all_end, "limits.agent.memory_high")
        _must_end(self.limits.call, None, self.limits.call.timeout, "limits.call.memory_high")
        for index, rule in enumerate(self.rules):
            if rule.applies_to == "agent":
                _must_end(rule, self.limits.agent, all_end, f"rules.{index}")
            else:
                timeout = rule if "timeout" in rule.model_fields_set else self.limits.call
                _must_end(rule, self.limits.call, timeout.timeout, f"rules.{index}")
        return self


def _must_end(table: LimitTable, base: LimitTable | None, timeout: float | None, key: str) -> None:
    high, top = (
        getattr(base if base is not None and name not in table.model_fields_set else table, name)
        for name in ("memory_high", "memory_max")
    )
    if would_hang(high, top, timeout):
        refuse(ALONE, key)
