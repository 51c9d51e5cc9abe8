"""Where the body of a tool runs: in place, or in a worker in the call's cgroup.

Theory of operation: a framework's tool is a body (a function, or a method of the tool) inside
what the framework does with it: it validates the arguments, calls back, counts, caches. Only the
body goes to the worker. An adapter has the framework run a `StandIn`, which is the tool in all but
the body, for this one call; so that two calls of one tool never meet, and what the framework
writes on the tool is written on the tool.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentcgroup.calls import inline_usage
from agentcgroup.calls.call import Call
from agentcgroup.errors import Unshippable
from agentcgroup.isolation.substitutes import Method

__all__ = ["Body", "Crossing", "StandIn", "arun", "is_a", "keep_inline", "metered", "placed", "run"]

#: Takes what an argument is in the app, returns what goes to the worker in its place.
Crossing = Callable[[Any], Any]


class StandIn:
    """The tool, for one call: with other methods or attributes, and the tool's for all the rest.

    What is set on it is set on the tool. It passes `isinstance`, and `super()` works in methods
    that are bound to it.
    """

    def __init__(self, tool: Any, methods: Iterable[str] = (), **instead: Any) -> None:
        """Stand in for `tool`, with `instead`, and with these of its `methods` bound to ourselves.

        Others are bound to the tool, and see its attributes only.
        """
        own = self.__dict__
        own["_agentcgroup_tool"] = tool
        own.update({name: types.MethodType(getattr(type(tool), name), self) for name in methods})
        own.update(instead)

    @property  # type: ignore[misc]  # mypy takes it for the type's own
    def __class__(self) -> type:
        return type(self.__dict__["_agentcgroup_tool"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_agentcgroup_tool"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_agentcgroup_tool"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__dict__["_agentcgroup_tool"], name)


@dataclass(frozen=True)
class Body:
    """The body of a tool.

    Attributes:
        function: what the framework runs: a function, or a bound method.
        tool: the tool that it is a method of and that goes along; None for a function.
        left: what of the tool does not go along, with what is sent instead.
        barred: why it cannot go to another process whatever it is made of, if so.
        method: by what name the tool has it.
    """

    function: Callable[..., Any]
    tool: Any = None
    left: Mapping[str, Any] = field(default_factory=dict)
    barred: Unshippable | None = None
    method: str = ""

    @classmethod
    def of_method(
        cls,
        tool: Any,
        name: str,
        left: Mapping[str, Any] = types.MappingProxyType({}),
        barred: Unshippable | None = None,
    ) -> Body:
        """Return the body that is a method of the tool."""
        return cls(getattr(tool, name), tool, left, barred, name)

    @functools.cached_property
    def is_async(self) -> bool:
        """Whether it is awaited: a coroutine function, or an object that is called like one."""
        function = self.function
        called = getattr(function, "__call__", None)  # noqa: B004 - not whether, but how
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)

    @functools.cached_property
    def streams(self) -> bool:
        """Whether calling it only makes a generator, which runs where it is iterated."""
        function = self.function
        return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)

    def sent(self) -> Callable[..., Any]:
        """Return what is sent to the worker.

        Raises:
            Unshippable: nothing can be.
        """
        if self.barred is not None:
            raise self.barred
        if self.streams:
            what = f"the result of function {self.function.__name__!r}"
            raise Unshippable(what, "a generator", "it lives where it runs")
        if self.tool is None:
            return self.function
        return Method(_bare(self.tool, self.left), self.method, is_async=self.is_async)


def _bare(tool: Any, left: Mapping[str, Any]) -> Any:
    """Return a shallow copy of a tool, with other values for what is left in the app."""
    try:
        twin = copy.copy(tool)
    except Exception as error:
        raise Unshippable(f"tool {type(tool).__name__!r}", _kind(tool), str(error)) from error
    for attributes in (vars(twin), getattr(twin, "__pydantic_private__", None) or {}):
        attributes.update({name: value for name, value in left.items() if name in attributes})
    return twin


def _kind(thing: object) -> str:
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def is_a(value: object, module: str, name: str) -> bool:
    """Say whether it is an instance of a framework's class, which may not have been imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def placed(call: Call, body: Body, crossing: Crossing | None = None) -> Callable[..., Any]:
    """Return what to run in place of the body of the call's tool.

    Where the policy does not say process it is that itself. Else it has the same signature, is a
    coroutine function if the body is one, and runs it as `run` and `arun` do.
    """
    if call.policy.isolation != "process":
        return body.function
    function = body.function
    if body.is_async:

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            return await arun(call, body, args, kwargs, crossing)

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return run(call, body, args, kwargs, crossing)

    return called


def run(
    call: Call,
    body: Body,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    crossing: Crossing | None = None,
) -> Any:
    """Run the sync body of the call's tool in a worker process.

    A change that the body makes to its tool is lost, which is said once. Raises as `isolation.run`.

    Args:
        call: the call.
        body: its tool's body.
        args: its arguments.
        kwargs: those by name.
        crossing: takes an argument, returns what goes to the worker in its place.
    """
    try:
        there, named = (args, kwargs) if crossing is None else _crossed(args, kwargs, crossing)
        returned = _isolation().run(call, body.sent(), there, named)
    except Unshippable as error:
        keep_inline(call, error)
        return body.function(*args, **kwargs)
    return returned if body.tool is None else _received(call, returned)


async def arun(
    call: Call,
    body: Body,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    crossing: Crossing | None = None,
) -> Any:
    """As `run`, for an async body."""
    try:
        there, named = (args, kwargs) if crossing is None else _crossed(args, kwargs, crossing)
        returned = await _isolation().arun(call, body.sent(), there, named)
    except Unshippable as error:
        keep_inline(call, error)
        return await body.function(*args, **kwargs)
    return returned if body.tool is None else _received(call, returned)


@functools.cache  # the statement by itself takes 3 us, a call in a row 170
def _isolation() -> types.ModuleType:
    from agentcgroup.isolation import round_trip  # only who isolates pays for the import

    return round_trip


def _crossed(
    args: tuple[Any, ...], kwargs: dict[str, Any], crossing: Crossing
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(crossing, args)), {key: crossing(arg) for key, arg in kwargs.items()}


def metered(call: Call, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a sync `function` with what it uses inline noted in `call` (see `estimates`).

    For a framework that runs sync tools in a thread of an async call: `execution.run` does it by
    itself.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        begin = inline_usage.read()
        try:
            return function(*args, **kwargs)
        finally:
            call.note_inline_usage(inline_usage.since(begin))

    return run


def _received(call: Call, returned: Any) -> Any:
    """Take a method's result; say what was changed on its tool, since that is lost."""
    result, changed = returned
    if changed:
        call.warn(
            f"tool {call.tool!r} changed its own {', '.join(changed)} in a worker process, where "
            f"that ends with the call ({_asked(call)}); keep what must last outside the tool, or "
            'run it with isolation = "inline"'
        )
    return result


def keep_inline(call: Call, error: Unshippable) -> None:
    """Let the body of `call` run inline where the policy allows that; its record says so.

    Raises:
        Unshippable: it does not, or the body has run; the text names who asked for a process.
    """
    if call.policy.on_unshippable == "inline" and not error.ran:
        call.note_unshippable(error, refused=False)
        call.warn(
            f"tool {call.tool!r} runs inline, though {_asked(call)}: {error.what} ({error.kind}) "
            f"cannot be sent into a worker process: {error.why}"
        )
        call.note_isolated("inline")  # where a worker has found it out, too
        return
    call.note_unshippable(error, refused=True)
    asked = Unshippable(error.what, error.kind, f"{error.why}; {_asked(call)}", ran=error.ran)
    call.warn(f"tool {call.tool!r}: {asked}")
    raise asked from error


def _asked(call: Call) -> str:
    return f'{call.policy.isolation_source} asks for isolation = "process"'
