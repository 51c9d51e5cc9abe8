"""The start of the helper process, from the app."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import Final

from agentcgroup.interpreter import python
from agentcgroup.monitor import wire
from agentcgroup.threads import Socket, socket_pair, standard_subprocess

__all__ = ["launch"]

_CODE: Final = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from agentcgroup.monitor.helper import main
main()
"""


def launch(start: wire.Message, board: int) -> Socket:
    """Start the helper and return the app's end of the socket pair to it.

    Args:
        start: the first message, "start".
        board: descriptor of the thread board's memory.

    Raises:
        OSError: the helper cannot be started.
    """
    ours, theirs = socket_pair()
    try:
        with contextlib.closing(theirs):  # this class is no context manager itself
            _start(ours, theirs, start, board)
    except BaseException:
        ours.close()
        raise
    return ours


def _start(ours: Socket, theirs: Socket, start: wire.Message, board: int) -> None:
    wire.enlarge_buffer(ours)
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    fds = (theirs.fileno(), board)
    helper = standard_subprocess().Popen(
        [python(), "-I", "-S", "-c", _CODE, folder, *map(str, fds)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=fds,
        cwd="/",
    )
    wire.send(ours, start)
    helper.wait()  # it has forked the helper proper, which becomes a child of init
