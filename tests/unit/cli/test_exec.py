"""`agentcgroup exec`: real commands get the same as from a shell (status, pipes, signals)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.support.processes import running, until

pytestmark = pytest.mark.usefixtures("folder")

_EXEC = [sys.executable, "-m", "agentcgroup", "exec"]


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """Let commands ignore no signal, even if nohup(1) started these tests."""
    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGHUP, signal.SIG_DFL),
            (signal.SIGINT, signal.default_int_handler),
        )
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def nap() -> Iterator[str]:
    """Give seconds that identify the sleeps of one test; at its end, no such sleep may be left."""
    seconds = f"3600.{os.getpid()}{time.monotonic_ns() % 1_000_000}"
    yield seconds
    assert until(lambda: not running("sleep", seconds))


def _until_sleeping(seconds: str) -> None:
    assert until(lambda: bool(running("sleep", seconds))), "the command did not start"


def _exec(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_EXEC, *words], capture_output=True, text=True, **options)


def _record(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return record


@pytest.mark.parametrize("status", [0, 1, 3, 255])
def test_the_status_is_the_commands(status: int) -> None:
    assert _exec("sh", "-c", f"exit {status}").returncode == status


def test_a_command_that_dies_of_a_signal_has_a_shells_status() -> None:
    assert _exec("sh", "-c", "kill -SEGV $$").returncode == 128 + signal.SIGSEGV


def test_a_timeout_exits_with_124_and_leaves_no_process(nap: str) -> None:
    """The whole process tree ends; stderr names the limit and what to try."""
    began = time.monotonic()
    done = _exec("--timeout", "500ms", "--", "sh", "-c", f"sleep {nap} & sleep {nap}")
    assert done.returncode == 124
    assert time.monotonic() - began < 60
    assert "Tool 'sh' was stopped: it reached its time limit of 500ms (timeout)" in done.stderr


def test_a_pipe_through_it_is_byte_for_byte() -> None:
    """The command inherits stdin, stdout and stderr; they are not copied, and not read ahead."""
    data = os.urandom(3 << 20)
    done = subprocess.run(
        ["sh", "-c", f"cat | {' '.join(_EXEC)} sh -c 'cat; echo done >&2' | cat"],
        input=data,
        capture_output=True,
    )
    assert done.returncode == 0
    assert done.stdout == data
    assert done.stderr.endswith(b"done\n")
    rest = subprocess.run(
        ["sh", "-c", f"{' '.join(_EXEC)} sh -c 'read first; echo got $first'; cat"],
        input=b"one\ntwo\n",
        capture_output=True,
    )
    assert rest.stdout == b"got one\ntwo\n"


def test_other_descriptors_reach_the_command_and_ours_do_not() -> None:
    """As from a shell, `3<file` works, and /proc/self/fd has no other descriptor."""
    script = "ls /proc/self/fd; cat <&3"
    plain = subprocess.run(
        ["sh", "-c", f'exec 3<<X\nthree\nX\nsh -c "{script}"'], capture_output=True, text=True
    )
    ours = subprocess.run(
        ["sh", "-c", f'exec 3<<X\nthree\nX\n{" ".join(_EXEC)} sh -c "{script}"'],
        capture_output=True,
        text=True,
    )
    assert ours.stdout == plain.stdout
    assert ours.stdout.endswith("three\n")


@pytest.mark.parametrize("name", ["TERM", "HUP", "USR1"])
def test_signals_are_forwarded(name: str, nap: str) -> None:
    """The command handles the signal; its status counts, and its children end with it."""
    script = f"trap 'echo got {name}; exit 9' {name}; sleep {nap} & wait"
    with subprocess.Popen([*_EXEC, "sh", "-c", script], stdout=subprocess.PIPE, text=True) as ours:
        _until_sleeping(nap)
        ours.send_signal(getattr(signal, f"SIG{name}"))
        assert ours.communicate(timeout=60)[0] == f"got {name}\n"
        assert ours.returncode == 9


def test_sigterm_ends_a_command_that_does_not_handle_it(nap: str) -> None:
    with subprocess.Popen([*_EXEC, "sleep", nap]) as ours:
        _until_sleeping(nap)
        ours.send_signal(signal.SIGTERM)
        assert ours.wait(60) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_without_a_terminal_an_interrupt_is_passed_on(number: int, nap: str) -> None:
    """If a supervisor sends the signal, only `exec` can forward it."""
    with subprocess.Popen([*_EXEC, "sleep", nap], start_new_session=True) as ours:
        _until_sleeping(nap)
        ours.send_signal(number)
        assert ours.wait(60) == 128 + number


def test_ctrl_c_is_as_in_a_shell(nap: str) -> None:
    """The terminal sends the signal to the command, too; `exec` waits for the command's end."""
    terminal = pexpect.spawn(_EXEC[0], [*_EXEC[1:], "sleep", nap], timeout=60)
    _until_sleeping(nap)
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 128 + signal.SIGINT

    caring = f"trap 'echo stays' INT; echo ready; sleep {nap}; echo goes; exit 4"
    terminal = pexpect.spawn(_EXEC[0], [*_EXEC[1:], "sh", "-c", caring], timeout=60)
    terminal.expect("ready")
    _until_sleeping(nap)
    terminal.sendintr()
    terminal.expect("stays\r\ngoes")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 4


def test_the_command_inherits_ignored_signals() -> None:
    """So do nohup(1) and a shell's background job."""
    both = 1 << signal.SIGHUP - 1 | 1 << signal.SIGINT - 1
    shown = "grep SigIgn /proc/self/status"

    def ignored(trap: str) -> int:
        script = f"{trap} exec {' '.join(_EXEC)} {shown}"
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
        return int(done.stdout.split()[1], 16)

    # Both values include the signals that these tests were started to ignore.
    assert ignored("trap '' HUP INT;") == ignored("") | both


def test_leftovers_are_ended_and_reported(nap: str) -> None:
    done = _exec("sh", "-c", f"sleep {nap} >/dev/null 2>&1 & echo started")
    assert (done.returncode, done.stdout) == (0, "started\n")
    assert "left running in the background were ended" in done.stderr


def test_the_record_is_json_with_what_was_asked_and_used() -> None:
    done = _exec(
        *("--record", "--tool", "build", "--agent", "coder", "--pids-max", "77"),
        *("--memory-max", "256M", "--timeout", "50s", "--", "sh", "-c", "exit 5"),
    )
    assert done.returncode == 5
    record = _record(done)
    asked = (record["tool"], record["agent"], record["framework"], record["outcome"])
    assert asked == ("build", "coder", "python", "error")
    limits = record["limits"]
    assert (limits["pids_max"], limits["memory_max"], limits["timeout"]) == (77, 256 << 20, 50)
    assert record["cpu_usage_s"] > 0
    assert not os.path.exists(record["cgroup"])


def test_every_limit_can_be_taken_off() -> None:
    off = ("--memory-max", "max", "--cpu-max", "max", "--pids-max", "max", "--timeout", "none")
    limits = _record(_exec("--record", *off, "true"))["limits"]
    assert limits["memory_max"] == limits["pids_max"] == limits["cpu_max"][0] == "max"
    assert "timeout" not in limits


def test_rules_see_the_programs_name_and_mode_off_records_too(folder: Path) -> None:
    (folder / "a.toml").write_text('[[rules]]\ntool = "true"\npids_max = 9\n')
    record = _record(_exec("--config", "a.toml", "--record", "/bin/true"))
    assert (record["tool"], record["limits"]["pids_max"]) == ("true", 9)
    (folder / "off.toml").write_text('mode = "off"\n')
    done = _exec("--config", "off.toml", "--record", "sh", "-c", "exit 6")
    assert (done.returncode, _record(done)["cgroup"]) == (6, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--memory-max", "12 parsecs"), "memory_max: '12 parsecs'"),
        (("--timeout", "soon"), "timeout: 'soon'"),
        (("--cpu-weight", "0"), "cpu_weight"),
        (("--pids-max", "-1"), "pids_max"),
        (("--pids-max", "few"), "pids_max: 'few' is not a count: write a whole number from 1, or"),
        (("--memory-high", "2G", "--memory-max", "1G"), "memory_high"),
        (("--config", "missing.toml"), "missing.toml: cannot read it: No such file"),
    ],
)
def test_a_wrong_value_is_a_clear_error(words: tuple[str, ...], said: str) -> None:
    """The status is 2, one line names the limit, and the command does not start."""
    done = _exec(*words, "--", "echo", "started")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].startswith("agentcgroup: ")


def test_a_command_that_cannot_be_started_is_reported(folder: Path) -> None:
    """127: the command is not found; 126: it cannot be executed; 2: there is no command."""
    (folder / "data.txt").write_text("")
    done = _exec("missing-command")
    assert done.returncode == 127
    assert done.stderr.endswith(
        "agentcgroup exec: cannot start 'missing-command': No such file or directory\n"
    )
    done = _exec("./data.txt")
    assert done.returncode == 126
    assert done.stderr.endswith("cannot start './data.txt': Permission denied\n")
    assert _exec().returncode == 2
