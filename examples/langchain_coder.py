"""LangChain: a coder runs the tests of a project, and one test uses too much memory.

    python examples/langchain_coder.py

The tool runs the tests in a subprocess, and the call ends at its limit of 64 MiB. The model reads
why, runs one test, corrects the code, and runs all tests. With a real model:

    AGENTCGROUP_EXAMPLE_MODEL=openai:gpt-5 python examples/langchain_coder.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import shown
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import tool

import agentcgroup

session = agentcgroup.register(
    config={"rules": [{"tool": "run_tests", "memory_max": "64M", "timeout": "30s"}]}
)

CODE = '''
def longest(count):
    """Return the length of the longest line of a log."""
    lines = [f"{number}: {'x' * 1000}" for number in range(count)]
    return max(len(line) for line in lines)
'''

TESTS = """
import unittest
from log import longest

class Longest(unittest.TestCase):
    def test_small(self):
        self.assertEqual(longest(10), 1003)

    def test_large(self):
        self.assertEqual(longest(10**6), 1008)
"""

project = tempfile.TemporaryDirectory(prefix="coder-")
code = Path(project.name, "log.py")


@tool
def run_tests(name: str = "test_log") -> str:
    """Run all tests, or the named one, such as test_log.Longest.test_small."""
    # -B: the corrected file can have the size and the time of the old one, and match its bytecode.
    command = [sys.executable, "-B", "-m", "unittest", name]
    done = subprocess.run(command, cwd=project.name, capture_output=True, text=True)
    return done.stdout + done.stderr


@tool
def read_code() -> str:
    """Return the code under test, which is in log.py."""
    return code.read_text()


@tool
def replace(old: str, new: str) -> str:
    """Replace a piece of text in the code."""
    code.write_text(code.read_text().replace(old, new))
    return "The code is changed."


def model() -> Any:
    """Return the model that the user names, or a scripted one."""
    if shown.MODEL is not None:
        with shown.needs("langchain-openai"):
            from langchain.chat_models import init_chat_model

            return init_chat_model(shown.MODEL)
    from scripted import langchain_model

    greedy = "[f\"{number}: {'x' * 1000}\" for number in range(count)]"
    lazy = f"({greedy[1:-1]})"
    return langchain_model(
        [("run_tests", {})],
        [("run_tests", {"name": "test_log.Longest.test_small"}), ("read_code", {})],
        [("replace", {"old": greedy, "new": lazy})],
        [("run_tests", {})],
        "The lines were all held in memory; now they are read one by one, and the tests pass.",
    )


with project:
    code.write_text(CODE)
    Path(project.name, "test_log.py").write_text(TESTS)
    agent = create_agent(model(), [run_tests, read_code, replace], name="coder")
    task = "Run the tests of this project. Correct log.py if needed, until all of them pass."
    for step in agent.stream({"messages": [("user", task)]}):
        for update in step.values():
            for message in update["messages"]:
                for call in getattr(message, "tool_calls", []):
                    print(f"model calls {call['name']}({call['args']})")
                if isinstance(message, ToolMessage):
                    shown.told(message.text)
                elif message.text:
                    print(f"model answers: {message.text}\n")
    shown.records(session)
