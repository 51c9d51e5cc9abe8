"""Eyes in the kernel: what a call's processes really did, and none of them out of its cgroup.

Theory of operation: a helper process (`helper`) holds a `source` of kernel events, either BPF
programs or the process connector, and keeps the books (`ledger`): which process belongs to which
call, what it ran, how it ended, whether it left. It is a process of its own because the host's
interpreter lock would hold it up: a C extension's posix_spawn keeps that lock until the child has
executed its program. The host has a `client`: it announces each cgroup as it is made, ahead of need
for those made ahead, and asks for the books when a call is settled, behind the call's back.

The books are one provider beside the cgroup's own files. What they lack is None in the record, and
`CallRecord.monitor` names the source that filled it. A helper that cannot start, or dies, costs
these figures and nothing else; that is said once.

The modules here are ordered: client, helper > choice > bpf, procs, bcc > compiler, net >
ledger > source > board, events, wire.
Nothing is imported here, since the helper has to start in milliseconds.
"""

from __future__ import annotations
