"""What the examples share: a real model if one is named, and the records at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from agentcgroup import Session

#: A model of the framework's choice, such as "openai:gpt-5" for LangChain; else a scripted one.
MODEL = os.environ.get("AGENTCGROUP_EXAMPLE_MODEL")

# A scripted run asks nobody anything: what the frameworks report home is off.
if MODEL is None:
    os.environ.update(
        LANGSMITH_TRACING="false",
        LANGCHAIN_TRACING_V2="false",
        CREWAI_DISABLE_TELEMETRY="true",
        CREWAI_TRACING_ENABLED="false",
        CREWAI_DISABLE_VERSION_CHECK="true",
        CREWAI_TESTING="true",  # asks for no consent
        AUTOGEN_DISABLE_RUNTIME_TRACING="true",
        OTEL_SDK_DISABLED="true",
    )


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Say how to install what a real model is missing."""
    try:
        yield
    except ImportError as error:
        raise SystemExit(
            f"AGENTCGROUP_EXAMPLE_MODEL={MODEL} cannot be used: {error}\n"
            f"Install what it needs (pip install {package}), or unset it for a scripted model."
        ) from error


def told(text: str) -> None:
    """Print what the model is told."""
    print(f"model is told: {text.strip()}\n", flush=True)


def records(session: Session) -> None:
    """Print one line for each call that was."""
    for record in session.records:
        peak = "not measured here"
        if record.memory_peak_bytes is not None:
            peak = f"{record.memory_peak_bytes / 2**20:.0f} MiB"
        print(
            f"{record.agent} {record.tool:<12} {record.outcome:<7} {record.duration_s:6.2f} s"
            f"  peak {peak}"
        )
