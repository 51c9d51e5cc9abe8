"""Asking systemd for a delegated scope: the one way that a running program has.

A transient scope with Delegate=yes is made around the calling process (StartTransientUnit of
org.freedesktop.systemd1.Manager, see systemd's CGROUP_DELEGATION.md): by root over the system bus,
by a user over the bus of the user's own manager. The program then owns the cgroups below the scope;
systemd removes the scope with its last process.
"""

from __future__ import annotations

import os
import secrets
import time
from typing import Final

from agentcgroup.threads import sleep

__all__ = ["NAME", "ScopeRefused", "start_scope"]

#: The prefix of the names of our scopes.
NAME: Final = "agentcgroup"

_TIMEOUT_S: Final = 5.0


class ScopeRefused(Exception):
    """Raised when systemd cannot be reached or refuses; the text has the reason."""


def start_scope(*, user: bool) -> None:
    """Move the calling process, and no other, into a delegated scope of its own.

    Args:
        user: ask the user's own manager instead of the system's.

    Raises:
        ScopeRefused: there is no bus, no answer within 5 seconds, or the answer is an error.
    """
    before = _own_cgroup()
    _ask(_user_bus() if user else "SYSTEM", f"{NAME}-{os.getpid()}-{secrets.token_hex(4)}")
    # The answer names a queued job; the job moves this process.
    deadline = time.monotonic() + _TIMEOUT_S
    while _own_cgroup() == before:
        if time.monotonic() > deadline:
            raise ScopeRefused(f"systemd took the job, but did not do it in {_TIMEOUT_S:g} seconds")
        sleep(0.002)


def _ask(bus: str, name: str) -> None:
    """Send StartTransientUnit and wait for the answer.

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
    properties: list[tuple[str, tuple[str, object]]] = [
        ("Description", ("s", "agentcgroup: tool calls of AI agents")),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("PIDs", ("au", [0])),  # 0: the sender, correct in any pid namespace
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
