"""The command line: ``python -m tests.upstream --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.upstream import comparing, environments, running
from tests.upstream.comparing import Comparison
from tests.upstream.suites import MODES, NONE, SUITES, Suite

_LINE = "{:30} {:10} {:>6} {:>6} {:>6} {:>6} {:>8} {:>6}"

_EPILOG = """\
examples:
  python -m tests.upstream --list                            the suites, and the modes of each
  python -m tests.upstream langchain-core anyio              two suites, in all their modes
  python -m tests.upstream langchain-core --mode isolated    one mode, compared with none
  python -m tests.upstream --quick                           a part of each, as CI runs it
  python -m tests.upstream --jobs 2 --details differences.txt   all suites

Exit status: 0 if no test differs between a mode and none but those that expected.toml names with
the reason, else 1.

Environment: AGENTCGROUP_UPSTREAM_CACHE is the folder of the virtualenvs, the source distributions
and the outcomes without agentcgroup (~/.cache/agentcgroup-upstream);
`--mode none` takes these anew.
"""


def main(arguments: list[str]) -> int:
    """Run the named suites and print a table; return the exit status."""
    options = _parser().parse_args(arguments)
    suites = [each for each in SUITES if each.name in options.suites or not options.suites]
    if options.quick:
        suites = [each for each in suites if each.quick]
    if options.list:
        for suite in suites:
            print(f"{suite.package:34} {' '.join((NONE, *suite.modes))}")
        return 0
    for suite in suites:
        environments.python(suite)
    rows: list[tuple[Suite, str, Comparison]] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(lambda suite: list(_compared(suite, options)), suites):
            rows += found
    _print(rows)
    if options.details:
        _write(options.details, rows)
    return 1 if any(found.surprises for _, _, found in rows) else 0


def _compared(suite: Suite, options: argparse.Namespace) -> Iterator[tuple[Suite, str, Comparison]]:
    if options.mode == NONE:
        plain = running.baseline(suite, options.files, again=True)
        yield suite, NONE, Comparison(plain, plain)
    for mode in suite.quick if options.quick else suite.modes:
        if options.mode in (None, mode):
            files = options.files or (suite.quick[mode] if options.quick else ())
            plain = running.baseline(suite, files)
            ours = running.run(suite, mode, files, options.verbose)
            yield suite, mode, comparing.compare(suite, mode, plain, ours)
            print(f"{suite.name}: {mode} has run", file=sys.stderr, flush=True)


def _print(rows: list[tuple[Suite, str, Comparison]]) -> None:
    print(_LINE.format("suite", "mode", "tests", "passed", "failed", "differ", "expected", "flaky"))
    for suite, mode, found in rows:
        ours = found.ours
        failed = ours.count("failed", "error", "died")
        numbers = len(ours.of), ours.count("passed"), failed, len(found.differ)
        print(_LINE.format(suite.package, mode, *numbers, len(found.expected), len(found.unsteady)))
    for suite, mode, found in rows:
        for kind, tests in (("differs", found.differ), ("flaky", found.unsteady)):
            for test in tests:
                before, after = found.plain.of.get(test), found.ours.of.get(test)
                why = f" ({found.expected[test]})" if test in found.expected else ""
                print(f"{kind}: {suite.name} {mode}: {test}: {before} -> {after}{why}")


def _write(path: Path, rows: list[tuple[Suite, str, Comparison]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for suite, mode, found in rows:
            for test in (*found.differ, *found.unsteady):
                text = found.ours.texts.get(test) or found.plain.texts.get(test, "")
                file.write(f"==== {suite.name} {mode} {test}\n{text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.upstream",
        description="Run other projects' own tests with and without agentcgroup, and compare.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [suite.name for suite in SUITES]
    parser.add_argument("suites", nargs="*", metavar="SUITE", choices=[*names, []])
    parser.add_argument("--list", action="store_true", help="list the suites and their modes")
    parser.add_argument(
        "--mode",
        choices=tuple(MODES),
        help="; ".join(f"{mode}: {what}" for mode, what in MODES.items()),
    )
    parser.add_argument("--quick", action="store_true", help="only the files named for CI")
    parser.add_argument("--files", nargs="+", default=(), metavar="FILE", help="only these files")
    parser.add_argument("--jobs", type=int, default=1, help="suites at the same time (1)")
    parser.add_argument("--details", type=Path, metavar="FILE", help="write tracebacks to FILE")
    parser.add_argument("--verbose", action="store_true", help="print the output of pytest")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
