"""`agentcgroup run`: a program with every tool call contained, no line of code changed."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["command"]


def command(
    target: Annotated[
        list[str],
        typer.Argument(
            metavar="PROGRAM",
            help="A script, folder or zipapp for Python, or any command; its arguments.",
        ),
    ],
    module: Annotated[bool, typer.Option("-m", help="PROGRAM is a module, as in python -m.")] = (
        False
    ),
    config: Annotated[
        str | None, typer.Option(help="Configuration; default: the one the program would use.")
    ] = None,
) -> None:
    """Run a program, unchanged, with every tool call contained.

    \b
    agentcgroup run app.py --its-own-option
    agentcgroup run -m my_package
    agentcgroup run -- gunicorn my_app:server

    The first Python that the program starts registers before its first line; Pythons
    that this one starts are left alone. Options of ours stand before the program.
    """
    from agentcgroup.cli import launch
    from agentcgroup.config.loading import load

    load(config)  # a mistake in it is told here, before the program starts
    try:
        launch.replace(target, config, module=module)
    except OSError as error:
        typer.echo(f"agentcgroup run: cannot start {target[0]!r}: {error.strerror}", err=True)
        raise typer.Exit(127 if isinstance(error, FileNotFoundError) else 126) from None
