"""`agentcgroup clean`: end the processes and remove the cgroups of runs that died."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(help="Configuration file; default: the one that a program would read here."),
    ] = None,
) -> None:
    """Kill the processes and remove the cgroups of runs that died.

    \b
    agentcgroup clean --dry-run
    agentcgroup clean

    A run has died if the process that registered no longer exists. Each new run cleans
    up in the same way when it starts; use this command where no run starts any more. It
    never touches a run that is alive, nor a cgroup that agentcgroup did not make.

    Exit status: 1 if a cgroup could not be removed, else 0.
    """
    from agentcgroup.config.loading import load
    from agentcgroup.place.place import bases, find

    place = find(load(config).cgroup_root)
    if place.base is None:
        typer.echo("Nothing to clean: no cgroup v2 to work in here (see `agentcgroup doctor`).")
        return
    found, failed = [], False
    for path in bases(place):
        removed, errors = _clean(path, dry_run)
        found += removed
        failed = failed or bool(errors)
        for error in errors:
            typer.echo(error, err=True)
    for path in found:
        typer.echo(f"{'would remove' if dry_run else 'removed'} {path}")
    if failed:
        raise typer.Exit(1)
    if not found:
        typer.echo(f"Nothing left behind below {place.base}.")


def _clean(path: str, dry_run: bool) -> tuple[list[str], list[str]]:
    """Clean below one base; return the paths that were (or would be) removed, and the errors."""
    from agentcgroup.cgroup import Cgroup
    from agentcgroup.place.owner import orphans, reap

    try:
        base = Cgroup.open(path)
    except FileNotFoundError:  # a systemd scope that has just ended
        return [], []
    with contextlib.closing(base):
        if dry_run:
            return [f"{path}/{name}" for name in orphans(base)], []
        results = reap(base)
    removed = [reaped.path for reaped in results if reaped.error is None]
    errors = [f"cannot remove {one.path}: {one.error}" for one in results if one.error is not None]
    return removed, errors
