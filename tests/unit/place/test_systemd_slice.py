"""The slice in which a manager of systemd can make a scope for a process."""

from __future__ import annotations

import pytest

from agentcgroup.place.systemd import ScopeRefused, slice_of, start_scope

_USER = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("cgroup", "user", "expected"),
    [
        ("/system.slice/app.service", False, "/system.slice"),
        ("/jobs.slice/jobs-night.slice/a.service/job-1", False, "/jobs.slice/jobs-night.slice"),
        ("/init.scope", False, None),
        ("/", False, None),
        (f"{_USER}/app.slice/app.scope", True, f"{_USER}/app.slice"),
        (f"{_USER}/app.slice/app.scope", False, "/user.slice/user-1000.slice"),
        (f"{_USER}/init.scope", True, None),
        ("/user.slice/user-1000.slice/session-2.scope", True, None),
        ("/user.slice/user-1000.slice/session-2.scope", False, "/user.slice/user-1000.slice"),
    ],
)
def test_it_is_the_nearest_one_of_that_manager(
    cgroup: str, user: bool, expected: str | None
) -> None:
    assert slice_of(cgroup, user=user) == expected


def test_no_scope_is_asked_for_that_would_lift_a_limit() -> None:
    with pytest.raises(ScopeRefused, match=r"would lift the limits .* \(io.max\)"):
        start_scope(user=False, within=None, limits={"io.max": "8:0 rbps=1000"})
