"""`agentcgroup exec`: one command as one call, for shell agents and scripts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any

import typer

__all__ = ["command"]

#: How a limit ended the command to the status for it, as of timeout(1) and of a shell: 128 + 9.
_STATUS = {"timeout": 124, "oom": 137, "killed": 137}


def command(
    target: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="The command and its arguments."),
    ],
    tool: Annotated[
        str | None, typer.Option(help="Its name in rules and records; default: the program's.")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Whose call it is.")] = None,
    memory_max: Annotated[str | None, typer.Option(help="Such as 512M.")] = None,
    memory_high: Annotated[str | None, typer.Option(help="Such as 400M.")] = None,
    cpu_max: Annotated[str | None, typer.Option(help="Percent of one CPU, such as 200%.")] = None,
    cpu_weight: Annotated[int | None, typer.Option(help="1 to 10000, 100 is usual.")] = None,
    pids_max: Annotated[
        str | None, typer.Option(help="Processes and threads, such as 256.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(help="Such as 90s or 10m.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Configuration; default: the one a program would use.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Print the call's record as JSON on stderr.")
    ] = False,
) -> None:
    """Run one command as one call, with its own cgroup and limits.

    \b
    agentcgroup exec --memory-max 512M --timeout 90s -- make test

    Ends with the command's own status; with 124 when its time was over and 137 when a
    limit killed it, and then says on stderr which limit and what to try. 126: it cannot
    be executed; 127: it was not found.
    """
    from agentcgroup import api
    from agentcgroup.calls import feedback
    from agentcgroup.errors import LimitExceeded

    given: dict[str, Any] = {
        "memory_max": memory_max,
        "memory_high": memory_high,
        "cpu_max": cpu_max,
        "cpu_weight": cpu_weight,
        "pids_max": int(pids_max) if pids_max and pids_max.isdecimal() else pids_max,
        "timeout": timeout,
    }
    limits = {key: value for key, value in given.items() if value is not None}
    api.begin(config)
    status = 0
    try:
        with api.call(tool or os.path.basename(target[0]), agent=agent, **limits) as call:
            status = _run(target)
            if status:
                raise subprocess.CalledProcessError(status, target)
    except subprocess.CalledProcessError:
        pass  # that the command failed is for the record; its own words are said
    except LimitExceeded as error:
        _say(str(error))
        # The command may have met a limit (pids_max) and gone on: then its status counts.
        status = _STATUS.get(error.record.outcome, status)
    except OSError as error:
        _say(f"cannot start {target[0]!r}: {error.strerror}")
        status = 127 if isinstance(error, FileNotFoundError) else 126
    api.unregister()  # the record is there when all is cleared away
    done = call.record
    if done.reason == "leftovers" and (sentence := feedback.sentence(done)):
        _say(sentence)
    if record:
        typer.echo(json.dumps(done.to_dict()), err=True)
    raise typer.Exit(status)


def _run(target: Sequence[str]) -> int:
    """Run to the end, signals meant for the command passed on; returns a shell's status."""
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # arrived before there was somebody to pass them to

    def forward(number: int, _frame: FrameType | None) -> None:
        if child is None:
            early.append(number)
        else:
            child.send_signal(number)

    def interrupt(number: int, frame: FrameType | None) -> None:
        # A terminal sends it to the command as well; what that makes of it is its affair.
        if not _in_foreground():
            forward(number, frame)

    # Handlers, since what is ignored stays ignored in the command; what we were started to ignore
    # (nohup, a shell's background job) is for the command to ignore as well.
    _handle(forward, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    _handle(interrupt, signal.SIGINT, signal.SIGQUIT)
    # All descriptors are the command's, as behind any shell; ours are closed by exec (PEP 446).
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
    """Say whether this process group is the one that a terminal's keys interrupt."""
    try:
        with open("/dev/tty", "rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:  # there is no terminal
        return False


def _say(message: str) -> None:
    typer.echo(f"agentcgroup exec: {message}", err=True)
