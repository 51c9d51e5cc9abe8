"""A small MCP server that talks back to its client while a tool runs."""

from __future__ import annotations

from mcp.server.fastmcp import Context, FastMCP
from pydantic import BaseModel

server = FastMCP("talks")


class Answer(BaseModel):
    """What the user is asked for."""

    name: str


@server.tool()
async def talk(ctx: Context) -> str:  # type: ignore[type-arg]
    """Report progress, log, ask the user, and say in which cgroup the server runs."""
    await ctx.report_progress(1, 2)
    await ctx.info("working")
    asked = await ctx.elicit("Who?", Answer)
    name = asked.data.name if asked.action == "accept" else "nobody"
    with open("/proc/self/cgroup") as file:
        return f"hello {name} in {file.read()}"


if __name__ == "__main__":
    server.run()
