"""`agentcgroup run`: run a program unchanged, with every tool call contained.

The program replaces this process. The environment variable PYTHONPATH makes its Python processes
register: the first folder there (`agentcgroup.autoload`) has a module `sitecustomize`, which
Python imports at its start. opentelemetry-instrument works in the same way. A Python that ignores
PYTHONPATH or `site` (options ``-I``, ``-E``, ``-S``) does not register: `run_watch` reports that.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    target: Annotated[
        list[str],
        typer.Argument(
            metavar="PROGRAM",
            help="A Python script, folder or zipapp, or any command; then its arguments.",
        ),
    ],
    module: Annotated[
        bool, typer.Option("-m", help="PROGRAM is the name of a module, as in python -m.")
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(help="Configuration file; default: the one that the program would read."),
    ] = None,
) -> None:
    """Run a program unchanged, with every tool call contained.

    \b
    agentcgroup run app.py --an-option-of-the-app
    agentcgroup run -m my_package
    agentcgroup run -- gunicorn my_app:server

    The first Python process of the program calls agentcgroup.register() before its first
    line. Python processes that a launcher or server starts outside of calls do so when they
    import a framework. If no process registers, a line on stderr reports it: Python ignores
    `agentcgroup run` with -I, -E or -S, or without PYTHONPATH in its environment.
    Options of `agentcgroup run` stand before the program.

    Exit status: the program's own; 127 if there is no such program, 126 if it cannot be
    executed, 2 if the configuration is wrong, or if mode = "enforce" and this machine
    cannot enforce all limits.
    """
    from agentcgroup import run_watch
    from agentcgroup.config.loading import load
    from agentcgroup.place.place import inside_a_run

    load(config)  # so that an error in it is reported here, before the program starts
    try:
        words = _command_line(target, module=module)
        environment = _environment(os.environ, config)
        if inside_a_run():
            typer.echo(
                "agentcgroup run: this process runs inside a call of another run, whose limits "
                "hold: the program's own calls get none.",
                err=True,
            )
        else:
            environment[run_watch.VARIABLE] = run_watch.watch(target[0])
        os.execvpe(words[0], words, environment)
    except OSError as error:
        typer.echo(f"agentcgroup run: cannot start {target[0]!r}: {error.strerror}", err=True)
        raise typer.Exit(127 if isinstance(error, FileNotFoundError) else 126) from None


def _command_line(target: Sequence[str], *, module: bool) -> list[str]:
    """Return the command line that runs `target`.

    Args:
        target: a script, a folder or zipapp with a ``__main__.py``, or a program; its arguments.
        module: the first word is the name of a module, as after ``python -m``.

    Raises:
        FileNotFoundError: the script does not exist, or the first word is empty.
    """
    first = target[0]
    if module:
        return [sys.executable, "-m", *target]
    script = os.path.isdir(first) or first.endswith((".py", ".pyc", ".pyz"))
    if not first or (script and not os.path.exists(first)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), first)
    if script:
        return [sys.executable, *target]
    return list(target)


def _environment(base: Mapping[str, str], config: str | None) -> dict[str, str]:
    """Return `base`, changed so that the Python processes that are started with it register."""
    from agentcgroup.frameworks.registry import FRAMEWORKS

    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "autoload")
    before = base.get("PYTHONPATH")
    # The old value stays whole behind the folder: an empty part of it means the working directory.
    changed = {
        **base,
        "PYTHONPATH": f"{folder}{os.pathsep}{before}" if before else folder,
        "AGENTCGROUP_RUN_FRAMEWORKS": ",".join(FRAMEWORKS.values()),
    }
    if config is not None:
        changed["AGENTCGROUP_CONFIG"] = os.path.abspath(os.path.expanduser(config))
    return changed
