"""What may stand in a configuration: every key, its unit, its default and the reason for it.

Pydantic models, frozen, in the shape of the file. A key that was not written is told from one that
was by `model_fields_set`; None in a limit means that nothing is written to the kernel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from agentcgroup import units
from agentcgroup.cgroup.limits import MAX, Quantity
from agentcgroup.config.toml import Source
from agentcgroup.place import capacity

__all__ = [
    "ALONE",
    "CPU_WEIGHT",
    "DEFAULT_TIMEOUT",
    "ORDERED_PAIRS",
    "Backend",
    "Background",
    "CallLimits",
    "Config",
    "Isolation",
    "LimitTable",
    "Limiting",
    "Mode",
    "MonitorTable",
    "OnUnshippable",
    "Priority",
    "Rule",
    "Table",
    "Workers",
    "is_above",
    "would_hang",
]

Mode = Literal["auto", "enforce", "observe", "off"]
Background = Literal["kill", "keep"]
Isolation = Literal["auto", "inline", "process"]
OnUnshippable = Literal["error", "inline"]
Priority = Literal["high", "normal", "low"]
Backend = Literal["auto", "libbpf", "procs", "bcc", "off"]

# --- values -----------------------------------------------------------------------------------

#: A memory bound below this is a forgotten unit, or a mistake: no process starts in less.
_LEAST_MEMORY = 1 << 20


def _memory(value: object) -> Quantity | None:
    if value is None:
        return None
    share = isinstance(value, str) and "%" in value
    return units.parse_size(value, whole=capacity.memory() if share else None)


def _memory_bound(value: object) -> Quantity | None:
    size = _memory(value)
    if size is not None and size != MAX and size < _LEAST_MEMORY:
        forgotten = size > 0 and str(size) == str(value).strip()
        raise ValueError(
            f"{value!r} is {units.format_size(size)}, less than any process needs; "
            + (f"did you mean '{size}M'?" if forgotten else "write at least '1M'")
        )
    return size


def _rate(value: object) -> Quantity | None:
    rate = None if value is None else units.parse_size(value)
    if rate == 0:
        raise ValueError("0 would stop all of it, which the kernel does not take; write at least 1")
    return rate


def _count(value: object) -> Quantity | None:
    if value is None or value == MAX:
        return value if value is None else MAX
    if type(value) is int and 1 <= value < 2**31:
        return value
    raise ValueError(f"{value!r} is not a count: write a whole number from 1, or 'max'")


def _whole(low: int, high: int, what: str) -> BeforeValidator:
    def check(value: object) -> int | None:
        if value is None or (type(value) is int and low <= value <= high):
            return value
        raise ValueError(f"{value!r} is not {what}: write a whole number from {low} to {high}")

    return BeforeValidator(check)


def _cpu(value: object) -> tuple[Quantity, int] | None:
    return None if value is None else units.parse_cpu(value)


def _timeout(value: object) -> float | None:
    seconds = None if value is None else units.parse_duration(value)
    if seconds == 0:
        raise ValueError("0 leaves no time at all; write 'none' for no limit")
    return seconds


def _pause(value: object) -> float:
    seconds = units.parse_duration(value)
    if not seconds:
        raise ValueError(f"{value!r} is no time to wait: write one such as '1m'")
    return seconds


def _flag(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is not a switch: write true or false, without quotes")


_ID_LIST = re.compile(r"[0-9]{1,6}(?:-[0-9]{1,6})?(?:,[0-9]{1,6}(?:-[0-9]{1,6})?)*")


def _id_list(value: object) -> str | None:
    if value is None:
        return value
    if isinstance(value, str) and _ID_LIST.fullmatch(value):
        for part in value.split(","):
            first, _, last = part.partition("-")
            if last and int(last) < int(first):
                raise ValueError(f"{part!r} runs backwards: write '{last}-{first}'")
        return value
    raise ValueError(f"{value!r} is not a list of numbers: write ranges such as '0-3,8'")


def _glob(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"{value!r} is not a pattern: write a name or a glob such as 'run_*'")


def _device(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,7}:[0-9]{1,7}", value):
        return value
    raise ValueError(f"{value!r} is not a device: write MAJOR:MINOR as lsblk shows it, such as 8:0")


def _path(value: object, info: ValidationInfo) -> str | None:
    """Resolve a path against the folder of the file it stands in."""
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise ValueError(f"{value!r} is not a path: write it as a string")
    folder = (info.context or {}).get("folder", "")
    return os.path.join(folder, os.path.expanduser(os.fspath(value)))


def _absolute(value: object) -> str | None:
    if value is None or (isinstance(value, str) and value.startswith("/")):
        return value
    raise ValueError(f"{value!r} is not an absolute path: write it from '/sys/fs/cgroup' on")


def _schema(*types: str, examples: list[object], **more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": list(types), "examples": examples, **more})


_SIZE_TEXT = r"^(max|[0-9]+(\.[0-9]+)?\s*([KkMmGgTtPpEe]?([Ii]?[Bb])?|%))$"
_size_schema = _schema("string", "integer", examples=["512M", "1.5G", "max"], pattern=_SIZE_TEXT)

_Memory = Annotated[Quantity | None, BeforeValidator(_memory), _size_schema]
_MemoryBound = Annotated[Quantity | None, BeforeValidator(_memory_bound), _size_schema]
_Rate = Annotated[Quantity | None, BeforeValidator(_rate), _size_schema]
_Count = Annotated[
    Quantity | None,
    BeforeValidator(_count),
    _schema("integer", "string", examples=[256, "max"], pattern="^max$", minimum=1),
]
_Weight = Annotated[
    int | None,
    _whole(1, 10_000, "a weight"),
    _schema("integer", examples=[100], minimum=1, maximum=10_000),
]
_Microseconds = Annotated[
    int | None,
    _whole(0, 2**44 - 1, "a number of microseconds"),
    _schema("integer", examples=[50_000], minimum=0),
]
_Cpu = Annotated[
    tuple[Quantity, int] | None,
    BeforeValidator(_cpu),
    _schema("string", examples=["150%", "150000 100000", "max"]),
]
_Reuse = Annotated[
    int | None,
    _whole(1, 1_000_000, "a number of calls"),
    _schema("integer", examples=[1, 100], minimum=1, maximum=1_000_000),
]
_Timeout = Annotated[
    float | None,
    BeforeValidator(_timeout),
    _schema("string", "number", examples=["10m", "1h30m", 5, "none"]),
]
_Flag = Annotated[bool | None, BeforeValidator(_flag), WithJsonSchema({"type": "boolean"})]
_IdList = Annotated[
    str | None,
    BeforeValidator(_id_list),
    _schema("string", examples=["0-3,8"], pattern=f"^{_ID_LIST.pattern}$"),
]
_Glob = Annotated[
    str | None, BeforeValidator(_glob), _schema("string", examples=["run_*"], minLength=1)
]
_Device = Annotated[str, BeforeValidator(_device)]
_Path = Annotated[
    str | None, BeforeValidator(_path), _schema("string", examples=["agentcgroup.jsonl"])
]
_CgroupPath = Annotated[
    str | None,
    BeforeValidator(_absolute),
    _schema("string", examples=["/sys/fs/cgroup/agents"], pattern="^/"),
]


# --- tables -----------------------------------------------------------------------------------


#: Pairs of keys the first of which must not be above the second.
ORDERED_PAIRS = (
    ("memory_high", "memory_max"),
    ("memory_low", "memory_high"),
    ("memory_low", "memory_max"),
    ("memory_min", "memory_high"),
    ("memory_min", "memory_max"),
)

#: What is wrong with a memory_high that nothing ends.
ALONE = (
    "memory_high alone slows a process down more and more but never ends it: "
    "add memory_max or a timeout"
)

#: A call that takes longer hangs: the longest recorded one took 308 s.
DEFAULT_TIMEOUT = "10m"

#: What the words for a priority weigh: ten times more, or less, than the kernel's default.
CPU_WEIGHT: Mapping[Priority, int] = {"high": 1000, "normal": 100, "low": 10}


def is_above(value: Quantity | None, bound: Quantity | None) -> bool:
    """Compare two bounds where both are numbers; "max" means without, which fits every other."""
    return isinstance(value, int) and isinstance(bound, int) and value > bound


def would_hang(memory_high: object, memory_max: object, timeout: object) -> bool:
    """Tell whether memory.high would stand alone.

    The kernel then slows an allocation down more and more but never ends it: a process over its
    memory.high has been seen to run on for minutes without getting anywhere.
    """
    return memory_high not in (None, MAX) and memory_max in (None, MAX) and timeout is None


def _refuse(message: str, key: str | None = None) -> NoReturn:
    """Raise from a table's validator what `config` reads back, with the key to blame."""
    raise PydanticCustomError("agentcgroup", "{message}", {"message": message, "key": key})


class Table(BaseModel):
    """A table of the file: unknown keys are errors, and what was read stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class IoBounds(Table):
    """Bounds for one block device (io.max)."""

    rbps: _Rate = Field(default=None, description="Bytes read per second.")
    wbps: _Rate = Field(default=None, description="Bytes written per second.")
    riops: _Rate = Field(default=None, description="Read operations per second.")
    wiops: _Rate = Field(default=None, description="Write operations per second.")


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
    "call with what is in the way, 'inline' runs it here and says so in its record."
)


class LimitTable(Table):
    """What one cgroup may use; the names are the kernel's with '_' for '.'."""

    memory_min: _Memory = Field(
        default=None, description="Bytes of memory that are never reclaimed (memory.min)."
    )
    memory_low: _Memory = Field(
        default=None, description="Bytes of memory that are reclaimed last (memory.low)."
    )
    memory_high: _MemoryBound = Field(
        default=None,
        description=(
            "Bytes of memory above which the kernel slows down and reclaims (memory.high). "
            "Needs memory_max or a timeout beside it: alone it turns a failure into a hang."
        ),
    )
    memory_max: _MemoryBound = Field(
        default=None,
        description=(
            "Bytes of memory above which the kernel kills (memory.max). "
            "A percentage is of the machine's memory, or of the container's."
        ),
    )
    memory_swap_max: _Memory = Field(
        default=None,
        description=(
            "Bytes of swap (memory.swap.max). Default: 0 wherever memory_max is a number, "
            "which would be no bound on a machine with swap otherwise."
        ),
    )
    memory_oom_group: _Flag = Field(
        default=None,
        description="On OOM kill everything in the cgroup, not one process (memory.oom.group).",
    )
    cpu_weight: _Weight = Field(
        default=None,
        description="Share of contended CPU, 1 to 10000 (cpu.weight); the kernel's default is 100.",
    )
    cpu_max: _Cpu = Field(
        default=None,
        description=(
            "CPU bandwidth (cpu.max): percent of one CPU, or 'QUOTA PERIOD' in microseconds."
        ),
    )
    cpu_max_burst: _Microseconds = Field(
        default=None,
        description="Microseconds of unused CPU quota that may be saved up (cpu.max.burst).",
    )
    pids_max: _Count = Field(
        default=None, description="Tasks, which are processes and threads (pids.max)."
    )
    io_weight: _Weight = Field(
        default=None, description="Share of contended disk time, 1 to 10000 (io.weight)."
    )
    io_max: Mapping[_Device, IoBounds] | None = Field(
        default=None,
        description="Bounds by block device, 'MAJOR:MINOR' as lsblk shows it (io.max).",
        json_schema_extra={"examples": [{"8:0": {"rbps": "10M", "wiops": 100}}]},
    )
    cpuset_cpus: _IdList = Field(
        default=None, description="CPUs to run on (cpuset.cpus), such as '0-3,8'."
    )
    cpuset_mems: _IdList = Field(
        default=None, description="Memory nodes to allocate from (cpuset.mems)."
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        """Refuse two keys of one table that cannot both be meant."""
        for lower, upper in ORDERED_PAIRS:
            if {lower, upper} <= self.model_fields_set:
                low, high = getattr(self, lower), getattr(self, upper)
                if is_above(low, high):
                    _refuse(
                        f"is {units.format_size(low)}, above {upper}, which is "
                        f"{units.format_size(high)}: lower {lower} or raise {upper}",
                        lower,
                    )
        if self.cpu_max is not None and is_above(self.cpu_max_burst, self.cpu_max[0]):
            _refuse(
                f"is {self.cpu_max_burst} microseconds, above the quota of cpu_max, which is "
                f"{self.cpu_max[0]}: lower cpu_max_burst or raise cpu_max",
                "cpu_max_burst",
            )
        return self

    def value(self, key: str) -> Any:
        """Return the value of a limit as `Limits` has it."""
        if key != "io_max" or self.io_max is None:
            return getattr(self, key)
        return {
            device: bounds.model_dump(exclude_none=True) for device, bounds in self.io_max.items()
        }


class CallLimits(LimitTable):
    """What each call may use; these defaults are meant to stop a runaway and nothing else."""

    # Of the recorded calls of coding agents (AgentCgroup study) 99.8 % stay below 256 MB, and none
    # took more than 3.8 GB. Half of the machine is above all of that where agents usually run,
    # lets big builds through on big machines, and leaves half for everybody else.
    memory_max: _MemoryBound = Field(
        default="50%",
        validate_default=True,
        description=(
            "Bytes of memory above which the kernel kills (memory.max). "
            "A percentage is of the machine's memory, or of the container's."
        ),
    )
    # A shell whose only child was killed goes on with half the work done; models read that as
    # success.
    memory_oom_group: _Flag = Field(
        default=True,
        description="On OOM kill everything in the cgroup, not one process (memory.oom.group).",
    )
    # Threads count too: a compiler with 16 threads on each of 64 cores stays below, a fork bomb
    # ends long before the kernel's smallest default pid_max, 32768.
    pids_max: _Count = Field(
        default=2048, description="Tasks, which are processes and threads (pids.max)."
    )
    timeout: _Timeout = Field(
        default=DEFAULT_TIMEOUT,
        validate_default=True,
        description="Time a call may take; 'none' for no limit. A bare number is seconds.",
    )
    # Inline costs nothing, loses no state and takes every tool: another process is a decision.
    isolation: Isolation = Field(default="auto", description=_ISOLATION)
    # A worker of its own is what keeps one call's data from the next.
    reuse: Annotated[int, _whole(1, 1_000_000, "a number of calls")] = Field(
        default=1, description=_REUSE
    )
    # Whoever asked for a boundary must hear that there is none.
    on_unshippable: OnUnshippable = Field(default="error", description=_ON_UNSHIPPABLE)


class Limiting(LimitTable):
    """Everything that can be said about single calls: in a rule, or where a call is opened."""

    timeout: _Timeout = Field(
        default=None,
        description="Time a call may take; 'none' for no limit. A bare number is seconds.",
    )
    background: Background | None = Field(
        default=None,
        description="What becomes of processes that outlive their call: 'kill' or 'keep'.",
    )
    isolation: Isolation | None = Field(default=None, description=_ISOLATION)
    reuse: _Reuse = Field(default=None, description=_REUSE)
    on_unshippable: OnUnshippable | None = Field(default=None, description=_ON_UNSHIPPABLE)
    priority: Priority | None = Field(
        default=None,
        description=(
            "Share of contended CPU in words: high, normal and low are cpu_weight 1000, 100 and "
            "10. A cpu_weight in the same table wins."
        ),
    )


#: What a rule for agents cannot say.
_OF_CALLS = {"tool", "timeout", "background", "isolation", "reuse", "on_unshippable"}


class Rule(Limiting):
    """Limits for some calls, or some agents; later rules win, key by key."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [key]} for key in ("tool", "agent", "framework")]}
    )

    tool: _Glob = Field(default=None, description="Glob that the tool's name must match.")
    agent: _Glob = Field(
        default=None,
        description="Glob that the agent's name must match; code without an agent matches '*'.",
    )
    framework: _Glob = Field(
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
            _refuse("says for no call what it is for: add tool, agent or framework ('*' is all)")
        of_calls = self.model_fields_set & _OF_CALLS
        if self.applies_to == "agent" and of_calls:
            _refuse(
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


class MonitorTable(Table):
    """What looks at calls from within the kernel; see docs/monitor.md."""

    # A helper process and programs in the kernel are for who asks for them.
    backend: Backend = Field(
        default="off",
        description=(
            "Where events come from. 'libbpf': BPF programs (CAP_BPF and CAP_PERFMON); 'procs': "
            "the kernel's process connector (CAP_NET_ADMIN); 'bcc': BPF programs that the "
            "distribution's BCC compiles here, for kernels without BTF (python3-bpfcc and the "
            "kernel's headers); 'auto': the first of these that works here, else the cgroup's "
            "files alone; 'off': those alone."
        ),
    )
    detail: Literal["default", "full"] = Field(
        default="default",
        description=(
            "'default': what costs nothing measurable; 'full': BPF programs on the scheduler and "
            "on memory charging too."
        ),
    )
    escape: Literal["return", "kill"] = Field(
        default="return",
        description=(
            "A process that leaves its call's cgroup is brought back: 'return', or ends the call: "
            "'kill'. One that was born outside is brought in either way."
        ),
    )


_PoolSize = Annotated[int, _whole(0, 10_000, "a number of workers")]


class Workers(Table):
    """The worker processes that stand ready for tools with isolation = "process"."""

    min: _PoolSize = Field(
        default=1, description="How many stay ready however long no tool has asked for one."
    )
    max: _PoolSize = Field(
        default=8,
        description="How many may stand ready at once; calls at work are not counted.",
    )
    idle: Annotated[
        float,
        BeforeValidator(_pause),
        _schema("string", "number", examples=["1m", 30]),
    ] = Field(
        default="1m",
        validate_default=True,
        description="Time after which a worker that no tool has asked for is ended.",
    )

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min > self.max:
            _refuse(f"is {self.min}, above max, which is {self.max}: lower min or raise max", "min")
        return self


class Config(Table):
    """A whole configuration; `load` makes one."""

    mode: Mode = Field(
        default="auto",
        description=(
            "'auto': enforce what this machine can and say what it cannot; 'enforce': refuse to "
            "start without; 'observe': measure, limit nothing; 'off': do nothing."
        ),
    )
    background: Background = Field(
        default="kill",
        description="What becomes of processes that outlive their call: 'kill' or 'keep'.",
    )
    records: _Path = Field(
        default=None,
        description=(
            "File that finished calls are appended to as JSON Lines; "
            "relative to the folder of the configuration."
        ),
    )
    records_max: Annotated[int, _whole(1, 10_000_000, "a number of records")] = Field(
        default=10_000, description="How many finished calls a session keeps in memory."
    )
    cgroup_root: _CgroupPath = Field(
        default=None,
        description="Cgroup to work below, absolute; default: found on this machine.",
    )
    workers: Workers = Field(
        default_factory=Workers,
        description='Worker processes that stand ready for tools with isolation = "process".',
    )
    limits: LimitTables = Field(default_factory=LimitTables, description="The three levels.")
    monitor: MonitorTable = Field(
        default_factory=MonitorTable, description="What looks at calls from within the kernel."
    )
    rules: tuple[Rule, ...] = Field(
        default=(), description="Limits for some calls or agents; later rules win, key by key."
    )

    _source: Source = PrivateAttr(default_factory=lambda: Source("the built-in defaults"))

    @property
    def source(self) -> Source:
        """Where this configuration was read."""
        return self._source

    @model_validator(mode="after")
    def _no_hang(self) -> Self:
        """Refuse a memory_high that nothing ends; rules are looked at one by one."""
        calls = [rule for rule in self.rules if rule.applies_to == "call"]
        # What hangs in the cgroup of an agent are its calls, so the end of all of them will do.
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
        _refuse(ALONE, key)
