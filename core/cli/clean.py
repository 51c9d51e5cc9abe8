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
    """End and remove what runs have left whose own process has died.

    \b
    agentcgroup clean --dry-run
    agentcgroup clean

    Each start does the same by itself; this is for machines where nothing starts any
    more. Runs that are alive, and cgroups that are not ours, are never touched. Ends
    with 1 when something could not be removed.
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
    """Clean below one base; returns what went, or would, and what could not."""
    from agentcgroup.cgroup import Cgroup
    from agentcgroup.place.owner import orphans, reap

    try:
        base = Cgroup.open(path)
    except FileNotFoundError:  # a scope that has just ended
        return [], []
    with contextlib.closing(base):
        if dry_run:
            return [f"{path}/{name}" for name in orphans(base)], []
        results = reap(base)
    removed = [reaped.path for reaped in results if reaped.error is None]
    errors = [f"cannot remove {one.path}: {one.error}" for one in results if one.error is not None]
    return removed, errors
