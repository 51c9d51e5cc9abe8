"""A run as its user sees it: its records, its events, its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import itemgetter
from types import TracebackType
from typing import Final

from agentcgroup.calls import services
from agentcgroup.calls.services import CLOSE_WAIT, Services
from agentcgroup.config.tables import Config
from agentcgroup.errors import ConfigError
from agentcgroup.monitor.events import Event, Stream
from agentcgroup.records.jsonl import JsonLines
from agentcgroup.records.record import CallRecord
from agentcgroup.spawn.fork_hooks import at_forks_in_calls

__all__ = ["Session", "registered", "set_registered"]

#: Seconds that `Session.records` waits for observers.
_OBSERVERS_WAIT: Final = 1.0
#: Seconds after which `Session.records` settles again what observers may wait for.
_DRAIN_STEP: Final = 0.1

_registered: Session | None = None


def registered() -> Session | None:
    """Return the session of this process, working or off; None in a fork that a call has made."""
    session = _registered
    if session is not None and not session._services.here[0] and not session._services.start_over():
        set_registered(None)
        return None
    return session


def set_registered(session: Session | None) -> None:
    """Make `session` the one of this process."""
    global _registered
    _registered = session
    services.set_active(None if session is None else session._services)


class Session:
    """One registered run; made by `register`, ended by `unregister`, `close` or the process's end.

    Usable as a context manager.
    """

    def __init__(self, config: Config) -> None:
        """Start a run; see `agentcgroup.register`.

        Raises:
            CgroupUnavailable: mode is ``enforce`` and something cannot be enforced here.
            ConfigError: the file for records cannot be written.
        """
        json_lines = _open_json_lines(config)
        self._services = Services(config)
        if json_lines is not None:
            self._services.bus.subscribe(json_lines)
        self._streams: list[Stream] = []

    @property
    def records(self) -> Sequence[CallRecord]:
        """Records of ended calls, in the order of their ends, at most ``records_max`` of them.

        A call that is still being settled after 30 s is left out. Observers (`on_record`, the
        ``records`` file) have the records too, unless they take over a second. This waits: a
        coroutine reads it on a thread, by ``asyncio.to_thread``.
        """
        services = self._services
        if not services.here[0]:
            return ()  # this process, a fork, has made no call
        services.deferred.drain(CLOSE_WAIT)
        deadline = time.monotonic() + _OBSERVERS_WAIT
        while not services.bus.drain(min(_DRAIN_STEP, max(0.0, deadline - time.monotonic()))):
            if services.bus.observing() or time.monotonic() >= deadline:
                break
            services.deferred.drain(CLOSE_WAIT)  # a call of another thread has ended meanwhile
        finished = dict.fromkeys(services.finished.copy())
        settled = [(call.ended, call) for call in finished if call.settled]
        return tuple(call.record for _, call in sorted(settled, key=itemgetter(0)))

    def on_record(self, callback: Callable[[CallRecord], None]) -> None:
        """Call `callback` with each record from now on, on a thread that belongs to `callback`.

        Records come one after the other, in the order in which calls ended. A contained call that
        met no limit is settled when calls pause (for 10 ms, at most 0.1 s where they take long) or
        64 of them wait; later calls wait for it, up to 10 s. A record comes 0.05 s later at the
        latest, unless earlier records keep `callback` busy. A slow callback delays no call and no
        other callback: 10,000 records wait for it, later ones are dropped and counted. A callback
        that raises hurts no call: its error is logged, and it is switched off after 3 errors in a
        row or 10 in all. `close` waits up to 5 s for what is left.
        """
        self._own().bus.subscribe(callback)

    def on_event(self, callback: Callable[[Event], None]) -> None:
        """Call `callback` with each event of the calls from now on, on a thread of the monitor.

        These are the events of all processes of all calls, as the monitor sees them; none where
        there is no monitor (`agentcgroup doctor` reports why). An exception in the callback is
        logged and hurts no call; while the callback runs no other event comes.
        """
        self._own().monitor.listen(callback)

    def stream(self) -> Stream:
        """Return the same events to iterate over, on a thread of yours; close it at the end."""
        monitor = self._own().monitor
        stream = Stream(lambda closed: monitor.unlisten(closed.put))
        self._streams.append(stream)
        monitor.listen(stream.put)
        return stream

    def close(self) -> None:
        """End what still runs, hand over the last records, and remove the run's cgroups."""
        if _registered is self:
            set_registered(None)
        if self._services.close():
            for stream in self._streams:
                stream.close()

    def _own(self) -> Services:
        """Return the services of this very process."""
        if not self._services.here[0]:
            self._services.start_over()
        return self._services

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _open_json_lines(config: Config) -> JsonLines | None:
    path, source = config.records, config.source
    if not path:
        return None
    try:
        return JsonLines(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}",
            file=source.name,
            line=source.line(("records",)),
            key="records",
        ) from error


def _after_fork_in_child() -> None:
    """Keep a process that a call has forked from using its parent's run.

    Any other fork begins anew at its first call, or never: most execute another program.
    """
    session = _registered
    if session is not None:
        session._services.start_over()
        set_registered(None)


at_forks_in_calls(after_in_child=_after_fork_in_child)
