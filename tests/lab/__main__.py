"""The command line of the lab: ``python -m tests.lab --help``."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.lab import kernels, suite, vm
from tests.lab.kernels import LINES, LabError

_EPILOG = f"""\
examples:
  python -m tests.lab fetch                              download {", ".join(LINES)} to the cache
  python -m tests.lab run --kernel 6.1 -- uname -a       run any command, in this folder
  python -m tests.lab run --kernel 7.2 --user nobody -- .venv/bin/pytest tests/kernel
  python -m tests.lab run --kernel 7.3 --out /tmp/r -- python benchmarks/x.py --json /tmp/r/x.json
  python -m tests.lab suite 6.1 7.2 -- -k oom            run pytest tests/kernel on both

The guest's root is the host's /, read-only, at the same paths. Files in the guest's /tmp, /run and
HOME are gone when the guest ends.

Exit status: the command's own; 124 if it reached the timeout; 125 if the lab itself failed.

Environment: AGENTCGROUP_LAB_CACHE is the folder of the cache (~/.cache/agentcgroup-lab);
AGENTCGROUP_LAB_ACCEL, tcg or kvm, overrides the choice of the accelerator.
"""


def main(arguments: list[str]) -> int:
    """Run one lab command and return its exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    # argparse must not see the words after "--": they are another program's command line.
    head, rest = _split(arguments)
    options = _parser().parse_args(head)
    try:
        return int(options.function(options, rest))
    except (LabError, ValueError) as error:
        vm.say(str(error))
        return vm.STATUS_LAB
    except KeyboardInterrupt:
        vm.say("interrupted; the guest has ended")
        return 130


def _list(options: argparse.Namespace, rest: list[str]) -> int:
    for line in LINES:
        kernel = kernels.fetched(line)
        known = f"{kernel.version} from {kernel.suite}" if kernel else "not fetched"
        print(f"{line:<6} {known}")
    return 0


def _check(options: argparse.Namespace, rest: list[str]) -> int:
    _need_programs()
    return 0


def _fetch(options: argparse.Namespace, rest: list[str]) -> int:
    for kernel in kernels.fetch(options.lines or list(LINES), options.mirror):
        print(f"{kernel.line:<6} {kernel.version} from {kernel.suite}")
    return 0


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    if not rest:
        raise LabError("no command to run: write it after `--`")
    _need_programs()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    return vm.run(
        vm.Machine(
            kernel=kernels.get(options.kernel),
            command=rest,
            cwd=Path.cwd(),
            cpus=options.cpus,
            memory=options.memory,
            disk=options.disk,
            append=options.append,
            user=options.user,
            out=options.out.resolve() if options.out else None,
            environment=dict(options.env),
            timeout_s=options.timeout,
        )
    )


def _suite(options: argparse.Namespace, rest: list[str]) -> int:
    lines = options.lines or list(LINES)
    if lines != [suite.HOST]:
        _need_programs()
    machine = [f"--timeout={options.timeout:.0f}", f"--memory={options.memory}"]
    machine += [f"--cpus={options.cpus}", f"--user={options.user}"]
    return suite.run(lines, rest, machine, options.jobs)


def _need_programs() -> None:
    missing = vm.missing_programs()
    if missing:
        raise LabError(f"not installed: {', '.join(missing)}; `make lab-deps` installs them")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab",
        description="Run a command, or the kernel tests, on real kernels in a small VM.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list the kernel lines, and those in the cache")
    listing.set_defaults(function=_list)

    check = commands.add_parser("check", help="exit 0 if the programs that the lab needs exist")
    check.set_defaults(function=_check)

    fetch = commands.add_parser("fetch", help="download the newest kernel of each line")
    fetch.add_argument("lines", nargs="*", metavar="LINE", help=f"default: {' '.join(LINES)}")
    fetch.add_argument("--mirror", metavar="URI", help="Debian archive; default: the one of apt")
    fetch.set_defaults(function=_fetch)

    run = commands.add_parser("run", help="run one command in a guest", usage=_RUN_USAGE)
    run.add_argument("--kernel", required=True, metavar="LINE", help="such as 6.1")
    _machine_options(run)
    run.add_argument("--disk", default="64M", help="size of the scratch disk /dev/nvme0n1 (64M)")
    run.add_argument(
        "--append", default="", metavar="WORDS", help="words for the kernel's command line"
    )
    run.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder that is writable on both sides, at the same path; --user, if any, owns it",
    )
    run.add_argument(
        "--env",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="set for COMMAND",
    )
    run.set_defaults(function=_run)

    every = commands.add_parser("suite", help="run pytest tests/kernel", usage=_SUITE_USAGE)
    every.add_argument(
        "lines", nargs="*", metavar="LINE", help=f"default: {' '.join(LINES)}; or `host`"
    )
    every.add_argument("--jobs", type=int, default=2, help="guests at the same time (2)")
    _machine_options(every)
    every.set_defaults(function=_suite)
    return parser


_RUN_USAGE = "python -m tests.lab run --kernel LINE [options] -- COMMAND [ARGUMENT...]"
_SUITE_USAGE = "python -m tests.lab suite [options] [LINE...] [-- PYTEST ARGUMENT...]"


def _machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cpus", type=int, default=2, help="virtual CPUs (2)")
    parser.add_argument("--memory", default="2G", help="the guest's memory (2G)")
    parser.add_argument("--timeout", type=_seconds, default=1200.0, help="such as 90, 20m (20m)")
    parser.add_argument(
        "--user",
        default="",
        help="run as this user, in a cgroup subtree delegated to it; it may read every file",
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90, 90s or 20m")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def _terminate(signum: int, frame: FrameType | None) -> None:
    """Exit on SIGTERM by an exception, as on Ctrl-C, so that temporary folders are removed."""
    sys.exit(128 + signum)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
