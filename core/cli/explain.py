"""`agentcgroup explain`: print the limits of a call and the line that set each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from agentcgroup import units
from agentcgroup.cgroup.limits import LIMITS
from agentcgroup.config.loading import load
from agentcgroup.config.policy import Resolver, Setting

__all__ = ["command"]

#: The keys whose values are seconds.
_TIMES = ("timeout", "leftover_grace")


def command(
    tool: Annotated[str, typer.Option(help="Name of the tool.")],
    agent: Annotated[
        str | None, typer.Option(help="Name of the agent; default: a call outside every agent.")
    ] = None,
    framework: Annotated[
        str, typer.Option(help="langchain, autogen or crewai, for rules that name a framework.")
    ] = "",
    config: Annotated[
        str | None,
        typer.Option(help="Configuration file; default: the one that a program would read here."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with values in the kernel's units.")
    ] = False,
) -> None:
    """Print the limits of a call and the line that set each of them.

    \b
    agentcgroup explain --agent coder-1 --tool run_tests

    The limits of three levels hold for a call at the same time: its own, those of its
    agent for all calls of the agent together, and those of the run. Nothing is run.

    Exit status: 0, or 2 if the configuration is wrong.
    """
    loaded = load(config)
    resolver = Resolver(loaded)
    levels = {
        "call": resolver.explain(framework, agent, tool),
        "agent": resolver.explain_agent(framework, agent),
        "run": resolver.explain_run(),
    }
    if as_json:
        found = {
            level: {key: asdict(setting) for key, setting in settings.items()}
            for level, settings in levels.items()
        }
        print(json.dumps({"config": loaded.source.name, "mode": loaded.mode, **found}, indent=2))
        return
    titles = {
        "call": f"each call of {tool!r}",
        "agent": "all calls outside every agent" if agent is None else f"all calls of {agent!r}",
        "run": "all agents of the process",
    }
    print(f"mode {loaded.mode}, from {loaded.source.name}")
    for level, settings in levels.items():
        print(f"\n{titles[level]} [limits.{level}]")
        print("\n".join(_lines(settings)))


def _lines(settings: Mapping[str, Setting]) -> Iterator[str]:
    """Yield one line for each limit that is set: key, value and source, in columns."""
    rows = [
        (key, _format(key, setting.value), setting.source)
        for key, setting in settings.items()
        if setting.value is not None or key == "timeout"
    ]
    if not rows:
        yield "  no limits"
        return
    keys, values = (max(len(row[column]) for row in rows) for column in (0, 1))
    for key, value, source in rows:
        yield f"  {key:<{keys}}  {value:<{values}}  {source}"


def _format(key: str, value: Any) -> str:
    if key in LIMITS:
        return LIMITS[key].form.show(value)
    return units.format_duration(value) if key in _TIMES else str(value)
