"""Sessions that test each framework with its oldest, a middle and its newest release.

Session `langgraph_dev` tests the newest server of LangGraph. CI runs the sessions with the tag
`floor`, so it has that tag, too.

nox --tags floor        # the oldest releases; `make test-versions` runs this
nox -s autogen          # all releases of one framework
nox --list              # all sessions

`make test` tests the newest releases in its own virtualenv, too.
"""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"

#: Packages that the tests need.
TESTS = ["pytest>=8", "pytest-timeout"]
#: AutoGen works with this major version of the package mcp only.
MCP = "mcp<2"


def _test(session: nox.Session, framework: str, packages: list[str], *tests: str) -> None:
    """Run test files in a virtualenv that has one framework, in these versions."""
    session.install("-e", f".[{framework}]", *TESTS, *packages)
    session.run("pytest", *[f"tests/frameworks/{test}.py" for test in tests], *session.posargs)


# langchain 1 added create_agent; before, there were langchain-core's tools and LangGraph's nodes.
TOOLS = ["test_langchain"]
AGENTS = [*TOOLS, "test_langchain_agents", "test_isolation_langchain"]


@nox.session
@nox.parametrize(
    ("packages", "tests"),
    [
        nox.param(
            ["langchain-core==0.3.0", "langgraph==0.2.40"], TOOLS, id="core-0.3.0", tags=["floor"]
        ),
        nox.param(["langchain==1.2.18", "deepagents"], AGENTS, id="1.2.18", tags=["middle"]),
        nox.param(["langchain", "deepagents"], AGENTS, id="newest", tags=["newest"]),
    ],
)
def langchain(session: nox.Session, packages: list[str], tests: list[str]) -> None:
    """Test LangChain, LangGraph and deepagents."""
    _test(session, "langchain", packages, *tests)


@nox.session(tags=["floor"])
def langgraph_dev(session: nox.Session) -> None:
    """Test agents behind `langgraph dev`, whose packages only this session has."""
    _test(session, "langchain", ["langchain", "langgraph-cli[inmem]"], "test_langgraph_dev")


@nox.session
@nox.parametrize(
    "version",
    [
        nox.param("==0.5.7", id="0.5.7", tags=["floor"]),
        nox.param("==0.6.4", id="0.6.4", tags=["middle"]),
        nox.param("", id="newest", tags=["newest"]),
    ],
)
def autogen(session: nox.Session, version: str) -> None:
    """Test AutoGen, and the part of its extensions that starts processes."""
    packages = [f"autogen-agentchat{version}", f"autogen-ext[mcp]{version}", MCP]
    _test(session, "autogen", packages, "test_autogen", "test_isolation_autogen")


@nox.session
@nox.parametrize(
    "version",
    [
        nox.param("==1.10.1", id="1.10.1", tags=["floor"]),
        nox.param("==1.15.8", id="1.15.8", tags=["middle"]),
        nox.param("", id="newest", tags=["newest"]),
    ],
)
def crewai(session: nox.Session, version: str) -> None:
    """Test CrewAI."""
    _test(session, "crewai", [f"crewai{version}"], "test_crewai", "test_isolation_crewai")
