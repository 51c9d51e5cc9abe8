"""The folder that holds the temporary folders of workers."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile

from agentcgroup import syscalls

__all__ = ["private_folder"]


def private_folder() -> str:
    """Make a folder that only this user may enter, where `tempfile.mkdtemp` would.

    That one finds out where by calls that a detector of blocking code refuses on an event loop.
    """
    name = f"agentcgroup-{secrets.token_hex(8)}"
    for parent in (tempfile.tempdir, *map(os.environ.get, ("TMPDIR", "TEMP", "TMP")), "/tmp"):
        if parent and os.path.isabs(parent):
            folder = os.path.join(parent, name)
            with contextlib.suppress(OSError):  # not there, or not to be written to
                syscalls.mkdir(folder, 0o700)
                return folder
    return tempfile.mkdtemp(prefix="agentcgroup-")
