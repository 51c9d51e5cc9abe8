"""A program that PyInstaller has frozen: what is collected by our hook alone, and what works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_APP = """
import importlib.util, logging, multiprocessing, os, subprocess

def where(*queue):
    told = subprocess.check_output(["tail", "-n1", "/proc/self/cgroup"], text=True)
    return queue[0].put(told) if queue else told

if __name__ == "__main__":
    multiprocessing.freeze_support()
    with open("starts", "a") as starts:
        starts.write("started\\n")
    logging.basicConfig()
    import agentcgroup
    from agentcgroup import bpf, spawn
    session = agentcgroup.register(
        config={"monitor": {"backend": "libbpf"}, "limits": {"call": {"isolation": "process"}}}
    )
    with agentcgroup.call("tool"):
        print("a child of a call is in it:", "/call-" in where())
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=where, args=(queue,))
        process.start()
        print("the program started anew in a call is in it:", "/call-" in queue.get())
        process.join()
    print("isolated tools run inline:", agentcgroup.isolate(os.getpid)() == os.getpid())
    print([(record.tool, record.isolation, record.outcome) for record in session.records])
    print("by the C extension:", spawn.method().mode)
    for adapter in ("langchain", "autogen", "crewai"):
        assert importlib.util.find_spec("agentcgroup.adapters." + adapter), adapter
    assert "monitor.skel" in os.listdir(os.path.dirname(bpf.__file__))
    session.close()
"""
#: What the program does not use; with it the build takes minutes.
_EXCLUDED = (
    *("autogen_agentchat", "autogen_core", "autogen_ext", "crewai", "gevent", "langchain"),
    *("langchain_core", "langgraph", "mcp", "numpy", "openai", "opentelemetry", "pygments"),
    *("rich", "typer", "uvloop"),
)
_TOLD = """\
a child of a call is in it: True
the program started anew in a call is in it: True
isolated tools run inline: True
[('tool', 'inline', 'ok'), ('getpid', 'inline', 'ok')]
by the C extension: clone3
"""


@pytest.mark.timeout(600)
def test_a_program_that_pyinstaller_has_frozen(folder: Path) -> None:
    (folder / "app.py").write_text(_APP)
    command = [sys.executable, "-m", "PyInstaller", "--log-level", "ERROR", "app.py"]
    for module in _EXCLUDED:
        command += ["--exclude-module", module]
    built = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert built.returncode == 0, built.stderr
    done = subprocess.run(
        ["dist/app/app"], capture_output=True, text=True, check=False, cwd=folder, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, _TOLD), done.stderr
    assert (folder / "starts").read_text() == "started\n"
    assert done.stderr.count('isolation = "process" (of config=): this program is frozen') == 1
    assert done.stderr.count("the monitor's helper cannot be started: this program is frozen") == 1
