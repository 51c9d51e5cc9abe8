"""A patched builtin is for its users what the builtin is: pickled, copied, inspected, bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.spawn_modes import run_python

#: Prints what a user of the builtins sees, one line each; the same without and with `install`.
SEEN = """
import concurrent.futures, copy, functools, inspect, multiprocessing, multiprocessing.spawn, os
import pickle, pydoc, sys, typing

if sys.argv[1] == "installed":
    from agentcgroup import propagation, spawn
    propagation.install()
    spawn.install()

NAMES = ("system", "posix_spawn", "posix_spawnp", "fork", "forkpty")

class Runner:
    run = os.system

def probe(what):
    try:
        return what()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def of(function, name):
    yield "name", (function.__name__, function.__qualname__, function.__module__)
    yield "pickled", [pickle.loads(pickle.dumps(function, p)) is function for p in range(6)]
    yield "in Python", pickle.loads(pickle._dumps(function)) is function
    yield "bytes", [pickle.dumps(function, p) for p in range(6)]
    yield "copied", (copy.copy(function) is function, copy.deepcopy([function])[0] is function)
    yield "signature", probe(lambda: str(inspect.signature(function)))
    yield "text", function.__doc__
    yield "hints", probe(lambda: typing.get_type_hints(function))
    yield "wraps", functools.wraps(function)(lambda: None).__qualname__
    yield "partial", pickle.loads(pickle.dumps(functools.partial(function, "x"))).func is function
    yield "the same", function is getattr(os, name) and {function: 1}[getattr(os, name)]
    yield "module", inspect.getmodule(function).__name__
    if "native" in sys.argv:
        yield "type", (type(function), repr(function).split(" at ")[0], function.__self__.__name__)
        yield "kind", (inspect.isbuiltin(function), inspect.isroutine(function))
        yield "help", pydoc.render_doc(function)

if __name__ == "__main__":
    for name in NAMES:
        for what, seen in of(getattr(os, name), name):
            print(name, what, seen)
    print(Runner().run("exit 3"), type("Late", (), {"run": os.system})().run("exit 4"))
    print(os.system(command="exit 5"), probe(os.system)[:9], probe(lambda: os.fork(1))[:9])
    fork = multiprocessing.get_context("fork")
    with fork.Pool(1) as pool:
        print("Pool", pool.map(os.system, ["exit 1", "exit 2"]))
    with concurrent.futures.ProcessPoolExecutor(1, fork) as pool:
        print("ProcessPoolExecutor", pool.submit(os.system, "exit 6").result())
    for name in ("spawn", "forkserver"):
        process = multiprocessing.get_context(name).Process(target=os.system, args=("exit 0",))
        process.start(); process.join()
        print(name, process.exitcode)
    print(pickle.dumps(multiprocessing.spawn.get_preparation_data))
    import cloudpickle, loky
    print("loky", loky.get_reusable_executor(1).submit(os.system, "exit 7").result())
    print("cloudpickle", cloudpickle.loads(cloudpickle.dumps(lambda: os.system))() is os.system)
    print("by value", cloudpickle.loads(cloudpickle.dumps({"f": os.posix_spawn}))["f"].__name__)
"""


@pytest.mark.parametrize(("mode", "kind"), [("clone3", "native"), ("fork", "pure")])
def test_the_users_of_a_builtin_see_no_difference(tmp_path: Path, mode: str, kind: str) -> None:
    program = tmp_path / "seen.py"
    program.write_text(SEEN)
    without, installed = (
        run_python(mode, str(program), which, kind, timeout=100) for which in ("not", "installed")
    )
    assert without.returncode == installed.returncode == 0, installed.stderr
    assert installed.stdout == without.stdout


PICKLES = """
import os, pickle, sys
from agentcgroup import spawn
spawn.install()
sys.stdout.buffer.write(pickle.dumps([os.system, os.posix_spawn, os.posix_spawnp, os.fork]))
"""
UNPICKLES = """
import os, pickle, sys
functions = pickle.load(sys.stdin.buffer)
assert functions == [os.system, os.posix_spawn, os.posix_spawnp, os.fork], functions
assert "agentcgroup" not in sys.modules
print(functions[0]("exit 3"))
"""


@pytest.mark.parametrize("mode", ["clone3", "fork"])
def test_a_process_without_this_package_unpickles_the_builtin(mode: str) -> None:
    pickled = run_python(mode, "-c", PICKLES, encoding="latin-1", timeout=60)
    assert pickled.returncode == 0, pickled.stderr
    done = subprocess.run(
        [sys.executable, "-c", UNPICKLES],
        input=pickled.stdout.encode("latin-1"),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == b"768\n", done.stderr.decode()


TAKEN = """
import os, pickle
before = os.fork
def fork():
    return before()
os.fork = fork  # what gevent and others do
from agentcgroup import propagation, spawn
propagation.install(); spawn.install()
class Kind:
    method = os.fork
assert type(os.fork).__name__ == "function"
assert type(Kind().method).__name__ == "method"
assert pickle.loads(pickle.dumps(os.fork)) is os.fork
pid = os.fork()
if pid == 0:
    os._exit(3)
print(os.waitpid(pid, 0)[1])
"""


def test_a_function_of_another_library_stays_a_function() -> None:
    done = run_python("clone3", "-c", TAKEN, timeout=60)
    assert done.stdout == "768\n", done.stderr
