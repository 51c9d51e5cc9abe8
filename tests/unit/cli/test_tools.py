"""`agentcgroup doctor --app`: its report on the tools of an app, with and without a framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_APP = '''\
import sqlite3
import threading

lock = threading.Lock()


def plain(a: int) -> int:
    """Add one."""
    return a + 1


def query(sql: str) -> str:
    """Ask the database."""
    with lock:
        return sql


def remembering():
    seen = []

    def remembers(what: str) -> str:
        """Remember it."""
        seen.append(what)
        return str(seen)

    return remembers


def counts():
    """Count."""
    yield 1


class Store:
    """Something to call."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")

    def __call__(self, key: str) -> str:
        return key


TOOLS = [plain, query, remembering(), counts]
NAMED = {"a": plain, "b": plain}
STORE = Store()
NOTHING = []
'''


@pytest.fixture(autouse=True)
def app_file(folder: Path) -> None:
    """Write an app into the working directory, from which the command imports it."""
    (folder / "app.py").write_text(_APP)


def _doctor(*words: str) -> subprocess.CompletedProcess[str]:
    start = "import sys; sys.path[:] = [p for p in sys.path if p]\n"
    start += "from agentcgroup.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", start, "doctor", "--app", *words], capture_output=True, text=True
    )


def _found(*words: str) -> dict[str, dict[str, Any]]:
    done = _doctor(*words, "--json")
    assert done.returncode in (0, 1), done.stderr
    return {finding["tool"]: finding for finding in json.loads(done.stdout)["tools"]}


def test_each_tool_is_tested_and_measured_without_being_run() -> None:
    found = _found("app:TOOLS")
    assert {name: finding["can"] for name, finding in found.items()} == {
        "plain": True,
        "query": True,  # by name: the worker imports the module, and has a lock of its own
        "remembers": True,
        "counts": False,
    }
    for name in ("plain", "remembers"):
        assert found[name]["sent_bytes"] > 20
        assert found[name]["warm_s"] > 0
        assert found[name]["first_s"] > 0
    assert found["remembers"]["lost"] == ["closure variable 'seen'"]
    assert found["plain"]["lost"] == []
    assert found["counts"]["problem"].startswith("the result of function 'counts' (a generator)")


def test_the_object_in_the_way_is_named_with_a_remedy() -> None:
    done = _doctor("app:STORE")
    assert done.returncode == 1
    assert "function 'Store'.connection (sqlite3.Connection): cannot pickle" in done.stdout
    assert "To change it: make it inside the tool" in done.stdout


def test_output_of_the_app_is_no_part_of_the_report(folder: Path) -> None:
    (folder / "loud.py").write_text("print('loading')\ndef tool(): ...\nTOOLS = [tool]\n")
    assert list(_found("loud:TOOLS")) == ["tool"]
    assert "loading" in _doctor("loud:TOOLS").stderr


def test_a_dict_gives_names_and_the_status_is_0_if_a_worker_can_run_all() -> None:
    done = _doctor("app:NAMED")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("yes  plain") == 2


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("app:NOTHING", "app:NOTHING: has no tools"),
        ("app:TOLS", "app:TOLS: cannot be loaded: module 'app' has no attribute 'TOLS'"),
        ("ap", "ap: cannot be loaded: No module named 'ap'"),
        ("", "--app: '' names no module: write it as in myapp.tools:TOOLS"),
        ("./app.py", "--app: './app.py' names no module"),
    ],
)
def test_an_app_without_tools_is_an_error_that_says_why(app: str, said: str) -> None:
    done = _doctor(app)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys\nsys.exit(0)", "bad: cannot be loaded: SystemExit: 0 ("),
        ("\n{}['KEY']", "bad: cannot be loaded: KeyError: 'KEY' ("),
        ("\nraise ValueError('no model')", "bad.py:2)"),
        ("x = (", "'(' was never closed (bad.py, line 1)"),
    ],
)
def test_an_app_that_fails_to_load_is_an_error_that_says_why(
    folder: Path, code: str, said: str
) -> None:
    """The status is 2; it would be 1 for a tool that no worker can run."""
    (folder / "bad.py").write_text(code)
    done = _doctor("bad")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_other_objects_of_a_bare_module_are_ignored(folder: Path) -> None:
    """Proxies of web frameworks, for example, raise outside of a request."""
    (folder / "web.py").write_text(
        "from langchain_core.tools import tool\n"
        "class Proxy:\n"
        "    def __getattribute__(self, name):\n"
        "        raise RuntimeError('outside of a request')\n"
        "request = Proxy()\n"
        "@tool\n"
        "def asks(what: str) -> str:\n"
        "    'Ask.'\n"
        "    return what\n"
    )
    assert list(_found("web")) == ["asks"]


def test_a_tool_of_each_framework_is_known_by_its_framework(folder: Path) -> None:
    """The command finds them in a bare module."""
    (folder / "framed.py").write_text(
        '''\
import threading

from autogen_core.tools import FunctionTool
from langchain_core.tools import BaseTool, tool


def helper(a: int) -> int:
    return a


@tool
def add(a: int) -> int:
    """Add."""
    return a


class Search(BaseTool):
    name: str = "search"
    description: str = "Search."
    index: object = None

    def _run(self, query: str) -> str:
        return query


search = Search(index=threading.Lock())
double = FunctionTool(helper, "Double.", name="double")
'''
    )
    found = _found("framed")
    assert {(name, one["framework"], one["body"], one["can"]) for name, one in found.items()} == {
        ("add", "langchain", "func", True),
        ("search", "langchain", "_run", False),
        ("double", "autogen", "_func", True),
    }
    assert "tool.index (_thread.lock)" in found["search"]["problem"]


_TOY = """
from agentcgroup.adapter import Body, FrameworkAdapter, Parts

def _parts():
    return Parts({{}}, owns=lambda tool: {owns}, bodies=lambda tool: {bodies})

adapter = FrameworkAdapter("toyframe", "toyframe", ("toyframe",), _parts, "lost")
"""
_OURS = "type(tool).__name__ == 'Tool'"


@pytest.mark.parametrize(
    ("owns", "bodies", "can", "body", "problem"),
    [
        (_OURS, "{'work': Body(tool.work)}", True, "work", None),
        (_OURS, "1 / 0", False, "", "the adapter fails: bodies(): ZeroDivisionError: division by"),
    ],
)
def test_a_tool_of_another_distributions_adapter_is_known_by_its_framework(
    folder: Path, owns: str, bodies: str, can: bool, body: str, problem: str | None
) -> None:
    _declare(folder, _TOY.format(owns=owns, bodies=bodies))
    (finding,) = _found("toyapp").values()
    assert (finding["tool"], finding["framework"], finding["body"]) == ("tool", "toyframe", body)
    assert finding["can"] is can
    assert problem is None or finding["problem"].startswith(problem)


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        ("import gone", "the adapter 'toyframe' (toy_adapter:adapter) cannot be loaded: No module"),
        ("class adapter:\n  install = print", "(toy_adapter:adapter) has no modules(), owns(), "),
        (_TOY.format(owns="1 / 0", bodies="{}"), "'toyframe': owns() fails: ZeroDivisionError: "),
    ],
)
def test_an_adapter_that_fails_is_named_once_and_hides_no_other(
    folder: Path, adapter: str, reason: str
) -> None:
    _declare(folder, adapter)
    done = _doctor("app:TOOLS", "--json")
    assert json.loads(done.stdout)["tools"][0]["tool"] == "plain"
    assert done.stderr.count(reason) == 1
    assert "Traceback" not in done.stderr


def _declare(folder: Path, adapter: str) -> None:
    """Install an adapter for a framework of one class, and an app with a tool of it."""
    info = folder / "toy_adapter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-adapter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[agentcgroup.adapters]\ntoyframe = toy_adapter:adapter\n"
    )
    (folder / "toy_adapter.py").write_text(adapter)
    (folder / "toyframe.py").write_text("class Tool:\n    name = 'tool'\n    def work(self): ...\n")
    (folder / "toyapp.py").write_text("import toyframe\ntool = toyframe.Tool()\n")


def test_times_are_taken_when_the_fork_server_has_imported_what_it_can(folder: Path) -> None:
    """It takes as long for that as the first worker: the tool is not said to need `reuse`."""
    (folder / "warming.py").write_text(
        "import time\ntime.sleep(1.5)\ndef tool(): ...\nTOOLS = [tool]\n"
    )
    (folder / "threaded.py").write_text(
        "import threading, time\ntime.sleep(0.5)\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "def tool(): ...\nTOOLS = [tool]\n"
    )
    warm = _found("warming:TOOLS")["tool"]
    assert warm["first_s"] > 1.5
    assert warm["warm_s"] < 1.5
    assert warm["fix"] is None or warm["warm_s"] > 0.25  # a machine may be that slow
    cold = _found("threaded:TOOLS")["tool"]
    assert cold["warm_s"] > 0.5
    assert "each worker imports modules again" in cold["fix"]
