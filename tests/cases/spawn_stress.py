"""20 threads start processes in every way at the same time; a timer signal arrives every 1 ms.

    python spawn_stress.py CGROUP

prints "ok" if every child reported CGROUP as its cgroup, no descriptor leaked and no zombie is
left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from spawn import ARGV, SHOW, SpawnTarget, reported, spawned, where

from agentcgroup import propagation, scope, spawn

THREADS, ROUNDS = 20, 28

WAYS = (
    lambda: subprocess.run(ARGV, stdout=subprocess.PIPE, text=True, check=True).stdout,
    lambda: subprocess.run(ARGV, stdout=subprocess.PIPE, text=True, close_fds=False).stdout,
    lambda: subprocess.check_output(SHOW, shell=True, text=True, start_new_session=True),
    lambda: subprocess.check_output(ARGV, text=True, preexec_fn=lambda: None),
    lambda: spawned(os.posix_spawnp, "sh"),
    lambda: reported(where, os.fork),
    lambda: "/" + cgroup_name if os.system(f"{SHOW} | grep -q {cgroup_name}") == 0 else "outside",
)

cgroup_name = ""
wrong: list[str] = []


def work(number: int) -> None:
    for turn in range(ROUNDS):
        try:
            seen = WAYS[(number + turn) % len(WAYS)]()
        except Exception as error:
            wrong.append(repr(error))
        else:
            if os.path.basename(seen.strip()) != cgroup_name:
                wrong.append(seen)


def main(path: str) -> None:
    global cgroup_name
    cgroup_name = os.path.basename(path)
    propagation.install()
    spawn.install()
    target = SpawnTarget(path)
    scope.current.set(target)
    before = sorted(os.listdir("/proc/self/fd"))
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    signal.setitimer(signal.ITIMER_REAL, 0)
    scope.current.set(None)

    assert not wrong, wrong[:5]
    assert target.begun == len(target.ended) == THREADS * ROUNDS, (target.begun, len(target.ended))
    assert sorted(os.listdir("/proc/self/fd")) == before
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
