"""CrewAI: an analyst loads a table that is larger than the memory limit of the tool.

    python examples/crewai_analyst.py

The first call loads all columns, among them long comments, and ends at its limit of 64 MiB. The
model reads that it can select columns, and selects one. With a real model, named as CrewAI's LLM
names it:

    AGENTCGROUP_EXAMPLE_MODEL=openai/gpt-5 python examples/crewai_analyst.py
"""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import shown
from crewai import LLM, Agent, Crew, Task
from crewai.hooks import ToolCallHookContext, after_tool_call
from crewai.tools import tool

import agentcgroup

session = agentcgroup.register(
    config={"rules": [{"tool": "average", "memory_max": "64M", "timeout": "1m"}]}
)

COLUMNS = ["region", "amount", "comment"]

#: The program that the tool runs: it loads the requested columns, as a data frame would.
AVERAGE = """
import csv, gzip, json, sys
from statistics import mean

path, columns = sys.argv[1], json.loads(sys.argv[2])
frame = {column: [] for column in columns}
with gzip.open(path, "rt") as file:
    for row in csv.DictReader(file):
        for column in columns:
            frame[column].append(row[column])
print(len(frame["amount"]), "rows, on average", mean(map(float, frame["amount"])))
"""

folder = tempfile.TemporaryDirectory(prefix="analyst-")
table = Path(folder.name, "sales.csv.gz")


@tool
def average(columns: list[str]) -> str:
    """Load columns of the sales (region, amount, comment); say their number and average amount."""
    command = [sys.executable, "-c", AVERAGE, str(table), json.dumps(columns)]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr


@after_tool_call
def show(context: ToolCallHookContext) -> None:
    """Print the call of the model, and the result that the model gets."""
    print(f"model calls {context.tool_name}({context.tool_input})")
    shown.told(str(context.tool_result))


def model() -> Any:
    """Return the model that the user names, or a scripted one."""
    if shown.MODEL is not None:
        with shown.needs("crewai[litellm]"):
            return LLM(model=shown.MODEL)
    from scripted import crewai_model

    return crewai_model(
        [("average", {"columns": COLUMNS})],
        [("average", {"columns": ["amount"]})],
        "A sale is worth 49.5 on average.",
    )


def fill() -> None:
    """Write a table that is small on the disk and large in memory."""
    with gzip.open(table, "wt", compresslevel=1, newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows(("north", number % 100, "nice " * 400) for number in range(100_000))


with folder:
    fill()
    analyst = Agent(
        role="analyst",
        goal="Answer questions about the sales with figures.",
        backstory="You have a tool that loads what you ask for, and little memory.",
        tools=[average],
        llm=model(),
    )
    task = Task(
        description="What is a sale worth on average? Look at all columns.",
        expected_output="One sentence.",
        agent=analyst,
    )
    answer = Crew(agents=[analyst], tasks=[task]).kickoff()
    print(f"model answers: {answer.raw}\n")
    shown.records(session)
