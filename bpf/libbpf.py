"""libbpf, the loader of BPF programs that the kernel's developers maintain, over ctypes.

This module uses it to read which types and functions the running kernel has (BTF), and to load the
programs of an object file. It keeps the file descriptors only; `bpf_syscall` attaches and reads.

Source: libbpf's libbpf.h and btf.h, ABI version 1, which iproute2 and systemd install.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = [
    "KernelTypes",
    "LoadError",
    "Loaded",
    "Refused",
    "Skeleton",
    "generate",
    "libbpf",
    "load",
    "version",
]

_SONAME: Final = "libbpf.so.1"
_LEVEL_WARN: Final = 0
_BTF_KINDS: Final = {"typedef": 8, "function": 12}
_REFUSAL: Final = re.compile(r"prog '(\w+)': (?:BPF program load failed: )?(.+)")


class LoadError(Exception):
    """Raised when an object as a whole does not load; its text is libbpf's message."""


class Refused(Exception):
    """Raised when the kernel or libbpf refuses single programs.

    Attributes:
        programs: their names, and libbpf's message for each.
    """

    def __init__(self, programs: Mapping[str, str]) -> None:
        super().__init__(", ".join(f"{name}: {why}" for name, why in programs.items()))
        self.programs = programs


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """File descriptors of loaded programs and maps, by name; the caller closes them."""

    programs: dict[str, int]
    maps: dict[str, int]


@functools.cache
def libbpf() -> ctypes.CDLL | None:
    """Return the library with its signatures, None where it is not installed."""
    try:
        library = ctypes.CDLL(_SONAME, use_errno=True)
    except OSError:
        return None
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "libbpf_version_string": (text, ()),
        "libbpf_set_print": (pointer, (pointer,)),
        "btf__load_vmlinux_btf": (pointer, ()),
        "btf__find_by_name_kind": (number, (pointer, text, ctypes.c_uint32)),
        "btf__free": (None, (pointer,)),
        "bpf_object__open_mem": (pointer, (text, ctypes.c_size_t, pointer)),
        "bpf_object__load": (number, (pointer,)),
        "bpf_object__gen_loader": (number, (pointer, pointer)),
        "bpf_object__close": (None, (pointer,)),
        "bpf_object__next_program": (pointer, (pointer, pointer)),
        "bpf_object__next_map": (pointer, (pointer, pointer)),
        "bpf_program__name": (text, (pointer,)),
        "bpf_program__set_autoload": (number, (pointer, ctypes.c_bool)),
        "bpf_program__fd": (number, (pointer,)),
        "bpf_map__name": (text, (pointer,)),
        "bpf_map__fd": (number, (pointer,)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def version() -> str | None:
    """Return libbpf's version, such as ``"1.1"``; None where it is not installed."""
    library = libbpf()
    return library.libbpf_version_string().decode().lstrip("v") if library is not None else None


class KernelTypes:
    """The types and functions of the running kernel, from its type information (BTF)."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Read the type information.

        Raises:
            LoadError: the kernel has none (CONFIG_DEBUG_INFO_BTF).
        """
        self._library = library
        with _messages(library):
            self._btf = library.btf__load_vmlinux_btf()
        if not self._btf:
            raise LoadError("The kernel has no type information (/sys/kernel/btf/vmlinux)")

    def has(self, name: str, kind: Literal["typedef", "function"]) -> bool:
        """Return whether the kernel has a type or function of that name."""
        found = self._library.btf__find_by_name_kind(self._btf, name.encode(), _BTF_KINDS[kind])
        return bool(found > 0)

    def close(self) -> None:
        """Free the type information, some megabytes."""
        self._library.btf__free(self._btf)


class _LoaderOptions(ctypes.Structure):
    """struct gen_loader_opts."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("code", ctypes.c_void_p),
        ("data_size", ctypes.c_uint32),
        ("code_size", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A BPF program that loads the others by itself, so that loading needs no libbpf.

    Attributes:
        programs: names of the programs that it loads, in the order of their descriptors.
        maps: names of the maps, likewise.
        data: the program's data.
        code: the program's instructions.
    """

    programs: tuple[str, ...]
    maps: tuple[str, ...]
    data: bytes
    code: bytes


def load(library: ctypes.CDLL, code: bytes, wanted: Collection[str]) -> Loaded:
    """Load the `wanted` programs of an object file, and all its maps.

    Raises:
        Refused: the kernel refused some programs; none is loaded.
        LoadError: the object does not load as a whole.
        OSError: this process has too many open files.
    """
    with _opened(library, code, wanted) as (opened, programs, maps, messages):
        error = library.bpf_object__load(opened)
        if error:
            raise _failure(messages, -error)
        with contextlib.ExitStack() as stack:

            def kept(fd: int) -> int:
                duplicate = os.dup(fd)  # libbpf closes its own with the object
                stack.callback(os.close, duplicate)
                return duplicate

            loaded = Loaded(
                programs={name: kept(library.bpf_program__fd(at)) for name, at in programs.items()},
                maps={name: kept(library.bpf_map__fd(at)) for name, at in maps.items()},
            )
            stack.pop_all()  # the caller's from here on
        return loaded


def generate(library: ctypes.CDLL, code: bytes, wanted: Collection[str]) -> Skeleton:
    """Make a skeleton of the `wanted` programs of an object file; loads nothing.

    Raises:
        LoadError: libbpf cannot make one.
    """
    with _opened(library, code, wanted) as (opened, programs, maps, messages):
        options = _LoaderOptions(size=ctypes.sizeof(_LoaderOptions))
        error = library.bpf_object__gen_loader(opened, ctypes.byref(options))
        error = error or library.bpf_object__load(opened)
        if error:
            raise LoadError(_last(messages) or os.strerror(-error))
        return Skeleton(
            programs=tuple(programs),
            maps=tuple(maps),
            data=ctypes.string_at(options.data, options.data_size),
            code=ctypes.string_at(options.code, options.code_size),
        )


@contextlib.contextmanager
def _opened(
    library: ctypes.CDLL, code: bytes, wanted: Collection[str]
) -> Iterator[tuple[int, dict[str, int], dict[str, int], list[str]]]:
    """Open an object; yields it, its wanted programs and maps by name, and libbpf's messages."""
    with _messages(library) as messages:
        opened = library.bpf_object__open_mem(code, len(code), None)
        if not opened:
            raise LoadError(_last(messages) or os.strerror(ctypes.get_errno()))
        try:
            programs = {}
            for at in _each(library.bpf_object__next_program, opened):
                name = library.bpf_program__name(at).decode()
                if name in wanted:
                    programs[name] = at
                else:
                    library.bpf_program__set_autoload(at, False)
            maps = {
                library.bpf_map__name(at).decode(): at
                for at in _each(library.bpf_object__next_map, opened)
            }
            yield opened, programs, maps, messages
        finally:
            library.bpf_object__close(opened)


def _failure(messages: list[str], error: int) -> Exception:
    refused: dict[str, str] = {}
    for line in messages:
        if match := _REFUSAL.match(line):
            refused.setdefault(match[1], match[2])  # the first message has the cause
    return Refused(refused) if refused else LoadError(_last(messages) or os.strerror(error))


def _last(messages: list[str]) -> str:
    """Return the last message but "failed to load object", which names no cause."""
    telling = [line for line in messages if "failed to load object" not in line]
    return telling[-1] if telling else ""


def _each(following: Any, opened: int) -> Iterator[int]:
    current = following(opened, None)
    while current:
        yield current
        current = following(opened, current)


@contextlib.contextmanager
def _messages(library: ctypes.CDLL) -> Iterator[list[str]]:
    """Collect the messages that libbpf would print to standard error."""
    messages: list[str] = []
    format_ = ctypes.CDLL(None).vsnprintf
    format_.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)

    def collect(level: int, text: bytes, arguments: int) -> int:
        if level > _LEVEL_WARN:
            return 0
        line = ctypes.create_string_buffer(1024)
        format_(line, len(line), text, arguments)
        messages.append(line.value.decode(errors="replace").removeprefix("libbpf: ").strip())
        return 0

    # A va_list is passed as a pointer on the 64-bit architectures of `bpf_syscall`.
    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
        collect
    )
    before = library.libbpf_set_print(ctypes.cast(callback, ctypes.c_void_p))
    try:
        yield messages
    finally:
        library.libbpf_set_print(before)
