"""What the adapters of all frameworks share: wrappers of a framework's methods, and their table.

A seam is a method of a framework that an adapter wraps. Every wrapper made here calls the original
method with unchanged arguments while no session is active, and inside a call that is open for the
same execution of the same tool.

A wrapper binds what it needs when it is made: an inline call takes some 12 us in all, of which one
more Python function would be 0.5 %.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from agentcgroup.calls import cancellation, lifecycle
from agentcgroup.calls.call import Call, Identity
from agentcgroup.calls.lifecycle import Answer
from agentcgroup.calls.services import Services, active
from agentcgroup.frameworks import hooks
from agentcgroup.frameworks.hooks import Wrapper
from agentcgroup.frameworks.registry import Adapter
from agentcgroup.isolation.bodies import Body
from agentcgroup.scope import current

__all__ = [
    "FrameworkAdapter",
    "Identify",
    "MakeStandIn",
    "OpenCall",
    "Parts",
    "SameCall",
    "Seam",
    "around_async_tool",
    "around_tool",
    "cancels_calls",
    "cancels_calls_of_stream",
    "current_call",
    "hook",
    "opener",
    "outside_calls",
    "same_tool",
]

logger = logging.getLogger("agentcgroup")

#: Reads the identity of a call from the tool and the keyword arguments of the wrapped method.
Identify = Callable[[Any, Mapping[str, Any]], Identity]
#: Opens a call for the tool and the keyword arguments of the wrapped method; None inside the call
#: that is open for the same execution.
OpenCall = Callable[[Services, Any, Mapping[str, Any]], "Call | None"]
#: Whether the running call, the first argument, is the one of this tool, name and tool_call_id.
SameCall = Callable[[Call, Any, str, "str | None"], bool]
#: Returns what the wrapped method runs in place of the tool, in a call with
#: ``isolation = "process"``.
MakeStandIn = Callable[[Call, Any, Mapping[str, Any]], Any]


# -- opening a call -------------------------------------------------------------------------------


def current_call() -> Call | None:
    """Return the call whose code is running here, None outside any."""
    call = current.get()
    return call if isinstance(call, Call) and call.ended is None else None


def same_tool(outer: Call, tool: Any, _name: str, tool_call_id: str | None) -> bool:
    """Return whether `tool` was entered again in its own call: no new tool_call_id came with it.

    For example a framework's ``_arun`` that calls ``run``.
    """
    return outer.key is tool and tool_call_id in (None, outer.tool_call_id)


def opener(framework: str, identify: Identify, is_same: SameCall = same_tool) -> OpenCall:
    """Return the function that opens the calls of a framework.

    An exception in `identify` is logged. The call then has the tool's class for its name, no agent
    and no tool_call_id, and is contained all the same.

    Args:
        framework: the framework's name in rules and records.
        identify: reads agent, tool and tool_call_id.
        is_same: recognises the second seam that one call goes through.
    """

    def open_call(services: Services, tool: Any, arguments: Mapping[str, Any]) -> Call | None:
        try:
            agent, name, tool_call_id = identify(tool, arguments)
        except Exception:
            logger.exception("agentcgroup: the identity of a tool call could not be read")
            agent, name, tool_call_id = None, type(tool).__name__, None
        outer = current.get()
        if isinstance(outer, Call) and is_same(outer, tool, name, tool_call_id):
            return None
        return lifecycle.open_call(services, framework, agent, name, tool_call_id, key=tool)

    return open_call


# -- wrappers of a tool's methods -----------------------------------------------------------------


def around_tool(open_call: OpenCall, answer: Answer, stand_in: MakeStandIn) -> Wrapper:
    """Return the wrapper for a sync method that runs a tool: each of its runs is a call."""

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def run(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            services = active()
            call = None if services is None else open_call(services, self, kwargs)
            if call is None:
                return original(self, *args, **kwargs)

            def body() -> Any:
                if call.policy.isolation == "process":
                    return original(stand_in(call, self, kwargs), *args, **kwargs)
                return original(self, *args, **kwargs)

            return lifecycle.run(call, answer, body)

        return run

    return wrapper


def around_async_tool(open_call: OpenCall, answer: Answer, stand_in: MakeStandIn) -> Wrapper:
    """Return the wrapper for a coroutine method that runs a tool, as `around_tool`."""

    def wrapper(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def arun(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            services = active()
            call = None if services is None else open_call(services, self, kwargs)
            if call is None:
                return await original(self, *args, **kwargs)

            async def body() -> Any:
                if call.policy.isolation == "process":
                    return await original(stand_in(call, self, kwargs), *args, **kwargs)
                return await original(self, *args, **kwargs)

            return await lifecycle.arun(call, answer, body)

        return arun

    return wrapper


# -- wrappers for cancellation --------------------------------------------------------------------


def cancels_calls(unless: str = "") -> Wrapper:
    """Return the wrapper for a coroutine method below which sync tools run in threads.

    A cancellation of the coroutine does not reach a thread. The wrapper ends the calls that were
    started inside, whose processes the thread waits for.

    Args:
        unless: an attribute; an object where it is not None runs no thread and is left alone.
    """

    def wrapper(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def cancelling(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            if active() is None or (unless and getattr(self, unless, None) is not None):
                return await original(self, *args, **kwargs)
            return await cancellation.cancelling(lambda: original(self, *args, **kwargs))

        return cancelling

    return wrapper


def cancels_calls_of_stream(
    original: Callable[..., AsyncGenerator[Any, None]],
) -> Callable[..., AsyncGenerator[Any, None]]:
    """Wrap an async generator that runs tools in tasks of their own, as `cancels_calls`."""

    @functools.wraps(original)
    async def cancelling(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        if active() is None:
            stream = original(*args, **kwargs)
        else:
            stream = cancellation.cancelling_stream(lambda: original(*args, **kwargs))
        async with contextlib.aclosing(stream):
            async for item in stream:
                yield item

    return cancelling


def outside_calls(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a coroutine function that starts processes for later calls: they outlive this call."""

    @functools.wraps(original)
    async def outside(*args: Any, **kwargs: Any) -> Any:
        return await cancellation.step(lambda: original(*args, **kwargs), current, None)

    return outside


# -- the table of seams, and its installation -----------------------------------------------------


class Seam(NamedTuple):
    """One method to wrap.

    Attributes:
        path: ``Class.method``, or a function, of the module under which the seam is listed.
        wrapper: takes the original, returns what is set in its place.
        lost: what is not contained, or not known, in a version without the method.
        is_optional: no warning in a version without the class.
    """

    path: str
    wrapper: Wrapper
    lost: str
    is_optional: bool = False


def hook(module: str, seams: Iterable[Seam]) -> None:
    """Wrap the methods of one imported module; log a warning for each that is missing."""
    for seam in seams:
        owner = seam.path.partition(".")[0]
        if not seam.is_optional or hasattr(sys.modules[module], owner):
            hooks.wrap(module, seam.path, seam.wrapper, seam.lost)


@dataclass(frozen=True, slots=True)
class Parts:
    """What an adapter loads when its framework is imported.

    Attributes:
        seams: what to wrap, by module. Modules of other packages, such as ``asyncio``, are allowed.
        owns, bodies: see `Adapter`.
        install_more: hooks that no table can hold; called at each installation.
    """

    seams: Mapping[str, Sequence[Seam]]
    owns: Callable[[Any], bool]
    bodies: Callable[[Any], Mapping[str, Body]]
    install_more: Callable[[], None] | None = None


@dataclass(eq=False)
class FrameworkAdapter(Adapter):
    """An adapter that loads its parts when its framework is imported.

    Attributes:
        name, requires: see `Adapter`.
        packages: each top-level package of the framework that has a seam: whichever is imported
            first may import the others, and a module that is half imported has no methods yet. A
            namespace package is never reported as imported: name a package inside it.
        parts: imports the adapter's modules and returns what is in them.
        lost: what a failure means, for the log, such as "tools of ... are NOT contained".
    """

    name: str
    requires: str
    packages: tuple[str, ...]
    parts: Callable[[], Parts]
    lost: str

    def install(self) -> None:
        """Wrap the seams once the framework is imported, or now if it is; never import it.

        Idempotent. Installed again it wraps methods that another instrumentation has restored.
        """
        hooks.when_imported(self.packages, self._load, self.lost)

    def modules(self) -> Sequence[str]:
        """Return the modules of the framework that have seams."""
        inside = tuple(f"{package}." for package in self.packages)
        return [name for name in self.parts().seams if f"{name}.".startswith(inside)]

    def owns(self, tool: Any) -> bool:
        """Return whether `tool` is a tool object of this framework."""
        return self.parts().owns(tool)

    def bodies(self, tool: Any) -> Mapping[str, Body]:
        """Return the bodies of a tool of this framework, by the names of their attributes."""
        return self.parts().bodies(tool)

    def _load(self, _package: str) -> None:
        parts = self.parts()
        hooks.when_imported(parts.seams, self._hook, self.lost)
        if parts.install_more is not None:
            parts.install_more()

    def _hook(self, module: str) -> None:
        hook(module, self.parts().seams[module])
