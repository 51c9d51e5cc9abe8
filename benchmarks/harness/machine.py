"""Facts about the machine that measures, and sentences for the tables made of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from typing import Any

from agentcgroup import __version__, spawn
from agentcgroup.place.place import find, teardown


def resident_mb() -> int:
    """Return the resident memory of this process in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def facts() -> dict[str, Any]:
    """Return the facts that a reader needs to compare the figures with others."""
    place = find()
    teardown(place)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "agentcgroup": __version__,
        "kernel": platform.release(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "python": platform.python_version(),
        "langchain_core": _langchain(),
        "controllers": sorted(place.controllers),
        "spawn": spawn.method().mode,
        # chrt -f keeps the machine's other work off the CPU of the benchmark.
        "realtime": os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),
    }


def described(facts: Mapping[str, Any], *more: str) -> str:
    """Return a sentence of the facts about the hardware, and of the parts in `more`."""
    parts = [
        f"{facts['date']}, Linux {facts['kernel']}, {facts['cpus']} CPUs ({facts['processor']}),"
        f" {facts['memory_mb']} MB",
        *more,
    ]
    if facts.get("realtime"):
        parts.append("under a real-time priority")
    return f"{'; '.join(parts)}."


def placing(facts: Mapping[str, Any], what: str) -> str:
    """Return a part for that sentence: the controllers, and how `what` is placed in cgroups."""
    controllers = ", ".join(facts["controllers"]) or "none"
    return f"cgroup controllers: {controllers}; {what} placed by {facts['spawn']}"


def _langchain() -> str:
    from importlib.metadata import version

    return version("langchain-core")


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.machine()
