"""Asking systemd for a delegated scope: the one way that a running program has.

A transient scope with Delegate=yes is made around the calling process (StartTransientUnit of
org.freedesktop.systemd1.Manager, see systemd's CGROUP_DELEGATION.md): by root over the system bus,
by a user over the bus of the user's own manager. The program then owns the cgroups below the scope;
systemd removes the scope with its last process.

The scope is made in the slice that the program is in, and gets the limits of the cgroups that the
program leaves, so that none is lifted.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final

from agentcgroup.threads import sleep

__all__ = ["NAME", "ScopeRefused", "slice_of", "start_scope"]

#: The prefix of the names of our scopes.
NAME: Final = "agentcgroup"

_TIMEOUT_S: Final = 5.0
#: The unit of a user's own manager.
_USER_MANAGER: Final = re.compile(r"user@[0-9]+\.service")

#: A property of a unit: its name, and its type and value on the bus.
_Property = tuple[str, tuple[str, object]]


def _bytes(name: str) -> Callable[[str], list[_Property]]:
    return lambda text: [(name, ("t", int(text)))]


def _cpu_quota(text: str) -> list[_Property]:
    quota, period = map(int, text.split())
    return [
        ("CPUQuotaPerSecUSec", ("t", quota * 1_000_000 // period)),
        ("CPUQuotaPeriodUSec", ("t", period)),
    ]


def _mask(name: str) -> Callable[[str], list[_Property]]:
    """Return what makes a property of a list such as "0-3,8": a bit for each number."""

    def properties(text: str) -> list[_Property]:
        bits = 0
        for part in text.split(","):
            first, _, last = part.partition("-")
            for number in range(int(first), int(last or first) + 1):
                bits |= 1 << number
        return [(name, ("ay", bits.to_bytes(bits.bit_length() // 8 + 1, "little")))]

    return properties


#: The properties of a unit (systemd.resource-control(5)) for a limit, by the limit's file.
_LIMITS: Final[Mapping[str, Callable[[str], list[_Property]]]] = {
    "memory.max": _bytes("MemoryMax"),
    "memory.high": _bytes("MemoryHigh"),
    "memory.swap.max": _bytes("MemorySwapMax"),
    "memory.zswap.max": _bytes("MemoryZSwapMax"),
    "pids.max": _bytes("TasksMax"),
    "cpu.max": _cpu_quota,
    "cpuset.cpus": _mask("AllowedCPUs"),
    "cpuset.mems": _mask("AllowedMemoryNodes"),
}


class ScopeRefused(Exception):
    """Raised when systemd cannot be reached or refuses; the text has the reason."""


def slice_of(cgroup: str, *, user: bool) -> str | None:
    """Return the path of the nearest slice above a cgroup in which a manager can make a scope.

    Args:
        cgroup: as in /proc/PID/cgroup.
        user: the manager is the user's own, which has the slices below its unit.

    Returns:
        None where the cgroup is in no slice of that manager.
    """
    parts = cgroup.split("/")
    managers = [at for at, part in enumerate(parts) if _USER_MANAGER.fullmatch(part)]
    first, end = (managers[-1] if managers else len(parts)), len(parts)
    if not user:
        first, end = 0, managers[0] if managers else len(parts)
    for at in range(end - 1, first - 1, -1):
        if parts[at].endswith(".slice"):
            return "/".join(parts[: at + 1])
    return None


def start_scope(*, user: bool, within: str | None, limits: Mapping[str, str]) -> None:
    """Move the calling process, and no other, into a delegated scope of its own.

    Args:
        user: ask the user's own manager instead of the system's.
        within: the slice of the scope, as `slice_of` returns it; None for the manager's choice.
        limits: what the scope is to be limited to, by the name of the cgroup's file.

    Raises:
        ScopeRefused: there is no bus, no answer within 5 seconds, or the answer is an error; or
            systemd has no property for one of the limits.
    """
    unknown = ", ".join(sorted(limits.keys() - _LIMITS.keys()))
    if unknown:
        raise ScopeRefused(f"a scope would lift the limits of this program's cgroup ({unknown})")
    more: list[_Property] = []
    if within is not None:
        more.append(("Slice", ("s", within.rpartition("/")[2])))
    for file, text in limits.items():
        more += _LIMITS[file](text)
    before = _own_cgroup()
    name = f"{NAME}-{os.getpid()}-{secrets.token_hex(4)}"
    _ask(_user_bus() if user else "SYSTEM", name, more)
    # The answer names a queued job; the job moves this process.
    deadline = time.monotonic() + _TIMEOUT_S
    while _own_cgroup() == before:
        if time.monotonic() > deadline:
            raise ScopeRefused(f"systemd took the job, but did not do it in {_TIMEOUT_S:g} seconds")
        sleep(0.002)


def _ask(bus: str, name: str, more: list[_Property]) -> None:
    """Send StartTransientUnit, with `more` properties, and wait for the answer.

    Raises:
        ScopeRefused: there is no bus, no answer, or the answer is an error.
    """
    # Loaded here: most runs never ask systemd.
    from jeepney import DBusAddress, DBusErrorResponse, new_method_call
    from jeepney.io.blocking import open_dbus_connection
    from jeepney.wrappers import unwrap_msg

    manager = DBusAddress(
        "/org/freedesktop/systemd1",
        bus_name="org.freedesktop.systemd1",
        interface="org.freedesktop.systemd1.Manager",
    )
    properties: list[_Property] = [
        ("Description", ("s", "agentcgroup: tool calls of AI agents")),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("PIDs", ("au", [0])),  # 0: the sender, correct in any pid namespace
        *more,
    ]
    message = new_method_call(
        manager,
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        (f"{name}.scope", "fail", properties, []),
    )
    try:
        with open_dbus_connection(bus, auth_timeout=_TIMEOUT_S) as connection:
            unwrap_msg(connection.send_and_get_reply(message, timeout=_TIMEOUT_S))
    except DBusErrorResponse as error:
        raise ScopeRefused(f"systemd refused a scope: {error}") from error
    except (OSError, KeyError, ValueError, StopIteration, RuntimeError) as error:
        raise ScopeRefused(f"the bus of systemd cannot be used ({bus}): {error}") from error


def _user_bus() -> str:
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    return address or f"unix:path=/run/user/{os.geteuid()}/bus"


def _own_cgroup() -> str:
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
