"""One run of a suite in one mode: the outcome of each test."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.upstream import environments
from tests.upstream.suites import NONE, Suite

#: Seconds for one test, and for one process of pytest. A test that takes longer ends its process,
#: since a timeout by SIGALRM would disturb tests of signals.
TEST_TIMEOUT_S: Final = 180
RUN_TIMEOUT_S: Final = 2400

#: Seconds in which a process of pytest has to end after its last test.
EXIT_TIMEOUT_S: Final = 120

#: What the id of a whole process of pytest ends with.
RUN: Final = " (the run)"

#: The last line of a report.
_FINISH: Final = json.dumps({"finish": ""}) + "\n"

#: Processes of pytest that may die in one run before the run is given up.
_DEATHS: Final = 20


@dataclass
class Outcomes:
    """What each test was, by its id; the text of those that failed."""

    of: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    broken: bool = False

    def note_bad_end(self, tests: Collection[str], text: str, began: bool) -> None:
        """Note that a process of pytest for these files and folders did not end as it should."""
        self.broken = self.broken or not began
        name = " ".join(tests) + RUN
        self.of[name], self.texts[name] = "error", text

    def save(self, path: Path) -> None:
        """Write all to a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([self.of, self.texts, self.broken]))

    @classmethod
    def load(cls, path: Path) -> Outcomes:
        """Read what `save` wrote."""
        return cls(*json.loads(path.read_text()))

    def count(self, *kinds: str) -> int:
        """Return the number of tests with one of these outcomes."""
        return sum(1 for outcome in self.of.values() if outcome in kinds)


def baseline(suite: Suite, files: Collection[str] = (), again: bool = False) -> Outcomes:
    """Run a suite without agentcgroup, or return what an earlier run of the same tests was."""
    key = hashlib.sha256(repr((suite, sorted(files), sys.version)).encode()).hexdigest()[:16]
    path = environments.cache() / "baselines" / f"{suite.name}-{key}.json"
    if again or not path.exists():
        outcomes = run(suite, NONE, files)
        if outcomes.broken:
            return outcomes
        outcomes.save(path)
    return Outcomes.load(path)


def run(suite: Suite, mode: str, files: Collection[str] = (), verbose: bool = False) -> Outcomes:
    """Run a suite, or some of its files, in one mode."""
    python = environments.python(suite)
    outcomes = Outcomes()
    with tempfile.TemporaryDirectory(prefix="upstream-") as scratch:
        root = environments.tests(suite, Path(scratch, "tests"))
        for tests in _parts(suite, root, files):
            _run_part(suite, mode, python, root, Path(scratch), tests, outcomes, verbose)
    return outcomes


def _parts(suite: Suite, root: Path, files: Collection[str]) -> Iterator[list[str]]:
    if not suite.apart:
        yield list(files or suite.tests)
        return
    for test in files or suite.tests:
        paths = sorted(root.glob(test)) if "*" in test else [root / test]
        for path in paths:
            yield [str(path.relative_to(root))]


def _run_part(
    suite: Suite,
    mode: str,
    python: Path,
    root: Path,
    scratch: Path,
    tests: list[str],
    outcomes: Outcomes,
    verbose: bool,
) -> None:
    """Run one process of pytest; a further one for the rest where the process dies."""
    report, skip = scratch / "report.jsonl", scratch / "skip.jsonl"
    command = [
        *(str(python), "-m", "pytest", "-p", "agentcgroup_upstream", "-q", "--color=no"),
        *("-p", "no:cacheprovider", f"--timeout={TEST_TIMEOUT_S}", "--timeout-method=thread"),
        *("--continue-on-collection-errors", f"--upstream-mode={mode}"),
        *(f"--upstream-report={report}", f"--upstream-skip={skip}"),
        *suite.options,
        *tests,
    ]
    environment = _environment(suite, mode, scratch)
    done: set[str] = set()
    for _ in range(_DEATHS):
        report.write_text("")
        skip.write_text("".join(json.dumps(each) + "\n" for each in done))
        log = scratch / "log"
        status = _pytest(command, root, environment, log, report)
        if verbose:
            print(log.read_text(errors="replace")[-20000:], flush=True)
        died = _read(report, outcomes, f"exit status {status}\n{_tail(log)}")
        if died is None:
            began = bool(report.read_text())
            if status not in (0, 1, 5) or not began:
                outcomes.note_bad_end(tests, f"exit status {status}\n{_tail(log)}", began)
            return
        done |= set(outcomes.of)


def _pytest(
    command: list[str], root: Path, environment: dict[str, str], log: Path, report: Path
) -> int:
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + RUN_TIMEOUT_S
        finished = False
        try:
            while time.monotonic() < deadline:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(1)
                if not finished and report.read_text().endswith(_FINISH):
                    finished, deadline = True, time.monotonic() + EXIT_TIMEOUT_S
            return -signal.SIGKILL
        finally:  # what the suite left behind, too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read(report: Path, outcomes: Outcomes, died: str) -> str | None:
    """Add the lines of a report; return the test in which the process died."""
    running = None
    for text in report.read_text().splitlines():
        line = json.loads(text)
        running = line.get("start")
        if "end" not in line:
            continue
        outcomes.of[line["end"]] = line["is"]
        if line["text"]:
            outcomes.texts[line["end"]] = line["text"]
    if running is not None:
        outcomes.of[running], outcomes.texts[running] = "died", died
    return running


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def _environment(suite: Suite, mode: str, scratch: Path) -> dict[str, str]:
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "TERM") if key in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "PYTHONPATH": str(environments.PLUGIN),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANGSMITH_TRACING": "false",
        "CREWAI_DISABLE_TELEMETRY": "true",
        "CREWAI_TRACING_ENABLED": "false",
        "CREWAI_DISABLE_VERSION_CHECK": "true",
        "CREWAI_TESTING": "true",
        "OTEL_SDK_DISABLED": "true",
        "ANONYMIZED_TELEMETRY": "False",
        **suite.variables,
    }


def files(ids: Collection[str]) -> list[str]:
    """Return the files that hold the tests with these ids."""
    found: set[str] = set()
    for each in ids:
        if each.endswith(RUN):
            found.update(each.removesuffix(RUN).split())
        else:
            found.add(each.partition("::")[0])
    return sorted(found)
