"""Process pools and managers: helper processes that belong to an object of the app's process.

A pool serves whoever holds it. Its processes start when it is made, at a submission, or when one
has ended, on a thread of the pool; a call that happens to run then does not own them. So the
methods below are wrapped. While one runs, the pool's `PoolProcesses` is the owner of what starts:

- the call that has made the pool, as long as it runs: its limits hold for a pool of its own;
- else the background of an agent, as for a pool that was made before, or outlived its call.

At its end a call releases the pools that it has made. Python ends the processes of a pool with the
object, so that a pool that is still there is one that the app holds. The run's end kills none of
them either: a worker that is killed while it waits for work keeps the pool's lock, and
multiprocessing then waits for that lock when the program ends.

A plain multiprocessing.Process is no helper: what a tool starts and does not join is left over.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final, NamedTuple

import wrapt

from agentcgroup.errors import LimitExceeded
from agentcgroup.scope import DelegatedSpawns, SpawnTarget, agent, call_group, current
from agentcgroup.spawn import placement
from agentcgroup.threads import Lock

__all__ = ["PoolProcesses", "hook_pools", "processes", "release"]

#: Number of the last processes of a pool that are remembered; it may replace each after each task.
_KEPT: Final = 1024


class _Pool(NamedTuple):
    """A class whose objects have processes.

    Attributes:
        name: of the class.
        makes: the method in which an object gets its owner.
        starts: further methods in which processes start, or threads that start some later.
        uses: methods by which a call uses an object; they may start processes, too.
    """

    name: str
    makes: str
    starts: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()


_EXECUTOR = _Pool("ProcessPoolExecutor", "__init__", uses=("submit",))
_LOKY = _Pool("ProcessPoolExecutor", "__init__", ("_adjust_process_count",), ("submit",))
#: Every way to submit work passes `_check_running`.
_POOL = _Pool("Pool", "__init__", uses=("_check_running",))
_BILLIARD = _Pool("Pool", "__init__", uses=("apply_async", "map_async", "imap", "imap_unordered"))
_MANAGER = _Pool("BaseManager", "start", uses=("_create",))

_POOLS: Final[dict[str, _Pool]] = {
    "concurrent.futures.process": _EXECUTOR,
    "loky.process_executor": _LOKY,
    "joblib.externals.loky.process_executor": _LOKY,
    "multiprocessing.pool": _POOL,
    "multiprocessing.managers": _MANAGER,
    "multiprocess.pool": _POOL,
    "multiprocess.managers": _MANAGER,
    "billiard.pool": _BILLIARD,
    "billiard.managers": _MANAGER,
    "pebble.pool.process": _Pool("ProcessPool", "__init__", ("_start_pool",), ("schedule",)),
    # The driver, which is this process, ends itself when its raylet dies.
    "ray._private.node": _Pool("Node", "__init__", ("start_ray_processes",)),
}


class PoolProcesses:
    """The `scope.SpawnTarget` of the processes of one pool."""

    #: Threads of a pool keep this target, where they would get no call.
    lasting = True
    over = False

    def __init__(self, call: SpawnTarget | None, background: SpawnTarget) -> None:
        self._call = call
        self._background = background
        self._spawns = DelegatedSpawns()
        self._pids: deque[int] = deque(maxlen=_KEPT)

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        """Begin a spawn of the call that owns the pool, or of the agent's background."""
        call = self._call
        if call is not None and not call.over:
            try:
                return self._spawns.begin(call, failed)
            except LimitExceeded:  # stopped just now; the pool may serve others
                self._spawns.end(None)
        return self._spawns.begin(self._background, failed)

    def end_spawn(self, pid: int | None) -> None:
        """End the spawn that this thread has begun last."""
        if pid is not None:
            self._pids.append(pid)
        self._spawns.end(pid)

    def note_child(self, pid: int) -> None:
        """Take note of the pid of a child, whose `end_spawn` had none."""
        self._pids.append(pid)

    def background(self) -> SpawnTarget:
        """Return the owner of what outlives every call."""
        return self._background

    def note_helpers(self) -> None:
        """Do nothing: a pool has no record."""

    def is_of(self, call: SpawnTarget) -> bool:
        """Return whether `call` owns what starts now."""
        return self._call is call

    def release(self) -> None:
        """Have the agent own the pool from now on."""
        self._call = None

    @property
    def pids(self) -> list[int]:
        """The processes that have started, the last ones; some may have ended."""
        return list(self._pids)


#: By pool. A pool that nobody holds any more is not in here.
_owners: weakref.WeakKeyDictionary[Any, PoolProcesses] = weakref.WeakKeyDictionary()
_lock = Lock()


def release(call: SpawnTarget) -> set[int]:
    """Release the pools that `call` has made; return their processes."""
    pids: set[int] = set()
    if _owners:
        for owner in _held():
            if owner.is_of(call):
                owner.release()
                pids.update(owner.pids)
    return pids


def processes() -> set[int]:
    """Return the processes of all pools that the app holds."""
    return {pid for owner in _held() for pid in owner.pids}


def _held() -> list[PoolProcesses]:
    with _lock:
        return [*_owners.values()]


def hook_pools() -> None:
    """Wrap the pools of each module when it is imported, or now where it is already."""
    for name in _POOLS:
        wrapt.register_post_import_hook(_wrap_pools, name)


def _wrap_pools(module: ModuleType) -> None:
    pool = _POOLS[module.__name__]
    kind = getattr(module, pool.name, None)
    # A subclass of Pool with threads for processes.
    threads = getattr(module, "ThreadPool", ())
    for name in (pool.makes, *pool.starts, *pool.uses):
        method = getattr(kind, name, None)
        if method is not None:
            makes, uses = name == pool.makes, name in pool.uses
            setattr(kind, name, _placing(method, threads, makes=makes, uses=uses))


def _placing(method: Callable[..., Any], threads: Any, *, makes: bool, uses: bool) -> Any:
    """Return a method of a pool that starts processes as those of the pool."""

    @functools.wraps(method)
    def placing(self: Any, *args: Any, **kwargs: Any) -> Any:
        target = placement.current_target()
        if target is None or isinstance(self, threads):
            return method(self, *args, **kwargs)
        owner = _owners.get(self)
        if owner is None:
            owner = PoolProcesses(target if makes else None, target.background())
            with _lock:
                owner = _owners.setdefault(self, owner)
        if uses and not owner.is_of(target):
            target.note_helpers()
        with _owned_by(owner):
            return method(self, *args, **kwargs)

    return placing


@contextlib.contextmanager
def _owned_by(owner: PoolProcesses) -> Iterator[None]:
    """Have the processes and threads that start in this block belong to the pool alone."""
    owner_before = current.set(owner)
    agent_before, group_before = agent.set(None), call_group.set(None)
    try:
        yield
    finally:
        call_group.reset(group_before)
        agent.reset(agent_before)
        current.reset(owner_before)
