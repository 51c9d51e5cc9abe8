"""`agentcgroup clean`: end and remove what dead runs left behind."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go")] = False,
    config: Annotated[
        str | None, typer.Option(help="Config file, instead of the one found")
    ] = None,
) -> None:
    """Kill the processes and remove the cgroups of runs whose own process has died.

    Each start does the same by itself; this is for machines where nothing starts any more. Runs
    that are alive, and cgroups that are not ours, are never touched.
    """
    from agentcgroup.cgroup import Cgroup, find, orphans, reap
    from agentcgroup.config import load

    base = find(load(config).cgroup_root).base
    if base is None:
        typer.echo("Nothing to clean: no cgroup v2 to work in here (see `agentcgroup doctor`).")
        return
    with contextlib.closing(Cgroup.open(base)) as top:
        if dry_run:
            for name in orphans(top):
                typer.echo(f"would remove {base}/{name}")
            return
        results = reap(top)
    for reaped in results:
        outcome = "removed" if reaped.error is None else f"CANNOT remove ({reaped.error})"
        typer.echo(f"{outcome} {reaped.path}")
    if any(reaped.error for reaped in results):
        raise typer.Exit(1)
    if not results:
        typer.echo(f"Nothing left behind below {base}.")
