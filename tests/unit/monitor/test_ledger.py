"""The ledger: which entry an event belongs to, and when it calls its callbacks."""

from __future__ import annotations

from agentcgroup.monitor.call_entry import CallEntry
from agentcgroup.monitor.ledger import Ledger
from agentcgroup.monitor.source import KernelEvent

_APP = 1
_RUN = "/sys/fs/cgroup/run"
_CALL = f"{_RUN}/agent-1/call-1"


class _World:
    """A ledger, the cgroups of processes, and the callbacks of the ledger."""

    def __init__(self, *announced: tuple[int, str]) -> None:
        self.where = {_APP: "/sys/fs/cgroup/app"}
        self.announced = [*announced]
        self.outside: list[int] = []
        self.owner: CallEntry | None = None
        self.ledger = Ledger(
            _APP, _RUN, self.where.get, on_unknown=self.read, on_outside=self.born_outside
        )

    def read(self) -> None:
        """Enter the cgroups that were announced meanwhile."""
        while self.announced:
            self.ledger.add(*self.announced.pop(), ())

    def born_outside(self, event: KernelEvent) -> CallEntry | None:
        self.outside.append(event.pid)
        return self.owner

    def fork(self, pid: int, parent: int = _APP, cgroup: int | None = None) -> CallEntry | None:
        return self.ledger.take(KernelEvent("fork", 0.0, pid, parent=parent, cgroup=cgroup))


def test_a_child_in_an_announced_cgroup_is_entered_once_the_announcement_is_read() -> None:
    world = _World((7, _CALL))
    world.where[20] = _CALL
    entry = world.fork(20)
    assert entry is not None
    assert (entry.id, entry.started, [*entry.members]) == (7, 1, [20])
    assert world.outside == []


def test_a_source_that_reports_the_cgroup_needs_no_look_at_the_process() -> None:
    world = _World((7, _CALL))
    entry = world.fork(20, cgroup=7)
    assert entry is not None
    assert entry is world.ledger.get(7)
    assert not entry.counted  # the source has counted it for a cgroup above


def test_a_child_outside_of_the_run_belongs_where_the_callback_says() -> None:
    world = _World()
    world.where[20] = world.where[21] = "/sys/fs/cgroup/app"
    world.owner = world.ledger.add(7, _CALL, ())
    assert world.fork(20) is world.owner
    world.owner = None
    assert world.fork(21) is None
    assert world.outside == [20, 21]
    assert [*world.ledger.members] == [20]


def test_the_child_of_a_member_is_a_member_wherever_it_is() -> None:
    world = _World()
    entry = world.ledger.add(7, _CALL, ())
    world.where[20] = _CALL
    world.fork(20)
    world.where[21] = "/sys/fs/cgroup/elsewhere"
    assert world.fork(21, parent=20) is entry
    assert world.outside == []


def test_a_child_of_a_process_of_the_run_is_looked_for_like_one_of_the_app() -> None:
    """As a worker that a fork server starts for a call."""
    world = _World()
    entry = world.ledger.add(7, _CALL, ())
    world.where |= {30: f"{_RUN}/self", 31: _CALL, 41: _CALL}
    assert world.fork(30) is None
    assert world.fork(31, parent=30) is entry
    assert world.fork(41, parent=40) is None  # of a process outside of the run


def test_a_child_that_has_ended_is_attributed_when_its_call_names_it() -> None:
    world = _World()
    world.ledger.add(7, _CALL, ())
    world.fork(20)  # of which no cgroup can be read
    world.ledger.take(KernelEvent("exec", 0.0, 20, program="/bin/true"))
    world.ledger.take(KernelEvent("exit", 0.0, 20, status=3 << 8))
    entry = world.ledger.remove(7, [20], {})
    assert entry is not None
    assert (entry.started, entry.whole) == (1, True)
    assert entry.programs == [{"program": "/bin/true", "pid": 20, "exit_code": 3}]


def test_attributed_processes_that_live_are_members() -> None:
    world = _World()
    entry = world.ledger.add(7, _CALL, ())
    held = world.ledger.add_unattributed(20)
    world.ledger.adopt(held, 20)
    world.fork(21, parent=20)
    assert world.ledger.attribute(20, None) == [20, 21]  # listed only
    assert world.ledger.attribute(20, entry) == [20, 21]
    assert world.ledger.attribute(20, entry) is None
    assert world.ledger.of(21) is entry


def test_lost_events_leave_no_entry_whole() -> None:
    world = _World()
    entry = world.ledger.add(7, _CALL, ())
    world.ledger.take(KernelEvent("lost", 0.0))
    assert not entry.whole


def test_a_call_inside_counts_for_the_one_around_it() -> None:
    world = _World()
    outer = world.ledger.add(7, _CALL, ())
    world.ledger.add(8, f"{_CALL}/agent-2/call-2", ())
    world.fork(20, cgroup=8)
    world.ledger.remove(8, (), {"exits": 2, "escapes": None})
    world.ledger.remove(7, (), {"exits": 1, "escapes": 1})
    assert (outer.started, outer.counters) == (1, {"exits": 3, "escapes": None})
