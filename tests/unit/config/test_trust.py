"""A configuration that was found by itself: another user's is refused, one that loosens is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentcgroup import ConfigError
from agentcgroup.config.loading import load

_OTHER = 12345


@pytest.fixture
def file(folder: Path) -> Path:
    file = folder / "agentcgroup.toml"
    file.write_text("records_max = 3")
    return file


def _refused() -> str:
    with pytest.raises(ConfigError) as caught:
        load()
    return str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
@pytest.mark.parametrize("name", ["agentcgroup.toml", "pyproject.toml"])
def test_a_file_of_another_user_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    file = folder / name
    file.write_text("[tool.agentcgroup]\nrecords_max = 3" if "py" in name else "records_max = 3")
    os.chown(file, _OTHER, -1)
    told = _refused()
    assert told.startswith(f"{name}: is not taken: it belongs to user 12345")
    assert f"AGENTCGROUP_CONFIG={file}" in told
    monkeypatch.setenv("SUDO_UID", str(_OTHER))
    assert load().records_max == 3
    monkeypatch.delenv("SUDO_UID")
    monkeypatch.setenv("AGENTCGROUP_CONFIG", str(file))
    assert load().records_max == 3
    monkeypatch.delenv("AGENTCGROUP_CONFIG")
    assert load(file).records_max == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
def test_a_link_to_a_file_of_another_user_is_refused(file: Path) -> None:
    os.chown(file, _OTHER, -1)
    file.rename(file.with_name("other.toml"))
    file.symlink_to("other.toml")
    assert "belongs to user 12345" in _refused()


@pytest.mark.parametrize(("mode", "why"), [(0o666, "every user"), (0o602, "every user")])
def test_a_file_that_others_may_write_is_refused(file: Path, mode: int, why: str) -> None:
    file.chmod(mode)
    assert f"{why} may write to it" in _refused()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other groups")
def test_the_users_own_group_may_write(file: Path) -> None:
    """A umask of 002 gives each user's files to a group that has this one member."""
    file.chmod(0o664)
    assert load().records_max == 3
    os.chown(file, -1, _OTHER)
    assert "the group 12345 may write to it" in _refused()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('mode = "off"', "mode = 'off'"),
        ('mode = "observe"', "mode = 'observe'"),
        ('on_uncontained = "run"', "on_uncontained = 'run'"),
        ('records = "../calls.jsonl"', "outside of its folder"),
        ('records = "/tmp/calls.jsonl"', "outside of its folder"),
        ('records = "link/calls.jsonl"', "outside of its folder"),
    ],
)
def test_what_loosens_is_told(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
    told: str,
) -> None:
    (file.parent / "link").symlink_to("/tmp")
    file.write_text(text)
    load()
    (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
    assert told in record.message
    assert str(file) in record.message
    assert f"AGENTCGROUP_CONFIG={file}" in record.message
    caplog.clear()
    load(file)
    monkeypatch.setenv("AGENTCGROUP_CONFIG", str(file))
    load()
    assert not caplog.records


def test_what_tightens_is_not(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text('mode = "enforce"\nrecords = "calls.jsonl"\n[limits.call]\nmemory_max = "1G"')
    with caplog.at_level("INFO"):
        load()
    (record,) = caplog.records
    assert (record.levelname, "the configuration is" in record.message) == ("INFO", True)
    assert str(file) in record.message
