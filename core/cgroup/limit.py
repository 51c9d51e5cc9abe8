"""One row of the table of limits: a key of the configuration and the kernel file behind it.

Each controller module declares its rows as the fields of a dataclass (`memory.MemoryLimits`);
`limits.Limits` puts them together. From a row are made: the field of `Limits`, the write to
cgroupfs, the field of the configuration's tables with its JSON schema, the comments of
``agentcgroup config init``, what ``explain`` and ``doctor`` print, the limits that a place is tried
with, and docs/limits.md. The dataclass of a controller only carries fields: `Limits` has the
methods, so that no start of a program pays for methods that nobody calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from agentcgroup.cgroup.files import Directory
from agentcgroup.cgroup.forms import MAX, Form

__all__ = ["Limit", "limit"]


class Limit(NamedTuple):
    """One limit.

    Attributes:
        file: the kernel's file (Documentation/admin-guide/cgroup-v2.rst).
        form: how a value is written by people and to the kernel.
        help: one line: what the value is.
        example: a value as TOML, for the file that ``config init`` writes.
        note: what else a user has to know, as sentences.
        since: the first Linux version with the file, None where all of cgroup v2 have it.
        needs: the kernel option that the file depends on, None where there is none.
        absent: why the limit is not enforced where its controller works and the file is missing.
        remedy: what gives the kernel the file; by default the version `since`.
        trial: a harmless value to test a place with, None where the test would need a device.
        rank: rows of one controller are written in the order of their ranks.
        prepare: called with the directory and the `Limits` before the value is written.
        holds_anyway: called where the file is missing; returns whether the limit holds without it.
    """

    file: str
    form: Form
    help: str
    example: str
    note: str = ""
    since: str | None = None
    needs: str | None = None
    absent: str = "this kernel does not have it."
    remedy: str | None = None
    trial: Any = None
    rank: int = 0
    prepare: Callable[[Directory, Any], None] | None = None
    holds_anyway: Callable[[Directory], bool] | None = None

    @property
    def key(self) -> str:
        """The key of the configuration: the kernel's name with '_' for '.'."""
        return self.file.replace(".", "_")

    @property
    def controller(self) -> str:
        """The controller, which is the prefix of the file (cgroup-v2.rst, "Conventions")."""
        return self.file.partition(".")[0]

    @property
    def description(self) -> str:
        """The text of the JSON schema."""
        return f"{self.help} ({self.file})." + (f" {self.note}" if self.note else "")

    @property
    def optional(self) -> bool:
        """Whether some kernels lack the file although its controller works."""
        return self.since is not None or self.needs is not None or self.remedy is not None

    @property
    def fix(self) -> str | None:
        """What gives this kernel a file that it lacks, as a sentence."""
        if self.remedy is not None:
            return self.remedy
        wishes = [f"use Linux {self.since} or newer"] if self.since is not None else []
        if self.needs is not None:
            wishes.append(f"build the kernel with {self.needs}")
        return ", or ".join(wishes) + "." if wishes else None

    def write(self, directory: Directory, value: Any, limits: object) -> bool:
        """Write a value; return whether the limit holds then.

        A limit whose file is missing holds where the value asks for no limit.

        Raises:
            OSError: the kernel refused the value; of a value for several devices, that of one. The
                others are written.
        """
        refused: OSError | None = None
        if self.prepare is not None:
            self.prepare(directory, limits)
        for data in self.form.data(value):
            try:
                if not directory.write_optional(self.file, data):
                    if value == MAX or value is False:
                        return True
                    return self.holds_anyway is not None and self.holds_anyway(directory)
            except OSError as error:
                refused = refused or error
        if refused is not None:
            raise refused
        return True


def limit(file: str, form: Form, text: str, **more: Any) -> Mapping[str, Limit]:
    """Return the metadata that makes a dataclass field a row; `text` is its line of help."""
    return {"limit": Limit(file=file, form=form, help=text, **more)}
