"""One thread that does, behind the calls, what no call should wait for.

Behind, not beside: what is done while another call is on its way takes the interpreter's lock and
the kernel's cgroup lock away from it, which made each call in a loop a quarter slower. So jobs wait
until none has come for a moment. A backlog is worked off all the same, since each of its jobs keeps
a cgroup.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from agentcgroup.scope import start_thread

__all__ = ["DeferredJobs"]

logger = logging.getLogger("agentcgroup")

#: Seconds without a new job after which the jobs are done: more than the Python code between two
#: calls in a loop takes, less than a model. Where calls take longer, so does the pause, by this
#: factor: the next one in a loop has ended by then.
_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.1
_PAUSE_PER_CALL: Final = 1.25
#: Jobs beyond which nothing is waited for.
_BACKLOG: Final = 64


class DeferredJobs:
    """Runs jobs one after the other, in order, on a daemon thread started at the first job."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._rested = 0.0  # when there was a pause, if no job comes before; by time.monotonic
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def put(self, job: Callable[[], None], took: float = 0.0) -> None:
        """Queue a job left by a call that took so many seconds.

        What it raises is logged, since nobody waits for it.
        """
        pause = min(max(took * _PAUSE_PER_CALL, _PAUSE), _LONGEST_PAUSE)
        self._rested = time.monotonic() + pause
        self._jobs.put(job)
        if self._thread is None:
            self._start()

    def busy(self) -> bool:
        """Say whether there are jobs that it has not come to."""
        return not self._jobs.empty()

    def drain(self, timeout: float | None = None) -> bool:
        """Have every job queued so far done now; False when `timeout` seconds passed first.

        Called from a job it returns at once: what a job waits for would wait for the job.
        """
        if self._thread is None or self._thread is threading.current_thread():
            return True
        done = threading.Event()

        def drained() -> None:
            self._hurry.clear()
            done.set()

        self._hurry.set()
        self._jobs.put(drained)
        return done.wait(timeout)

    def close(self, timeout: float) -> None:
        """Do what is queued, then end the thread; give up after `timeout` seconds."""
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self._hurry.set()
            self._jobs.put(None)
            thread.join(timeout)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = start_thread(self._work, "janitor")

    def _work(self) -> None:
        job = self._jobs.get()
        while job is not None:
            self._await_pause()
            # All there are, at a stretch: in a row a job takes 40 us, alone between calls 150.
            for _ in range(self._jobs.qsize()):
                self._do(job)
                if (job := self._jobs.get()) is None:
                    return
            self._do(job)
            job = self._jobs.get()

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException:  # SystemExit, too, would end the thread without a word
            logger.exception("agentcgroup: clearing up behind a call failed")

    def _await_pause(self) -> None:
        """Wait until no job has come for a moment, or they are too many, or somebody waits."""
        while self._jobs.qsize() < _BACKLOG:
            pause = self._rested - time.monotonic()
            if pause <= 0 or self._hurry.wait(pause):
                return
