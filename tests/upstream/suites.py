"""The suites: one row each, with what its tests need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: How a suite runs; the first is what the others are compared with.
NONE: Final = "none"
REGISTERED: Final = "registered"
ISOLATED: Final = "isolated"
CALLED: Final = "called"

MODES: Final = {
    NONE: "without agentcgroup",
    REGISTERED: "after agentcgroup.register()",
    ISOLATED: "registered, and every tool runs in a worker process",
    CALLED: "registered, and each test runs inside a call",
}

_FRAMEWORK: Final = (REGISTERED, ISOLATED)
_PROCESSES: Final = (CALLED,)


@dataclass(frozen=True)
class Suite:
    """One project's tests.

    Attributes:
        package: the distribution's name and version; the version is fixed, so that a difference
            between two runs is ours.
        environment: suites with the same one share a virtualenv.
        members: the parts of the source distribution that are unpacked. The package's own source
            is left out where it would hide the installed one.
        tests: files and folders that pytest gets.
        modes: the modes that make sense beside `none`.
        needs: further distributions, for the tests.
        options: further arguments of pytest.
        variables: further environment variables.
        apart: one process of pytest for each file.
        quick: the files that CI runs, by mode. All together take two minutes at most, without the
            virtualenvs; they are those with the most differences found for their time.
    """

    package: str
    environment: str
    members: tuple[str, ...]
    tests: tuple[str, ...]
    modes: tuple[str, ...]
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    apart: bool = False
    quick: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the distribution's name."""
        return self.package.partition("==")[0]

    @property
    def in_package(self) -> bool:
        """Return whether the installed package has the tests, whose ids then name no file here."""
        return "--pyargs" in self.tests


_LANGCHAIN: Final = (
    "pytest-asyncio",
    "pytest-mock",
    "pytest-socket",
    "syrupy",
    "blockbuster",
    "langchain-tests",
)
_LANGGRAPH: Final = (
    *("pytest-asyncio", "pytest-mock", "pytest-dotenv", "pytest-repeat", "syrupy"),
    *("httpx", "langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite"),
    *("psycopg[binary]", "pycryptodome", "redis", "uvloop"),
)

#: Their databases run in containers, which the tests leave out with this variable.
_NO_DATABASES: Final = {"NO_DOCKER": "true", "LANGGRAPH_TEST_FAST": "true"}

#: A model of the tests that calls its tool again until it has an answer does so thousands of times,
#: each with twice the text of the last, where the call is rejected. 25 was LangGraph's own limit.
_FEW_STEPS: Final = {"LANGGRAPH_DEFAULT_RECURSION_LIMIT": "25"}

#: The tests of these need the package autogen_test_utils, which is in no distribution.
_AUTOGEN_UTILS: Final = tuple(
    f"--ignore=tests/test_{name}.py"
    for name in (
        *("base_agent", "component_config", "intervention", "routed_agent", "runtime"),
        "subscription",
    )
)

SUITES: Final = (
    Suite(
        "langchain-core==1.8.3",
        "langchain",
        ("tests", "pyproject.toml"),
        ("tests/unit_tests",),
        _FRAMEWORK,
        (*_LANGCHAIN, "freezegun", "grandalf", "numpy", "pytest-benchmark", "responses"),
        quick={REGISTERED: ("tests/unit_tests/test_tools.py",)},
    ),
    Suite(
        "langchain==1.5.2",
        "langchain",
        ("tests", "pyproject.toml"),
        ("tests/unit_tests/agents", "tests/unit_tests/tools"),
        _FRAMEWORK,
        (*_LANGCHAIN, "langchain-openai", "pytest-benchmark", "toml"),
        variables=_NO_DATABASES,
    ),
    Suite(
        "langgraph==1.2.24",
        "langchain",
        ("tests", "pyproject.toml"),
        ("tests",),
        _FRAMEWORK,
        _LANGGRAPH,
        variables=_NO_DATABASES,
        quick=dict.fromkeys(_FRAMEWORK, ("tests/test_tool_stream_handler.py",)),
    ),
    Suite(
        "langgraph-prebuilt==1.1.3",
        "langchain",
        ("tests", "pyproject.toml"),
        ("tests",),
        _FRAMEWORK,
        _LANGGRAPH,
        variables={**_NO_DATABASES, **_FEW_STEPS},
    ),
    # The distribution of deepagents has no tests.
    Suite(
        "langchain-mcp-adapters==0.3.2",
        "mcp",
        ("tests", "pyproject.toml"),
        ("tests",),
        _FRAMEWORK,
        (
            *("langchain", "pytest-asyncio", "pytest-socket", "websockets", "dirty-equals"),
            "starlette",
            "uvicorn",
        ),
    ),
    Suite(
        "autogen-core==0.7.5",
        "autogen",
        ("tests", "pyproject.toml"),
        ("tests",),
        _FRAMEWORK,
        (
            *("pytest-asyncio", "pytest-mock", "asyncio_atexit", "email-validator"),
            *("autogen-ext[ollama,openai]==0.7.5", "opentelemetry-sdk", "pandas", "pillow"),
            "grpcio",
        ),
        options=_AUTOGEN_UTILS,
    ),
    Suite(
        "autogen-agentchat==0.7.5",
        "autogen",
        ("tests", "pyproject.toml"),
        ("tests",),
        _FRAMEWORK,
        (
            *("pytest-asyncio", "pytest-mock", "autogen-ext[anthropic,openai]==0.7.5"),
            *("pandas", "mcp<2"),
        ),
        options=(
            "--asyncio-mode=auto",
            "--ignore=tests/test_group_chat_endpoint.py",  # a hosted model
        ),
    ),
    Suite(
        "crewai==1.15.30",
        "crewai",
        ("tests", "pyproject.toml"),
        (
            *("tests/tools", "tests/hooks", "tests/mcp"),
            *("tests/agents/test_agent_executor.py", "tests/agents/test_native_tool_calling.py"),
            "tests/agents/test_native_tool_hook_contract.py",
            "tests/agents/test_react_tool_hook_contract.py",
            "tests/test_tool_cache_default.py",
            "tests/test_flow_tool_action_failure_policy.py",
            "tests/test_flow_tool_action_usage.py",
        ),
        _FRAMEWORK,
        (
            *("pytest-asyncio", "pytest-mock", "pytest-recording", "litellm"),
            *("crewai-tools==1.15.30", "crewai-files==1.15.30"),
        ),
        options=("--asyncio-mode=strict", "--record-mode=none"),
    ),
    Suite(
        "anyio==4.16.0",
        "processes",
        ("tests", "pyproject.toml"),
        ("tests",),
        _PROCESSES,
        (
            *("blockbuster", "exceptiongroup", "hypothesis", "psutil", "pytest-mock"),
            *("trio", "trustme", "truststore", "uvloop"),
        ),
        # One runs pytest within pytest for minutes, and one needs the package's sources.
        options=("--ignore=tests/test_pytest_plugin.py", "--ignore=tests/test_lazyimport.py"),
        quick={CALLED: ("tests/test_subprocesses.py",)},
    ),
    Suite(
        "trio==0.35.0",
        "processes",
        ("pyproject.toml",),
        ("--pyargs", "trio"),
        _PROCESSES,
        ("async-generator", "astor", "jedi", "pyOpenSSL", "trustme"),
        options=("-p", "no:asyncio"),
    ),
    Suite(
        "uvloop==0.23.0",
        "processes",
        ("tests", "pyproject.toml"),
        (
            *("tests/test_process.py", "tests/test_process_spawning.py", "tests/test_signals.py"),
            *("tests/test_executors.py", "tests/test_pipes.py", "tests/test_base.py"),
            *("tests/test_context.py", "tests/test_regr1.py", "tests/test_fs_event.py"),
        ),
        _PROCESSES,
        ("aiohttp", "psutil", "pyOpenSSL"),
    ),
    Suite(
        "sh==2.4.0",
        "processes",
        ("tests",),
        ("tests/sh_test.py",),
        _PROCESSES,
        options=("-o", "python_files=sh_test.py"),
    ),
    Suite(
        "plumbum==2.0.2",
        "processes",
        ("tests", "pyproject.toml"),
        ("tests",),
        _PROCESSES,
        ("paramiko", "psutil", "pytest-asyncio", "pytest-cov", "pytest-mock"),
        # Its conftest uses what pytest 10 removes, and its settings make errors of warnings.
        options=(
            *("-W", "ignore::pytest.PytestRemovedIn10Warning"),
            *("-o", "asyncio_default_fixture_loop_scope=function"),
        ),
        quick={CALLED: ("tests/test_local.py", "tests/test_pipelines.py")},
    ),
    Suite(
        "billiard==4.3.2",
        "processes",
        ("t", "setup.cfg"),
        ("t/unit",),  # the other folder is for Python 2
        _PROCESSES,
        ("psutil", "setuptools"),
    ),
    Suite(
        "loky==3.7.0",
        "processes",
        ("tests", "pyproject.toml"),
        ("tests",),
        _PROCESSES,
        ("packaging", "psutil", "cloudpickle"),
        options=("--skip-high-memory", "--loky-verbosity=20"),
    ),
    Suite(
        "pebble==5.2.3",
        "processes",
        ("test",),
        ("test/test_*.py",),
        _PROCESSES,
        apart=True,  # each file sets the start method of multiprocessing
        quick={CALLED: ("test/test_concurrent_process_fork.py",)},
    ),
    Suite(
        "gevent==26.9.0",
        "gevent",
        ("src/gevent/tests",),
        tuple(
            f"src/gevent/tests/test__{name}.py"
            for name in (
                *("subprocess", "subprocess_interrupted", "subprocess_poll", "os", "signal"),
                *("core_fork", "core_watcher", "close_backend_fd", "destroy", "pool", "greenlet"),
                *("monkey", "monkey_fork_atomic", "monkey_futures_thread_fork"),
                *("monkey_hub_in_thread", "monkey_logging", "monkey_queue", "monkey_select"),
                *("monkey_sigchld", "monkey_sigchld_2", "monkey_sigchld_3"),
                *("monkey_sigchld_wakeup_fd", "threading_2", "threading_fork_from_dummy"),
                *("threading_before_monkey", "threading_monkey_in_thread", "threading_no_monkey"),
                *("threading_native_before_monkey", "threadpool", "threadpool_executor_patched"),
                *("contextvars", "issue112", "issue230", "issue330", "issue600", "issue639"),
                *("issues461_471", "timeout", "hub", "event", "queue", "thread"),
            )
        ),
        _PROCESSES,
        ("psutil", "requests", "dnspython", "objgraph"),
        apart=True,  # each file patches the standard library
    ),
)

#: Distributions that every virtualenv has: pytest, and what agentcgroup itself imports.
EVERY: Final = ("pytest>=9", "pytest-timeout")
