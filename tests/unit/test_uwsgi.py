"""uWSGI: its master releases the interpreter's lock and forks workers without Python's hooks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

#: Forks as the master does. The sum has the interpreter's lock for longer than threads wait.
_MASTER = """
import ctypes, os, signal, subprocess, sys, time, types
import agentcgroup
session = agentcgroup.register(config={"records": sys.argv[1]})
sys.modules["uwsgi"] = types.SimpleNamespace(worker_id=lambda: 0)
fork = ctypes.CDLL(None).fork
def true():
    with agentcgroup.call("tool") as call:
        subprocess.run(["true"])
    return call
for _ in range(4):
    true()
    sum(range(2_000_000))
    if child := fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    signal.alarm(20)
    del sys.modules["uwsgi"]
    call = true()
    (record,) = session.records
    assert not os.path.exists(call.contained.group.cgroup.path)
    session.close()
    signal.alarm(0)
    os._exit(0)
session.close()
"""

_APP = """
import json, os, subprocess, sys, time
import agentcgroup
session = agentcgroup.register(config={"records": "records"})
def calls():
    for _ in range(5):
        with agentcgroup.call("tool") as call:
            subprocess.run(["true"])
    return call
calls()
def application(environ, start):
    call = calls()
    begin = time.monotonic()
    records = [record.id for record in session.records][-5:]
    took, left = time.monotonic() - begin, os.path.exists(call.contained.group.cgroup.path)
    start("200 OK", [])
    return [json.dumps([records, took < 10, left]).encode()]
"""


def test_workers_of_a_master_that_has_made_calls_do_not_hang(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MASTER, str(tmp_path / "records")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "records").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 8


#: A second lazy worker might still load the app at the end, at which uWSGI hangs.
_OPTIONS = ["", "--enable-threads", "--lazy-apps --processes 1", "--threads 2"]


@pytest.mark.parametrize("options", _OPTIONS)
def test_a_server_of_uwsgi(tmp_path: Path, options: str) -> None:
    uwsgi = Path(sys.executable).with_name("uwsgi")
    (tmp_path / "app.py").write_text(_APP)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [uwsgi, "-H", sys.prefix, "--http-socket", f"127.0.0.1:{port}", "--wsgi-file", "app.py"]
    server = subprocess.Popen(
        [*words, "--master", "--processes", "2", *options.split()],
        cwd=tmp_path,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        for number in range(4):
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=30) as answer:
                        records, quick, left = json.loads(answer.read())
                    break
                except OSError:
                    assert number == 0
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            assert (len(set(records)), quick, left) == (5, True, False)
        begin = time.monotonic()
        server.send_signal(signal.SIGINT)
        server.wait(60)
        assert time.monotonic() - begin < 20
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
