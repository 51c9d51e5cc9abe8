"""Run a program with agentcgroup registered, without a line of code in it.

The program replaces this process; what makes it register is a folder with a `sitecustomize` module
first on PYTHONPATH (`agentcgroup.autoload`), the way opentelemetry-instrument does it. A Python
that is told to ignore PYTHONPATH or site (``-I``, ``-E``, ``-S``) does not see it.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence

__all__ = ["command_line", "environment", "replace"]


def command_line(target: Sequence[str], *, module: bool = False) -> list[str]:
    """Return the command for what the user named.

    Args:
        target: a script, a folder or zipapp with a ``__main__.py``, or a program; its arguments.
        module: the first word is a module's name, as after ``python -m``.

    Raises:
        FileNotFoundError: there is no such script, or no name at all.
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


def environment(base: Mapping[str, str], config: str | None = None) -> dict[str, str]:
    """Return `base` with what makes the first Python started in it register."""
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "autoload")
    before = base.get("PYTHONPATH")
    # Only ever put before it: empty parts mean the working directory, and have to stay.
    changed = {**base, "PYTHONPATH": f"{folder}{os.pathsep}{before}" if before else folder}
    if config is not None:
        changed["AGENTCGROUP_CONFIG"] = os.path.abspath(os.path.expanduser(config))
    return changed


def replace(target: Sequence[str], config: str | None = None, *, module: bool = False) -> None:
    """Replace this process by the program, registered; see `command_line`. Returns only by raising.

    Raises:
        OSError: the program cannot be started.
    """
    command = command_line(target, module=module)
    os.execvpe(command[0], command, environment(os.environ, config))
