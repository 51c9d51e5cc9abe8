"""The alternatives that confine a command: bubblewrap, crun, a shell wrapper.

Each runs with the fewest options that do the job, so that the comparison favours the alternatives.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from agentcgroup.cgroup import Cgroup

#: Returns the next command line.
Launcher = Callable[[], list[str]]


class Missing(Exception):
    """Raised when a launcher cannot be measured on this machine; the text is the reason."""


PROGRAM = "/bin/true"

_SHELL = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


@contextlib.contextmanager
def bubblewrap(base: str | None) -> Iterator[Launcher]:  # noqa: ARG001 - all have one signature
    """Give the command a mount namespace, without limits."""
    yield _tried(lambda: [_need("bwrap"), "--dev-bind", "/", "/", PROGRAM])


@contextlib.contextmanager
def crun(base: str | None) -> Iterator[Launcher]:  # noqa: ARG001
    """Give the command a container with the default namespaces and a new cgroup, without limits."""
    program = _need("crun")
    folder = Path(os.environ.get("TMPDIR", "/tmp"), f"agentcgroup-bench-{os.getpid()}")
    bundle = folder / "bundle"
    bundle.mkdir(parents=True)
    try:
        subprocess.run([program, "spec"], cwd=bundle, check=True, capture_output=True)
        _fill(bundle)
        manager = "cgroupfs" if _is_unified() else "disabled"
        numbers = itertools.count(1)
        head = [program, f"--root={folder / 'state'}", f"--cgroup-manager={manager}"]
        yield _tried(
            lambda: [*head, "run", f"--bundle={bundle}", f"bench-{os.getpid()}-{next(numbers)}"]
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def shell(base: str | None) -> Iterator[Launcher]:
    """Move a shell into an existing cgroup without limits; the shell then executes the command."""
    if base is None:
        raise Missing("no cgroup v2 to write to")
    with contextlib.closing(Cgroup.open(base)) as above:
        cgroup = above.child(f"benchmark-{os.getpid()}")
    try:
        yield _tried(lambda: ["/bin/sh", "-c", _SHELL, cgroup.path, PROGRAM])
    finally:
        cgroup.remove()
        cgroup.close()


#: Title of the row in the table, and the launcher.
LAUNCHERS = {"bubblewrap": bubblewrap, "crun": crun, "shell wrapper": shell}


def _need(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise Missing("not installed")
    return path


def _tried(launcher: Launcher) -> Launcher:
    """Run `launcher` once; return it, or raise `Missing` if its command fails."""
    done = subprocess.run(launcher(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise Missing(lines[-1])
    return launcher


def _is_unified() -> bool:
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def _fill(bundle: Path) -> None:
    """Make a root folder of links and one bind mount, and a config.json for it."""
    root = bundle / "rootfs"
    for name in ("usr", "proc", "dev", "sys"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        if Path("/", name).exists():
            (root / name).symlink_to(f"usr/{name}")
    file = bundle / "config.json"
    config = json.loads(file.read_text())
    config["process"] |= {"terminal": False, "args": [PROGRAM]}
    config["mounts"] = [
        mount for mount in config["mounts"] if mount["destination"] in ("/proc", "/dev")
    ]
    config["mounts"].append(
        {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
    )
    config["linux"].pop("resources", None)
    file.write_text(json.dumps(config))
