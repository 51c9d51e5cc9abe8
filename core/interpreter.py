"""The Python that runs helper processes of this package: the monitor's helper, the fork server."""

from __future__ import annotations

import os
import sys

__all__ = ["no_python", "python"]


def python() -> str:
    """Return the path of this very Python.

    Raises:
        OSError: the program is frozen or embeds Python. Its executable is then the program itself,
            which would start again, and again.
    """
    executable = sys.executable or ""
    # PyInstaller, cx_Freeze and py2exe set `frozen`; Nuitka sets `__compiled__` in each module.
    if getattr(sys, "frozen", False) or "__compiled__" in globals():
        raise OSError(f"this program is frozen: {executable or 'it'} is no Python to run code with")
    if not os.path.basename(executable).startswith(("python", "pypy", "graalpy")):
        raise OSError(f"{executable or 'this program'} is no Python to run code with")
    return executable


def no_python() -> str | None:
    """Return why there is no Python for helper processes, None where there is one."""
    try:
        python()
    except OSError as error:
        return str(error)
    return None
