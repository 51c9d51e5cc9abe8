"""20 threads start processes in every way at once, under a storm of signals.

    python spawn_stress.py CGROUP

prints "ok" when every child said it was in CGROUP, no descriptor leaked and no zombie was left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from spawn import ARGV, SHOW, SpawnTarget, reported, spawned, where

from agentcgroup import scope, spawn

THREADS, ROUNDS = 20, 28

WAYS = (
    lambda: subprocess.run(ARGV, stdout=subprocess.PIPE, text=True, check=True).stdout,
    lambda: subprocess.run(ARGV, stdout=subprocess.PIPE, text=True, close_fds=False).stdout,
    lambda: subprocess.check_output(SHOW, shell=True, text=True, start_new_session=True),
    lambda: subprocess.check_output(ARGV, text=True, preexec_fn=lambda: None),
    lambda: spawned(os.posix_spawnp, "sh"),
    lambda: reported(where, os.fork),
    lambda: "/" + home_name if os.system(f"{SHOW} | grep -q {home_name}") == 0 else "outside",
)

home_name = ""
wrong: list[str] = []


def work(number: int) -> None:
    for turn in range(ROUNDS):
        try:
            seen = WAYS[(number + turn) % len(WAYS)]()
        except Exception as error:
            wrong.append(repr(error))
        else:
            if os.path.basename(seen.strip()) != home_name:
                wrong.append(seen)


def main(path: str) -> None:
    global home_name
    home_name = os.path.basename(path)
    scope.install()
    spawn.install()
    home = SpawnTarget(path)
    scope.current.set(home)
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
    assert home.begun == len(home.ended) == THREADS * ROUNDS, (home.begun, len(home.ended))
    assert sorted(os.listdir("/proc/self/fd")) == before
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
