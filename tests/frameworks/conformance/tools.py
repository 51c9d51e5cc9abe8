"""The tools of the agents of every framework, as plain functions."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import subprocess
import threading
from collections.abc import Callable


def add(a: int, b: int) -> str:
    """Add, without a process."""
    return str(a + b)


def letter(body: str, call: str, answer: str, original: str, session: str, tool: str) -> str:
    """Write, with arguments that are called as things of ours are."""
    return " ".join((body, call, answer, original, session, tool))


async def later(text: str) -> str:
    """Say it from a process that is awaited."""
    process = await asyncio.create_subprocess_exec(
        "cat", "/proc/self/cgroup", stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    return f"{text}\n{output.decode()}"


def shell(command: str) -> str:
    """Run a command; whether it fails, nobody asks."""
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout


def other_shell(command: str) -> str:
    """Run a command in the other shell."""
    return shell(command)


def slow_shell(command: str) -> str:
    """Run a command that takes long; whether it fails, nobody asks."""
    return shell(command)


def slow_strict(command: str) -> str:
    """Run a command that takes long, and fail when it fails."""
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout


def isolated_where(crash: bool) -> str:
    """Say in which process and cgroup this is, or crash."""
    if crash:
        ctypes.string_at(0)
    with open("/proc/self/cgroup") as file:
        return f"pid {os.getpid()}\n{file.read()}"


async def isolated_later(text: str) -> str:
    """Say it later, and from where."""
    await asyncio.sleep(0.01)
    return f"{text} from {os.getpid()}"


def slow_isolated(text: str) -> str:
    """Never end, and never wait."""
    while text:
        pass
    return text


def locked(name: str) -> Callable[[str], str]:
    """Return a tool that no other process can run."""
    lock = threading.Lock()

    def tool(text: str) -> str:
        """Say it under a lock."""
        with lock:
            return f"{text} from {os.getpid()}"

    tool.__name__ = name
    return tool


def fails() -> str:
    """Fail."""
    raise ValueError("mine")


def flaky() -> Callable[[], str]:
    """Return a tool that fails the first time."""
    attempts = itertools.count(1)

    def flaky_tool() -> str:
        """Fail the first time."""
        if next(attempts) == 1:
            raise ConnectionError("not yet")
        return "now"

    return flaky_tool


class Notebook:
    """A tool with state."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tool(self) -> Callable[[str], str]:
        def note(line: str) -> str:
            """Note a line and return all there are."""
            self.lines.append(line)
            return " ".join(self.lines)

        return note
