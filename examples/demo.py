"""An agent's tool uses too much memory, and only that tool call ends.

    make demo

A scripted model replaces a real one, so that the demo needs no key and always runs alike. The
agent, the tools, their processes and the kernel are real. The only line for agentcgroup is
`register`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool

import agentcgroup

session = agentcgroup.register(
    config={"rules": [{"tool": "run_python", "memory_max": "64M", "timeout": "30s"}]}
)


@tool
def run_python(code: str) -> str:
    """Run Python code and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout + done.stderr


class ScriptedModel(GenericFakeChatModel):
    """A model that answers with fixed messages, one after the other."""

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> ScriptedModel:
        """Ignore the tools: the messages are fixed."""
        del tools, options
        return self


def calls(**codes: str) -> AIMessage:
    """Return a turn of the model that calls run_python with each code, in parallel."""
    asked = [{"name": "run_python", "args": {"code": code}, "id": i} for i, code in codes.items()]
    return AIMessage(content="", tool_calls=asked)


model = ScriptedModel(
    messages=iter(
        [
            calls(
                all_at_once="rows = [bytes(1000) for _ in range(10**6)]; print(len(rows))",
                weather="print('sunny')",
            ),
            calls(streamed="print(sum(1 for _ in (bytes(1000) for _ in range(10**6))))"),
            AIMessage(content="There are 1000000 rows, and it is sunny."),
        ]
    )
)
agent = create_agent(model, [run_python], name="analyst")

for step in agent.stream({"messages": [("user", "How many rows? And the weather?")]}):
    for update in step.values():
        for message in update["messages"]:
            for call in getattr(message, "tool_calls", []):
                print(f"model calls {call['name']}({call['args']['code']!r})")
            if isinstance(message, ToolMessage):
                print(f"model is told: {message.text.strip()}")
            elif message.text:
                print(f"model answers: {message.text}")
        print()

for record in session.records:
    peak = "not measured here"
    if record.memory_peak_bytes is not None:
        peak = f"{record.memory_peak_bytes / 2**20:.0f} MiB"
    print(
        f"{record.agent} {record.tool} {record.tool_call_id:<12} {record.outcome:<4} "
        f"{record.duration_s:6.2f} s  peak {peak}"
    )
