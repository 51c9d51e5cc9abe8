"""`agentcgroup clean`: end and remove what dead runs left behind."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    config: Annotated[
        str | None, typer.Option(help="Configuration; default: the one a program would use.")
    ] = None,
) -> None:
    """Kill the processes and remove the cgroups of runs whose own process has died.

    \b
    agentcgroup clean --dry-run
    agentcgroup clean

    Each start does the same by itself; this is for machines where nothing starts any
    more. Runs that are alive, and cgroups that are not ours, are never touched. Ends
    with 1 when something could not be removed.
    """
    from agentcgroup.cgroup import Cgroup, find, orphans, reap
    from agentcgroup.config import load

    base = find(load(config).cgroup_root).base
    if base is None:
        typer.echo("Nothing to clean: no cgroup v2 to work in here (see `agentcgroup doctor`).")
        return
    with contextlib.closing(Cgroup.open(base)) as top:
        if dry_run:
            found = [f"{base}/{name}" for name in orphans(top)]
            failed = False
        else:
            results = reap(top)
            found = [reaped.path for reaped in results if reaped.error is None]
            failed = len(found) < len(results)
            for reaped in results:
                if reaped.error is not None:
                    typer.echo(f"cannot remove {reaped.path}: {reaped.error}", err=True)
    for path in found:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {path}")
    if failed:
        raise typer.Exit(1)
    if not found:
        typer.echo(f"Nothing left behind below {base}.")
