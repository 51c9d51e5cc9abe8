"""`agentcgroup doctor`: test what this machine enforces, and report how to fix the rest."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from agentcgroup.cli.finding import Finding, State

if TYPE_CHECKING:
    from agentcgroup.config.tables import Config, MonitorTable

__all__ = ["command"]

_COLORS: dict[State, str] = {"yes": "green", "partly": "yellow", "no": "red"}

#: What a controller enforces or measures beside its limits.
_BESIDE_LIMITS = {
    "memory": "; an OOM kill ends one call alone; peak in the record",
    "io": "; bytes in the record",
}


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    config: Annotated[
        str | None,
        typer.Option(help="Configuration file; default: the one that a program would read here."),
    ] = None,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE[:TOOLS]",
            help="Instead, test which tools of an app can run in a worker process.",
        ),
    ] = None,
) -> None:
    """Test what this machine enforces, and report how to fix the rest.

    \b
    agentcgroup doctor
    agentcgroup doctor --json || echo "not everything is enforced here"

    It makes cgroups, writes limits, starts a process and hooks each installed framework.
    Each line of the report begins with yes, partly or no.

    Exit status: 0 if everything is enforced, 1 if anything is not (lines of the monitor do
    not count), 2 if the configuration is wrong.

    \b
    agentcgroup doctor --app myapp.tools:TOOLS
    agentcgroup doctor --app myapp --json

    With --app, it imports a module and reports for each tool whether isolation =
    "process" can be set for it; if not, which object (a lock, a socket, an open
    connection) is in the way; how many bytes each call sends to a worker; and how long
    the round trip takes. It runs no tool. TOOLS is a list, a dict, a tool or a function
    in the module; without it, all tools of frameworks in the module are tested.

    Exit status with --app: 0 if a worker can run every tool, 1 if there is one that it
    cannot run, 2 if the module cannot be loaded or has no tools.
    """
    if app is not None:
        from agentcgroup.cli import tools

        raise typer.Exit(0 if tools.report(app, as_json=as_json) else 1)
    findings = list(_findings(config))
    complete = all(finding.state == "yes" for finding in findings if finding.enforces)
    if as_json:
        report = {"complete": complete, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(findings, complete)
    raise typer.Exit(0 if complete else 1)


def _findings(config: str | None) -> Iterator[Finding]:
    from agentcgroup.cli import frameworks
    from agentcgroup.config.loading import load

    yield Finding("Python", "yes", f"{platform.python_version()} ({sys.executable})")
    kernel = f"{platform.system()} {platform.release()}"
    if sys.platform != "linux":
        from agentcgroup.place.problems import NOT_LINUX

        yield Finding("kernel", "no", f"{kernel} has no cgroups.", NOT_LINUX.fix)
        return
    yield Finding("kernel", "yes", kernel)
    loaded = load(config)
    yield from _place(loaded)
    yield _spawning()
    yield from _monitor(loaded.monitor)
    yield from frameworks.findings()


def _place(config: Config) -> Iterator[Finding]:
    from agentcgroup.cgroup.limits import CONTROLLERS, LIMITS
    from agentcgroup.config.policy import Resolver
    from agentcgroup.place.place import find

    place = find(config.cgroup_root, Resolver(config).controllers())
    if place.base is None:
        yield Finding("cgroup v2", "no", "tools run without cgroups of their own.")
    else:
        yield Finding("cgroup v2", "yes", f"{place.base} ({place.kind})")
    for name in (*CONTROLLERS, *sorted(place.controllers.difference(CONTROLLERS))):
        if name in place.controllers:
            keys = ", ".join(key for key, row in LIMITS.items() if row.controller == name)
            keys = keys or f"keys of unified that begin with {name}."
            yield Finding(f"limits of {name}", "yes", keys + _BESIDE_LIMITS.get(name, ""))
    for problem in place.problems:
        yield Finding(problem.what, "no", problem.why, problem.fix)


def _spawning() -> Finding:
    from agentcgroup import spawn

    method = spawn.method()
    return Finding("children born in their cgroup", method.state, method.detail, method.fix)


# -- the monitor ----------------------------------------------------------------------------------

#: What each backend observes in a call.
_SEEN = {
    "libbpf": "BPF programs: processes, their ends, escapes, the kernel's counters",
    "procs": "the process connector: processes, their ends, escapes; no counters of the kernel",
    "bcc": "BPF programs compiled here: processes, their ends, escapes",
}


def _monitor(asked: MonitorTable) -> Iterator[Finding]:
    """Try the configured backends; yield the one that works, its gaps, and those that failed."""
    from agentcgroup.monitor.choice import choose

    if asked.backend == "off":
        detail = "off: records have only the figures of the cgroup's own files."
        yield Finding("monitor", "yes", detail, '[monitor] backend = "auto".', enforces=False)
        return
    source, refused = choose(asked.backend, asked.detail, stop=True)
    if source is None:
        detail = (
            "no backend works: records have only the figures of the cgroup's own files, and "
            "processes that leave their cgroup are not moved back."
        )
        yield Finding("monitor", "no", detail, enforces=False)
    else:
        with contextlib.closing(source):
            best = source.name == "libbpf" or source.name == asked.backend
            state: State = "yes" if best and not source.missing else "partly"
            detail = f"{source.name}: {_SEEN[source.name]}"
            yield Finding("monitor", state, detail, enforces=False)
            for counter, why in source.missing.items():
                yield Finding(f"monitor: {counter}", "no", f"not counted: {why}", enforces=False)
    for name, reason, fix in refused:
        yield Finding(f"monitor by {name}", "no", f"{reason.rstrip('.')}.", fix, enforces=False)


# -- the report ---------------------------------------------------------------------------------


def _print(findings: Iterable[Finding], complete: bool) -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    for finding in findings:
        mark = typer.style(f"{finding.state:<8}", fg=_COLORS[finding.state], bold=True)
        text = _wrapped(f"{finding.what}: {finding.detail}", width)
        typer.echo(mark + text.lstrip())
        if finding.fix:
            typer.echo(_wrapped(f"To change it: {finding.fix}", width))
    if not complete:
        typer.echo(
            "\n"
            + textwrap.fill(
                'Except for the monitor, which enforces no limit, a line marked "no" or "partly" '
                'names what is not enforced here. mode = "auto" enforces the rest and logs what '
                'is missing. If a limit is missing, mode = "enforce" refuses to start.',
                width,
            )
        )


def _wrapped(text: str, width: int) -> str:
    """Wrap text below the second column; break no word, so that commands can be copied."""
    return textwrap.fill(
        text,
        width,
        initial_indent=" " * 8,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )
