"""The command line: one module per command, imported when it is called for.

A module named in `COMMANDS` has ``command``, the function of the command, or ``group``, a
`typer.Typer` with commands of its own. Errors of ours end as one message on stderr and exit status
2, as wrong options do.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from agentcgroup.errors import AgentCgroupError

__all__ = ["COMMANDS", "main"]

#: What follows the first word that is no option of ours belongs to the program that is started.
_STARTS_A_PROGRAM = {"allow_interspersed_args": False}

#: The commands, which are modules of this package, in the order of ``--help``, with what click is
#: to know about them.
COMMANDS: Mapping[str, Mapping[str, Any]] = {
    "doctor": {},
    "run": _STARTS_A_PROGRAM,
    "exec": _STARTS_A_PROGRAM,
    "explain": {},
    "config": {},
    "clean": {},
}


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # slow to import, and mostly for nothing

        typer.echo(f"agentcgroup {version('agentcgroup')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; `arguments` stand for those of the process."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # The other commands need not be imported, unless to be listed.
    commands = words[:1] if words and words[0] in COMMANDS else COMMANDS
    app = typer.Typer(
        help="Give every tool call of an AI agent its own Linux cgroup.",
        add_completion=False,
        no_args_is_help=True,
        # Plain text: rich would cost more at start-up than most commands take.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={
            "help_option_names": ["-h", "--help"],
            # https://no-color.org, which click leaves to others; None: by whether it is a terminal.
            "color": False if os.environ.get("NO_COLOR") else None,
        },
        callback=_options,
    )
    for name in commands:
        _add(app, name)
    try:
        app(args=words, prog_name="agentcgroup")
    except AgentCgroupError as error:
        print(f"agentcgroup: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which this is."),
    ] = False,
) -> None:
    """Take the options that stand before a command.

    That it is there also keeps typer from making the only command it sees the whole program.
    """


def _add(app: typer.Typer, name: str) -> None:
    module = importlib.import_module(f"{__name__}.{name}")
    if hasattr(module, "group"):
        app.add_typer(module.group, name=name)
    else:
        app.command(name, context_settings=dict(COMMANDS[name]))(module.command)
