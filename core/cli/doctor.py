"""`agentcgroup doctor`: what is enforced here, what is not, why, and what would change it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import logging
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from agentcgroup.config.tables import Config, MonitorTable

__all__ = ["command"]

State = Literal["yes", "partly", "no"]

_COLORS: dict[State, str] = {"yes": "green", "partly": "yellow", "no": "red"}

#: What a controller enforces or measures beside its limits.
_BESIDE_LIMITS = {
    "memory": "; an OOM kill ends one call alone; peak in the record",
    "io": "; bytes in the record",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; with `enforces` unset nothing depends on it but figures."""

    what: str
    state: State
    detail: str
    fix: str | None = None
    enforces: bool = True


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    config: Annotated[
        str | None, typer.Option(help="Configuration; default: the one a program would use.")
    ] = None,
    app: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE[:TOOLS]",
            help="Look at the tools of an app instead: which can run in a process of their own.",
        ),
    ] = None,
) -> None:
    """Say what is enforced here, what is not, and what would change it.

    \b
    agentcgroup doctor
    agentcgroup doctor --json || echo "not everything is enforced here"

    Ends with 0 when every limit can be enforced, with 1 when something cannot, so that a
    script or the start of a container can ask.

    With --app it imports a module and says, tool by tool, whether isolation = "process" can be
    set for it, what is in the way (a lock, a socket, an open loop), how much is sent to a worker
    at each call, and how long the way there and back takes. No tool is run. TOOLS is a list, a
    dict, a tool or a function in the module; without it, all tools of frameworks that it has.

    \b
    agentcgroup doctor --app myapp.tools:TOOLS
    agentcgroup doctor --app myapp --json
    """
    if app is not None:
        from agentcgroup.cli import tools

        raise typer.Exit(0 if tools.report(app, as_json=as_json) else 1)
    findings = list(_findings(config))
    complete = all(finding.state == "yes" for finding in findings if finding.enforces)
    if as_json:
        report = {"complete": complete, "findings": [asdict(finding) for finding in findings]}
        typer.echo(json.dumps(report, indent=2))
    else:
        _print(findings, complete)
    raise typer.Exit(0 if complete else 1)


def _findings(config: str | None) -> Iterator[Finding]:
    from agentcgroup.config.loading import load

    yield Finding("Python", "yes", f"{platform.python_version()} ({sys.executable})")
    kernel = f"{platform.system()} {platform.release()}"
    if sys.platform != "linux":
        from agentcgroup.place.problems import NOT_LINUX

        yield Finding("kernel", "no", f"{kernel} has no cgroups.", NOT_LINUX.fix)
        return
    yield Finding("kernel", "yes", kernel)
    loaded = load(config)
    yield from _place(loaded)
    yield _spawning()
    yield from _monitor(loaded.monitor)
    yield from _frameworks()


def _place(config: Config) -> Iterator[Finding]:
    from agentcgroup.cgroup.limits import CONTROLLERS, LIMITS
    from agentcgroup.config.policy import Resolver
    from agentcgroup.place.place import find

    place = find(config.cgroup_root, Resolver(config).controllers())
    if place.base is None:
        yield Finding("cgroup v2", "no", "tools run without a cgroup of their own.")
    else:
        yield Finding("cgroup v2", "yes", f"{place.base} ({place.kind})")
    for name in (*CONTROLLERS, *sorted(place.controllers.difference(CONTROLLERS))):
        if name in place.controllers:
            keys = ", ".join(key for key, row in LIMITS.items() if row.controller == name)
            keys = keys or f"keys of unified that begin with {name}."
            yield Finding(f"limits of {name}", "yes", keys + _BESIDE_LIMITS.get(name, ""))
    for problem in place.problems:
        yield Finding(problem.what, "no", problem.why, problem.fix)


def _spawning() -> Finding:
    from agentcgroup import spawn

    facts = spawn.facts()
    return Finding("children born in their cgroup", facts.state, facts.detail, facts.fix)


# -- the monitor ----------------------------------------------------------------------------------

#: What each source sees of a call.
_SEEN = {
    "libbpf": "BPF programs: processes, their ends, escapes, the kernel's counters",
    "procs": "the process connector: processes, their ends, escapes; no counters of the kernel",
    "bcc": "BPF programs compiled here: processes, their ends, escapes",
}


def _monitor(asked: MonitorTable) -> Iterator[Finding]:
    """Say by trying which source there is, and what is missing in it and in those before it."""
    from agentcgroup.monitor.choice import choose

    if asked.backend == "off":
        detail = "off: records have the figures of the cgroup's files alone."
        yield Finding("monitor", "yes", detail, '[monitor] backend = "auto".', enforces=False)
        return
    source, refused = choose(asked.backend, asked.detail, stop=True)
    if source is None:
        detail = "records have the figures of the cgroup's files alone, and nothing is kept in."
        yield Finding("monitor", "no", detail, enforces=False)
    else:
        with contextlib.closing(source):
            best = source.name == "libbpf" or source.name == asked.backend
            state: State = "yes" if best and not source.missing else "partly"
            detail = f"{source.name}: {_SEEN[source.name]}"
            yield Finding("monitor", state, detail, enforces=False)
            for counter, why in source.missing.items():
                yield Finding(f"monitor: {counter}", "no", f"not counted: {why}", enforces=False)
    for name, reason, fix in refused:
        yield Finding(f"monitor by {name}", "no", f"{reason.rstrip('.')}.", fix, enforces=False)


# -- frameworks ---------------------------------------------------------------------------------


def _frameworks() -> Iterator[Finding]:
    from agentcgroup.frameworks.registry import FRAMEWORKS

    for name, package in FRAMEWORKS.items():
        if importlib.util.find_spec(package) is not None:
            yield _framework(name)


def _framework(name: str) -> Finding:
    """Say whether a framework is of a version we know, and whether all its seams are there."""
    adapter = importlib.import_module(f"agentcgroup.adapters.{name}")
    distribution, _, needed = adapter.REQUIRES.partition(">=")
    fix = f"pip install --upgrade 'agentcgroup[{name}]'"
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "no", f"found no {distribution}, need {needed}.", fix)
    if _numbers(version) < _numbers(needed):
        return Finding(name, "no", f"found {distribution} {version}, need {needed}.", fix)
    missing = _missing_seams(name, adapter)
    if missing:
        return Finding(name, "partly", f"{distribution} {version}: {' '.join(missing)}", fix)
    return Finding(name, "yes", f"{distribution} {version}")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _missing_seams(name: str, adapter: ModuleType) -> list[str]:
    """Hook a framework, and return what its adapter warns of meanwhile."""
    ear = _Ear()
    logger = logging.getLogger("agentcgroup")
    logger.addHandler(ear)
    try:
        adapter.install()
        modules = importlib.import_module(f"agentcgroup.adapters.{name}.seams").MODULES
        refused = _import_all(modules)
        if len(refused) == len(modules):
            why = "; ".join(dict.fromkeys(refused.values()))
            ear.heard.append(f"{', '.join(refused)} cannot be imported ({why}).")
    finally:
        logger.removeHandler(ear)
    return ear.heard


class _Ear(logging.Handler):
    """Keeps warnings for the report."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a message as a sentence."""
        self.heard.append(f"{record.getMessage().removeprefix('agentcgroup: ')}.")


def _import_all(modules: Iterable[str]) -> dict[str, str]:
    """Import them, and say which cannot be, and why: some belong to other versions or extras."""
    refused = {}
    for module in modules:
        try:
            # What a framework prints at its start is no part of the report.
            with contextlib.redirect_stdout(sys.stderr):
                importlib.import_module(module)
        except Exception as error:  # a framework's own
            refused[module] = f"{type(error).__name__}: {error}"
    return refused


# -- the report ---------------------------------------------------------------------------------


def _print(findings: Iterable[Finding], complete: bool) -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    for finding in findings:
        mark = typer.style(f"{finding.state:<8}", fg=_COLORS[finding.state], bold=True)
        text = _wrapped(f"{finding.what}: {finding.detail}", width)
        typer.echo(mark + text.lstrip())
        if finding.fix:
            typer.echo(_wrapped(f"To change it: {finding.fix}", width))
    if not complete:
        typer.echo(
            "\n"
            + textwrap.fill(
                'What says "no" is not enforced here. mode = "auto" does the rest and says so; '
                'mode = "enforce" refuses to start.',
                width,
            )
        )


def _wrapped(text: str, width: int) -> str:
    """Wrap below the second column; what somebody may want to copy is never broken."""
    return textwrap.fill(
        text,
        width,
        initial_indent=" " * 8,
        subsequent_indent=" " * 8,
        break_long_words=False,
        break_on_hyphens=False,
    )
