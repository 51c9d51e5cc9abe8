"""Run a tool's body in a worker process: ``isolation = "process"``.

Theory of operation. Three kinds of processes take part:

- The **app** is the agent's process. It is never forked: a fork of a process with threads inherits
  locks that no thread of the fork can release.
- The **fork server** is a Python process with one thread, which the app executes once per session.
  It never runs or unpickles anything of a call; it forks workers into given cgroups and imports
  modules that they inherit.
- A **worker** is a fork of the fork server, which clone3(2) with CLONE_INTO_CGROUP creates in the
  cgroup of its call. It waits for the call, runs the body and sends the result. It serves one
  call, or up to ``reuse`` calls of one tool.

The data of one call::

     app                                 fork server
    +--------------------------+        +--------------------------+
    | bodies                   |        |                          |
    |   |                      |        |                          |
    | round_trip               |        |                          |
    |   ^ | |                  |        |                          |
    |   | | +-- warm_workers   |   1    |                          |
    |   | |      launcher -----|------->| fork_server, preloading  |
    |   | |         ^          |   3    |   |                      |
    |   | |         +----------|--------|   |                      |
    +---|-|--------------------+        +---|----------------------+
        | |                                 | 2
        | |                                 v
        | |           4         +-- cgroup of the call ------------+
        | +-------------------->|                                  |
        |             5         | worker: runs the body            |
        +-----------------------|                                  |
                                +----------------------------------+

1. The app requests a worker. With the request it sends two file descriptors: the directory of the
   cgroup, and the worker's end of a new socket. Where a ready worker is kept, this happens before
   the call.
2. The fork server forks the worker into the cgroup.
3. The fork server reports the worker's pid, and at its end its wait status.
4. The app sends changes of the environment and the pickled body over the socket, which only the app
   and the worker hold.
5. The worker sends output and log records as the body writes them, then the result or the
   exception, then the names of the modules that the body has imported. The app requests that the
   fork server imports these, too, so that later workers inherit them.

Modules, each of which imports only those to its right:

- app: `bodies` > `round_trip` > `warm_workers` > `launcher` > `folders`; `host` is the protocol of
  the call that they serve; `references` finds what a body refers to;
- fork server: `fork_server` > `preloading`, `worker`;
- app and fork server: `older_modules` has the modules that may be imported for later workers;
- worker: `worker`;
- app and worker: `environment`, `output`, `failures`, `unpicklable` > `pickling` >
  `context_variables`, `exceptions`, `importable`, `sentinels`, `channel` > `messages` >
  `buffers` > `remote_memory`; `substitutes` has the objects that replace those that cannot be
  pickled; `protocol` has the kinds of messages.

The fork server imports no session and no configuration, because every start waits for what it
imports.

This is no sandbox: a worker has the app's user, files and network, and the app unpickles what the
worker sends.
"""

from __future__ import annotations

__all__ = ["inside", "set_inside"]

_inside = False


def inside() -> bool:
    """Return whether this process is a fork server or a worker; those make no cgroups."""
    return _inside


def set_inside() -> None:
    """Mark this process, and every fork of it, as a fork server or a worker."""
    global _inside
    _inside = True
