"""``python -m agentcgroup`` is the command `agentcgroup`."""

from __future__ import annotations

from agentcgroup.cli import main

main()
