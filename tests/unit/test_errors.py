"""Every exception can be pickled, so that a worker can send it to the agent's process."""

from __future__ import annotations

import pickle
import subprocess

import pytest

import agentcgroup
from agentcgroup import CgroupUnavailable, ConfigError, LimitExceeded


def test_a_limit_exceeded_comes_with_its_record() -> None:
    """A pool pickles the exceptions of its workers."""
    with pytest.raises(LimitExceeded) as caught, agentcgroup.call("slow", timeout="0.2s"):
        subprocess.run(["sleep", "60"])
    agentcgroup.unregister()
    crossed = pickle.loads(pickle.dumps(caught.value))
    assert type(crossed) is LimitExceeded
    assert str(crossed) == str(caught.value)
    assert crossed.record == caught.value.record
    assert crossed.record.limits["timeout"] == 0.2


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("wrong", file="agentcgroup.toml", line=3, key="mode"),
        CgroupUnavailable("No cgroup v2 here.", fix="mount it"),
    ],
)
def test_the_other_exceptions_keep_their_attributes(error: Exception) -> None:
    crossed = pickle.loads(pickle.dumps(error))
    assert (str(crossed), vars(crossed)) == (str(error), vars(error))
