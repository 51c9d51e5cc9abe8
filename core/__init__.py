"""Every tool call of an AI agent in its own Linux cgroup.

::

    import agentcgroup
    agentcgroup.register()      # hooks every supported framework that is installed

Limits come from ``agentcgroup.toml``; ``agentcgroup doctor`` says what this machine enforces.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentcgroup.api import agent, call, current_call, isolate, register, unregister
    from agentcgroup.calls.call import Call
    from agentcgroup.calls.session import Session
    from agentcgroup.errors import (
        AgentCgroupError,
        CgroupUnavailable,
        ConfigError,
        LimitExceeded,
        Unshippable,
        WorkerDied,
    )
    from agentcgroup.monitor.events import Event
    from agentcgroup.records.record import CallRecord

__all__ = [
    "AgentCgroupError",
    "Call",
    "CallRecord",
    "CgroupUnavailable",
    "ConfigError",
    "Event",
    "LimitExceeded",
    "Session",
    "Unshippable",
    "WorkerDied",
    "agent",
    "call",
    "current_call",
    "isolate",
    "register",
    "unregister",
]

__version__ = "0.1.0"

# Module to the names that are loaded from it at their first use: a child that only joins a cgroup,
# and a process that only imports the package, load neither pydantic nor the hooks.
_EXPORTS = {
    "agentcgroup.api": ("agent", "call", "current_call", "isolate", "register", "unregister"),
    "agentcgroup.calls.call": ("Call",),
    "agentcgroup.errors": (
        "AgentCgroupError",
        "CgroupUnavailable",
        "ConfigError",
        "LimitExceeded",
        "Unshippable",
        "WorkerDied",
    ),
    "agentcgroup.monitor.events": ("Event",),
    "agentcgroup.records.record": ("CallRecord",),
    "agentcgroup.calls.session": ("Session",),
}


def __getattr__(name: str) -> Any:
    for module, names in _EXPORTS.items():
        if name in names:
            value = getattr(importlib.import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
