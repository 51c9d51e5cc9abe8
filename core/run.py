"""Run a program with agentcgroup registered, without a line of code in it.

The program replaces this process; what makes it register is a folder with a `sitecustomize` module
first on PYTHONPATH (`agentcgroup.autoload`), the way opentelemetry-instrument does it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

__all__ = ["command_line", "environment", "replace"]


def command_line(target: Sequence[str]) -> list[str]:
    """Return the command for what the user named: ``app.py ...``, ``-m module ...``, a program.

    Raises:
        ValueError: nothing was named.
    """
    if not target:
        raise ValueError("name a script, -m MODULE, or a command")
    if target[0] == "-m" or target[0].endswith((".py", ".pyz")) or os.path.isdir(target[0]):
        return [sys.executable, *target]
    return list(target)


def environment(base: Mapping[str, str], config: str | None = None) -> dict[str, str]:
    """Return `base` with what makes the first Python started in it register."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "autoload")
    path = [folder, *filter(None, base.get("PYTHONPATH", "").split(os.pathsep))]
    changed = {**base, "PYTHONPATH": os.pathsep.join(path)}
    if config is not None:
        changed["AGENTCGROUP_CONFIG"] = os.path.abspath(config)
    return changed


def replace(target: Sequence[str], config: str | None = None) -> None:
    """Replace this process by the program, registered. Returns only by raising.

    Raises:
        ValueError: nothing was named.
        OSError: the program cannot be started.
    """
    command = command_line(target)
    os.execvpe(command[0], command, environment(os.environ, config))
