"""The fields of the limits in the tables of a configuration, made from the rows of `cgroup.limits`.

A new limit needs nothing here: its row has the form, which reads the value, the line of help, which
becomes the description of the JSON schema, and the key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, create_model

from agentcgroup.cgroup.device_forms import DEVICE, Bounds, PerDevice
from agentcgroup.cgroup.forms import Form, Memory
from agentcgroup.cgroup.limits import LIMITS
from agentcgroup.place import capacity

__all__ = ["BY_DEVICE", "Table", "limit_table", "plain"]


#: The keys whose values are tables by device.
BY_DEVICE = frozenset(key for key, row in LIMITS.items() if isinstance(row.form, PerDevice))

_Device = Annotated[str, BeforeValidator(DEVICE.parse)]


class Table(BaseModel):
    """A table of the file: unknown keys are errors, and a table never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def limit_table(name: str, base: type[Table], defaults: Mapping[str, Any] | None = None) -> Any:
    """Make a table with a field for each limit, or only for those that get other defaults.

    Args:
        name: the name of the class.
        base: the table to extend.
        defaults: the keys to make again, with defaults as people write them.
    """
    keys = LIMITS if defaults is None else defaults
    fields: dict[str, Any] = {key: _field(key, (defaults or {}).get(key)) for key in keys}
    # A table of the file inherits from this one, whose own validator is never used.
    return create_model(name, __base__=base, __cls_kwargs__={"defer_build": True}, **fields)


def plain(value: Any) -> Any:
    """Return a value of a table as `Limits` has it: dicts for tables in it."""
    if isinstance(value, Table):
        return value.model_dump(exclude_none=True)
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return value


def _field(key: str, default: Any) -> tuple[Any, Any]:
    row = LIMITS[key]
    extra = dict(row.form.schema) if isinstance(row.form, PerDevice) else None
    return _annotation(row.form), Field(
        default=default,
        validate_default=default is not None,
        description=row.description,
        json_schema_extra=extra,
    )


def _annotation(form: Form) -> Any:
    """Return the type that pydantic reads a form by."""
    if isinstance(form, PerDevice):
        # Tables in tables are pydantic's, so that an error has the whole path of its key.
        mapping: Any = Mapping
        return mapping[_Device, _annotation(form.each)] | None
    if isinstance(form, Bounds):
        parts: dict[str, Any] = {
            part: (_annotation(one), Field(default=None, description=text))
            for part, (one, text) in form.parts.items()
        }
        return create_model(form.name, __base__=Table, __doc__=form.help, **parts)
    return Annotated[Any, BeforeValidator(_parser(form)), WithJsonSchema(dict(form.schema))]


def _parser(form: Form) -> Callable[[object], Any]:
    def parse(value: object) -> Any:
        if value is None:
            return None
        if isinstance(form, Memory) and isinstance(value, str) and "%" in value:
            return form.parse(value, capacity.memory())
        return form.parse(value)

    return parse
