"""`agentcgroup doctor --app`: which of an app's tools can run in a process, and what that costs."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import json
import os
import statistics
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import typer

from agentcgroup.errors import AgentCgroupError, ConfigError, Unshippable
from agentcgroup.units import format_duration, format_size

if TYPE_CHECKING:
    from agentcgroup.calls.session import Session
    from agentcgroup.frameworks.registry import Adapter
    from agentcgroup.isolation.bodies import Body

__all__ = ["report"]

#: Round trips that are measured, once one has made sure that all is imported there.
_TRIPS: Final = 5
#: Seconds above which the time goes into imports.
_SLOW: Final = 0.25
#: What a body may hold in a closure without losing anything: nobody changes it.
_LASTING: Final = (
    *(bool, bytes, float, int, str, tuple, frozenset, type, types.NoneType),
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said about one body of one tool.

    Attributes:
        tool, framework: its name, and whose it is; "python" for a function.
        body: by what name the tool has it, such as ``func`` or ``_arun``.
        can: whether it can run in a process.
        sent_bytes: what goes to the worker at each call, beside the arguments.
        first_s, warm_s: seconds that the way there and back takes, the first time (its modules are
            imported there) and later; None where it was not tried.
        problem, fix: what is in the way, and what would change it.
        lost: what the body may change without the app ever seeing it.
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
    """Print what there is to say about the tools of `app`; True when all can run in a process.

    Raises:
        ConfigError: there is no such module or attribute, or no tool in it.
    """
    with _aside():
        tools = list(_tools(app))
        if not tools:
            raise ConfigError("has no tools: name a list, a dict, a tool or a function", file=app)
        session = _session()
        findings = [finding for name, tool in tools for finding in _findings(name, tool, session)]
    if as_json:
        told = {"tools": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(told, indent=2))
    else:
        _print(findings)
    return all(finding.can for finding in findings)


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Send what the app prints meanwhile, here and in workers, to stderr: it is not the report."""
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


# -- the app's tools ------------------------------------------------------------------------------


def _tools(app: str) -> Iterator[tuple[str, Any]]:
    """Yield the tools that ``module:attribute`` names; of a bare module those of a framework."""
    module_name, _, path = app.partition(":")
    if not module_name or module_name.startswith("."):
        raise ConfigError(f"{app!r} names no module: write it as in myapp.tools:TOOLS", key="--app")
    try:
        sys.path.insert(0, os.getcwd())
        found: Any = importlib.import_module(module_name)
        for name in path.split(".") if path else ():
            found = getattr(found, name)
    except (Exception, SystemExit) as error:  # the app's own; its status would be taken for ours
        raise ConfigError(f"cannot be loaded: {_why(error)}", file=app) from error
    if not path:
        found = {key: one for key, one in vars(found).items() if _adapter_of(one) is not None}
    yield from _flat(found)


def _why(error: BaseException) -> str:
    """Say what went wrong in an import, and where, if the text alone does not."""
    if isinstance(error, ImportError | AttributeError | SyntaxError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = [frame for frame in frames if not frame.filename.startswith("<frozen ")][-1]
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"


def _flat(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tools in a collection, or the one that there is, with their names."""
    if isinstance(found, Mapping):
        for key, one in found.items():
            yield _name(one, str(key)), one
    elif isinstance(found, list | tuple | set | frozenset):
        for one in found:
            yield _name(one, type(one).__name__), one
    elif callable(found) or _adapter_of(found) is not None:
        yield _name(found, type(found).__name__), found


def _name(tool: Any, otherwise: str) -> str:
    name = getattr(tool, "name", None) or getattr(tool, "__name__", None)
    return name if isinstance(name, str) else otherwise


@functools.cache
def _adapters() -> tuple[tuple[str, Adapter], ...]:
    """Return the adapters of this machine by the name of their framework."""
    from agentcgroup.frameworks.registry import available

    usable = []
    for found in available():
        if found.adapter is None:
            typer.echo(f"agentcgroup: {found.problem}", err=True)
        else:
            usable.append((found.name, found.adapter))
    return tuple(usable)


def _adapter_of(tool: Any) -> tuple[str, Adapter] | None:
    """Return the adapter whose framework the tool is of, with the framework's name."""
    try:
        isinstance(tool, Finding)
    except Exception:  # a proxy without a target, such as Flask's request
        return None
    for name, adapter in _adapters():
        try:
            if adapter.owns(tool):
                return name, adapter
        except Exception as error:
            _warn_once(name, f"owns() fails: {type(error).__name__}: {error}")
    return None


@functools.cache
def _warn_once(framework: str, problem: str) -> None:
    typer.echo(f"agentcgroup: the adapter {framework!r}: {problem}", err=True)


# -- each of them ---------------------------------------------------------------------------------


def _findings(name: str, tool: Any, session: Session | None) -> Iterator[Finding]:
    from agentcgroup.isolation.bodies import Body

    found = _adapter_of(tool)
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

    try:
        sent = body.sent()
        try:
            payload = pickling.pack((sent, (), {}, False))
        except Exception as error:
            raise unpicklable.in_call(error, sent, (), {}) from error
        size = pickling.size(payload)
        trips = _trips(name, sent, session)
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
    if warm is not None and warm > _SLOW:
        fix = (
            "a worker imports at each call what it cannot be born with, since that starts threads "
            "or opens files; set reuse for it, or keep such imports out of the tool's module."
        )
    lost = tuple(_lost(body))
    return Finding(name, framework, part, True, size, first, warm, fix=fix, lost=lost)


def _session() -> Session | None:
    """Return a session that workers can be had from; None where there can be none."""
    from agentcgroup.api import begin

    try:
        session = begin()
    except AgentCgroupError:
        return None
    return session if session._services.working else None


def _trips(name: str, sent: Callable[..., Any], session: Session | None) -> list[float]:
    """Send a body to workers and back without running it; return the seconds of each time."""
    if session is None:
        return []
    from agentcgroup.api import call
    from agentcgroup.isolation import round_trip
    from agentcgroup.isolation.substitutes import silent

    seconds: list[float] = []
    for _ in range(1 + _TRIPS):
        with call(name, isolation="process") as opened:
            begin = time.perf_counter()
            round_trip.run(opened, silent, (sent,), {})
            seconds.append(time.perf_counter() - begin)
        session._services.deferred.drain(1.0)  # then the next worker is ready
    return seconds


def _lost(body: Body) -> Iterator[str]:
    """Name what a body may change, and the app not see."""
    if body.tool is not None:
        yield "attributes of the tool"
    if isinstance(body.function, types.FunctionType):
        for variable, value in inspect.getclosurevars(body.function).nonlocals.items():
            if not isinstance(value, _LASTING):
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
