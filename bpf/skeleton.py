"""Loading without libbpf: a BPF program that was made at build time loads the others.

libbpf can write the steps that load an object into a program of type "syscall" and its data; the
kernel then relocates the programs to its own types by itself. This module loads that one program,
runs it, and takes the descriptors that it returns.

The program loads all or nothing, so it has only programs that every kernel takes: no trampolines.

Source: libbpf's skel_internal.h and bpf_gen_internal.h, from version 1.0 on.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
from typing import Final

from agentcgroup.bpf import bpf_syscall
from agentcgroup.bpf.libbpf import Loaded, LoadError, Skeleton

__all__ = ["load", "read"]

_MAP_CREATE: Final = 0
_PROG_LOAD: Final = 5
_ARRAY: Final = 2
_SYSCALL: Final = 31
_SLEEPABLE: Final = 1 << 4
_LICENSE: Final = b"Dual BSD/GPL\0"

#: struct bpf_loader_ctx; then a struct bpf_map_desc for each map, an int for each program.
_CONTEXT: Final = struct.Struct("=IIIIQ")
_MAP: Final = struct.Struct("=iIQ")
_PROGRAM: Final = struct.Struct("=i")


def read(path: str) -> Skeleton:
    """Read a skeleton that was made at build time.

    Raises:
        FileNotFoundError: none was made.
    """
    with open(path, "rb") as file:
        head = json.loads(file.readline())
        data = file.read(head["data_size"])
        return Skeleton(
            programs=tuple(head["programs"]),
            maps=tuple(head["maps"]),
            data=data,
            code=file.read(),
        )


def load(skeleton: Skeleton) -> Loaded:
    """Load all programs and maps of a skeleton.

    Raises:
        LoadError: the kernel refused.
    """
    try:
        data = _map_of(skeleton.data)
        try:
            loader = _program_of(skeleton.code, data)
        finally:
            os.close(data)
        try:
            return _run(loader, skeleton)
        finally:
            os.close(loader)
    except OSError as error:
        raise LoadError(error.strerror or str(error)) from None


def _map_of(data: bytes) -> int:
    """Return a map whose only element is `data`."""
    fd = bpf_syscall.bpf(_MAP_CREATE, struct.pack("=IIIII", _ARRAY, 4, len(data), 1, 0))
    key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(data, len(data))
    try:
        bpf_syscall.set_element(fd, key, value)
    except OSError:
        os.close(fd)
        raise
    return fd


def _program_of(code: bytes, data: int) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_ = ctypes.create_string_buffer(_LICENSE, len(_LICENSE))
    maps = ctypes.create_string_buffer(struct.pack("=i", data), 4)
    start, terms, uses = map(ctypes.addressof, (instructions, license_, maps))
    head = struct.pack("=IIQQIIQII", _SYSCALL, len(code) // 8, start, terms, 0, 0, 0, 0, _SLEEPABLE)
    return bpf_syscall.bpf(_PROG_LOAD, head.ljust(120, b"\0") + struct.pack("=Q", uses))


def _run(loader: int, skeleton: Skeleton) -> Loaded:
    """Run the loading program; it writes file descriptors into its context."""
    maps, programs = len(skeleton.maps), len(skeleton.programs)
    size = _CONTEXT.size + maps * _MAP.size + programs * _PROGRAM.size
    context = ctypes.create_string_buffer(_CONTEXT.pack(size, 0, 0, 0, 0), size)
    result = bpf_syscall.run(loader, context)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    found = memoryview(context)
    first = _CONTEXT.size + maps * _MAP.size
    map_fds = [fd for fd, *_ in _MAP.iter_unpack(found[_CONTEXT.size : first])]
    program_fds = [fd for (fd,) in _PROGRAM.iter_unpack(found[first:])]
    return Loaded(
        programs=dict(zip(skeleton.programs, program_fds, strict=True)),
        maps=dict(zip(skeleton.maps, map_fds, strict=True)),
    )
