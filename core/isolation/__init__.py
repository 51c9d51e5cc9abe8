"""Run a tool's body in a worker process: ``isolation = "process"``.

Theory of operation. Three kinds of processes take part:

- The **app** is the agent's process. It is never forked: a fork of a process with threads inherits
  locks that no thread of the fork can release.
- The **fork server** is a Python process with one thread, which the app executes once per session.
  It never runs or unpickles anything of a call; it forks workers into given cgroups and imports
  modules that they inherit.
- A **worker** is a fork of the fork server. clone3(2) with CLONE_INTO_CGROUP gives birth to it in
  the cgroup of its call. It waits for the call, runs the body and sends the result. It serves one
  call, or up to ``reuse`` calls of one tool.

The way of one call (steps 1 to 3 happen ahead of it where a worker is kept ready)::

      app                                                    fork server
     +---------------------------------+                    +--------------------------+
     | bodies: which code of the tool? |   1. spawn, with   |                          |
     |    |                            |   cgroup, socket   |                          |
     |    v          warm_workers      |   preload: names   |                          |
     | round_trip ---> launcher -------+------------------->| fork_server, preloading  |
     |  |    ^            ^            |                    |   |         |            |
     |  |    |            +------------+--------------------+---+         |            |
     |  |    |                         |   3. pid; at the   |             | 2. clone3  |
     +--|----|-------------------------+   end wait status  +-------------|------------+
        |    |                                                            |
        |    |                             +------------------------------|-- cgroup --+
        |    |                             |                              v            |
        |    |    4. environment, call     |  worker: applies the environment,         |
        +----|---------------------------->|          unpickles the call, runs the     |
             |    5. output, log records,  |          body (and its child processes)   |
             +-----------------------------|                                           |
                  6. result or exception   +-------------------------------------------+

Steps 4 to 6 go over a socket that only the app and the worker hold.

Modules of the app: `bodies` > `round_trip` > `warm_workers` > `launcher`; `host` is the protocol of
the call that they serve. Of the fork server: `fork_server` > `preloading`. Of the worker: `worker`.
Of both ends of the socket: `environment`, `context_variables`, `output`, `failures`, `substitutes`,
`unpicklable` > `pickling` > `channel` > `buffers` > `remote_memory`; `protocol` has the kinds of
messages. The fork server imports no session and no configuration, because every start waits for
what it imports.

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
