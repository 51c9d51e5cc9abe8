"""What the processes of a call do, as the kernel reports it; processes that leave are returned.

    kernel        fork, exec, exit, OOM kill, move between cgroups; counters
      |
    source        `bpf` (libbpf), `procs` (process connector) or `bcc`, chosen by `choice`
      |           KernelEvent
    helper        `helper`, a process of its own; `escape_return` moves processes back
      |
    ledger        `ledger`: one `CallEntry` per call's cgroup: processes, programs, escapes
      |
    wire          `wire`: JSON datagrams between helper and app; `thread_board`: shared memory
      |
    client        `client.Monitor` in the app: announces cgroups, asks at the end of a call
      |
    app           figures of `CallRecord` (`figures`); `Event` to listeners (`listeners`)

The helper is a process of its own because the app's interpreter lock would delay it: a posix_spawn
in a C extension keeps that lock until the child has executed its program. The client announces each
cgroup when it is made, which may be ahead of need. It asks for a call's entry after the call, on
the thread that reads the call's other usage.

The monitor is one provider of figures beside the cgroup's own files. A figure that the monitor does
not have is None in the record; `CallRecord.monitor` names the source of the others. When the helper
cannot start, or dies, calls lose these figures and nothing else; one warning reports it.

Modules, each of which imports only what stands to its right:
client > announced, adoption, connection, listeners, figures > launch, watched;
helper > choice > bpf, procs, bcc > compiler, escape_return > ledger > call_entry > source;
both > thread_board, events, wire.
This file imports nothing, since the helper has to start in milliseconds.
"""

from __future__ import annotations
