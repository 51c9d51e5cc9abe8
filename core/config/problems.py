"""From a mapping to a table: every fault becomes an error with file, line, key and remedy.

pydantic finds the faults; this module words them and adds where they stand.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from agentcgroup.config.limit_fields import Table
from agentcgroup.config.toml import KeyPath, Source
from agentcgroup.errors import ConfigError

__all__ = ["key_name", "validate"]

_TableT = TypeVar("_TableT", bound=Table)


def validate(
    model: type[_TableT], data: Mapping[str, Any], source: Source, *, folder: str = ""
) -> _TableT:
    """Make a table of a mapping.

    Args:
        model: the class of the table.
        data: the mapping.
        source: the origin of the mapping, for errors.
        folder: the folder that relative paths in it start from.

    Raises:
        ConfigError: the mapping has faults; the error lists all of them.
    """
    try:
        return _validate(model, data, source, folder)
    except RecursionError:
        raise ConfigError("is nested too deeply", file=source.name) from None


def _validate(
    model: type[_TableT], data: Mapping[str, Any], source: Source, folder: str
) -> _TableT:
    rest = dict(data)
    problems: dict[KeyPath, str] = {}
    while True:
        try:
            table = model.model_validate(rest, context={"folder": folder})
        except ValidationError as error:
            found = dict(_problems(model, error))
        else:
            break
        if not problems:
            rest = copy.deepcopy(rest)
        # A fault of a table as a whole may only be that a faulty key was taken out of it.
        incomplete = {path[:-1] for path in problems}
        problems |= {path: message for path, message in found.items() if path not in incomplete}
        # pydantic checks pairs of keys only in tables without other faults: take the faulty keys
        # out and check again, so that one run reports everything.
        if sum(_take_out(rest, path) for path in found) == 0:
            break
    if problems:
        raise _error(problems, source)
    return table


def _error(problems: Mapping[KeyPath, str], source: Source) -> ConfigError:
    errors = sorted(
        (
            ConfigError(message, file=source.name, line=source.line(path), key=key_name(path))
            for path, message in problems.items()
        ),
        key=lambda error: error.line or 0,
    )
    if len(errors) == 1:
        return errors[0]
    lines = "".join(f"\n  {error}" for error in errors)
    return ConfigError(f"{len(errors)} errors{lines}", file=source.name)


def key_name(path: KeyPath) -> str:
    """Return a path as messages write it: ``limits.call.memory_max``, ``rule 2: tool``."""
    if len(path) > 1 and path[0] == "rules" and isinstance(path[1], int):
        rest = key_name(path[2:])
        return f"rule {path[1] + 1}" + (f": {rest}" if rest else "")
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in map(str, path)
    )


def _problems(model: type[Table], error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path and our message of each fault that pydantic found."""
    for found in error.errors(include_url=False):
        path: KeyPath = tuple(part for part in found["loc"] if part != "[key]")
        context = found.get("ctx", {})
        match found["type"]:
            case "agentcgroup":
                blame = context["key"]
                if blame:
                    path += tuple(int(key) if key.isdigit() else key for key in blame.split("."))
                yield (path, context["message"])
            case "value_error":
                yield (path, str(context["error"]))
            case "extra_forbidden":
                yield (path, _unknown(model, path, found["input"]))
            case "literal_error":
                yield (path, f"{found['input']!r} is unknown: write {context['expected']}")
            case "model_type" | "model_attributes_type" | "mapping_type" | "dict_type":
                # A path that ends in a number is an element of [[rules]].
                header = f"[{key_name(path)}]" if isinstance(path[-1], str) else "[[rules]]"
                yield (path, f"{found['input']!r} is not a table: write {header}")
            case "tuple_type" | "list_type":
                yield (path, "is not an array of tables: write each as [[rules]]")
            case _:
                yield (path, found["msg"])


def _unknown(root: type[Table], path: KeyPath, value: object) -> str:
    """Return the message about an unknown key, with the key that was probably meant."""
    table = _table_at(root, path[:-1])
    key = str(path[-1])
    if isinstance(value, Mapping):
        # memory.max = "1G" is a table 'memory' to TOML.
        for inner in value:
            if f"{key}_{inner}" in table.model_fields:
                return f"unknown key; write {key}_{inner}, with '_' for '.'"
    places = _places(root, key)
    if places:
        return f"unknown key here; {key} stands {' or '.join(places)}"
    near = difflib.get_close_matches(key, table.model_fields, n=1)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; known here: {', '.join(table.model_fields)}"


def _places(root: type[Table], key: str) -> list[str]:
    """Return where in the file a key stands that is known, only not where it was written."""
    found = []
    if key in root.model_fields and "mode" in root.model_fields:
        found.append("at the top of the file")
    for path, table in _tables_below(root):
        if key in table.model_fields:
            found.append(f"in [[{path}]]" if path == "rules" else f"in [{path}]")
    return found


def _tables_below(model: type[Table], above: str = "") -> Iterator[tuple[str, type[Table]]]:
    for name, field in model.model_fields.items():
        for table in _tables_in(field.annotation):
            yield f"{above}{name}", table
            if "memory_max" not in table.model_fields:  # below a limit are devices
                yield from _tables_below(table, f"{above}{name}.")


def _table_at(model: type[Table], path: KeyPath) -> type[Table]:
    """Return the table at a path; indices and names of devices stay at the table they are in."""
    for part in path:
        if field := model.model_fields.get(str(part)):
            model = next(_tables_in(field.annotation), model)
    return model


def _tables_in(annotation: Any) -> Iterator[type[Table]]:
    arguments = get_args(annotation)
    # Python 3.10 takes Mapping[str, int] for a type, but not for a class.
    if not arguments and isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for argument in arguments:
        yield from _tables_in(argument)


def _take_out(data: dict[str, Any], path: KeyPath) -> bool:
    """Take a key out of nested data; return whether it was there."""
    node: Any = data
    try:
        for part in path[:-1]:
            node = node[part]
        if isinstance(node, dict) and path[-1] in node:
            del node[path[-1]]
            return True
    except (LookupError, TypeError):
        pass
    return False
