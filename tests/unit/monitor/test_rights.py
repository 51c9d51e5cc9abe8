"""Sessions with a monitor: of a user, of a user with capabilities, and of root; on this machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agentcgroup.cgroup import Cgroup
from tests.cases.rights import BACKENDS, ordinary_user, root, user_with_bpf


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("user", [ordinary_user, user_with_bpf, root])
def test_each_user_gets_the_figures_of_its_rights(
    box: Cgroup, user: Callable[[Cgroup, str], None], backend: str
) -> None:
    user(box, backend)
