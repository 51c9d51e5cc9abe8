"""One thread that does, behind the calls, what no call should wait for."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections.abc import Callable

__all__ = ["Janitor"]

logger = logging.getLogger("agentcgroup")


class Janitor:
    """Runs jobs one after the other, in order, on a daemon thread started at the first job."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def put(self, job: Callable[[], None]) -> None:
        """Queue a job; what it raises is logged, since nobody waits for it."""
        self._jobs.put(job)
        if self._thread is None:
            self._start()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until every job queued so far is done; False when `timeout` seconds passed first.

        Called from a job it returns at once: what a job waits for would wait for the job.
        """
        if self._thread is None or self._thread is threading.current_thread():
            return True
        done = threading.Event()
        self._jobs.put(done.set)
        return done.wait(timeout)

    def close(self, timeout: float) -> None:
        """Do what is queued, then end the thread; give up after `timeout` seconds."""
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self._jobs.put(None)
            thread.join(timeout)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="agentcgroup-janitor", daemon=True
                )
                # An empty context: the thread must not belong to the call that happens to start it.
                contextvars.Context().run(self._thread.start)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                logger.exception("agentcgroup: clearing up behind a call failed")
