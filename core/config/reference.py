"""The table of limits as text: the comments of ``config init``, and docs/limits.md."""

from __future__ import annotations

from collections.abc import Iterator

from agentcgroup.cgroup.limit import Limit
from agentcgroup.cgroup.limits import LIMITS
from agentcgroup.config.limit_tables import CALL_DEFAULTS

__all__ = ["limit_comments", "limits_page"]

#: The column in which the comments of ``config init`` begin.
_COLUMN = 28

_PAGE = """\
# Limits

Each limit is one kernel file of cgroup v2; its key is the kernel's name with `_` for `.`. A limit
can stand in `[limits.run]`, `[limits.agent]`, `[limits.call]` and `[[rules]]`, and is an argument
of `agentcgroup.call()`. The kernel's
[documentation](https://docs.kernel.org/admin-guide/cgroup-v2.html) describes each file.

The table `unified` takes any further file of cgroup v2 that is a limit, by its kernel name in
quotes, and writes the text as it stands, after the limits of the table below:

    [limits.call.unified]
    "memory.zswap.max" = "0"
    "hugetlb.2MB.max" = "0"

A name is refused where it has a key of its own, would undo one (`cpu.weight.nice`), belongs to
`cgroup.*`, or is a statistic.

A file that the kernel lacks is reported: mode `auto` logs the limit as not enforced, mode `enforce`
refuses to start, or refuses the call.
"""


def limit_comments(*, defaults: bool) -> str:
    """Return commented lines of TOML with the help, of the limits with a default or without."""
    return "\n".join(_comments(defaults=defaults))


def limits_page() -> str:
    """Return docs/limits.md."""
    lines = [
        "",
        "| key | file | value | example | needs |",
        "|---|---|---|---|---|",
        *(_row(key, row) for key, row in LIMITS.items()),
    ]
    notes = [f"- `{key}`: {row.note}" for key, row in LIMITS.items() if row.note]
    return _PAGE + "\n".join([*lines, "", *notes, ""])


def _comments(*, defaults: bool) -> Iterator[str]:
    for key, row in LIMITS.items():
        if (key in CALL_DEFAULTS) is not defaults:
            continue
        value = _toml(CALL_DEFAULTS[key]) if defaults else row.example
        line = f"# {key} = {value}"
        if len(line) < _COLUMN:
            yield f"{line:<{_COLUMN}}# {row.help}"
        else:
            yield f"# {row.help}:"
            yield line


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _row(key: str, row: Limit) -> str:
    needs = [f"Linux {row.since}"] if row.since else []
    needs += [row.needs] if row.needs else []
    cells = (f"`{key}`", f"`{row.file}`", row.help, f"`{row.example}`", ", ".join(needs))
    return f"| {' | '.join(cells)} |"
