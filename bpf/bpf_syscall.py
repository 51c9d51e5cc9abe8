"""The bpf(2) system call, as far as it is used once the programs are loaded.

The caller closes a file descriptor that a function here returns. Every function raises OSError when
the kernel refuses.

Source: include/uapi/linux/bpf.h, union bpf_attr.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import platform
import struct
from typing import Final, TypeAlias

__all__ = [
    "attach_cgroup",
    "attach_iterator",
    "attach_tracing",
    "bpf",
    "delete",
    "map_shared",
    "run",
    "run_iterator",
    "set_element",
    "update",
]

#: Number of the system call: asm/unistd.h of each architecture.
_NUMBERS: Final = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
}
_MAP_UPDATE_ELEM: Final = 2
_MAP_DELETE_ELEM: Final = 3
_ANY: Final = 0
_NOEXIST: Final = 1
_PROG_RUN: Final = 10
_RAW_TRACEPOINT_OPEN: Final = 17
_LINK_CREATE: Final = 28
_ITER_CREATE: Final = 33
_CGROUP_INET: Final = {"ingress": 0, "egress": 1}
_TRACE_ITER: Final = 28
#: C types of keys, by their size in bytes.
_KEYS: Final[dict[int, type[ctypes.c_uint32 | ctypes.c_uint64]]] = {
    4: ctypes.c_uint32,
    8: ctypes.c_uint64,
}
_Data: TypeAlias = "ctypes.Array[ctypes.c_char] | ctypes.c_uint32 | ctypes.c_uint64"


@functools.cache
def _libc() -> ctypes.CDLL:
    """Return the C library, loaded at the first use: other systems have none of the name None."""
    return ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attributes: bytes) -> int:
    """Make the system call.

    Raises:
        OSError: the kernel refused, or `_NUMBERS` lacks this architecture.
    """
    return _call(command, attributes)


def run(program: int, context: ctypes.Array[ctypes.c_char]) -> int:
    """Run a program of type "syscall" on a context, and return the program's result."""
    at = ctypes.addressof(context)
    attributes = struct.pack("=I36xIIQQ", program, len(context), 0, at, 0).ljust(80, b"\0")
    block = ctypes.create_string_buffer(attributes, len(attributes))
    _call(_PROG_RUN, block)
    result: int = struct.unpack_from("=i", block, 4)[0]
    return result


@functools.cache
def _number() -> int:
    try:
        return _NUMBERS[platform.machine()]
    except KeyError as error:
        raise OSError(f"bpf(2) has no number here for {error.args[0]}") from error


def _call(command: int, block: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """Make the system call; a block that the kernel writes into has to be an array."""
    result = int(_libc().syscall(_number(), command, block, len(block)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def update(fd: int, key: int, value: int, *, key_size: int = 4, new: bool = False) -> None:
    """Set an element of a map of integers to the u32 `value`; `new`: keep an element there is."""
    with contextlib.suppress(FileExistsError):
        set_element(fd, _KEYS[key_size](key), ctypes.c_uint32(value), _NOEXIST if new else _ANY)


def set_element(fd: int, key: _Data, value: _Data, flags: int = 0) -> None:
    """Set an element of a map; `flags` as BPF_ANY and BPF_NOEXIST."""
    at, to = ctypes.addressof(key), ctypes.addressof(value)
    bpf(_MAP_UPDATE_ELEM, struct.pack("=IxxxxQQQ", fd, at, to, flags))


def delete(fd: int, key: int, *, key_size: int = 4) -> None:
    """Remove an element of a map of integers; a missing element is no error."""
    held = _KEYS[key_size](key)
    with contextlib.suppress(FileNotFoundError):
        bpf(_MAP_DELETE_ELEM, struct.pack("=IxxxxQQQ", fd, ctypes.addressof(held), 0, 0))


def attach_tracing(program: int) -> int:
    """Attach a program whose target was given when it was loaded (tp_btf, fentry, fexit)."""
    return bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QIxxxx", 0, program))


def attach_cgroup(program: int, cgroup: int, direction: str) -> int:
    """Attach a program to the packets of a cgroup and of all below it."""
    kind = _CGROUP_INET[direction]
    return bpf(_LINK_CREATE, struct.pack("=IIII", program, cgroup, kind, 0).ljust(48, b"\0"))


def attach_iterator(program: int) -> int:
    """Make a link through which the program of an iterator can be run."""
    return bpf(_LINK_CREATE, struct.pack("=IIII", program, 0, _TRACE_ITER, 0).ljust(48, b"\0"))


def run_iterator(link: int) -> None:
    """Run the program of an iterator once for every task."""
    fd = bpf(_ITER_CREATE, struct.pack("=II", link, 0))
    try:
        while os.read(fd, 4096):
            pass
    finally:
        os.close(fd)


def map_shared(fd: int, size: int, *, writable: bool, offset: int = 0) -> mmap.mmap:
    """Map the memory of a BPF map into this process."""
    access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=access, offset=offset)
