"""`agentcgroup exec`: run one command as one call, for shell agents and scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from agentcgroup.records.record import CallRecord

__all__ = ["command"]

#: The exit status for each outcome by which a limit ends the command: 124 as of timeout(1), and 137
#: (128 + SIGKILL) as of a shell.
_STATUS = {"timeout": 124, "oom": 137, "killed": 137}


def command(
    target: Annotated[
        list[str], typer.Argument(metavar="COMMAND", help="The command, then its arguments.")
    ],
    tool: Annotated[
        str | None,
        typer.Option(help="Tool name in rules and in the record; default: the program's name."),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="Agent name in rules and in the record; default: none.")
    ] = None,
    memory_max: Annotated[
        str | None, typer.Option(help="The kernel kills the command above this, such as 512M.")
    ] = None,
    memory_high: Annotated[
        str | None, typer.Option(help="The kernel slows it down above this, such as 400M.")
    ] = None,
    cpu_max: Annotated[
        str | None, typer.Option(help="CPU time as a percentage of one CPU, such as 200%.")
    ] = None,
    cpu_weight: Annotated[
        int | None, typer.Option(help="Share of contended CPU, 1 to 10000; default: 100.")
    ] = None,
    pids_max: Annotated[
        str | None, typer.Option(help="Most processes and threads at once, such as 256.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="Longest time, such as 90s or 10m.")] = None,
    config: Annotated[
        str | None,
        typer.Option(help="Configuration file; default: the one that a program would read here."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Print the record of the call as JSON on stderr.")
    ] = False,
) -> None:
    """Run one command as one call, with its own cgroup and limits.

    \b
    agentcgroup exec --memory-max 512M --timeout 90s -- make test

    Limits that no option sets come from the configuration. When a limit ends the command,
    a message on stderr names the limit and suggests what to try.

    Exit status: the command's own (128 + N if signal N ended it); 124 if it reached its
    timeout; 137 if another limit killed it; 126 if it cannot be executed; 127 if there is
    no such command; 2 if an option or the configuration is wrong.
    """
    given: dict[str, Any] = {
        "memory_max": memory_max,
        "memory_high": memory_high,
        "cpu_max": cpu_max,
        "cpu_weight": cpu_weight,
        "pids_max": int(pids_max) if pids_max and pids_max.isdecimal() else pids_max,
        "timeout": timeout,
    }
    limits = {key: value for key, value in given.items() if value is not None}
    status, done = _call(target, config, tool, agent, limits)
    if record:
        typer.echo(json.dumps(done.to_dict()), err=True)
    raise typer.Exit(status)


def _call(
    target: Sequence[str],
    config: str | None,
    tool: str | None,
    agent: str | None,
    limits: Mapping[str, Any],
) -> tuple[int, CallRecord]:
    """Run the command in a session of its own; return its exit status and the call's record."""
    from agentcgroup import api
    from agentcgroup.calls import feedback
    from agentcgroup.errors import LimitExceeded

    api.begin(config)
    status = 0
    try:
        with api.call(tool or os.path.basename(target[0]), agent=agent, **limits) as call:
            status = _run(target)
            if status:
                raise subprocess.CalledProcessError(status, target)
    except subprocess.CalledProcessError:
        pass  # makes the outcome "error"; the command has printed its own message
    except LimitExceeded as error:
        _report(str(error))
        # A command that met pids_max may have gone on; then its own status counts.
        status = _STATUS.get(error.record.outcome, status)
    except OSError as error:
        _report(f"cannot start {target[0]!r}: {error.strerror}")
        status = 127 if isinstance(error, FileNotFoundError) else 126
    api.unregister()  # completes the record
    done = call.record
    if done.reason == "leftovers" and (sentence := feedback.sentence(done)):
        _report(sentence)
    return status, done


def _run(target: Sequence[str]) -> int:
    """Run the command and forward signals to it; return its exit status as a shell would."""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # signals that arrived before the command had started

    def forward(number: int, _frame: FrameType | None) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    def interrupt(number: int, frame: FrameType | None) -> None:
        # A terminal sends the signal to its whole foreground group, and so to the command itself.
        if not _in_foreground():
            forward(number, frame)

    # A child inherits ignored signals, but not handlers. So these signals get handlers here, and
    # those that this process was started to ignore (nohup, a shell's background job) stay ignored.
    _handle(forward, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    _handle(interrupt, signal.SIGINT, signal.SIGQUIT)
    # The command inherits all other descriptors, as from a shell; exec closes ours (PEP 446).
    child = subprocess.Popen(target, close_fds=False)
    for number in early:
        child.send_signal(number)
    status = child.wait()
    return status if status >= 0 else 128 - status


def _handle(handler: Callable[[int, FrameType | None], None], *numbers: int) -> None:
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Return whether a terminal's keys (Ctrl-C) send signals to this process group."""
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:  # this process has no terminal
        return False


def _report(message: str) -> None:
    typer.echo(f"agentcgroup exec: {message}", err=True)
