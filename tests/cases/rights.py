"""A session with a monitor, of users with and without rights: each gets the figures it may have.

Each user has a delegated cgroup, as under systemd.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from agentcgroup.bpf import bpf_support
from agentcgroup.cgroup import Cgroup

__all__ = ["BACKENDS", "ordinary_user", "root", "user_with_bpf"]

#: Backends to configure.
BACKENDS: Final = ("auto", "libbpf")

_NOBODY: Final = 65534
#: The user may read every file: a checkout may be in root's home folder.
_READING: Final = "dac_read_search"

_USE: Final = """
import json, logging, subprocess, sys
import agentcgroup
logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
monitor = {"backend": sys.argv[1], "detail": "full"}
session = agentcgroup.register(config={"mode": "observe", "monitor": monitor})
session._services.monitor.start()
session._services.monitor.wait(60)
with agentcgroup.call("tool"):
    done = subprocess.run(
        ["sh", "-c", "true & echo told; echo said >&2; wait; exit 3"], capture_output=True
    )
assert (done.returncode, done.stdout, done.stderr) == (3, b"told\\n", b"said\\n"), done
(record,) = session.records
state = session._services.monitor.state
agentcgroup.unregister()
fields = ("outcome", "monitor", "processes_started", "escapes", "run_delay_s", "reclaim_s",
          "memory_charged_bytes", "memory_high_s", "files_opened", "net_rx_bytes", "net_tx_bytes")
seen = {field: getattr(record, field) for field in fields}
ends = record.programs and sorted(one.exit_code for one in record.programs)
print(json.dumps({**seen, "ends": ends, "cgroup": record.cgroup,
                  "state": state, "refused": session._services.monitor.refused}))
"""

#: Figures of a record, and the programs of which one fills it; not all run on every kernel.
_FILLED_BY: Final = {
    "memory_charged_bytes": {"on_charge"},
    "memory_high_s": {"high_over", "high_over_new"},
    "files_opened": {"on_open"},
    "reclaim_s": {"memcg_reclaimed"},
}
_PACKETS: Final = {"net_rx_bytes", "net_tx_bytes"}
#: Figures that BPF programs read on every kernel, and no other source has.
_ALWAYS: Final = {"run_delay_s"}
_FIGURES: Final = _ALWAYS | _PACKETS | _FILLED_BY.keys()


def ordinary_user(box: Cgroup, backend: str) -> None:
    """The kernel loads no program; since Linux 6.6 every user may use the process connector."""
    seen = _figures_of_a_call(box, backend, *_as_user(box))
    refused = {name: (reason, fix) for name, reason, fix in seen["refused"]}
    assert refused["libbpf"] == (
        "This process may not load BPF programs that look at the kernel.",
        "run as root, or with the capabilities CAP_BPF and CAP_PERFMON",
    )
    if backend == "auto" and _release() >= (6, 6):
        assert refused.keys() == {"libbpf"}
        _is_known(seen, "procs")
    else:
        assert refused.keys() == ({"libbpf", "procs", "bcc"} if backend == "auto" else {"libbpf"})
        assert seen["state"] == "off"
        assert (seen["monitor"], seen["processes_started"], seen["escapes"]) == (None, None, None)
    assert _figures(seen) == set()


def user_with_bpf(box: Cgroup, backend: str) -> None:
    """CAP_BPF and CAP_PERFMON are enough for all figures but packets."""
    seen = _figures_of_a_call(box, backend, *_as_user(box, "bpf", "perfmon"))
    assert seen["refused"] == []
    _is_known(seen, "libbpf")
    assert _figures(seen) == _of_this_kernel() - _PACKETS


def root(box: Cgroup, backend: str) -> None:
    """Root gets all figures that this kernel has."""
    seen = _figures_of_a_call(box, backend)
    assert seen["refused"] == []
    _is_known(seen, "libbpf")
    assert _figures(seen) == _of_this_kernel()


def _as_user(box: Cgroup, *capabilities: str) -> tuple[str, ...]:
    """Delegate a cgroup as cgroup-v2.rst describes; return a command prefix to become its user."""
    for name in (".", *Path("/sys/kernel/cgroup/delegate").read_text().split()):
        with contextlib.suppress(FileNotFoundError):  # of a controller that is not there
            os.chown(f"{box.path}/{name}", _NOBODY, _NOBODY)
    given = ",".join(f"+{name}" for name in (_READING, *capabilities))
    kept = tuple(f"--{kind}-caps=-all,{given}" for kind in ("inh", "ambient"))
    return "setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *kept


def _figures_of_a_call(box: Cgroup, backend: str, *become: str) -> dict[str, Any]:
    """Have a tool start processes in a session; return figures of its record."""
    enter = 'echo 0 > "$0/cgroup.procs" && exec "$@"'
    command = ["sh", "-c", enter, box.path, *become, sys.executable, "-c", _USE, backend]
    environment = {**os.environ, "AGENTCGROUP_ROOT": box.path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["outcome"] == "ok"
    assert seen["cgroup"].startswith(box.path + "/"), seen
    return seen


def _is_known(seen: dict[str, Any], source: str) -> None:
    """Check that the record has both of the tool's processes: sh, and true beside it."""
    assert (seen["monitor"], seen["processes_started"], seen["escapes"]) == (source, 2, 0)
    assert seen["ends"] == [0, 3]


def _figures(seen: dict[str, Any]) -> set[str]:
    return {figure for figure in _FIGURES if seen[figure] is not None}


def _of_this_kernel() -> set[str]:
    loads = {name for name, off in bpf_support().programs.items() if off is None}
    filled = {figure for figure, programs in _FILLED_BY.items() if programs & loads}
    return _ALWAYS | _PACKETS | filled


def _release() -> tuple[int, ...]:
    major, minor, *_ = os.uname().release.split(".")
    return int(major), int(minor)
