"""Run the kernel tests on several kernels, and report the counts of each."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab import kernels
from tests.lab.vm import CHECKOUT, say

HOST = "host"
#: The kernel that runs all tests; of several kernels the others leave these modules out.
WHOLE = "7.2"
#: Tests of what is the same on all kernels: frameworks, workers, the command line, where to work.
ON_ONE_KERNEL = (
    *("autogen_limits", "capacity", "cli_exec", "conformance_limits", "crewai_limits", "endurance"),
    *("isolation_frameworks", "langchain_limits", "monitor_rights", "place", "systemd"),
    "two_programs",
)
# The timeout of pyproject.toml is too short for an emulated machine: if other work loads the host,
# the imports of CrewAI alone can take minutes there.
GUEST_TEST_TIMEOUT_S = 600


@dataclass(frozen=True)
class Result:
    """The counts of pytest on one kernel; all zero if pytest did not report any."""

    line: str
    status: int
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def good(self) -> bool:
        return self.status == 0 and self.passed > 0

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        verdict = "ok" if self.good else f"FAILED (exit status {self.status})"
        return f"linux {self.line:<5} {counts} in {self.seconds:.0f} s: {verdict}"


def run(lines: Sequence[str], pytest: Sequence[str], options: Sequence[str], jobs: int) -> int:
    """Run tests/kernel on each kernel, at most `jobs` at a time.

    Of several kernels one runs all tests: `WHOLE`, or else the first. The others leave out the
    modules `ON_ONE_KERNEL`.

    Args:
        lines: kernel lines, or "host" for this machine's own kernel.
        pytest: further arguments for pytest; a path below tests/ replaces tests/kernel.
        options: further options for ``run``, for example ``--memory 4G``.
        jobs: the number of machines at the same time.

    Returns:
        0 if every kernel ran at least one test and no test failed, else 1.
    """
    guests = [line for line in lines if line != HOST]
    if guests:
        _compile()
    for line in guests:
        kernels.get(line)
    alone = len(lines) == 1
    whole = WHOLE if WHOLE in lines else lines[0]
    part = [f"--ignore=tests/kernel/test_{name}.py" for name in ON_ONE_KERNEL]
    # The longest one first: the others fill the time that it takes.
    order = sorted(lines, key=lambda line: line != whole)
    running: list[subprocess.Popen[bytes]] = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            results = list(
                pool.map(
                    lambda line: _run_one(
                        line,
                        pytest if line == whole else [*part, *pytest],
                        options,
                        running,
                        live=alone,
                    ),
                    order,
                )
            )
        except BaseException:
            # The pool waits for its threads, and the threads wait for their machines.
            for process in running:
                process.terminate()
            raise
    print("\nKernel suite:")
    for result in sorted(results, key=lambda result: lines.index(result.line)):
        print(f"  {result}")
    return 0 if all(result.good for result in results) else 1


def _run_one(
    line: str,
    pytest: Sequence[str],
    options: Sequence[str],
    running: list[subprocess.Popen[bytes]],
    *,
    live: bool,
) -> Result:
    with tempfile.TemporaryDirectory(prefix="agentcgroup-suite-") as out:
        report = Path(out) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        command += [f"--junit-xml={report}", *pytest]
        if not any(argument.startswith("tests/") for argument in pytest):
            command.append("tests/kernel")
        if line != HOST:
            command += ["-o", f"timeout={GUEST_TEST_TIMEOUT_S}"]
            machine = ["--kernel", line, "--out", out, *options]
            command = [sys.executable, "-m", "tests.lab", "run", *machine, "--", *command]
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=None if live else subprocess.PIPE,
            stderr=None if live else subprocess.STDOUT,
        )
        running.append(process)
        output, _ = process.communicate()
        seconds = time.monotonic() - began
        if not live:
            _show(f"linux {line}", output)
        return Result(line, process.returncode, seconds, **_counts(report))


def _show(title: str, output: bytes) -> None:
    """Write the whole output of one machine at once, so that two outputs do not mix."""
    text = f"\n===== {title} =====\n".encode() + output
    sys.stdout.flush()
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


def _counts(report: Path) -> dict[str, int]:
    try:
        suite = ElementTree.parse(report).getroot().find("testsuite")
    except (FileNotFoundError, ElementTree.ParseError):
        return {}
    if suite is None:
        return {}
    tests, failures, errors, skipped = (
        int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return {"passed": tests - failed - skipped, "failed": failed, "skipped": skipped}


def _compile() -> None:
    """Compile the modules that the guest imports: the guest cannot write compiled files."""
    say("compiling Python modules for the guest")
    folders = [sysconfig.get_path("purelib"), *("core", "adapters", "bpf", "tests", "build")]
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", str(os.cpu_count() or 1), *folders],
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,  # some packages have templates that are not Python
        check=False,
    )
