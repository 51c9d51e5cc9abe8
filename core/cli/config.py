"""``agentcgroup config``: check a configuration, begin one, and its JSON schema."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from agentcgroup.config.discovery import FILE, find
from agentcgroup.config.loading import load
from agentcgroup.config.reference import limit_comments
from agentcgroup.config.schema import schema
from agentcgroup.errors import ConfigError

__all__ = ["TEMPLATE", "group"]

group = typer.Typer(
    help="Check, begin or describe a configuration.", no_args_is_help=True, rich_markup_mode=None
)

#: What `config init` writes. Every key that is commented out shows its default, or an example.
TEMPLATE = f"""\
# Limits for the tool calls of agents. Sizes: 512M, 1.5G, 50% (of the machine), "max".
# Times: 30s, 10m, 1h30m, "none". Check this file: agentcgroup config check
# See what holds for a call, and why:    agentcgroup explain --agent coder --tool run_tests

# auto: enforce what this machine can and say what it cannot; enforce: refuse to start without;
# observe: measure and limit nothing; off: do nothing.
mode = "auto"

# What becomes of processes that outlive their call: "kill" or "keep".
# background = "kill"

# Append every finished call to this file, as JSON Lines, and keep so many in memory.
# records = "agentcgroup.jsonl"
# records_max = 10000

# Work below this cgroup instead of the one that is found.
# cgroup_root = "/sys/fs/cgroup/agents"

# What looks at calls from within the kernel, where that is asked for and allowed.
[monitor]
# backend = "off"           # libbpf, procs, bcc, or auto: the first of these that works here
# detail = "default"        # full: BPF programs on the scheduler and on memory charging too
# escape = "return"         # a process that leaves its call is brought back; kill: ends the call

# The processes that wait for the tools of isolation = "process": docs/isolation.md
[workers]
# min = 1                   # stay ready however long no tool has asked for one
# max = 8                   # stand ready at most; those at work are not counted
# idle = "1m"               # then one that nobody has asked for is ended

# The three levels nest: a call lives inside its agent, an agent inside the run.
[limits.run]              # all agents of the process together
# memory_max = "75%"

[limits.agent]            # each agent, all its calls together
# memory_max = "4G"
# pids_max = 4096

[limits.call]             # each call; these are the defaults
{limit_comments(defaults=True)}
# timeout = "10m"
# More keys, all with the kernel's meaning:
{limit_comments(defaults=False)}
# Any further cgroup v2 file that is a limit, by its kernel name in quotes:
# unified."memory.zswap.max" = "0"

# Rules change limits for some calls. Later rules win, key by key. Globs on any of tool, agent and
# framework (langchain, autogen, crewai) say which calls.
# [[rules]]
# tool = "run_tests"
# agent = "coder*"
# memory_max = "3G"
# timeout = "30m"
# priority = "high"         # high, normal or low: ten times the share of CPU, the usual, a tenth

# [[rules]]
# tool = "start_server"
# background = "keep"       # this one is meant to outlive its call

# [[rules]]
# tool = "load_csv"
# isolation = "process"     # its own code, too, runs in the call's cgroup: docs/isolation.md
# reuse = 1                 # calls that one worker process may serve
# on_unshippable = "error"  # or "inline": what becomes of a tool that no other process can run

# [[rules]]
# agent = "reviewer"
# applies_to = "agent"      # not each call: all calls of the agent together
# memory_max = "1G"
"""


@group.command()
def check(
    file: Annotated[
        str | None,
        typer.Argument(help="The file to check; without it the one that a program would use."),
    ] = None,
) -> None:
    """List everything wrong with a file.

    \b
    agentcgroup config check agentcgroup.toml
    """
    path = file or find()
    if path is None:
        print("there is no configuration; the built-in defaults hold")
        return
    rules = len(load(path).rules)
    print(f"{path}: no errors, {rules} rule{'' if rules == 1 else 's'}")


@group.command("schema")
def print_schema() -> None:
    """Print the JSON schema, for editors.

    \b
    agentcgroup config schema > agentcgroup.schema.json
    """
    print(json.dumps(schema(), indent=2))


@group.command()
def init(
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented agentcgroup.toml here.

    \b
    agentcgroup config init && $EDITOR agentcgroup.toml
    """
    try:
        with open(FILE, "w" if force else "x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise ConfigError("is there already; --force replaces it", file=FILE) from None
    except OSError as error:
        raise ConfigError(f"cannot write it: {error.strerror}", file=FILE) from None
    print(f"wrote {FILE}; try: agentcgroup explain --tool run_tests")
