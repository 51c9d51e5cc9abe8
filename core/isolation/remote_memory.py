"""Copy memory of another process into this one with a single copy.

process_vm_readv(2) needs the permission to trace the other process (ptrace(2), "Ptrace access mode
checking"). The kernel, a security module or a sandbox may refuse it; `read` then raises OSError and
its caller needs another way.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from typing import Any, Final

__all__ = ["Segment", "address", "new_buffer", "new_bytes", "read"]

#: Address and length in bytes.
Segment = tuple[int, int]

#: IOV_MAX of Linux.
_MOST_SEGMENTS: Final = 1024
_SIMPLE = 0  # PyBUF_SIMPLE


class _Buffer(ctypes.Structure):
    """Py_buffer, in the layout that CPython has had since 3.0."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_python = ctypes.pythonapi
_get_buffer = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int
)(("PyObject_GetBuffer", _python))
_release_buffer = ctypes.PYFUNCTYPE(None, ctypes.POINTER(_Buffer))(("PyBuffer_Release", _python))
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", _python)
)
_libc = ctypes.CDLL(None, use_errno=True)


def address(thing: Any) -> Segment:
    """Return where an object with a contiguous buffer has its bytes; valid while it lives."""
    buffer = _Buffer()
    _get_buffer(thing, ctypes.byref(buffer), _SIMPLE)
    try:
        return buffer.buf or 0, buffer.len
    finally:
        _release_buffer(ctypes.byref(buffer))


def new_buffer(size: int) -> memoryview:
    """Return `size` bytes of new writable memory, in huge pages where the kernel has them."""
    block = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(block)


def new_bytes(size: int) -> bytes:
    """Return a bytes object of `size` uninitialised bytes, for the caller to fill.

    The caller must hold the only reference to it until it is filled.
    """
    made: bytes = _new_bytes(None, size)
    return made


def read(pid: int, sources: Sequence[Segment], target: Any) -> None:
    """Fill `target` with segments of the memory of process `pid`, one after the other.

    Raises:
        OSError: EPERM or ENOSYS where that is not allowed; ESRCH where the process has ended.
    """
    at, left = address(target)
    sources = [segment for segment in sources if segment[1]]
    for first in range(0, len(sources), _MOST_SEGMENTS):
        part = sources[first : first + _MOST_SEGMENTS]
        remaining = sum(length for _, length in part)
        done = 0
        while done < remaining:  # one call copies 2 GB at most
            vectors = _vectors(part, done)
            local = _Vector(at, left)
            moved = _libc.process_vm_readv(
                pid, ctypes.byref(local), 1, vectors, len(vectors), ctypes.c_ulong(0)
            )
            if moved <= 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code), "process_vm_readv")
            done, at, left = done + moved, at + moved, left - moved


def _vectors(segments: Sequence[Segment], skip: int) -> ctypes.Array[_Vector]:
    """Return the segments as an array of struct iovec, without their first `skip` bytes."""
    rest = []
    for start, length in segments:
        if skip < length:
            rest.append(_Vector(start + skip, length - skip))
        skip = max(0, skip - length)
    return (_Vector * len(rest))(*rest)


_libc.process_vm_readv.restype = ctypes.c_ssize_t
