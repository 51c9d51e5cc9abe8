"""What a file that was found by itself may decide: a tool, or a repository, may have written it.

A tool can write ``agentcgroup.toml`` into the working directory, and the next start of the program
takes it. So a file of another user is refused, and the log warns of one that loosens the defaults.
A file that the user names, by ``$AGENTCGROUP_CONFIG`` or ``config=``, is taken as it is.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator

from agentcgroup.config.discovery import ENVIRONMENT_VARIABLE
from agentcgroup.config.tables import Config
from agentcgroup.errors import ConfigError

__all__ = ["check_owner", "warn_if_loose"]

logger = logging.getLogger("agentcgroup")


def check_owner(path: str, found: os.stat_result) -> None:
    """Refuse a file that another user has written, or may write; log which one is taken.

    A file of root is taken by everybody, and one of the caller of sudo by root.

    Args:
        path: the file.
        found: the status of the open file: another user may put another one in its place.

    Raises:
        ConfigError: with what to do about it.
    """
    if not hasattr(os, "geteuid"):  # Windows, where nothing is limited
        return
    if found.st_uid not in _trusted():
        why = f"it belongs to {_name(found.st_uid)}, and this program runs as {_name(os.geteuid())}"
    elif found.st_mode & stat.S_IWOTH:
        why = "every user may write to it"
    elif found.st_mode & stat.S_IWGRP and found.st_gid not in (os.getegid(), 0):
        why = f"the group {found.st_gid} may write to it"
    else:
        owner = _name(found.st_uid)
        logger.info("agentcgroup: the configuration is %s, of %s", os.path.abspath(path), owner)
        return
    raise ConfigError(
        f"is not taken: {why}, so that another user may lift limits. Fix: change its owner or "
        f"mode, or name it ({ENVIRONMENT_VARIABLE}={os.path.abspath(path)}, or config=)",
        file=path,
    )


def warn_if_loose(path: str, config: Config) -> None:
    """Log what in a file of the working directory loosens the defaults."""
    path = os.path.abspath(path)
    loosening = ", ".join(_loosening(config, os.path.dirname(path)))
    if loosening:
        logger.warning(
            "agentcgroup: %s was found in the working directory, and has %s. A tool may have "
            "written it: check it, and name it to say that it is meant: %s=%s, or config=.",
            path,
            loosening,
            ENVIRONMENT_VARIABLE,
            path,
        )


def _loosening(config: Config, folder: str) -> Iterator[str]:
    if config.mode in ("off", "observe"):
        yield f"mode = {config.mode!r}"
    if config.on_uncontained == "run":
        yield f"on_uncontained = {config.on_uncontained!r}"
    if config.records is not None:
        file = os.path.realpath(os.path.join(folder, config.records))
        if not file.startswith(os.path.realpath(folder) + os.sep):
            yield f"records = {config.records!r}, outside of its folder"


def _trusted() -> set[int]:
    trusted = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        trusted.add(int(os.environ["SUDO_UID"]))
    return trusted


def _name(uid: int) -> str:
    try:
        import pwd  # Windows has none

        return f"user {pwd.getpwuid(uid).pw_name}"
    except (ImportError, KeyError):
        return f"user {uid}"
