"""Agents behind `langgraph dev`, which raises from blocking calls on its event loop.

The session `langgraph_dev` of nox runs this file: the server needs some 40 packages.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import until

pytest.importorskip("langgraph_api", reason="nox -s langgraph_dev")

HERE = Path(__file__).parent / "langgraph_dev"
#: The server takes uvloop where it can import it.
SERVE = {
    "uvloop": "import uvloop; from langgraph_cli.cli import cli; cli()",
    "asyncio": "import sys; sys.modules['uvloop'] = None; from langgraph_cli.cli import cli; cli()",
}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Server:
    def __init__(self, loop: str, folder: Path) -> None:
        self.loop = loop
        self.folder = folder
        self.url = f"http://127.0.0.1:{(port := _free_port())}"
        self.log = folder / "server.log"
        options = ["--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE[loop], "dev", *options],
                cwd=folder,
                env={**os.environ, "LANGGRAPH_CLI_NO_ANALYTICS": "1"},
                stdout=log,
                stderr=log,
            )

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            urllib.request.urlopen(f"{self.url}/ok", timeout=10).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def ask(self, tool: str) -> str:
        """Run the agent with a message and return its answer."""
        body = {
            "assistant_id": "agent",
            "input": {"messages": [{"role": "user", "content": tool}]},
        }
        request = urllib.request.Request(
            f"{self.url}/runs/wait",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            state: dict[str, Any] = json.load(response)
        assert "messages" in state, (state, self.log.read_text())
        return str(state["messages"][-1]["content"])

    def stop(self) -> list[dict[str, Any]]:
        """Stop the server and return the records."""
        self.process.terminate()
        self.process.wait(60)
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "app"
    shutil.copytree(HERE, folder)
    server = Server(request.param, folder)
    try:
        assert until(server.is_up, 90), server.log.read_text()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.mark.timeout(200)
def test_an_agent_behind_langgraph_dev_gives_the_right_answers(server: Server) -> None:
    assert server.ask("plain") == f"Linux 0 in the server with {server.loop}"
    assert server.ask("isolated") == "Linux 0 in the worker with asyncio"
    assert server.ask("isolated") == "Linux 0 in the worker with asyncio"
    assert server.ask("hangs").startswith(
        "partial\n\nTool 'hangs' was stopped: it reached its time limit of 1s (timeout)"
    )
    assert server.ask("leaves").startswith("left\n\nNote: processes that tool 'leaves' left")
    records = server.stop()
    assert [(one["tool"], one["outcome"], one["isolation"]) for one in records] == [
        ("plain", "ok", "inline"),
        ("isolated", "ok", "process"),
        ("isolated", "ok", "process"),
        ("hangs", "timeout", "inline"),
        ("leaves", "ok", "inline"),
    ]
    assert all(one["agent"] == "agent" and one["cgroup"] for one in records)
    assert "Blocking call" not in server.log.read_text()
