"""Run a Python program in each spawn mode that a machine can have."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

MODES = ("clone3", "vfork", "fork")

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_CLONE3, _CLOSE_RANGE = 435, 436
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def deny(calls: Sequence[int], error: int) -> None:
    """Make these system calls fail with an errno in this thread and its children, by seccomp."""
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 0),  # seccomp_data.nr
            *((equal, len(calls) - at, 0, call) for at, call in enumerate(calls)),
            (answer, 0, 0, _ALLOW),
            (answer, 0, 0, _ERRNO | error),
        )
    )
    buffer = ctypes.create_string_buffer(program)
    filter_program = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value, extra in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_program),
    ):
        if libc.prctl(option, value, extra, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def deny_clone3() -> None:
    """Make clone3 and close_range fail with ENOSYS, as Docker's seccomp profile once did."""
    deny((_CLONE3, _CLOSE_RANGE), errno.ENOSYS)


def run_python(mode: str, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python *argv` with `spawn` in `mode`."""
    return subprocess.run(
        [sys.executable, *argv],
        env={**os.environ, "AGENTCGROUP_PURE": "1" if mode == "fork" else "0"},
        preexec_fn=deny_clone3 if mode == "vfork" else None,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
