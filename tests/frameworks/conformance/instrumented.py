"""A program that OpenInference traces and agentcgroup contains, hooked in the given order.

Prints, for a run with both, and one after the tracing has been taken away again: what the agent
said, the records, and the names of the spans of tools.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import agentcgroup
from tests.frameworks.conformance import tools
from tests.frameworks.conformance.driver import Driver, load

_INSTRUMENTORS = {
    "langchain": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
    "autogen": ("openinference.instrumentation.autogen_agentchat", "AutogenAgentChatInstrumentor"),
    "crewai": ("openinference.instrumentation.crewai", "CrewAIInstrumentor"),
}


def main(column: str, order: str) -> None:
    """Hook, run, unhook the tracing, run again."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    framework = column.partition("-")[0]
    module, name = _INSTRUMENTORS[framework]
    instrumentor = getattr(importlib.import_module(module), name)()
    if order == "traced-first":
        instrumentor.instrument(tracer_provider=provider)
    session = agentcgroup.register(framework)
    driver = load(column)
    if order == "traced-last":
        instrumentor.instrument(tracer_provider=provider)

    both = _run(driver, session, spans)
    instrumentor.uninstrument()
    agentcgroup.register(framework)  # it may have taken ours with it
    alone = _run(driver, session, spans)
    agentcgroup.unregister()
    print(json.dumps({"both": both, "alone": alone}))


def _run(
    driver: Driver, session: agentcgroup.Session, spans: InMemorySpanExporter
) -> dict[str, Any]:
    spans.clear()
    before = len(session.records)
    agent = driver.build([("shell", {"command": "echo hi"})], "done", tools=[tools.shell])
    reply = driver.run(agent)
    return {
        "answers": [reply.text, *(answer.text.strip() for answer in reply.answers)],
        "records": [[one.agent, one.tool, one.outcome] for one in session.records[before:]],
        "traced": sum(
            (span.attributes or {}).get("openinference.span.kind") == "TOOL"
            for span in spans.get_finished_spans()
        ),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
