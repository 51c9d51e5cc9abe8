"""The tests of each framework on its oldest and its newest version: ``nox``, or ``nox -k crewai``.

The oldest is the floor that pyproject.toml declares. What a framework of that age has not, the
tests name; of langchain-core 0.3.0, which is older than `create_agent`, only the tools are tried.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"

_TEST = ("pytest>=8", "pytest-timeout")
_TABLE = "tests/frameworks/conformance/test_conformance.py"


@nox.session(python="3.11")
def langchain_floor(session: nox.Session) -> None:
    """The tools of langchain-core alone."""
    session.install("-e", ".", *_TEST, "langchain-core==0.3.0")
    session.run("pytest", "tests/frameworks/test_langchain_core.py")


@nox.session(python="3.11")
def langchain(session: nox.Session) -> None:
    """Agents of LangChain and deepagents."""
    session.install("-e", ".", *_TEST, "langchain", "deepagents", "langchain-mcp-adapters")
    session.run("pytest", "tests/frameworks/test_langchain.py")
    session.run("pytest", _TABLE, "-k", "langchain")


@nox.session(python="3.11")
def autogen_floor(session: nox.Session) -> None:
    """AssistantAgent of an age when it used its tools once; the MCP client of then."""
    packages = ("autogen-agentchat==0.5.7", "autogen-ext[mcp]==0.5.7", "mcp<2")
    session.install("-e", ".", *_TEST, *packages)
    session.run("pytest", "tests/frameworks/test_autogen.py")


@nox.session(python="3.11")
def autogen(session: nox.Session) -> None:
    """AssistantAgent, teams, code executors and MCP of AutoGen."""
    session.install("-e", ".", *_TEST, "autogen-agentchat", "autogen-ext[mcp]")
    session.run("pytest", "tests/frameworks/test_autogen.py")
    session.run("pytest", _TABLE, "-k", "autogen")


@nox.session(python="3.11")
@nox.parametrize("version", ["==1.10.1", ""])
def crewai(session: nox.Session, version: str) -> None:
    """Crews of CrewAI, with function calling and without."""
    session.install("-e", ".", *_TEST, f"crewai{version}")
    session.run("pytest", "tests/frameworks/test_crewai.py")
    session.run("pytest", _TABLE, "-k", "crewai")
