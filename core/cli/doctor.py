"""`agentcgroup doctor`: what is enforced here, what is not, why, and what would change it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

__all__ = ["command"]

State = Literal["yes", "partly", "no"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    what: str
    state: State
    detail: str
    fix: str | None = None


def command(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts")] = False,
    config: Annotated[
        str | None, typer.Option(help="Config file, instead of the one found")
    ] = None,
) -> None:
    """Say what is enforced on this machine, what is not and why, and what would change it.

    Ends with 0 when every limit can be enforced, with 1 when something cannot, so that a script or
    a container's start can ask.
    """
    findings = [*_machine(config), *_spawning(), *_frameworks()]
    complete = all(finding.state == "yes" for finding in findings)
    if as_json:
        report = {"complete": complete, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(findings, complete)
    raise typer.Exit(0 if complete else 1)


#: What each controller is for, in the order of the report.
_CONTROLLERS = {
    "memory": "memory_max, memory_high, OOM of one call alone, memory.peak",
    "cpu": "cpu_max, cpu_weight",
    "pids": "pids_max",
    "io": "io_max, io_weight, bytes read and written",
    "cpuset": "cpuset_cpus, cpuset_mems",
}


def _machine(config: str | None) -> list[Finding]:
    if sys.platform != "linux":
        why = f"{platform.system()} has no cgroups"
        return [Finding("cgroup v2", "no", why, "run the agent on Linux, or in a Linux container")]
    from agentcgroup.cgroup import find
    from agentcgroup.config import load

    place = find(load(config).cgroup_root)
    if place.base is None:
        findings = [Finding("cgroup v2", "no", "tools run without a cgroup")]
    else:
        findings = [Finding("cgroup v2", "yes", f"{place.base} ({place.kind})")]
        findings += [
            Finding(f"{name} limits", "yes", purpose)
            for name, purpose in _CONTROLLERS.items()
            if name in place.controllers
        ]
    findings += [
        Finding(problem.what, "no", problem.why, problem.fix) for problem in place.problems
    ]
    return findings


def _spawning() -> list[Finding]:
    from agentcgroup import spawn

    facts = spawn.facts()
    return [Finding("children born in the cgroup", facts.state, facts.detail, facts.fix)]


def _frameworks() -> list[Finding]:
    from agentcgroup.api import FRAMEWORKS

    findings = []
    for name, module in FRAMEWORKS.items():
        distribution = module.replace("_", "-")
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        findings.append(Finding(name, "yes", f"{distribution} {version}"))
    return findings


def _print(findings: list[Finding], complete: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    marks = {"yes": "[green]yes[/]", "partly": "[yellow]partly[/]", "no": "[red]no[/]"}
    for finding in findings:
        table.add_row(finding.what, marks[finding.state], finding.detail)
        if finding.fix:
            table.add_row("", "", f"[dim]to change it: {finding.fix}[/]")
    console = Console()
    console.print(table)
    if not complete:
        console.print(
            '\nWhat says "no" is not enforced here. mode = "auto" does the rest and says so; '
            'mode = "enforce" refuses to start.'
        )
