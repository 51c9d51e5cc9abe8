"""A machine on which no thread can be started: it is said, and tools go on."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.spawn_modes import deny

#: Prints what a call does where no thread can be started; sets that up itself for a cause "memory".
APP = """
import os, subprocess, sys, threading
if sys.argv[1] == "memory":
    threading.stack_size(1 << 46)  # more than the address space has
try:
    threading.Thread(target=int).start()
except RuntimeError as error:
    print(error)
import agentcgroup
try:
    session = agentcgroup.register(config={
        "mode": sys.argv[2], "records": "records.jsonl",
        "limits": {"call": {"timeout": "5m", "memory_max": "1G"}},
        "rules": [{"tool": "isolated", "isolation": "process"}],
    })
except agentcgroup.CgroupUnavailable as error:
    sys.exit(str(error))
seen = []
session.on_record(seen.append)
for _ in range(2):
    with agentcgroup.call("shell"):
        subprocess.run(["true"], check=True)
try:
    agentcgroup.isolate("isolated")(os.getpid)()
except agentcgroup.CgroupUnavailable as error:
    print("refused:", error)
print([(record.tool, record.outcome) for record in session.records])
session.close()
print(len(seen), len(open("records.jsonl").readlines()))
"""
CAUSES = ("EPERM", "memory")


def _run(folder: Path, cause: str, mode: str) -> subprocess.CompletedProcess[str]:
    (folder / "app.py").write_text(APP)
    return subprocess.run(
        [sys.executable, "app.py", cause, mode],
        preexec_fn=(lambda: deny([435], errno.EPERM)) if cause == "EPERM" else None,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("cause", CAUSES)
def test_calls_go_on_where_no_thread_can_be_started(folder: Path, cause: str) -> None:
    done = _run(folder, cause, "auto")
    assert done.returncode == 0, done.stderr
    first, refused, records, counts = done.stdout.splitlines()
    assert first == "can't start new thread"
    assert refused.startswith("refused: ")
    assert "can't start new thread" in refused
    assert records == "[('shell', 'ok'), ('shell', 'ok'), ('isolated', 'error')]"
    assert counts == "3 3"
    told = next(line for line in done.stderr.splitlines() if "not enforced here" in line)
    assert "timeouts, sampled limits, workers and the monitor: no thread can be started" in told
    assert ("a seccomp profile refuses clone3 with EPERM" in told) == (cause == "EPERM")
    assert done.stderr.count("timeouts are not enforced") == 1


@pytest.mark.parametrize("cause", CAUSES)
def test_enforce_refuses_to_start_without_threads(folder: Path, cause: str) -> None:
    done = _run(folder, cause, "enforce")
    assert done.returncode == 1
    assert "no thread can be started here (can't start new thread)" in done.stderr
    assert ("Docker 20.10.10" in done.stderr) == (cause == "EPERM")


def test_a_refused_clone3_that_starts_threads_is_no_problem(folder: Path) -> None:
    """With ENOSYS, as of Docker's profile, glibc takes clone(2) for threads."""
    (folder / "app.py").write_text(APP)
    done = subprocess.run(
        [sys.executable, "app.py", "ENOSYS", "auto"],
        preexec_fn=lambda: deny([435], errno.ENOSYS),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "thread" not in done.stdout + done.stderr
    assert done.stdout.endswith("3 3\n")
