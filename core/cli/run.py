"""`agentcgroup run`: a program with every tool call contained, no line of code changed."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["command"]


def command(
    target: Annotated[
        list[str], typer.Argument(help="SCRIPT.py, -m MODULE, or a command, with its arguments")
    ],
    config: Annotated[
        str | None, typer.Option(help="Config file, instead of the one found")
    ] = None,
) -> None:
    r"""Run a program with agentcgroup registered before its first line.

    \b
    agentcgroup run app.py --its-own-option
    agentcgroup run -m my_package
    agentcgroup run -- gunicorn my_app:server
    """
    from agentcgroup import run
    from agentcgroup.config import load

    load(config)  # a mistake in it is told here, before the program starts
    try:
        run.replace(target, config)
    except OSError as error:
        typer.echo(f"agentcgroup run: cannot start {target[0]!r}: {error.strerror}", err=True)
        raise typer.Exit(126 if isinstance(error, PermissionError) else 127) from None
