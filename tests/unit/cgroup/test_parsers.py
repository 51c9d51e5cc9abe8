"""The text forms of the kernel, as kernels have really written them."""

from __future__ import annotations

from agentcgroup.cgroup import pressure
from agentcgroup.cgroup.stats import flat, nested
from agentcgroup.place.probe import Mount, parse_mounts

MEMORY_EVENTS_7_2 = """\
low 0
high 31
max 214
oom 1
oom_kill 2
oom_group_kill 1
sock_throttled 0
"""
CPU_STAT_6_12 = """\
usage_usec 214032
user_usec 103311
system_usec 110720
nice_usec 0
core_sched.force_idle_usec 0
nr_periods 20
nr_throttled 19
throttled_usec 1710425
nr_bursts 0
burst_usec 0
"""
IO_STAT = """\
259:0 rbytes=2097152 wbytes=4096 rios=8 wios=1 dbytes=0 dios=0
8:0
253:1 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=50331648 dios=3021
"""
CPU_PRESSURE_5_10 = "some avg10=1.25 avg60=0.31 avg300=0.06 total=2047931\n"
MEMORY_PRESSURE = """\
some avg10=0.00 avg60=0.12 avg300=0.05 total=503
full avg10=12.50 avg60=0.00 avg300=0.00 total=1500000
"""
MOUNTINFO = r"""
24 29 0:22 / /proc rw,nosuid shared:13 - proc proc rw
33 26 0:28 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw,nsdelegate
40 39 0:35 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
71 50 0:28 /../.. /srv/with\040space ro,relatime - cgroup2 none rw
72 50 0:28 /docker/x /mnt rw - cgroup2 none ro
"""


def test_flat_keyed_files_become_numbers() -> None:
    events = flat(MEMORY_EVENTS_7_2)
    assert (events["oom"], events["oom_kill"], events["high"]) == (1, 2, 31)
    stat = flat(CPU_STAT_6_12)
    assert (stat["usage_usec"], stat["nr_throttled"]) == (214032, 19)
    assert flat("") == {}


def test_a_line_of_another_form_is_passed_over() -> None:
    assert flat("one 1\ntwo\nthree max\nfour 4 4\nfive 5\n") == {"one": 1, "five": 5}


def test_nested_keyed_files_become_tables() -> None:
    devices = nested(IO_STAT)
    assert devices["259:0"]["rbytes"] == "2097152"
    assert devices["8:0"] == {}  # a device that has been used before the file was
    assert devices["253:1"]["wbytes"] == "299008000"
    assert nested("") == {}


def test_pressure_before_5_13_has_no_full_line_for_cpu() -> None:
    old = pressure.parse(CPU_PRESSURE_5_10)
    assert (old.some_avg10, old.some_total_s) == (1.25, 2.047931)
    assert (old.full_avg10, old.full_total_s) == (None, None)
    new = pressure.parse(MEMORY_PRESSURE)
    assert (new.full_avg10, new.full_total_s) == (12.5, 1.5)


def test_mountinfo_gives_the_cgroup2_mounts_and_nothing_else() -> None:
    assert parse_mounts(MOUNTINFO.strip()) == [
        (33, "/sys/fs/cgroup", "/", False),
        (71, "/srv/with space", "/../..", True),
        (72, "/mnt", "/docker/x", True),
    ]


def located(root: str, cgroup: str) -> str | None:
    return Mount(point="/mnt", root=root, read_only=False, true_root=False).locate(cgroup)


def test_a_cgroup_is_located_under_a_mount_that_shows_it() -> None:
    assert located("/", "/") == "/mnt"
    assert located("/", "/a/b") == "/mnt/a/b"
    assert located("/a", "/a") == "/mnt"
    assert located("/a", "/a/b") == "/mnt/b"


def test_a_cgroup_outside_of_what_a_mount_shows_is_not_located() -> None:
    assert located("/a", "/ab") is None
    assert located("/a", "/") is None
    assert located("/../..", "/") is None
    assert located("/", "/../other") is None
