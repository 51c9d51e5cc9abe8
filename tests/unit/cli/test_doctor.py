"""`agentcgroup doctor`: its report on this machine, and on machines that lack something."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pexpect
import pytest

from agentcgroup.place.place import find

pytestmark = pytest.mark.usefixtures("folder")


def _doctor(*words: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command after `code` has changed the machine as the command sees it."""
    start = f"{code}\nfrom agentcgroup.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", start, "doctor", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def _findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    report = json.loads(done.stdout)
    assert report["complete"] is (done.returncode == 0)
    return {finding["what"]: finding for finding in report["findings"]}


_DISTRIBUTIONS = {
    "autogen": "autogen-agentchat",
    "crewai": "crewai",
    "langchain": "langchain-core",
}


def test_it_reports_what_this_machine_enforces() -> None:
    """The report agrees with `find`, which tests the limits; the status is 0 only if all hold."""
    place = find()
    findings = _findings(_doctor("--json"))
    assert findings["Python"]["detail"].startswith(platform.python_version())
    assert findings["kernel"]["detail"] == f"Linux {platform.release()}"
    assert findings["cgroup v2"]["detail"] == f"{place.base} ({place.kind})"
    for name in place.controllers:
        assert findings[f"limits of {name}"]["state"] == "yes"
    for problem in place.problems:
        told = findings[problem.what]
        assert (told["state"], told["detail"], told["fix"]) == ("no", problem.why, problem.fix)
    for framework, distribution in _DISTRIBUTIONS.items():
        assert findings[framework] == {
            "what": framework,
            "state": "yes",
            "detail": f"{distribution} {version(distribution)}",
            "fix": None,
            "enforces": True,
        }


def test_it_says_what_monitors_here_and_the_limits_do_not_depend_on_it(folder: Path) -> None:
    (folder / "agentcgroup.toml").write_text('[monitor]\nbackend = "auto"\n')
    findings = _findings(_doctor("--json"))
    assert findings["monitor"]["state"] in ("yes", "partly")
    assert findings["monitor"]["detail"].startswith("libbpf: ")
    assert not any(
        finding["enforces"] for what, finding in findings.items() if what.startswith("monitor")
    )


@pytest.mark.parametrize(
    ("backend", "state", "detail"),
    [("off", "yes", "off: "), ("procs", "yes", "procs: the process connector")],
)
def test_it_tries_the_backend_that_is_configured(
    folder: Path, backend: str, state: str, detail: str
) -> None:
    (folder / "agentcgroup.toml").write_text(f'[monitor]\nbackend = "{backend}"\n')
    findings = _findings(_doctor("--json"))
    assert findings["monitor"]["state"] == state
    assert findings["monitor"]["detail"].startswith(detail)


def test_without_rights_it_says_which_are_missing_and_the_limits_do_not_suffer(
    folder: Path,
) -> None:
    (folder / "agentcgroup.toml").write_text('[monitor]\nbackend = "auto"\n')
    start = "from agentcgroup.cli import main; main()"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", start, "doctor", "--json"],
        capture_output=True,
        text=True,
    )
    findings = _findings(done)
    assert findings["monitor"]["state"] == "no"
    assert findings["monitor by libbpf"]["detail"]
    assert "first pid and user namespaces" in findings["monitor by procs"]["detail"]


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_report_fits_a_terminal_of(columns: int) -> None:
    """No line is longer than the terminal, and no word is broken: commands can be copied."""
    done = _doctor(COLUMNS=str(columns), AGENTCGROUP_ROOT="/tmp/not/a/cgroup")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert {line[:8].strip() for line in lines if line} >= {"yes", "no", ""}
    told = " ".join(done.stdout.split())
    assert "/tmp/not/a/cgroup was named as the place to work" in told
    assert 'mode = "enforce" refuses to start.' in told
    assert "\x1b" not in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(("wish", "colors"), [("", True), ("1", False)])
def test_a_terminal_gets_colors_unless_it_wants_none(wish: str, colors: bool) -> None:
    """As https://no-color.org defines it, an empty NO_COLOR is an unset one."""
    command = [sys.executable, "-m", "agentcgroup", "doctor"]
    terminal = pexpect.spawn(
        command[0], command[1:], env={**os.environ, "NO_COLOR": wish}, timeout=60
    )
    assert (b"\x1b" in terminal.read()) is colors
    terminal.close()


def test_without_a_cgroup_it_says_why_and_ends_with_1() -> None:
    findings = _findings(_doctor("--json", AGENTCGROUP_ROOT="/tmp"))
    assert findings["cgroup v2"]["state"] == "no"
    assert "/tmp was named as the place to work" in findings["all limits"]["detail"]


def test_without_the_extension_children_are_placed_later_and_it_says_what_helps() -> None:
    """So it is if the installation had no C compiler."""
    missing = "import sys; sys.modules['agentcgroup._native'] = None"
    placed = _findings(_doctor("--json", code=missing))["children born in their cgroup"]
    assert placed["state"] == "partly"
    assert placed["fix"] == "install again where there is a C compiler, or from a wheel."
    assert _findings(_doctor("--json"))["children born in their cgroup"]["state"] == "yes"


def test_an_older_framework_is_named_with_what_is_needed(folder: Path) -> None:
    """The report has the version of the installed distribution, and the version it needs."""
    _distribution(folder, "langchain_core", "0.2.43")
    found = _findings(_doctor("--json", PYTHONPATH=str(folder)))["langchain"]
    assert found == {
        "what": "langchain",
        "state": "no",
        "detail": "found langchain-core 0.2.43, need 0.3.",
        "fix": "pip install --upgrade 'agentcgroup[langchain]'",
        "enforces": True,
    }


def test_a_seam_that_is_missing_is_named() -> None:
    """The version is right, but the class lacks the method that a call goes through."""
    broken = "from langchain_core.tools import base\ndel base.BaseTool.arun"
    found = _findings(_doctor("--json", code=broken))["langchain"]
    assert found["state"] == "partly"
    assert "langchain_core.tools.base.BaseTool.arun is missing" in found["detail"]
    assert "NOT contained" in found["detail"]


def test_a_framework_that_cannot_be_imported_is_no_yes(folder: Path) -> None:
    """Another package has the framework's name and none of its seams."""
    _distribution(folder, "langchain_core", "1.0.0")
    (folder / "langchain_core").mkdir()
    (folder / "langchain_core" / "__init__.py").write_text("print('hello from an import')")
    done = _doctor("--json", PYTHONPATH=str(folder))
    found = _findings(done)["langchain"]
    assert found["state"] == "partly"
    assert "langchain_core.tools.base, " in found["detail"]
    why = "cannot be imported (ModuleNotFoundError: No module named 'langchain_core.tools')."
    assert found["detail"].endswith(why)
    assert "hello from an import" in done.stderr


_TOY = """
from agentcgroup.adapter import FrameworkAdapter, Parts, Seam

def _parts():
    {parts}
    seams = {{"toyframe": [Seam("Tool.call", lambda original: original, "NOT contained")]}}
    return Parts(seams, owns=lambda tool: False, bodies=lambda tool: {{}})

print("hello from an adapter")
adapter = FrameworkAdapter("toyframe", "{requires}", ("toyframe",), _parts, "lost")
"""


@pytest.mark.parametrize(
    ("tool", "requires", "parts", "state", "detail"),
    [
        ("class Tool:\n    def call(self): ...", "toyframe>=1.0", "", "yes", "toyframe 1.2"),
        ("", "toyframe", "", "partly", "toyframe 1.2: toyframe.Tool.call is missing in this"),
        ("", "toyframe>=2", "", "no", "found toyframe 1.2, need 2."),
        ("", "toy>=2", "", "no", "found no toy, need 2."),
        ("", "toyframe==2", "", "no", "requires = 'toyframe==2': not as in 'toyframe>=1.2'."),
        ("", "toyframe", "raise OSError(5, 'x')", "no", "the adapter fails: OSError: [Errno 5] x"),
        (
            "",
            'toyframe" + 1 / 0 + "',
            "",
            "no",
            "the adapter 'toyframe' (toy_adapter:adapter) ",
        ),
    ],
)
def test_an_adapter_of_another_distribution_is_reported_like_ours(
    folder: Path, tool: str, requires: str, parts: str, state: str, detail: str
) -> None:
    _distribution(folder, "toyframe", "1.2")
    (folder / "toyframe-1.2.dist-info" / "entry_points.txt").write_text(
        "[agentcgroup.adapters]\ntoyframe = toy_adapter:adapter\n"
    )
    (folder / "toyframe.py").write_text(tool)
    (folder / "toy_adapter.py").write_text(_TOY.format(requires=requires, parts=parts or "pass"))
    done = _doctor("--json", PYTHONPATH=str(folder))
    found = _findings(done)["toyframe"]
    assert (found["state"], found["detail"][: len(detail)]) == (state, detail)
    assert "hello from an adapter" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_config_error_is_an_error(folder: Path) -> None:
    (folder / "agentcgroup.toml").write_text("x = 1")
    done = _doctor()
    assert done.returncode == 2
    assert "agentcgroup.toml:1: x: unknown key" in done.stderr


#: Code that removes from Python what another system lacks. The rest of the standard library is
#: still that of Linux: the test shows which names we use, not that everything works there.
_LACKING = {
    "darwin": "import os, sys, sysconfig\nsysconfig.get_config_vars()\nsys.platform = 'darwin'\n"
    "for name in [*dir(os)]:\n"
    "    if name.startswith(('sched_', 'SCHED_')) or name in ('O_PATH', 'getxattr'):\n"
    "        delattr(os, name)\n",
    "win32": "import asyncio, os, pydantic, signal, subprocess, sys, sysconfig, typer.main\n"
    "sysconfig.get_config_vars()\n"
    "sys.platform = 'win32'\n"
    "for name in ('fcntl', 'pwd', 'resource', 'pty', 'termios', '_posixsubprocess'):\n"
    "    sys.modules[name] = None\n"
    "for name in ('fork', 'register_at_fork', 'O_PATH', 'O_DIRECTORY', 'geteuid', 'getxattr'):\n"
    "    delattr(os, name)\n"
    "for name in ('SIGHUP', 'SIGKILL', 'SIGUSR1', 'SIGUSR2', 'SIGQUIT'):\n"
    "    delattr(signal, name)\n",
}


@pytest.mark.parametrize("system", _LACKING)
def test_on_another_system_it_says_to_use_linux(system: str) -> None:
    code = _LACKING[system] + f"import platform\nplatform.system = lambda: {system!r}\n"
    done = _doctor("--json", code=code)
    assert done.stderr == ""
    found = _findings(done)
    assert set(found) == {"Python", "kernel"}
    assert found["kernel"]["state"] == "no"
    assert found["kernel"]["detail"].endswith("has no cgroups.")
    assert "Linux container" in found["kernel"]["fix"]


def test_on_another_system_tools_run_uncontained_and_one_warning_says_so() -> None:
    """A developer on another system can leave register() in the code; mode = "enforce" refuses."""
    code = _LACKING["darwin"] + (
        "import agentcgroup\n"
        "session = agentcgroup.register(config={})\n"
        "with agentcgroup.call('tool'): print('ran')\n"
        "agentcgroup.unregister()\n"
        "try: agentcgroup.register(config={'mode': 'enforce'})\n"
        "except agentcgroup.CgroupUnavailable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = done.stderr.splitlines()
    assert len(said) == 1
    assert "not enforced here: all limits: this system has no cgroups" in said[0]
    ran, refused = done.stdout.splitlines()
    assert ran == "ran"
    assert "Linux container" in refused


@pytest.mark.parametrize("command", ["doctor", "run", "exec", "clean"])
def test_help_has_an_example_in_lines_of_its_own(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentcgroup", command, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0
    assert any(line.startswith(f"  agentcgroup {command}") for line in done.stdout.splitlines())
    assert "\\b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def _distribution(folder: Path, name: str, number: str) -> None:
    """Install the metadata of a distribution with this version."""
    info = folder / f"{name}-{number}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {number}\n"
    )
