"""A small MCP server of notes, over standard input and output, for autogen_researcher.py."""

from __future__ import annotations

from mcp.server.fastmcp import FastMCP

NOTES = {
    "cgroups": "Control groups limit what processes use. What they miss: see pressure.",
    "pressure": "PSI says how long tasks waited for memory, CPU or I/O. Their limits: see cgroups.",
}

server = FastMCP("notes", log_level="ERROR")


@server.tool()
def search(word: str) -> str:
    """Search the notes for a word; follow the reference of each note to the next."""
    text = NOTES["cgroups"]
    while word not in text:  # never ends: the two notes refer to each other
        text = NOTES[text.rstrip(".").rpartition(" ")[2]]
    return text


@server.tool()
def read_note(title: str) -> str:
    """Return one note: cgroups or pressure."""
    return NOTES.get(title, f"There is no note {title!r}.")


if __name__ == "__main__":
    server.run()
