"""Each situation is built on a real kernel, and a fresh process finds a place in it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentcgroup.cgroup import Cgroup
from agentcgroup.place.owner import reap, run_name
from tests.support.processes import ended

CONTROLLERS = ["cpu", "cpuset", "io", "memory", "pids"]
ROOT = "/sys/fs/cgroup"
NOBODY = 65534

#: Becomes another user if told so, finds a place, tells it, and tears it down, each when told to.
FINDER = """
import ctypes, encodings.ascii, json, os, sys  # the library may lie where that user cannot look
from dataclasses import asdict
from agentcgroup.place.place import find
from agentcgroup.place.place import teardown
if len(sys.argv) > 1:
    user = int(sys.argv[1])
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
print("ready", flush=True)
sys.stdin.readline()
place = find()
print(json.dumps(asdict(place), default=sorted), flush=True)
sys.stdin.readline()
teardown(place)
print(open("/proc/self/cgroup").read().strip(), flush=True)
sys.stdin.readline()
"""


class Finder:
    """A process that finds a place at a signal, and its report."""

    def __init__(
        self,
        within: Cgroup | None = None,
        *,
        wrap: Sequence[str] = (),
        user: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        def enter() -> None:
            if within is not None:
                within.join()

        self.process = subprocess.Popen(
            [*wrap, sys.executable, "-c", FINDER, *([str(user)] if user is not None else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=enter,
            env={**os.environ, **(environment or {})},
        )
        assert self._line() == "ready"

    def look(self) -> None:
        self._go_on()

    def place(self) -> dict[str, Any]:
        """Return the place that it has found, after `look`."""
        return dict(json.loads(self._line()))

    def found(self) -> dict[str, Any]:
        self.look()
        return self.place()

    def tear_down(self) -> str:
        """Return the cgroup the process is in after its teardown."""
        self._go_on()
        return self._line().removeprefix("0::")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        assert line, f"the finder ended with status {self.process.wait()}"
        return line

    def _go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture
def finder() -> Iterator[Callable[..., Finder]]:
    """Start finders; end all of them afterwards."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: Any, **keywords: Any) -> Finder:
            one = Finder(*arguments, **keywords)
            stack.callback(one.end)
            return one

        yield start


def in_new_mounts(*commands: str, flags: str = "-m") -> list[str]:
    """Return a command prefix that runs in new namespaces after some mounting."""
    script = " && ".join([*commands, 'exec "$@"'])
    return ["unshare", *flags.split(), "sh", "-c", script, "sh"]


PRIVATE = (f"umount {ROOT}", f"mount -t cgroup2 none {ROOT}")


def give(cgroup: Cgroup, user: int) -> None:
    """Delegate as the kernel documents it: the directory and the files of cgroup/delegate."""
    os.chown(cgroup.path, user, user)
    for file in Path("/sys/kernel/cgroup/delegate").read_text().split():
        with contextlib.suppress(FileNotFoundError):
            os.chown(f"{cgroup.path}/{file}", user, user)


def only_problem(place: dict[str, Any]) -> dict[str, Any]:
    assert len(place["problems"]) == 1, place["problems"]
    return dict(place["problems"][0])


# The machine's own root


def test_root_finds_every_controller_below_the_machines_root(
    finder: Callable[..., Finder],
) -> None:
    one = finder()
    place = one.found()
    assert (place["kind"], place["base"]) == ("root", f"{ROOT}/agentcgroup")
    assert place["controllers"] == CONTROLLERS
    assert place["problems"] == []
    one.tear_down()
    assert not os.path.exists(f"{ROOT}/agentcgroup")


def test_the_shared_base_stays_while_a_run_is_inside(finder: Callable[..., Finder]) -> None:
    first, second = finder(), finder()
    base = first.found()["base"]
    assert second.found()["base"] == base
    run = Cgroup.open(base).child("agentcgroup.run-of-somebody")
    first.tear_down()
    assert os.path.isdir(run.path)
    run.remove()
    second.tear_down()
    assert not os.path.exists(base)


# Root in a cgroup of the machine's hierarchy: a job, a supervisor's group, --cgroupns=host


@pytest.mark.parametrize("limits", [{}, {"memory.max": "120M"}, {"pids.max": "64"}])
def test_root_stays_in_the_cgroup_it_was_started_in(
    branch: Cgroup, finder: Callable[..., Finder], limits: dict[str, str]
) -> None:
    job = branch.child("job")
    for file, text in limits.items():
        Path(job.path, file).write_text(text)
    bystander = subprocess.Popen(["sleep", "1000"])
    job.join(bystander.pid)
    one = finder(job)
    place = one.found()
    assert (place["kind"], place["base"]) == ("delegated", job.path)
    assert place["controllers"] == CONTROLLERS
    assert place["problems"] == []
    assert not os.path.exists(f"{ROOT}/agentcgroup")
    assert one.tear_down() == job.path.removeprefix(ROOT)
    assert job.children() == []
    assert sorted(job.procs()) == sorted([bystander.pid, one.process.pid])
    bystander.kill()
    bystander.wait()


def test_roots_cgroup_that_cannot_be_divided_keeps_the_life_cycle(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    """`unshare --fork` stays in it, where nobody in the new pid namespace can move it."""
    job = branch.child("job")
    Path(job.path, "memory.max").write_text("120M")
    wrap = in_new_mounts("mount -t proc proc /proc", flags="-m -p -f")
    place = finder(job, wrap=wrap).found()
    assert (place["kind"], place["base"]) == ("delegated", job.path)
    assert place["controllers"] == []
    assert "another pid namespace" in only_problem(place)["why"]
    assert not os.path.exists(f"{ROOT}/agentcgroup")


def test_runs_of_root_in_one_cgroup_share_it(branch: Cgroup, finder: Callable[..., Finder]) -> None:
    job = branch.child("job")
    first, second = finder(job), finder(job)
    assert first.found()["base"] == second.found()["base"] == job.path
    assert second.tear_down() == job.path.removeprefix(ROOT)
    assert job.children() == []


#: Enters the cgroup of its first argument, and lets a call eat more than that cgroup may have.
EATER = """
import json, subprocess, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
import agentcgroup
eat = [sys.executable, "-ISc", "bytearray(200 << 20)"]
session = agentcgroup.register("langchain", config={"limits": {"call": {"memory_max": "500M"}}})
try:
    with agentcgroup.call("eater"):
        status = subprocess.run(eat).returncode
except agentcgroup.LimitExceeded as error:
    status = str(error)
record = session.records[-1]
print(json.dumps([record.outcome, record.reason, record.cgroup, status]))
"""


def test_what_holds_for_the_job_holds_for_its_calls(branch: Cgroup) -> None:
    job = branch.child("job")
    Path(job.path, "memory.max").write_text("120M")
    Path(job.path, "memory.swap.max").write_text("0")
    eater = subprocess.run(
        [sys.executable, "-c", EATER, job.path], stdout=subprocess.PIPE, text=True, check=True
    )
    outcome, reason, cgroup, status = json.loads(eater.stdout)
    assert (outcome, reason) == ("oom", "system"), status
    assert cgroup.startswith(job.path + "/agentcgroup.run-")


# Containers


def test_a_private_namespace_is_divided_and_put_together_again(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    container = branch.child("container")
    bystander = subprocess.Popen(["sleep", "1000"])
    container.join(bystander.pid)
    one = finder(container, wrap=in_new_mounts(*PRIVATE, flags="-m -C"))
    place = one.found()
    assert (place["kind"], place["base"]) == ("container", ROOT)
    assert place["controllers"] == CONTROLLERS
    assert place["problems"] == []
    assert container.children() == ["agentcgroup.sup"]
    assert container.procs() == []
    assert one.tear_down() == "/"
    assert container.children() == []
    assert sorted(container.procs()) == sorted([bystander.pid, one.process.pid])
    bystander.kill()
    bystander.wait()


def test_a_namespace_with_a_process_from_outside_keeps_the_life_cycle(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    """`unshare --fork` itself stays in the cgroup, as pid 0 to those in the new pid namespace."""
    container = branch.child("container")
    mounts = (*PRIVATE, "mount -t proc proc /proc")
    place = finder(container, wrap=in_new_mounts(*mounts, flags="-m -C -p -f")).found()
    assert (place["kind"], place["base"]) == ("container", ROOT)
    assert place["controllers"] == []
    problem = only_problem(place)
    assert problem["controllers"] == CONTROLLERS
    assert "another pid namespace" in problem["why"]
    assert container.children() == []


def test_a_read_only_mount_is_no_place_and_says_so(finder: Callable[..., Finder]) -> None:
    place = finder(wrap=in_new_mounts(f"mount -o remount,bind,ro {ROOT}")).found()
    assert (place["kind"], place["base"]) == ("none", None)
    problem = only_problem(place)
    assert "mounted read-only" in problem["why"]
    assert "writable-cgroups" in problem["fix"]


def test_a_mount_that_does_not_show_our_cgroup_is_no_place(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    shown, own = branch.child("shown"), branch.child("own")
    wrap = in_new_mounts(f"mount --bind {shown.path} {ROOT}")
    place = finder(own, wrap=wrap).found()
    assert place["kind"] == "none"
    problem = only_problem(place)
    assert "does not show" in problem["why"]
    assert "--cgroupns=private" in problem["fix"]


def test_a_bind_mount_of_our_own_cgroup_is_divided(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    own = branch.child("own")
    place = finder(own, wrap=in_new_mounts(f"mount --bind {own.path} {ROOT}")).found()
    assert (place["kind"], place["base"]) == ("delegated", ROOT)
    assert place["controllers"] == CONTROLLERS


# Users


def test_a_user_divides_the_subtree_that_is_theirs(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    own = branch.child("own")
    give(own, NOBODY)
    one = finder(own, user=NOBODY)
    place = one.found()
    assert (place["kind"], place["base"]) == ("delegated", own.path)
    assert place["controllers"] == CONTROLLERS
    assert place["problems"] == []
    assert own.children() == ["agentcgroup.sup"]
    assert one.tear_down() == own.path.removeprefix(ROOT)
    assert own.children() == []
    assert own.enabled() == frozenset()


def test_controllers_that_the_subtree_does_not_get_are_told(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    branch.disable(["io", "cpuset"])
    own = branch.child("own")
    give(own, NOBODY)
    place = finder(own, user=NOBODY).found()
    assert place["controllers"] == ["cpu", "memory", "pids"]
    problem = only_problem(place)
    assert problem["controllers"] == ["cpuset", "io"]
    assert f"echo '+cpuset +io' > {branch.path}/cgroup.subtree_control" in problem["fix"]


def test_supervisors_in_one_subtree_share_it_and_the_last_puts_it_together(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    own = branch.child("own")
    give(own, NOBODY)
    crowd = [finder(own, user=NOBODY) for _ in range(4)]
    for one in crowd:
        one.look()
    for one in crowd:
        place = one.place()
        assert place["problems"] == []
        assert (place["base"], place["controllers"]) == (own.path, CONTROLLERS)
    run = own.child("agentcgroup.run-of-somebody")
    crowd[0].tear_down()
    assert own.enabled() == set(CONTROLLERS)
    run.remove()
    crowd[1].tear_down()
    assert own.children() == []
    assert len(own.procs()) == 4


def test_a_user_without_a_subtree_is_told_how_to_get_one(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    own = branch.child("own")
    place = finder(own, user=NOBODY).found()
    assert place["kind"] == "none"
    problem = only_problem(place)
    assert problem["why"] == f"user {NOBODY} may not make cgroups in {own.path}."
    assert "chown" in problem["fix"]


# Others' cgroups


def test_inside_a_call_of_another_run_it_stays_inside(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    run = branch.child(run_name())
    call = run.child("call-1")
    one = finder(call, environment={"AGENTCGROUP_ROOT": branch.path})
    place = one.found()
    assert (place["kind"], place["base"]) == ("delegated", call.path)
    assert place["controllers"] == []
    assert "another agentcgroup run" in only_problem(place)["why"]
    assert one.tear_down() == call.path.removeprefix(ROOT)


def test_inside_a_ray_node_it_refuses(branch: Cgroup, finder: Callable[..., Finder]) -> None:
    node = branch.child("ray-node_0123").child("leaf")
    place = finder(node).found()
    assert place["kind"] == "none"
    assert "Ray" in only_problem(place)["why"]


# The named root


def test_a_named_empty_cgroup_is_used(branch: Cgroup, finder: Callable[..., Finder]) -> None:
    named = branch.child("named")
    place = finder(environment={"AGENTCGROUP_ROOT": named.path}).found()
    assert (place["kind"], place["base"]) == ("given", named.path)
    assert place["controllers"] == CONTROLLERS


def test_a_named_cgroup_with_others_in_it_is_refused(
    branch: Cgroup, finder: Callable[..., Finder]
) -> None:
    named = branch.child("named")
    bystander = subprocess.Popen(["sleep", "1000"])
    named.join(bystander.pid)
    place = finder(environment={"AGENTCGROUP_ROOT": named.path}).found()
    assert place["kind"] == "none"
    assert f"processes of others live right in it ({bystander.pid})" in only_problem(place)["why"]
    assert named.procs() == [bystander.pid]
    bystander.kill()
    bystander.wait()


@pytest.mark.parametrize(
    ("path", "why"),
    [(f"{ROOT}/not-there", "No such file or directory"), ("/tmp", "not on a cgroup v2")],
)
def test_a_named_path_that_will_not_do_is_told_why(
    path: str, why: str, finder: Callable[..., Finder]
) -> None:
    place = finder(environment={"AGENTCGROUP_ROOT": path}).found()
    assert place["kind"] == "none"
    problem = only_problem(place)
    assert why in problem["why"]
    assert path in problem["why"]


# What dead supervisors left


def test_the_run_of_a_killed_supervisor_is_reaped(branch: Cgroup) -> None:
    supervisor = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys\n"
            "from agentcgroup.cgroup import Cgroup\n"
            "from agentcgroup.place.owner import run_name\n"
            f"run = Cgroup.open({branch.path!r}).child(run_name())\n"
            "run.enable(['memory', 'pids'])\n"
            "call = run.child('call-1')\n"
            "tool = subprocess.Popen(['sleep', '1000'])\n"
            "call.join(tool.pid)\n"
            "print(tool.pid, flush=True)\n"
            "sys.stdin.read()\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdout is not None
    tool = int(supervisor.stdout.readline())
    assert reap(branch) == []
    supervisor.kill()
    supervisor.wait()
    reaped = reap(branch)
    assert [one.error for one in reaped] == [None]
    assert branch.children() == []
    assert ended(tool)
