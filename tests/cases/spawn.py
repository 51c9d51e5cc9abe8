"""Every way to start a process; test_spawn_apis.py runs each as a program of its own.

    python spawn.py CASE CGROUP

runs one case in a call whose cgroup is CGROUP. It prints as JSON the cgroups that the children of
the case report, and the arguments that the target of the spawns received.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import json
import multiprocessing
import os
import pty
import subprocess
import sys
import tempfile
from collections.abc import Callable

from agentcgroup import propagation, scope, spawn

#: Prints the cgroup (v2) of the process, as `where` returns it.
SHOW = "exec grep ^0:: /proc/self/cgroup"
ARGV = ["/bin/sh", "-c", SHOW]

CASES: dict[str, Callable[[], str]] = {}


def case(function: Callable[[], str]) -> Callable[[], str]:
    CASES[function.__name__] = function
    return function


def where() -> str:
    """Return the cgroup (v2) of this process."""
    with open("/proc/self/cgroup", encoding="ascii") as lines:
        return next(line for line in lines if line.startswith("0::"))


class SpawnTarget:
    """A call with one cgroup, which records the calls of its methods."""

    def __init__(self, path: str) -> None:
        self.fd: int | None = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.begun = 0
        self.ended: list[int | None] = []
        self.owner = os.getpid()

    over = False

    def background(self) -> SpawnTarget:
        return self

    def note_helpers(self) -> None:
        pass

    def begin_spawn(self, failed: OSError | None = None) -> int | None:
        assert os.getpid() == self.owner, "begin_spawn in a forked child"
        assert failed is None, failed
        self.begun += 1
        return self.fd

    def end_spawn(self, pid: int | None) -> None:
        assert os.getpid() == self.owner, "end_spawn in a forked child"
        self.ended.append(pid)

    def note_child(self, pid: int) -> None:
        pass


# -- subprocess -----------------------------------------------------------------------------------


def run(**options: object) -> str:
    return subprocess.run(ARGV, stdout=subprocess.PIPE, text=True, check=True, **options).stdout


@case
def subprocess_run() -> str:
    return run()


@case
def subprocess_run_shell() -> str:
    return subprocess.run(SHOW, shell=True, capture_output=True, text=True, check=True).stdout


@case
def subprocess_check_output() -> str:
    return subprocess.check_output(ARGV, text=True)


@case
def subprocess_getoutput() -> str:
    return subprocess.getoutput(SHOW)


@case
def subprocess_popen() -> str:
    with subprocess.Popen(ARGV, stdout=subprocess.PIPE, text=True) as process:
        return process.communicate()[0]


@case
def subprocess_close_fds_false() -> str:
    return run(close_fds=False)


@case
def subprocess_posix_spawn_path() -> str:
    # With an absolute path, close_fds=False and nothing to restore, Popen uses os.posix_spawn.
    with tempfile.TemporaryFile("w+") as file:
        subprocess.run(ARGV, stdout=file, close_fds=False, restore_signals=False, check=True)
        file.seek(0)
        return file.read()


@case
def subprocess_new_session() -> str:
    return run(start_new_session=True)


@case
def subprocess_preexec_fn() -> str:
    return run(preexec_fn=lambda: os.write(1, where().encode()))


@case
def subprocess_user() -> str:
    return run(user=os.getuid(), group=os.getgid())


@case
def subprocess_cwd_and_umask() -> str:
    return run(cwd="/", umask=0o077)


# -- asyncio and what is built on it --------------------------------------------------------------


async def aexec() -> str:
    process = await asyncio.create_subprocess_exec(*ARGV, stdout=subprocess.PIPE)
    return (await process.communicate())[0].decode()


async def ashell() -> str:
    process = await asyncio.create_subprocess_shell(SHOW, stdout=subprocess.PIPE)
    return (await process.communicate())[0].decode()


async def athread() -> str:
    return await asyncio.to_thread(run)


async def aexecutor() -> str:
    return await asyncio.get_running_loop().run_in_executor(None, run)


@case
def asyncio_exec() -> str:
    return asyncio.run(aexec())


@case
def asyncio_shell() -> str:
    return asyncio.run(ashell())


@case
def asyncio_to_thread() -> str:
    return asyncio.run(athread())


@case
def asyncio_run_in_executor() -> str:
    return asyncio.run(aexecutor())


def on_uvloop(main: Callable[[], object]) -> str:
    import uvloop

    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


@case
def uvloop_exec() -> str:
    return on_uvloop(aexec)


@case
def uvloop_shell() -> str:
    return on_uvloop(ashell)


@case
def uvloop_run_in_executor() -> str:
    return on_uvloop(aexecutor)


def on_anyio(**options: object) -> str:
    import anyio

    return anyio.run(anyio.run_process, ARGV, **options).stdout.decode()


@case
def anyio_run_process() -> str:
    return on_anyio()


@case
def anyio_on_uvloop() -> str:
    return on_anyio(backend_options={"use_uvloop": True})


# -- os and pty -----------------------------------------------------------------------------------


@case
def os_system() -> str:
    with tempfile.NamedTemporaryFile("r") as file:
        assert os.system(f"{SHOW} > {file.name}") == 0
        return file.read()


@case
def os_popen() -> str:
    with os.popen(SHOW) as pipe:
        return pipe.read()


def spawned(start: Callable[..., int], program: str) -> str:
    read_end, write_end = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write_end, 1), (os.POSIX_SPAWN_CLOSE, read_end)]
    pid = start(program, ["sh", "-c", SHOW], os.environ, file_actions=actions)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        seen = pipe.read()
    assert os.waitpid(pid, 0) == (pid, 0)
    return seen


@case
def os_posix_spawn() -> str:
    return spawned(os.posix_spawn, "/bin/sh")


@case
def os_posix_spawnp() -> str:
    return spawned(os.posix_spawnp, "sh")


def reported(body: Callable[[], str], fork: Callable[[], int]) -> str:
    read_end, write_end = os.pipe()
    pid = fork()
    if pid == 0:
        os.write(write_end, body().encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        seen = pipe.read()
    assert os.waitpid(pid, 0) == (pid, 0)
    return seen


@case
def os_fork() -> str:
    return reported(where, os.fork)


@case
def os_fork_and_its_children() -> str:
    def body() -> str:
        # The kernel keeps a child's descendants in its cgroup; no second begin_spawn may follow.
        assert spawn.inherited()
        assert scope.current.get() is None
        return where() + run() + reported(where, os.fork)

    return reported(body, os.fork)


@case
def os_forkpty() -> str:
    terminals = []

    def fork() -> int:
        pid, terminal = os.forkpty()
        terminals.append(terminal)
        return pid

    seen = reported(where, fork)
    os.close(terminals[0])
    return seen


@case
def pty_spawn() -> str:
    with tempfile.NamedTemporaryFile("r") as file:
        assert pty.spawn(["/bin/sh", "-c", f"{SHOW} > {file.name}"]) == 0
        return file.read()


@case
def pexpect_run() -> str:
    import pexpect

    return pexpect.run("/bin/sh -c '" + SHOW + "'").decode()


# -- multiprocessing ------------------------------------------------------------------------------


def put_where(queue: multiprocessing.SimpleQueue[str]) -> None:
    queue.put(where())


def in_process(method: str) -> str:
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=put_where, args=(queue,))
    process.start()
    seen = queue.get()
    process.join()
    return seen


def in_pool(method: str) -> str:
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(where).result()


for start_method in ("fork", "spawn", "forkserver"):
    CASES[f"multiprocessing_{start_method}"] = functools.partial(in_process, start_method)
    CASES[f"process_pool_{start_method}"] = functools.partial(in_pool, start_method)


@case
def multiprocessing_forkserver_twice() -> str:
    return in_process("forkserver") + in_process("forkserver")


@case
def loky_executor() -> str:
    import loky

    with loky.get_reusable_executor(max_workers=1) as executor:
        return executor.submit(where).result()


@case
def thread_pool() -> str:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def daemons() -> dict[str, str]:
    """Return the cgroup of each daemon that multiprocessing has started."""
    from multiprocessing import forkserver, resource_tracker

    pids = {
        "resource tracker": resource_tracker._resource_tracker._pid,
        "fork server": forkserver._forkserver._forkserver_pid,
    }
    found = {}
    for name, pid in pids.items():
        if pid is not None:
            with open(f"/proc/{pid}/cgroup", encoding="ascii") as lines:
                found[name] = next(line for line in lines if line.startswith("0::"))
    return found


def main(name: str, path: str) -> None:
    propagation.install()
    spawn.install()
    target = SpawnTarget(path)
    scope.current.set(target)
    seen = CASES[name]()
    scope.current.set(None)
    report = {
        "mode": spawn.method().mode,
        "seen": seen.split(),
        "begun": target.begun,
        "ended": target.ended,
        "daemons": daemons(),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
