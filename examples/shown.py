"""Functions that all examples share: the choice of the model, and the output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from agentcgroup import Session

#: Name of a real model, as the framework writes it, such as "openai:gpt-5"; None: a scripted model.
MODEL = os.environ.get("AGENTCGROUP_EXAMPLE_MODEL")

# With a scripted model, an example uses no network: this turns off the frameworks' telemetry.
if MODEL is None:
    os.environ.update(
        LANGSMITH_TRACING="false",
        LANGCHAIN_TRACING_V2="false",
        CREWAI_DISABLE_TELEMETRY="true",
        CREWAI_TRACING_ENABLED="false",
        CREWAI_DISABLE_VERSION_CHECK="true",
        CREWAI_TESTING="true",  # CrewAI does not ask for consent to tracing
        AUTOGEN_DISABLE_RUNTIME_TRACING="true",
        OTEL_SDK_DISABLED="true",
    )


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Exit with a message on how to install `package` if the block cannot import it."""
    try:
        yield
    except ImportError as error:
        raise SystemExit(
            f"AGENTCGROUP_EXAMPLE_MODEL={MODEL} cannot be used: {error}\n"
            f"Install what it needs (pip install {package}), or unset it for a scripted model."
        ) from error


def told(text: str) -> None:
    """Print the text that the model gets from a tool."""
    print(f"model is told: {text.strip()}\n", flush=True)


def records(session: Session) -> None:
    """Print one line for each finished call."""
    for record in session.records:
        peak = "not measured here"
        if record.memory_peak_bytes is not None:
            peak = f"{record.memory_peak_bytes / 2**20:.0f} MiB"
        print(
            f"{record.agent} {record.tool:<12} {record.outcome:<7} {record.duration_s:6.2f} s"
            f"  peak {peak}"
        )
