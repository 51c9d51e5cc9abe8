"""Maintenance that a program detaches goes on after its call, under limits and for a time."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import agentcgroup
from agentcgroup import LimitExceeded, Session
from agentcgroup.calls import maintenance
from agentcgroup.containment.maintenance import detached
from tests.support.processes import SOON, alive, ended, until

#: A program that gives itself the name of `git gc`: bash runs the script `gc` of its folder. It
#: does not listen to SIGTERM. Told to, it starts a process that leaves its session and its parent.
_HOSTILE = """
trap '' TERM
echo $BASHPID >pid
until [ -e go ]; do sleep 0.05; done
(setsid bash -c 'trap "" TERM; echo $BASHPID >other; while :; do sleep 0.1; done' &)
while :; do sleep 0.1; done
"""
#: Leaves it running, detached.
_LEAVE = """
import os, sys
if os.fork(): os._exit(0)
os.setsid()
os.execv("/bin/bash", sys.argv[1:])
"""


@pytest.fixture
def session() -> Iterator[Session]:
    yield agentcgroup.register("langchain", config={})
    agentcgroup.unregister()


class Repository:
    """A repository with so many loose objects that the next commit detaches `git gc --auto`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = {**os.environ, "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
        for role in ("AUTHOR", "COMMITTER"):
            self._environment |= {f"GIT_{role}_NAME": "a", f"GIT_{role}_EMAIL": "a@x"}
        self.git("init", "-q")
        # git estimates the number of objects by those of one folder: the same ones in each run.
        text = random.Random(33).randbytes(10_000).hex()
        for number in range(500):
            (folder / f"f{number}").write_text(f"{number} {text}")
        self.git("-c", "gc.auto=0", "add", "-A")
        self.git("-c", "gc.auto=0", "commit", "-qm", "one")
        # Slow, so that gc is still at work when the commit has returned.
        self.git("config", "gc.auto", "1")
        self.git("config", "pack.window", "400")

    def git(self, *words: str) -> str:
        command = ["git", "-C", str(self.folder), *words]
        run = subprocess.run
        return run(
            command, check=True, env=self._environment, capture_output=True, text=True
        ).stdout

    def commit(self) -> None:
        (self.folder / "f0").write_text("x")
        self.git("commit", "-qam", "two")

    def maintain(self) -> None:
        command = "setsid git maintenance run --auto >/dev/null 2>&1 &"
        subprocess.run(["sh", "-c", command], check=True, env=self._environment, cwd=self.folder)

    def is_done(self) -> bool:
        return self.git("count-objects").startswith("0 ") and not self.locks()

    def locks(self) -> list[str]:
        names = [path.name for path in (self.folder / ".git").iterdir()]
        return [name for name in names if name.endswith(".lock") or name.startswith("gc.")]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def leave(folder: Path, *words: str) -> int:
    """Leave a hostile program running; return its pid."""
    (folder / words[1]).parent.mkdir(parents=True, exist_ok=True)
    (folder / words[1]).write_text(_HOSTILE)
    subprocess.run([sys.executable, "-ISc", _LEAVE, *words], check=True, cwd=folder)
    return told(folder / "pid")


def told(file: Path) -> int:
    """Return the pid that a program writes."""
    assert until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


def cgroup(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().splitlines()[-1].rpartition(":")[2]


@pytest.mark.parametrize("work", [Repository.commit, Repository.maintain])
def test_git_is_let_finish(
    session: Session, repository: Repository, work: Callable[[Repository], None]
) -> None:
    with agentcgroup.call("git"):
        work(repository)
    (record,) = session.records
    assert (record.outcome, record.reason) == ("ok", None)
    assert until(repository.is_done)


def test_strict_wins(repository: Repository) -> None:
    """Asked to end, git removes its lock, and does nothing more."""
    session = agentcgroup.register("langchain", config={"background": "kill"})
    try:
        with agentcgroup.call("git", leftover_grace="60s"):
            repository.commit()
        assert session.records[0].reason == "leftovers"
        assert not repository.locks()
        assert not repository.is_done()
    finally:
        agentcgroup.unregister()


def test_it_ends_with_the_run(session: Session, repository: Repository) -> None:
    with agentcgroup.call("git", leftover_grace="60s"):
        repository.commit()
    agentcgroup.unregister()
    assert not repository.locks()


def test_the_name_gains_a_bounded_time(
    session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(maintenance, "MAINTENANCE_TIME", 2.0)
    with agentcgroup.call("tool"):
        pid = leave(tmp_path, "git", "gc", "--auto")
    (record,) = session.records
    assert record.reason is None
    (tmp_path / "go").touch()
    other = told(tmp_path / "other")
    name = cgroup(other).rpartition("/")[2]
    assert name.startswith("maintenance-")
    made = Path(str(record.cgroup)).parent / name  # below the agent's
    assert made.is_dir()
    assert ended(other)
    assert ended(pid)
    assert until(lambda: not made.exists())
    (notice,) = [text for text in caplog.messages if "git gc --auto" in text]
    assert "which tool 'tool' detached, is ended after 2 s" in notice


def test_its_time_is_bounded_without_a_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as processes are followed there."""
    monkeypatch.setattr(maintenance, "MAINTENANCE_TIME", 2.0)
    session = agentcgroup.register("langchain", config={"cgroup_root": "/no/such/cgroup"})
    try:
        with agentcgroup.call("tool"):
            (tmp_path / "gc").write_text(_HOSTILE)
            left = subprocess.Popen(["git", "gc", "--auto"], executable="/bin/bash", cwd=tmp_path)
            told(tmp_path / "pid")
        assert (session.records[0].reason, left.poll()) == (None, None)
        assert left.wait(SOON) == -signal.SIGKILL
    finally:
        agentcgroup.unregister()


def test_what_it_left_beside_is_a_leftover(session: Session, tmp_path: Path) -> None:
    with agentcgroup.call("tool"):
        kept = leave(tmp_path, "git", "gc", "--auto")
        other = subprocess.Popen(["sleep", "60"])
    assert session.records[0].reason == "leftovers"
    assert other.wait() < 0
    assert alive(kept)
    agentcgroup.unregister()
    assert ended(kept)


def test_it_is_ended_after_a_timeout(session: Session, tmp_path: Path) -> None:
    def hang() -> None:
        with agentcgroup.call("tool", timeout="3s"):
            leave(tmp_path, "git", "gc", "--auto")
            subprocess.run(["sleep", "60"])

    with pytest.raises(LimitExceeded):
        hang()
    assert ended(told(tmp_path / "pid"))


def test_it_is_ended_after_a_cancellation(session: Session, tmp_path: Path) -> None:
    async def cancelled() -> None:
        async with agentcgroup.call("tool"):
            leave(tmp_path, "git", "gc", "--auto")
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert ended(told(tmp_path / "pid"))


def test_what_a_shell_waits_for_is_not_detached(session: Session, tmp_path: Path) -> None:
    (tmp_path / "gc").write_text("echo $BASHPID >pid; sleep 60")
    line = "(bash -c 'exec -a git bash gc --auto'; true) &"
    with agentcgroup.call("tool"):
        subprocess.run(["bash", "-c", line], check=True, cwd=tmp_path)
        pid = told(tmp_path / "pid")
    assert session.records[0].reason == "leftovers"
    assert ended(pid)


def test_few_at_a_time(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_MOST", 2)
    pids = []
    for number in range(3):
        with agentcgroup.call("tool"):
            pids.append(leave(tmp_path / str(number), "git", "gc", "--auto"))
    assert [record.reason for record in session.records] == [None, None, "leftovers"]
    assert [alive(pid) for pid in pids] == [True, True, False]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("/usr/lib/git-core/git", "gc", "--auto", "--quiet"), "git gc --auto"),
        (("git", "maintenance", "run", "--auto"), "git maintenance run --auto"),
        (("/usr/local/go/bin/go", "** telemetry **"), "Go telemetry"),
        (("node", "lib/update-notifier/check.js", "{}"), "update-notifier"),
        (("git", "gc"), None),
        (("git", "fsmonitor--daemon", "--auto"), None),
        (("node", "check.js"), None),
    ],
)
def test_the_table(tmp_path: Path, words: tuple[str, ...], name: str | None) -> None:
    """By processes with these command lines."""
    pid = leave(tmp_path, *words)
    try:
        assert detached([pid]) == ({} if name is None else {pid: name})
    finally:
        os.kill(pid, signal.SIGKILL)


def test_it_is_logged(session: Session, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agentcgroup")
    with agentcgroup.call("tool"):
        leave(tmp_path, "git", "gc", "--auto")
    assert any("'tool' detached, goes on for at most 60 s" in text for text in caplog.messages)
