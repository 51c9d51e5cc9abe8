"""Exceptions of signal handlers, raised at each place where the interpreter runs them.

The main thread runs the handlers of signals that have arrived when a Python function begins, when a
call returns, and when a loop jumps back (CPython 3.10 to 3.14: the eval breaker). `Interruption`
raises at one of these places in this package's code, so that a test can try all of them in a row.
"""

from __future__ import annotations

import contextlib
import dis
import os
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

import agentcgroup

__all__ = ["Alarm", "Interruption", "at_each_place"]

_PACKAGE = os.path.dirname(os.path.abspath(agentcgroup.__file__)) + os.sep


class Alarm(Exception):
    """What the signal handler raises."""


class Interruption:
    """A block in which an `Alarm` is raised at the place of a given number.

    Attributes:
        where: "module:line" of the place; None where the block has fewer places.
    """

    def __init__(self, number: int) -> None:
        self._left = number
        self.where: str | None = None

    def __enter__(self) -> Interruption:
        sys.settrace(self._enter_function)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.settrace(None)

    def _enter_function(self, frame: FrameType, event: str, _arg: Any) -> Callable[..., Any] | None:
        if not os.path.abspath(frame.f_code.co_filename).startswith(_PACKAGE):
            return None
        frame.f_trace_opcodes = True
        code = frame.f_code.co_code
        if _begins(code, frame.f_lasti):
            self._pass(frame)
        before: int | None = None

        def trace(frame: FrameType, event: str, _arg: Any) -> Callable[..., Any]:
            nonlocal before
            if event == "opcode":
                if before is not None and _runs_handlers(code[before]):
                    self._pass(frame)
                before = frame.f_lasti
            elif event == "exception":
                before = None  # no handler runs between a raise and the first step of its except
            return trace

        return trace

    def _pass(self, frame: FrameType) -> None:
        self._left -= 1
        if self._left == 0:
            name = os.path.abspath(frame.f_code.co_filename)[len(_PACKAGE) :]
            self.where = f"{name}:{frame.f_lineno}"
            sys.settrace(None)
            raise Alarm(self.where)


def _begins(code: bytes, at: int) -> bool:
    """Return whether a frame begins, or goes on behind a yield: behind an await no handler runs."""
    for one in (at, at + 2):
        if 0 <= one < len(code) and dis.opname[code[one]] == "RESUME":
            return code[one + 1] & 3 < 2
    return at < 0


def _runs_handlers(opcode: int) -> bool:
    name = dis.opname[opcode]
    return name.startswith("CALL") or name in ("JUMP_BACKWARD", "JUMP_ABSOLUTE")


def at_each_place(body: Callable[[], object]) -> list[str]:
    """Run `body` once for each place in it, with an `Alarm` there; return the places."""
    places: list[str] = []
    while True:
        with Interruption(len(places) + 1) as interruption, contextlib.suppress(Alarm):
            body()
        if interruption.where is None:
            return places
        places.append(interruption.where)
