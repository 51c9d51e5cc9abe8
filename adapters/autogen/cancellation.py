"""A cancelled `CancellationToken` ends the processes of its call at once.

By itself it does not: AutoGen's executors wait for a process that ignores SIGTERM until it ends.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from agentcgroup.adapter import Call

__all__ = ["stop_with_token"]

logger = logging.getLogger("agentcgroup")


def stop_with_token(call: Call, arguments: Mapping[str, Any]) -> None:
    """Stop `call` when the ``cancellation_token`` among the method's arguments is cancelled."""
    token = arguments.get("cancellation_token")
    if token is not None:
        token.add_callback(functools.partial(_stop, call))


def _stop(call: Call) -> None:
    try:
        call.stop("cancelled")
    except Exception:
        logger.exception("agentcgroup: processes of a cancelled call could not be ended")
