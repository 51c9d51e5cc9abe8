"""`agentcgroup exec`: one command as one call, for shell agents and scripts."""

from __future__ import annotations

import json
import signal
import subprocess
from typing import Annotated, Any

import typer

__all__ = ["command"]

#: As timeout(1) and the shell report them.
_TIMED_OUT = 124
_KILLED = 128 + signal.SIGKILL


def command(
    target: Annotated[list[str], typer.Argument(help="The command and its arguments")],
    tool: Annotated[
        str | None, typer.Option(help="Its name in rules and records; default: the program's")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Whose call it is")] = None,
    memory_max: Annotated[str | None, typer.Option(help="Such as 512M")] = None,
    memory_high: Annotated[str | None, typer.Option(help="Such as 400M")] = None,
    cpu_max: Annotated[str | None, typer.Option(help="Percent of one CPU, such as 200%")] = None,
    cpu_weight: Annotated[int | None, typer.Option(help="1 to 10000, 100 is usual")] = None,
    pids_max: Annotated[int | None, typer.Option(help="Processes and threads")] = None,
    timeout: Annotated[str | None, typer.Option(help="Such as 90s or 10m")] = None,
    config: Annotated[
        str | None, typer.Option(help="Config file, instead of the one found")
    ] = None,
    record: Annotated[bool, typer.Option(help="Print the call's record as JSON on stderr")] = False,
) -> None:
    r"""Run one command as one call: its own cgroup, its limits, nothing left behind.

    \b
    agentcgroup exec --memory-max 512M --timeout 90s -- make test

    Ends with the command's own status; with 124 when its time was over and 137 when a limit killed
    it, and then says on stderr which limit and what to try.
    """
    import os

    from agentcgroup import api, feedback
    from agentcgroup.errors import LimitExceeded

    given: dict[str, Any] = {
        "memory_max": memory_max,
        "memory_high": memory_high,
        "cpu_max": cpu_max,
        "cpu_weight": cpu_weight,
        "pids_max": pids_max,
        "timeout": timeout,
    }
    limits = {key: value for key, value in given.items() if value is not None}
    session = api.begin(config)
    status = 0
    try:
        with api.call(tool or os.path.basename(target[0]), agent=agent, **limits):
            status = _wait(target)
    except LimitExceeded as error:
        typer.echo(f"agentcgroup: {error}", err=True)
        status = _TIMED_OUT if error.record.outcome == "timeout" else _KILLED
    except OSError as error:
        typer.echo(f"agentcgroup exec: cannot start {target[0]!r}: {error.strerror}", err=True)
        status = 126 if isinstance(error, PermissionError) else 127
    done = session.records[-1]
    if done.reason == "leftovers":
        typer.echo(f"agentcgroup: {feedback.sentence(done)}", err=True)
    if record:
        typer.echo(json.dumps(done.to_dict()), err=True)
    api.unregister()
    raise typer.Exit(status)


def _wait(target: list[str]) -> int:
    """Run to the end, signals meant for the command passed on; returns a shell's status."""
    with subprocess.Popen(target) as child:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda got, _frame: child.send_signal(got))
        # The terminal sends Ctrl-C to the command as well; what it makes of it is its own affair.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        status = child.wait()
    return status if status >= 0 else 128 - status
