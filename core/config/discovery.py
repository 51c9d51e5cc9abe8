"""Where a configuration is found.

The first of these that exists is the configuration; files are never merged:

1. the file that ``$AGENTCGROUP_CONFIG`` names;
2. ``agentcgroup.toml`` in the working directory;
3. the table ``[tool.agentcgroup]`` of ``pyproject.toml`` in the working directory;
4. ``agentcgroup/config.toml`` in ``$XDG_CONFIG_HOME`` (or ``~/.config``), then in ``/etc``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from agentcgroup.config import toml
from agentcgroup.errors import ConfigError

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "FILE",
    "PYPROJECT",
    "PYPROJECT_TABLE",
    "find",
    "pyproject_table",
]

ENVIRONMENT_VARIABLE = "AGENTCGROUP_CONFIG"
FILE = "agentcgroup.toml"
PYPROJECT = "pyproject.toml"
PYPROJECT_TABLE = ("tool", "agentcgroup")


def find() -> str | None:
    """Return the path of the configuration that `load` would read, None when there is none.

    Raises:
        ConfigError: ``$AGENTCGROUP_CONFIG`` names a file that is not there, or a pyproject.toml
            that mentions agentcgroup is not TOML.
    """
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        named = os.path.expanduser(named)
        if not os.path.exists(named):
            raise ConfigError(
                f"there is no such file, and ${ENVIRONMENT_VARIABLE} names it", file=named
            )
        return named
    if os.path.lexists(FILE):  # a dangling link is an error, not a missing file
        return FILE
    if os.path.exists(PYPROJECT) and _has_table(PYPROJECT):
        return PYPROJECT
    return next(filter(os.path.exists, _system_files()), None)


def _system_files() -> Iterator[str]:
    """Yield the paths in the user's and the system's folder for configurations."""
    user = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    if not os.path.isabs(user):
        user = os.path.join(os.path.expanduser("~"), ".config")
    for folder in (user, "/etc"):
        yield os.path.join(folder, "agentcgroup", "config.toml")


def _has_table(path: str) -> bool:
    """Return whether a pyproject.toml has our table.

    A file that never mentions agentcgroup is not parsed: its faults are not ours to report.
    """
    try:
        with open(path, "rb") as file:
            if b"agentcgroup" not in file.read():
                return False
    except OSError:
        return False
    return pyproject_table(toml.read(path).data) is not None


def pyproject_table(data: Mapping[str, Any]) -> Any:
    """Return the table [tool.agentcgroup] of a pyproject.toml, None where there is none."""
    tools = data.get("tool")
    return tools.get("agentcgroup") if isinstance(tools, Mapping) else None
