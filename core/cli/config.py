"""`agentcgroup config`: check a configuration, write a commented one, print the JSON schema."""

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
    help="Check a configuration, write a commented one, or print the JSON schema.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

#: The file that `config init` writes. A commented key shows its default value, or an example.
TEMPLATE = f"""\
# Limits for the tool calls of AI agents.
# Sizes: 512M, 1.5G, 50% (of the machine's memory), "max". Times: 30s, 10m, 1h30m, "none".
# To check this file:                agentcgroup config check
# To print the limits of one call:   agentcgroup explain --agent coder --tool run_tests

# auto: enforce the limits that this machine can enforce, and log those that it cannot.
# enforce: refuse to start unless all limits can be enforced.
# observe: measure calls and limit nothing. off: do nothing.
mode = "auto"

# Processes that outlive their call: "kill" ends them with the call, "keep" with the agent.
# auto: as "kill", but `git gc --auto` and the like may go on for a minute.
# background = "auto"

# Append the record of each finished call to this file, as JSON Lines.
# records = "agentcgroup.jsonl"
# Keep this many records in memory (session.records).
# records_max = 10000

# Make the cgroups below this one, instead of below the one that agentcgroup finds.
# cgroup_root = "/sys/fs/cgroup/agents"

# The monitor observes calls from within the kernel: docs/monitor.md
[monitor]
# backend = "off"           # libbpf, procs, bcc, or auto: the first of these that works here
# detail = "default"        # full: also the scheduler, memory charging, files and packets
# escape = "return"         # move a process that leaves its call back; kill: end the call

# The worker processes that run tools with isolation = "process": docs/isolation.md
[workers]
# min = 1                   # idle workers that are never ended
# max = 8                   # most idle workers; busy workers do not count
# idle = "1m"               # end an idle worker after this time

# The three levels nest: the limits of the run, of the agent and of the call hold together.
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

# A rule changes limits for the calls that it matches: by globs on any of tool, agent and framework
# (langchain, autogen, crewai). A later rule overrides an earlier one, key by key.
# [[rules]]
# tool = "run_tests"
# agent = "coder*"
# memory_max = "3G"
# timeout = "30m"
# priority = "high"         # ten times the usual share of the CPU; low: a tenth; normal

# [[rules]]
# tool = "start_server"
# background = "keep"       # its process may outlive the call
# leftover_grace = "2s"     # without "keep": the time between SIGTERM and SIGKILL

# [[rules]]
# tool = "load_csv"
# isolation = "process"     # run the tool's own code in a worker, too: docs/isolation.md
# reuse = 1                 # the number of calls that one worker may serve
# on_unshippable = "error"  # if no worker can run the tool: refuse the call, or run it "inline"

# [[rules]]
# agent = "reviewer"
# applies_to = "agent"      # limits all calls of the agent together, not each call
# memory_max = "1G"
"""


@group.command()
def check(
    file: Annotated[
        str | None,
        typer.Argument(help="File to check; default: the one that a program would read here."),
    ] = None,
) -> None:
    """Check a configuration file and list all its errors.

    \b
    agentcgroup config check agentcgroup.toml

    An error names the file, the line and the key; for an unknown key, it also names the
    nearest valid one.

    Exit status: 0 if the file has no errors, 2 if it has any.
    """
    path = file or find()
    if path is None:
        print("there is no configuration; the built-in defaults hold")
        return
    rules = len(load(path).rules)
    print(f"{path}: no errors, {rules} rule{'' if rules == 1 else 's'}")


@group.command("schema")
def print_schema() -> None:
    """Print the JSON schema of the configuration, for editors.

    \b
    agentcgroup config schema > agentcgroup.schema.json

    Exit status: 0.
    """
    print(json.dumps(schema(), indent=2))


@group.command()
def init(
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented agentcgroup.toml into the working directory.

    \b
    agentcgroup config init && $EDITOR agentcgroup.toml

    Exit status: 0, or 2 if the file exists already (see --force) or cannot be written.
    """
    try:
        with open(FILE, "w" if force else "x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise ConfigError("is there already; --force replaces it", file=FILE) from None
    except OSError as error:
        raise ConfigError(f"cannot write it: {error.strerror}", file=FILE) from None
    print(f"wrote {FILE}; try: agentcgroup explain --tool run_tests")
