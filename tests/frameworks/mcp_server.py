"""A small MCP server, over its standard input and output, for the frameworks' MCP clients."""

from __future__ import annotations

import asyncio
import os

from mcp.server.fastmcp import FastMCP

server = FastMCP("test")


@server.tool()
def server_pid() -> str:
    """Say which process serves this call."""
    return str(os.getpid())


@server.tool()
def server_cgroup() -> str:
    """Say in which cgroup the server runs."""
    with open("/proc/self/cgroup") as file:
        return file.read()


@server.tool()
async def slow_server(seconds: float) -> str:
    """Answer late."""
    await asyncio.sleep(seconds)
    return "late"


if __name__ == "__main__":
    server.run()
