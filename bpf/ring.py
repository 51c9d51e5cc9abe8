"""The reading side of a BPF ring buffer.

The kernel maps one page with the reader's position, one with the writers' position, and the data
twice in a row, so that every record is contiguous. A record is a header of two u32, the first of
which has its length and flags, and the data, padded to a multiple of 8 bytes.

Source: kernel/bpf/ringbuf.c and include/uapi/linux/bpf.h, BPF_RINGBUF_*.
"""

from __future__ import annotations

import mmap
import select
from collections.abc import Iterator
from typing import Final

from agentcgroup.bpf import bpf_syscall

__all__ = ["Ring"]

_BUSY: Final = 1 << 31
_DISCARDED: Final = 1 << 30
_HEADER: Final = 8


class Ring:
    """One ring buffer; this process has to be its only reader."""

    def __init__(self, fd: int, size: int) -> None:
        """Map the ring buffer `fd`, whose data has `size` bytes."""
        page = mmap.PAGESIZE
        self._size = size
        self._reader = bpf_syscall.map_shared(fd, page, writable=True)
        self._writers = bpf_syscall.map_shared(fd, page + 2 * size, writable=False, offset=page)
        self._read = memoryview(self._reader).cast("Q")
        self._written = memoryview(self._writers)[:page].cast("Q")
        self._words = memoryview(self._writers)[page:].cast("I")
        self._bytes = memoryview(self._writers)[page:]
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def wait(self, timeout: float | None) -> None:
        """Wait for a record that wakes the reader, at most `timeout` seconds; None: no bound."""
        self._poll.poll(None if timeout is None else max(0.0, timeout * 1000))

    def drain(self) -> Iterator[bytes]:
        """Yield each complete record, oldest first, and free its place."""
        position = self._read[0]
        while position < self._written[0]:
            at = position % self._size
            header = self._words[at // 4]
            if header & _BUSY:
                return
            length = header & ~_DISCARDED
            record = None if header & _DISCARDED else bytes(self._at(at + _HEADER, length))
            position += _HEADER + (length + 7) // 8 * 8
            self._read[0] = position
            if record is not None:
                yield record

    def _at(self, start: int, length: int) -> memoryview:
        return self._bytes[start : start + length]

    def close(self) -> None:
        """Unmap the buffer."""
        for view in (self._read, self._written, self._words, self._bytes):
            view.release()
        self._reader.close()
        self._writers.close()
