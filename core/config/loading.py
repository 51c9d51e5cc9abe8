"""Where a configuration is found, how it is read, and what is said when it is wrong.

The first of these that exists is the configuration; files are never merged:

1. what is given: a path, a dict or a `Config`;
2. the file that ``$AGENTCGROUP_CONFIG`` names;
3. ``agentcgroup.toml`` in the working directory;
4. the table ``[tool.agentcgroup]`` of ``pyproject.toml`` in the working directory;
5. ``agentcgroup/config.toml`` in ``$XDG_CONFIG_HOME`` (or ``~/.config``), then in ``/etc``;
6. nothing: the built-in defaults (see `settings`).

Defaults hold key by key: a file that sets ``limits.call.memory_max`` keeps the default timeout.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from typing_extensions import override

from agentcgroup.config import toml
from agentcgroup.config.tables import Config, Table
from agentcgroup.config.toml import KeyPath, Source
from agentcgroup.errors import ConfigError

__all__ = ["ENVIRONMENT_VARIABLE", "FILE", "Config", "find", "load", "schema", "validate"]

ENVIRONMENT_VARIABLE = "AGENTCGROUP_CONFIG"
FILE = "agentcgroup.toml"

_PYPROJECT = "pyproject.toml"
_PYPROJECT_TABLE = ("tool", "agentcgroup")

_TableT = TypeVar("_TableT", bound=Table)


def load(config: Config | Mapping[str, Any] | str | os.PathLike[str] | None = None) -> Config:
    """Load a configuration.

    Args:
        config: a path, a dict in the shape of the file, or a `Config`, which comes back as it is;
            None looks for a file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong; every fault is listed, with
            file, line and key.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        return _build(config, Source("config="), folder="")
    path = find() if config is None else os.path.expanduser(os.fspath(config))
    if path is None:
        return Config()
    document = toml.read(path)
    prefix: KeyPath = ()
    data: Any = document.data
    if os.path.basename(path) == _PYPROJECT:
        prefix = _PYPROJECT_TABLE
        data = _pyproject_table(document.data)
        if data is None:
            raise ConfigError("has no table [tool.agentcgroup]", file=path)
    return _build(data, Source(path, document, prefix), folder=os.path.dirname(path))


def find() -> str | None:
    """Return the path of the configuration that `load` would read, None when there is none.

    Raises:
        ConfigError: ``$AGENTCGROUP_CONFIG`` names a file that is not there, or a pyproject.toml
            that mentions agentcgroup is not TOML.
    """
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        named = os.path.expanduser(named)
        if not os.path.exists(named):
            raise ConfigError(
                f"there is no such file, and ${ENVIRONMENT_VARIABLE} names it", file=named
            )
        return named
    if os.path.lexists(FILE):  # a link to nowhere is a mistake to tell, not no configuration
        return FILE
    if os.path.exists(_PYPROJECT) and _has_table(_PYPROJECT):
        return _PYPROJECT
    return next(filter(os.path.exists, _system_files()), None)


def _system_files() -> Iterator[str]:
    """Yield the places below the user's and the system's folder for configurations."""
    user = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    if not os.path.isabs(user):
        user = os.path.join(os.path.expanduser("~"), ".config")
    for folder in (user, "/etc"):
        yield os.path.join(folder, "agentcgroup", "config.toml")


def _has_table(path: str) -> bool:
    """Tell whether a pyproject.toml configures us; what never names us is not ours to refuse."""
    try:
        with open(path, "rb") as file:
            if b"agentcgroup" not in file.read():
                return False
    except OSError:
        return False
    return _pyproject_table(toml.read(path).data) is not None


def _pyproject_table(data: Mapping[str, Any]) -> Any:
    tools = data.get("tool")
    return tools.get("agentcgroup") if isinstance(tools, Mapping) else None


def _build(data: Any, source: Source, folder: str) -> Config:
    if not isinstance(data, Mapping):
        key = ".".join(map(str, source.prefix))
        raise ConfigError("is not a table", file=source.name, line=source.line(()), key=key)
    config = validate(Config, data, source, folder=folder)
    config._source = source
    return config


def validate(
    model: type[_TableT], data: Mapping[str, Any], source: Source, *, folder: str = ""
) -> _TableT:
    """Make a table of a mapping.

    Args:
        model: what the mapping is to be.
        data: the mapping.
        source: where it came from, for the errors.
        folder: what relative paths in it start from.

    Raises:
        ConfigError: with everything that is wrong, not only the first.
    """
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
        # What is wrong with a table as a whole may only be what was taken out of it.
        holed = {path[:-1] for path in problems}
        problems |= {path: message for path, message in found.items() if path not in holed}
        # Pairs are looked at only in tables that are well otherwise: take out what is wrong and
        # look again, so that one run tells it all.
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


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(schema_generator=_SchemaOfFile),
    }


class _SchemaOfFile(GenerateJsonSchema):
    """TOML has no null, and titles that repeat the key say nothing."""

    @override
    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    @override
    def default_schema(self, schema: Any) -> JsonSchemaValue:
        if schema.get("default", ...) is None:
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    @override
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def key_name(path: KeyPath) -> str:
    """Write a path the way messages do: ``limits.call.memory_max``, ``rule 2: tool``."""
    if len(path) > 1 and path[0] == "rules" and isinstance(path[1], int):
        rest = key_name(path[2:])
        return f"rule {path[1] + 1}" + (f": {rest}" if rest else "")
    return ".".join(
        part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in map(str, path)
    )


def _problems(model: type[Table], error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """Say what pydantic found in our own words."""
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


def _unknown(model: type[Table], path: KeyPath, value: object) -> str:
    """Name the key that was probably meant."""
    table = _table_at(model, path[:-1])
    key = str(path[-1])
    if isinstance(value, Mapping):
        # memory.max = "1G" is a table 'memory' to TOML.
        for inner in value:
            if f"{key}_{inner}" in table.model_fields:
                return f"unknown key; write {key}_{inner}, with '_' for '.'"
    near = difflib.get_close_matches(key, table.model_fields, n=1)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; known here: {', '.join(table.model_fields)}"


def _table_at(model: type[Table], path: KeyPath) -> type[Table]:
    """Follow a path down the models; indices and names of devices lead nowhere by themselves."""
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
    """Take a key out; tell whether it was there."""
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
