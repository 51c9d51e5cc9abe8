"""Run the body of a tool: inline, or in a worker in the call's cgroup.

Theory of operation: the **body** of a tool is the tool's own code, a function or a method of the
tool. The framework calls it after it has validated the arguments, and wraps it in callbacks,
counters and caches. Only the body goes to the worker. For that an adapter has the framework run a
`StandIn` in place of the tool: it is the tool in everything but the body, and exists for one call.
So two calls of one tool at the same time cannot mix, and what the framework writes on the tool is
written on the tool.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentcgroup import off_loop
from agentcgroup.errors import Unshippable
from agentcgroup.isolation.host import IsolatedCall
from agentcgroup.isolation.substitutes import Method

__all__ = [
    "AS_IT_IS",
    "MCP_SERVER",
    "Body",
    "Crossing",
    "StandIn",
    "arun",
    "is_a",
    "keep_inline",
    "placed",
    "run",
]

_ROUND_TRIP: Final = "agentcgroup.isolation.round_trip"


def _itself(thing: Any) -> Any:
    return thing


@dataclass(frozen=True)
class Crossing:
    """What a framework needs where a body's arguments and results go from process to process.

    Attributes:
        argument: takes an argument of the body, returns what is sent in its place; it may raise
            `Unshippable`.
        result: takes the result of a worker, returns what the framework gets.
        error: called with an exception of a worker before it is raised.
    """

    argument: Callable[[Any], Any] = _itself
    result: Callable[[Any], Any] = _itself
    error: Callable[[Exception], object] = _itself


#: `Body.outside` of a tool of an MCP server.
MCP_SERVER: Final = "its MCP server, which the call starts or connects to"

#: Everything as it is.
AS_IT_IS: Final = Crossing()


class StandIn:
    """A tool for one call: some of its attributes and methods are replaced, the rest is the tool's.

    Setting an attribute sets it on the tool. `isinstance` takes it for the tool, and `super()`
    works in methods that are bound to it.
    """

    def __init__(self, tool: Any, methods: Iterable[str] = (), **instead: Any) -> None:
        """Make a stand-in.

        Args:
            tool: the tool.
            methods: names of its methods that are bound to the stand-in, so that they find the
                replacements; the others are bound to the tool.
            instead: the replacements, by attribute name.
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
        function: what the framework calls: a function, or a bound method.
        tool: the tool that the method belongs to, which is sent with it; None for a function.
        replaced: attributes of the tool that are not sent, with the values that are sent instead.
        barred: the error that says why the body can run in no other process; None if it can.
        method: the method's name; "" for a function.
        outside: says where the work is done, for a body that only asks another process; it runs
            inline then. "" for any other body.
    """

    function: Callable[..., Any]
    tool: Any = None
    replaced: Mapping[str, Any] = field(default_factory=dict)
    barred: Unshippable | None = None
    method: str = ""
    outside: str = ""

    @classmethod
    def of_method(
        cls,
        tool: Any,
        name: str,
        replaced: Mapping[str, Any] = types.MappingProxyType({}),
        barred: Unshippable | None = None,
        outside: str = "",
    ) -> Body:
        """Return the body that is the method `name` of a tool."""
        return cls(getattr(tool, name), tool, replaced, barred, name, outside)

    @functools.cached_property
    def is_async(self) -> bool:
        """Whether its result is awaited: it, or its ``__call__``, is a coroutine function."""
        function = self.function
        called = getattr(function, "__call__", None)  # noqa: B004 - not whether, but how
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)

    @functools.cached_property
    def streams(self) -> bool:
        """Whether a call of it only makes a generator, whose code runs in the iterating process."""
        function = self.function
        return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)

    def sent(self) -> Callable[..., Any]:
        """Return the callable that is sent to the worker.

        Raises:
            Unshippable: the body can run in no other process.
        """
        if self.barred is not None:
            raise self.barred
        if self.streams:
            what = f"the result of function {self.function.__name__!r}"
            raise Unshippable(what, "a generator", "its code runs in the process that iterates it")
        if self.tool is None:
            return self.function
        return Method(_copied(self.tool, self.replaced), self.method, is_async=self.is_async)


def _copied(tool: Any, replaced: Mapping[str, Any]) -> Any:
    """Return a shallow copy of a tool, with the replaced attributes."""
    try:
        twin = copy.copy(tool)
    except Exception as error:
        raise Unshippable(f"tool {type(tool).__name__!r}", _kind(tool), str(error)) from error
    for attributes in (vars(twin), getattr(twin, "__pydantic_private__", None) or {}):
        attributes.update({name: value for name, value in replaced.items() if name in attributes})
    return twin


def _kind(thing: object) -> str:
    kind = type(thing)
    return f"{kind.__module__}.{kind.__qualname__}"


def is_a(value: object, module: str, name: str) -> bool:
    """Return whether a value is an instance of a class; does not import the class's module."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def placed(call: IsolatedCall, body: Body, crossing: Crossing = AS_IT_IS) -> Callable[..., Any]:
    """Return the function that the framework calls in place of the body.

    It is the body's own where the policy says inline, and where another process does the work. Else
    it has the same signature, is a coroutine function if the body is one, and does as `run` and
    `arun`.
    """
    if call.policy.isolation != "process" or body.outside:
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
    call: IsolatedCall,
    body: Body,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    crossing: Crossing = AS_IT_IS,
) -> Any:
    """Run a sync body in a worker, or inline where the policy allows that for one that cannot go.

    What the body changes on its tool is lost; a warning names the attributes.

    Args:
        call: the call.
        body: the body of the call's tool.
        args: positional arguments.
        kwargs: keyword arguments.
        crossing: the framework's substitutes for arguments and results.

    Raises:
        AgentCgroupError: as `round_trip.run`.
    """
    try:
        there, named = _crossed(args, kwargs, crossing)
        returned = _round_trip().run(call, body.sent(), there, named)
    except Unshippable as error:
        keep_inline(call, error)
        return body.function(*args, **kwargs)
    except Exception as error:
        crossing.error(error)
        raise
    return crossing.result(returned if body.tool is None else _result(call, returned))


async def arun(
    call: IsolatedCall,
    body: Body,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    crossing: Crossing = AS_IT_IS,
) -> Any:
    """As `run`, for an async body."""
    try:
        there, named = _crossed(args, kwargs, crossing)
        if _ROUND_TRIP not in sys.modules:  # the import takes many milliseconds
            await off_loop.run_to_end(_round_trip)
        returned = await _round_trip().arun(call, body.sent(), there, named)
    except Unshippable as error:
        keep_inline(call, error)
        return await body.function(*args, **kwargs)
    except Exception as error:
        crossing.error(error)
        raise
    return crossing.result(returned if body.tool is None else _result(call, returned))


@functools.cache  # the import statement takes 3 us each time, a dense call 170
def _round_trip() -> types.ModuleType:
    from agentcgroup.isolation import round_trip  # an app that isolates nothing does not import it

    return round_trip


def _crossed(
    args: tuple[Any, ...], kwargs: dict[str, Any], crossing: Crossing
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    to_worker = crossing.argument
    if to_worker is _itself:
        return args, kwargs
    return tuple(map(to_worker, args)), {key: to_worker(arg) for key, arg in kwargs.items()}


def _result(call: IsolatedCall, returned: Any) -> Any:
    """Return the result of a `Method`; warn of the attributes that it has changed on its tool."""
    result, changed = returned
    if changed:
        call.warn(
            f"tool {call.tool!r} changed its own {', '.join(changed)} in a worker process; "
            f"such a change is lost ({_asked(call)}). Keep lasting data outside the tool, or run "
            'the tool with isolation = "inline"'
        )
    return result


def keep_inline(call: IsolatedCall, error: Unshippable) -> None:
    """Return if the body may run inline; its record says so.

    Raises:
        Unshippable: the policy refuses that, or the body has run; the text names the line of the
            configuration that asks for a process.
    """
    if call.policy.on_unshippable == "inline" and not error.ran:
        call.note_unshippable(error, refused=False)
        call.warn(
            f"tool {call.tool!r} runs inline, though {_asked(call)}: {error.what} ({error.kind}) "
            f"cannot be sent into a worker process: {error.why}"
        )
        call.note_isolated("inline")  # a worker may have been tried and have found the error
        return
    call.note_unshippable(error, refused=True)
    asked = Unshippable(error.what, error.kind, f"{error.why}; {_asked(call)}", ran=error.ran)
    call.warn(f"tool {call.tool!r}: {asked}")
    raise asked from error


def _asked(call: IsolatedCall) -> str:
    return f'{call.policy.isolation_source} asks for isolation = "process"'
