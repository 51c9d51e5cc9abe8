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
# Times: 30s, 10m, 1h30m, "none".
# Check this file:              agentcgroup config check
# Print the limits of a call:   agentcgroup explain --agent coder --tool run_tests

# auto: enforce the limits that this machine can enforce and log the others; enforce: refuse to
# start unless all can be enforced; observe: measure and limit nothing; off: do nothing.
mode = "auto"

# "kill" or "keep" the processes that outlive their call.
# background = "kill"

# The file that finished calls are appended to, as JSON Lines, and how many stay in memory.
# records = "agentcgroup.jsonl"
# records_max = 10000

# Work below this cgroup instead of the one that is found.
# cgroup_root = "/sys/fs/cgroup/agents"

# The monitor reads events of calls from the kernel: docs/monitor.md
[monitor]
# backend = "off"           # libbpf, procs, bcc, or auto: the first of these that works here
# detail = "default"        # full: BPF programs on the scheduler and on memory charging too
# escape = "return"         # move a process that leaves its call back; kill: end the call

# Warm worker processes for tools with isolation = "process": docs/isolation.md
[workers]
# min = 1                   # workers that stay warm even when no tool uses them
# max = 8                   # the most that wait at once; those that serve a call do not count
# idle = "1m"               # time after which an unused worker is ended

# The three levels nest: run > agent > call. docs/limits.md lists the limits.
[limits.run]              # all agents of the process together
# memory_max = "75%"

[limits.agent]            # each agent, all its calls together
# memory_max = "4G"
# pids_max = 4096

[limits.call]             # each call; these are the defaults
{limit_comments(defaults=True)}
# timeout = "10m"
# More limits:
{limit_comments(defaults=False)}
# Any further cgroup v2 file that is a limit, by its kernel name in quotes:
# unified."memory.zswap.max" = "0"

# Rules change limits for some calls; later rules win, key by key. Globs on tool, agent and
# framework (langchain, autogen, crewai) select the calls.
# [[rules]]
# tool = "run_tests"
# agent = "coder*"
# memory_max = "3G"
# timeout = "30m"
# priority = "high"         # high, normal, low: cpu_weight 1000, 100, 10

# [[rules]]
# tool = "start_server"
# background = "keep"       # the server outlives its call

# [[rules]]
# tool = "load_csv"
# isolation = "process"     # the tool's own code runs in the call's cgroup, too
# reuse = 1                 # calls that one worker process may serve
# on_unshippable = "error"  # for a tool that no worker can run; "inline" runs it here

# [[rules]]
# agent = "reviewer"
# applies_to = "agent"      # all calls of the agent together, instead of each call
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
