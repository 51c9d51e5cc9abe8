"""`agentcgroup run` waits for its program to register, and reports a program that does not.

A launcher may start its program without the environment that makes Python register: with the option
-I, with an empty environment, with another Python. No line would tell that it runs uncontained.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from contextlib import suppress
from typing import Final, NoReturn

__all__ = ["VARIABLE", "announce", "watch"]

#: The environment variable with the name of the socket; it is there until a process registers.
VARIABLE: Final = "AGENTCGROUP_RUN_WATCH"
#: Seconds without a registration after which it is reported, while the program runs.
_PATIENCE: Final = 20.0


def announce() -> None:
    """Tell the `agentcgroup run` that has started this program that it is registered, once."""
    name = os.environ.pop(VARIABLE, "")
    if name:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.sendto(b"+", f"\0{name}")


def watch(program: str) -> str:
    """Start a process that reports it if the program of this process does not register.

    The process is no child of this one, since the program may wait for all of its children. It ends
    with the first registration, with its report, or with the program.

    Returns:
        The value for the environment variable; "" where nothing can watch.
    """
    name = f"agentcgroup-run-{os.getpid()}-{os.urandom(8).hex()}"
    try:
        messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        messages.bind(f"\0{name}")
        program_fd = os.pidfd_open(os.getpid())  # Linux 5.3
    except OSError:
        return ""
    child = os.fork()
    if child == 0:
        _become_watcher(program, messages, program_fd)
    os.waitpid(child, 0)
    messages.close()
    os.close(program_fd)
    return name


def _become_watcher(program: str, messages: socket.socket, program_fd: int) -> NoReturn:
    try:
        os.setsid()  # signals of the terminal are for the program
        if os.fork() == 0:
            devnull = os.open(os.devnull, os.O_RDWR)
            os.dup2(devnull, 0)
            os.dup2(devnull, 1)  # who reads the program's output waits for its end
            poll = select.poll()
            poll.register(messages, select.POLLIN)
            poll.register(program_fd, select.POLLIN)
            poll.poll(_PATIENCE * 1000)
            messages.setblocking(False)
            with suppress(BlockingIOError):
                messages.recv(1)
                os._exit(0)
            print(
                f"agentcgroup run: {program!r} runs UNCONTAINED: no Python process of it has"
                " registered. A Python with the option -I, -E or -S does not, nor one whose"
                " environment has lost PYTHONPATH. Fix: start it without, or call"
                " agentcgroup.register() in the program.",
                file=sys.stderr,
                flush=True,
            )
    finally:
        os._exit(0)
