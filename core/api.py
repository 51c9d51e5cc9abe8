"""The public functions: register, and any code as a call."""

from __future__ import annotations

import atexit
import functools
import logging
import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, cast, overload

from agentcgroup import greenlets, isolation, propagation, run_watch, scope, spawn
from agentcgroup.agent_block import agent
from agentcgroup.calls import abandoned, feedback, inline_usage, lifecycle
from agentcgroup.calls.call import Call
from agentcgroup.calls.session import Session, registered, set_registered
from agentcgroup.config.loading import Config, load
from agentcgroup.errors import ConfigError, LimitExceeded
from agentcgroup.frameworks.registry import adapters
from agentcgroup.isolation import bodies
from agentcgroup.isolation.bodies import Body
from agentcgroup.place.place import inside_a_run
from agentcgroup.records.record import CallRecord
from agentcgroup.threads import Lock, get_ident

__all__ = [
    "agent",
    "begin",
    "call",
    "current_call",
    "isolate",
    "register",
    "unregister",
]

logger = logging.getLogger("agentcgroup")

F = TypeVar("F", bound=Callable[..., Any])

_lock = Lock()


def register(
    *frameworks: str, config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None
) -> Session:
    """Give every tool call of the named frameworks, or of all that are installed, its own cgroup.

    Idempotent: registering again returns the running session and adds frameworks not hooked yet.
    In a process of a call of another run it does nothing, with any `config`: the limits of that
    call hold there. It then returns a session without records.

    Args:
        frameworks: such as ``"langchain"``; none means all of ours that are installed. Another
            name is looked for among the entry points of group ``agentcgroup.adapters``.
        config: path of a TOML file, its content as a mapping, or a `Config`; None looks for
            $AGENTCGROUP_CONFIG, ./agentcgroup.toml, [tool.agentcgroup] in ./pyproject.toml and
            the user's and the system's config folders, in this order.

    Raises:
        ConfigError: the config is wrong, a framework is unknown or not installed, or another
            config is active already.
        CgroupUnavailable: mode is ``enforce`` and this machine cannot.
    """
    if _inside_a_call():
        return registered() or _begin_nothing()
    asked = adapters(*frameworks)
    session = begin(config)
    for adapter in asked:
        adapter.install()
    return session


def begin(config: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None) -> Session:
    """Return the running session, or start one that hooks no framework; raises as `register`."""
    with _lock:
        session = registered()
        if session is None:
            session = Session(load(config))
            if session._services.working:
                propagation.install()
                greenlets.install()
                spawn.install()
            set_registered(session)
            run_watch.announce()
            atexit.register(session.close)
        elif config is not None and load(config) != session._services.config:
            raise ConfigError(
                "a session with another config is active: call agentcgroup.unregister() first",
                file="register(config=)",
            )
    return session


def _inside_a_call() -> bool:
    """Return whether this process belongs to a call of another run, or to its background."""
    return isolation.inside() or spawn.inherited() or inside_a_run()


def _begin_nothing() -> Session:
    """Start a session that is off: multiprocessing imports the program's main module in a call."""
    logger.debug(
        "agentcgroup: this process belongs to a call of another run, whose limits hold: here"
        " register() does nothing"
    )
    return begin(Config(mode="off"))


def unregister() -> None:
    """End the session: running calls are ended, hooks become inert. Without one, does nothing."""
    with _lock:
        session = registered()
        if session is not None:
            session.close()
            atexit.unregister(session.close)
            spawn.uninstall()
            propagation.uninstall()


def current_call() -> Call | None:
    """Return the call whose code is running here, None outside any."""
    call = scope.current.get()
    return call if isinstance(call, Call) and call.ended is None else None


class call:
    """Run any code as a call: ``with agentcgroup.call("build", memory_max="1G", timeout="5m"):``.

    Every process started inside, and every one these start, is born in the call's cgroup. Without
    a registered session one is made from the config. Usable with ``with`` and ``async with``, once.

    The block itself always runs inline, since a block of code cannot be sent to a worker: with
    ``isolation = "process"`` too, and its record says so. `isolate` can do that.

    Args:
        tool: what to call it in records and rules.
        agent: whose call it is; default: the `agent` block around it.
        tool_call_id: the model's id of the call, if there is one.
        limits: keys of ``[limits.call]`` and rules, which win over the config.

    Raises:
        LimitExceeded: at the end of the block, when a limit ended the call or hid in its result;
            what the block raised is its ``__cause__``.
        ConfigError: a limit is unknown or wrong.
    """

    def __init__(
        self,
        tool: str,
        *,
        agent: str | None = None,
        tool_call_id: str | None = None,
        **limits: Any,
    ) -> None:
        self._tool = tool
        self._agent = agent
        self._tool_call_id = tool_call_id
        self._limits = limits

    def __enter__(self) -> Call:
        self._call = call = self._open()
        try:
            abandoned.end_with(call, self)
            self._token = lifecycle.enter(call)
            self._begin = get_ident(), inline_usage.read()
        except BaseException as error:  # of a signal handler: then `with` does not leave either
            abandoned.abandon(call, error)
            raise
        return call

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._call.note_block(None)
            thread, begin = self._begin
            # Another thread may close the generator that holds the block.
            used = inline_usage.since(begin) if thread == get_ident() else None
            told = lifecycle.leave(self._call, self._token, error, used)
        except BaseException as interrupt:
            abandoned.abandon(self._call, interrupt)
            raise
        if told:
            self._raise(error)

    async def __aenter__(self) -> Call:
        self._call = call = self._open()
        abandoned.end_with(call, self)
        if call.services.monitor.awaited:
            await lifecycle.until_watched(call)
        self._entered = lifecycle.aenter(call)
        return call

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        expired = await lifecycle.aleave(self._call, self._entered, error)
        self._call.note_block(None)
        self._raise(error, expired)

    def _open(self) -> Call:
        session = registered() or (_begin_nothing() if _inside_a_call() else begin())
        services = session._services
        return lifecycle.open_call(
            services,
            "python",
            self._agent,
            self._tool,
            self._tool_call_id,
            overrides=self._limits,
        )

    def _raise(self, error: BaseException | None, expired: bool = False) -> None:
        """Raise the limit that ended the call, unless an exception of another kind is raised."""
        call = self._call
        ours = error is None or isinstance(error, Exception) or expired
        if call.limited and ours and not isinstance(error, LimitExceeded):
            raise _exceeded(call.record) from error


@overload
def isolate(tool: F, /) -> F: ...


@overload
def isolate(
    tool: str | None = None, *, agent: str | None = None, **limits: Any
) -> Callable[[F], F]: ...


def isolate(tool: str | F | None = None, *, agent: str | None = None, **limits: Any) -> Any:
    """Make each run of a function a call; the decorator form of `call`, sync and async.

    ``@agentcgroup.isolate`` or ``@agentcgroup.isolate("build", memory_max="1G")``; the tool's name
    is the function's by default. With ``isolation="process"``, given here or by a rule, the
    function runs in a worker process in the call's cgroup; see `agentcgroup.isolation.round_trip`.

    Raises:
        TypeError: it is a generator function, whose body would run outside of the call.
        Unshippable: the function, an argument or the result cannot get to the worker or back.
        LimitExceeded, ConfigError: as `call`.
    """
    if callable(tool):
        return isolate()(tool)

    def decorate(function: F) -> F:
        name = tool if isinstance(tool, str) else function.__name__
        body = Body(function)
        if body.streams:
            raise TypeError(
                f"{name!r} cannot be isolated: it is a generator function, whose body runs where "
                "it is iterated, when its call is over. Fix: isolate the function that iterates "
                "it, or have it return a list."
            )
        if body.is_async:

            @functools.wraps(function)
            async def arun(*args: Any, **kwargs: Any) -> Any:
                async with call(name, agent=agent, **limits) as opened:
                    if _isolating(opened):
                        return await bodies.arun(opened, body, args, kwargs)
                    return await function(*args, **kwargs)

            return cast(F, arun)

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with call(name, agent=agent, **limits) as opened:
                if _isolating(opened):
                    return bodies.run(opened, body, args, kwargs)
                return function(*args, **kwargs)

        return cast(F, run)

    return decorate


def _isolating(opened: Call) -> bool:
    """Say whether the body of a call goes to a worker process."""
    return opened.policy.isolation == "process" and opened.services.working


def _exceeded(record: CallRecord) -> LimitExceeded:
    return LimitExceeded(feedback.sentence(record) or record.outcome, record=record)
