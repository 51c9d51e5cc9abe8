"""The command line `agentcgroup`: one module per command, imported when the command is run.

Each module that `COMMANDS` names has either ``command``, the function of the command, or
``group``, a `typer.Typer` with subcommands. An `AgentCgroupError` ends a command with one message
on stderr and exit status 2, which is also the status for wrong options.
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

#: For a command that starts a program: every word after the program's name belongs to the program,
#: even if the word looks like an option of the command.
_STARTS_A_PROGRAM = {"allow_interspersed_args": False}

#: Each command, named like its module in this package, with its settings for click. ``--help``
#: lists the commands in this order.
COMMANDS: Mapping[str, Mapping[str, Any]] = {
    "doctor": {},
    "run": _STARTS_A_PROGRAM,
    "exec": _STARTS_A_PROGRAM,
    "explain": {},
    "config": {},
    "clean": {},
}

_HELP = """\
Run every tool call of an AI agent in its own Linux cgroup.

\b
agentcgroup doctor                # what does this machine enforce?
agentcgroup config init           # write a commented agentcgroup.toml
agentcgroup run app.py            # run a program with its tool calls contained

Every command exits with status 2, and one message on stderr, if an option or the
configuration is wrong. `agentcgroup COMMAND --help` describes the other statuses.
"""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # a slow import that other commands do not need

        typer.echo(f"agentcgroup {version('agentcgroup')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; `arguments` replace those of the process."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # Only the help text lists all commands. Otherwise one command is imported and no other.
    commands = words[:1] if words and words[0] in COMMANDS else COMMANDS
    app = typer.Typer(
        help=_HELP,
        add_completion=False,
        no_args_is_help=True,
        # Plain text: the import of rich would take longer than most commands.
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={
            "help_option_names": ["-h", "--help"],
            # Click does not implement https://no-color.org. None: colors on a terminal only.
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
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command.

    Typer needs this callback in another respect, too: without a callback, it would make an app that
    has a single command into that command.
    """


def _add(app: typer.Typer, name: str) -> None:
    module = importlib.import_module(f"{__name__}.{name}")
    if hasattr(module, "group"):
        app.add_typer(module.group, name=name)
    else:
        app.command(name, context_settings=dict(COMMANDS[name]))(module.command)
