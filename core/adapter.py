"""All that an adapter of a framework needs; the one module of core that adapters import.

docs/adapters.md shows how an adapter is made of these names. The names that are listed in
``__all__`` are stable: other modules of core may change in any release.

Guarantees:

- Importing this module imports no framework and starts nothing.
- A wrapper that this module makes passes through without an active session: after
  `agentcgroup.unregister`, and with ``mode = "off"``, the framework's method runs with the
  arguments that it was given, and nothing is recorded.
- One execution of one tool is one call, also where it goes through two seams: `opener` recognises
  the second one. A tool that runs inside another tool's call is a call of its own, below it.
- A call ends exactly once, whatever ends its body: a result, an exception, a cancellation, a limit.
  Then its processes are ended, or kept where the policy says so, and its record is handed out.
- The answer function is called for a call that a limit ended or touched, and for no other.
  Otherwise the caller gets the tool's own result or exception.
- An exception in an identity function is logged, and the call goes on without names. An exception
  in an answer function is logged, and the caller gets the tool's own result or exception; the
  tool's own exception and `LimitExceeded` may be raised there. An exception in containment is
  raised: with ``mode = "enforce"`` the tool does not run.
- Every process that the body starts is born in the cgroup of the call, from any thread or task that
  the body starts. Pools that outlive the call serve others, and their processes are not the call's.
- A seam that is missing in a version of the framework is a warning that names what is lost.
- An inline call through `around_tool` runs three functions of these wrappers: the wrapper itself,
  the opener and the body. `stand_in` is called for an isolated call alone.
"""

from __future__ import annotations

from agentcgroup.calls.call import Call, Identity
from agentcgroup.calls.cancellation import bounded, cancelling, cancelling_stream
from agentcgroup.calls.feedback import attach, partial_output
from agentcgroup.calls.inline_usage import metered
from agentcgroup.calls.lifecycle import Answer, arun, astream, run
from agentcgroup.calls.services import Services, active
from agentcgroup.errors import LimitExceeded, Unshippable, WorkerDied
from agentcgroup.frameworks.hooks import Wrapper, when_imported, wrap
from agentcgroup.frameworks.registry import Adapter
from agentcgroup.frameworks.seam import (
    FrameworkAdapter,
    Identify,
    MakeStandIn,
    OpenCall,
    Parts,
    SameCall,
    Seam,
    around_async_tool,
    around_tool,
    cancels_calls,
    cancels_calls_of_stream,
    current_call,
    hook,
    opener,
    outside_calls,
    same_tool,
)
from agentcgroup.isolation.bodies import (
    MCP_SERVER,
    Body,
    Crossing,
    StandIn,
    is_a,
    keep_inline,
    placed,
)
from agentcgroup.isolation.references import References, references
from agentcgroup.isolation.substitutes import Absent, Afresh, silent
from agentcgroup.records.record import CallRecord
from agentcgroup.scope import restore

__all__ = [
    "MCP_SERVER",
    "Absent",
    "Adapter",
    "Afresh",
    "Answer",
    "Body",
    "Call",
    "CallRecord",
    "Crossing",
    "FrameworkAdapter",
    "Identify",
    "Identity",
    "LimitExceeded",
    "MakeStandIn",
    "OpenCall",
    "Parts",
    "References",
    "SameCall",
    "Seam",
    "Services",
    "StandIn",
    "Unshippable",
    "WorkerDied",
    "Wrapper",
    "active",
    "around_async_tool",
    "around_tool",
    "arun",
    "astream",
    "attach",
    "bounded",
    "cancelling",
    "cancelling_stream",
    "cancels_calls",
    "cancels_calls_of_stream",
    "current_call",
    "hook",
    "is_a",
    "keep_inline",
    "metered",
    "opener",
    "outside_calls",
    "partial_output",
    "placed",
    "references",
    "restore",
    "run",
    "same_tool",
    "silent",
    "when_imported",
    "wrap",
]
