"""`register` in a process of a call: the limits of that call hold, and nothing else happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: A program that registers when it is imported, as most do, and whose tool starts processes that
#: import it again. With `enforce`, a register() that is not inert raises in a process of a call.
APP = """
import concurrent.futures, json, logging, multiprocessing, os, subprocess, sys
import agentcgroup

OUTER = "OUTER" not in os.environ
os.environ["OUTER"] = str(os.getpid())
logging.basicConfig(level=logging.DEBUG, filename="debug.log", format="%(process)d %(message)s")
session = agentcgroup.register(config={"mode": "auto" if OUTER else "enforce"})

def cgroup():
    with open("/proc/self/cgroup") as lines:
        return [line.strip() for line in lines if line.startswith("0::")][0]

def inside(*_):
    session = agentcgroup.register()  # a fork has a copy of the outer session
    again = agentcgroup.register("langchain", config={"limits": {"call": {"pids_max": 9}}})
    seen = []
    session.on_record(seen.append)
    before = cgroup()
    with agentcgroup.call("nested", timeout="5m"):
        nested = subprocess.run(
            "grep ^0:: /proc/self/cgroup", shell=True, capture_output=True, text=True, check=True
        ).stdout.strip()
    @agentcgroup.isolate(isolation="process")
    def pid():
        return os.getpid()
    with session as entered:
        facts = {
            "same": again is session and entered is session,
            "cgroup": before, "nested": nested == before, "inline": pid() == os.getpid(),
            "records": len(session.records) + len(seen),
        }
    agentcgroup.unregister()
    agentcgroup.unregister()
    fresh = agentcgroup.register()
    return {**facts, "fresh": fresh.records == ()}

def into(queue):
    queue.put(inside())

def by_process(method):
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=into, args=(queue,))
    process.start()
    facts = queue.get()
    process.join()
    assert process.exitcode == 0
    return facts

def by_executor(method):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(inside).result()

def by_command(_):
    code = "import app, json; print(json.dumps(app.inside()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)

if __name__ == "__main__":
    how, method = sys.argv[1:]
    with agentcgroup.call("tool") as call:
        facts = globals()[how](method)
    print(json.dumps({**facts, "call": session.records[-1].cgroup, "id": len(session.records)}))
"""


@pytest.mark.parametrize(
    ("how", "method"),
    [
        ("by_process", "fork"),
        ("by_process", "spawn"),
        ("by_process", "forkserver"),
        ("by_executor", "spawn"),
        ("by_executor", "forkserver"),
        ("by_command", "-"),
    ],
)
def test_register_is_inert_in_a_process_of_a_call(folder: Path, how: str, method: str) -> None:
    (folder / "app.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "app.py", how, method],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts.pop("cgroup").endswith(facts.pop("call").rpartition("/agentcgroup.run-")[2])
    assert facts == {
        "same": True,
        "nested": True,
        "inline": True,
        "records": 0,
        "fresh": True,
        "id": 1,
    }
    assert "enforced" not in done.stderr.partition("\n")[2]  # the outer one's line, and no other
    assert "whose limits hold: here register() does nothing" in (folder / "debug.log").read_text()


def test_a_wrong_configuration_is_no_fault_of_a_process_of_a_call(folder: Path) -> None:
    """The tool's folder may have a file that the tool is about to write."""
    (folder / "inner.py").write_text("import agentcgroup; agentcgroup.register(config='no.toml')\n")
    (folder / "app.py").write_text(
        "import agentcgroup, subprocess, sys\nagentcgroup.register(config={})\n"
        "with agentcgroup.call('tool'): subprocess.run([sys.executable, 'inner.py'], check=True)\n"
    )
    done = subprocess.run([sys.executable, "app.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_command_of_a_call_may_ask_for_limits_of_its_own(folder: Path) -> None:
    """`agentcgroup exec` is asked for by name: its call is made inside the outer one."""
    command = [sys.executable, "-m", "agentcgroup", "exec", "--record", "--timeout", "5m", "--"]
    done = subprocess.run(
        [*command, *command, "grep", "^0::", "/proc/self/cgroup"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert done.stdout.count("agentcgroup.run-") == 2
