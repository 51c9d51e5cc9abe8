"""`agentcgroup doctor --app`: test which tools of an app can run in a worker process."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import typer

from agentcgroup.cli import app_tools
from agentcgroup.errors import AgentCgroupError, ConfigError, Unshippable
from agentcgroup.units import format_duration, format_size

if TYPE_CHECKING:
    from agentcgroup.calls.session import Session
    from agentcgroup.isolation.bodies import Body

__all__ = ["report"]

#: Round trips that are measured after the first one, in which the worker imports modules.
_TRIPS: Final = 5
#: Seconds for which the fork server may import the modules of one tool.
_PRELOAD_WAIT: Final = 120.0
#: Seconds of a round trip above which imports in the worker are the likely cause.
_SLOW: Final = 0.25
#: Types of closure variables that a body cannot change.
_UNCHANGEABLE: Final = (
    *(bool, bytes, float, int, str, tuple, frozenset, type, types.NoneType),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the report: one body of one tool.

    Attributes:
        tool: the tool's name.
        framework: the framework's name; "python" for a function.
        body: the attribute of the tool that holds the body, such as ``func`` or ``_arun``.
        can: whether the body can run in a worker process.
        sent_bytes: size of the pickled body, which every call sends beside the arguments.
        first_s, warm_s: seconds of a round trip to a worker, the first time (the worker imports
            modules) and later; None where none was made.
        problem: why the body cannot run in a worker; None if it can.
        fix: what the user can do about it; None if nothing.
        lost: names of the things that the body may change in the worker and not in the app.
    """

    tool: str
    framework: str
    body: str
    can: bool
    sent_bytes: int | None = None
    first_s: float | None = None
    warm_s: float | None = None
    problem: str | None = None
    fix: str | None = None
    lost: tuple[str, ...] = ()


def report(app: str, *, as_json: bool) -> bool:
    """Print the report on the tools of `app`; return whether all can run in a worker process.

    Raises:
        ConfigError: there is no such module or attribute, or no tool in it.
    """
    with _aside():
        tools = list(app_tools.load(app))
        if not tools:
            raise ConfigError("has no tools: name a list, a dict, a tool or a function", file=app)
        session = _session()
        findings = [finding for name, tool in tools for finding in _findings(name, tool, session)]
    if as_json:
        typer.echo(json.dumps({"tools": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _print(findings)
    return all(finding.can for finding in findings)


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Redirect to stderr what the app prints, here and in workers: it is no part of the report."""
    if sys.stdout is None:  # closed
        yield
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


# -- one tool --------------------------------------------------------------------------------------


def _findings(name: str, tool: Any, session: Session | None) -> Iterator[Finding]:
    from agentcgroup.isolation.bodies import Body

    found = app_tools.adapter_of(tool)
    if found is None:
        yield _finding(name, "python", "function", Body(tool), session)
        return
    framework, adapter = found
    try:
        bodies = adapter.bodies(tool)
    except Exception as error:
        problem = f"the adapter fails: bodies(): {type(error).__name__}: {error}"
        yield Finding(name, framework, "", can=False, problem=problem)
        return
    for part, body in bodies.items():
        yield _finding(name, framework, part, body, session)


def _finding(name: str, framework: str, part: str, body: Body, session: Session | None) -> Finding:
    from agentcgroup.isolation import pickling, unpicklable

    if body.outside:
        remedy = f"nothing needs it: another process does the work, {body.outside}."
        return Finding(name, framework, part, can=True, problem="it runs inline", fix=remedy)
    try:
        sent = body.sent()
        try:
            payload = pickling.pack((sent, (), {}, False))
        except Exception as error:
            raise unpicklable.in_call(error, sent, (), {}) from error
        size = pickling.size(payload)
        trips, settled = _trips(name, sent, session)
    except Unshippable as error:
        problem = f"{error.what} ({error.kind}): {error.why}"
        remedy = (
            'make it inside the tool; or leave the tool inline, or set on_unshippable = "inline" '
            "for it."
        )
        return Finding(name, framework, part, can=False, problem=problem, fix=remedy)
    except Exception as error:
        problem = f"a worker cannot load it: {type(error).__name__}: {error}"
        remedy = "make what it needs importable without the app running."
        return Finding(name, framework, part, can=False, problem=problem, fix=remedy)
    first, warm = (trips[0], statistics.median(trips[1:])) if trips else (None, None)
    fix = None
    if not settled:
        fix = (
            f"the fork server has not imported the tool's modules in {_PRELOAD_WAIT:.0f} s; the "
            "times are those before it has."
        )
    elif warm is not None and warm > _SLOW:
        fix = (
            "each worker imports modules again that start threads or open files at their import; "
            "set reuse for the tool, or keep such imports out of the tool's module."
        )
    lost = tuple(_lost(body))
    return Finding(name, framework, part, True, size, first, warm, fix=fix, lost=lost)


def _session() -> Session | None:
    """Return a session to take workers from; None where no worker can be made."""
    from agentcgroup.api import begin

    try:
        session = begin()
    except AgentCgroupError:
        return None
    return session if session._services.working else None


def _trips(
    name: str, sent: Callable[..., Any], session: Session | None
) -> tuple[list[float], bool]:
    """Send a body to workers and back without running it.

    Returns:
        The seconds of each round trip. Whether the fork server had, for all but the first one,
        imported the modules of the tool that it can import.
    """
    if session is None:
        return [], True
    from agentcgroup.api import call
    from agentcgroup.isolation import round_trip
    from agentcgroup.isolation.substitutes import silent

    workers = session._services.workers()
    seconds: list[float] = []
    settled = True
    for _ in range(1 + _TRIPS):
        with call(name, isolation="process") as opened:
            begin = time.perf_counter()
            round_trip.run(opened, silent, (sent,), {})
            seconds.append(time.perf_counter() - begin)
        session._services.deferred.drain(1.0)  # then the next worker is ready
        settled = workers.wait_preloaded(_PRELOAD_WAIT if settled else 0)
    return seconds, settled


def _lost(body: Body) -> Iterator[str]:
    """Name the things that a body may change in the worker and not in the app."""
    if body.tool is not None:
        yield "attributes of the tool"
    if isinstance(body.function, types.FunctionType):
        for variable, value in inspect.getclosurevars(body.function).nonlocals.items():
            if not isinstance(value, _UNCHANGEABLE):
                yield f"closure variable {variable!r}"


# -- the report -----------------------------------------------------------------------------------


def _print(findings: list[Finding]) -> None:
    rows = [_row(finding) for finding in findings]
    head = ("", "tool", "of", "body", "sent", "first", "later")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))

    typer.echo(line(head).rstrip())
    indent = " " * (widths[0] + 2)
    for finding, row in zip(findings, rows, strict=True):
        color = "green" if finding.can else "red"
        typer.echo(typer.style(row[0], fg=color, bold=True) + line(row)[len(row[0]) :].rstrip())
        if finding.problem:
            typer.echo(f"{indent}{finding.problem}")
        if finding.fix:
            typer.echo(f"{indent}To change it: {finding.fix}")
        if finding.lost:
            typer.echo(f"{indent}Changes to these are lost: {', '.join(finding.lost)}")


def _row(finding: Finding) -> tuple[str, ...]:
    def cell(value: float | None, form: Callable[[Any], str]) -> str:
        return "" if value is None else form(value)

    return (
        "yes" if finding.can else "no",
        finding.tool,
        finding.framework,
        finding.body,
        cell(finding.sent_bytes, format_size),
        cell(finding.first_s, format_duration),
        cell(finding.warm_s, format_duration),
    )
