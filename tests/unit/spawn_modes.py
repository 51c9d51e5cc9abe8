"""Run a Python program with each way of placing children that a machine may be left with."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from typing import Any

MODES = ("clone3", "vfork", "fork")

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_CLONE3, _CLOSE_RANGE = 435, 436
_ALLOW, _ENOSYS = 0x7FFF0000, 0x00050000 | 38


def deny_clone3() -> None:
    """Answer ENOSYS to clone3 and close_range, as Docker's default seccomp profile once did."""
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (load, 0, 0, 0),  # seccomp_data.nr
            (equal, 1, 0, _CLONE3),
            (equal, 0, 1, _CLOSE_RANGE),
            (answer, 0, 0, _ENOSYS),
            (answer, 0, 0, _ALLOW),
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


def run_python(mode: str, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python *argv` so that `spawn` works in `mode` there."""
    return subprocess.run(
        [sys.executable, *argv],
        env={**os.environ, "AGENTCGROUP_PURE": "1" if mode == "fork" else "0"},
        preexec_fn=deny_clone3 if mode == "vfork" else None,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
