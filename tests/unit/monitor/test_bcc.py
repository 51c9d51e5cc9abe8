"""The BCC backend on this machine: the reason and the fix where it does not work.

tests/kernel/test_bcc_monitor.py tests it on a kernel with its headers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentcgroup.monitor import bcc
from agentcgroup.monitor.bcc import Bcc
from agentcgroup.monitor.choice import choose, order
from agentcgroup.monitor.source import Unavailable


@pytest.fixture
def without_the_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcc, "_PLACES", ())


def _refused() -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        Bcc().close()
    return caught.value


@pytest.mark.usefixtures("without_the_distributions")
def test_without_the_module_the_fix_names_the_package() -> None:
    refused = _refused()
    assert "BPF Compiler Collection is not there" in refused.reason
    assert "apt-get install python3-bpfcc" in str(refused.fix)


@pytest.mark.usefixtures("without_the_distributions")
def test_another_library_of_that_name_is_refused_and_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lattices = tmp_path / "bcc"
    lattices.mkdir()
    (lattices / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    refused = _refused()
    assert refused.reason.startswith(f"{lattices} is not the BPF Compiler Collection")
    assert "apt-get install python3-bpfcc" in str(refused.fix)
    assert not (tmp_path / "ran").exists()


def test_a_library_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where the module was copied alone."""
    (tmp_path / "__init__.py").write_text("from .libbcc import lib\n")
    (tmp_path / "libbcc.py").write_text("import ctypes\nlib = ctypes.CDLL('libbcc.so.none')\n")
    monkeypatch.setattr(bcc, "_PLACES", (str(tmp_path),))
    refused = _refused()
    assert "libbcc.so.none: cannot open shared object file" in refused.reason
    assert "apt-get install python3-bpfcc" in str(refused.fix)


def test_without_the_kernels_headers_the_fix_names_their_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path / "none"))
    refused = _refused()
    assert "finds no headers of this kernel" in refused.reason
    assert "apt-get install linux-headers-" in str(refused.fix)


@pytest.mark.parametrize(
    ("without", "reason"),
    [
        (["setpriv", "--bounding-set=-all", "--inh-caps=-all"], "CAP_BPF and CAP_PERFMON"),
        (["unshare", "--user", "--map-root-user"], "CAP_BPF and CAP_PERFMON"),
        (["unshare", "--pid", "--fork"], "first pid namespace"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_without_rights_it_is_refused_before_it_compiles(without: list[str], reason: str) -> None:
    code = (
        "import json; from agentcgroup.monitor.choice import choose;"
        "print(json.dumps(choose('bcc', 'default', stop=True)))"
    )
    done = subprocess.run(
        [*without, sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    source, [[name, said, fix]] = json.loads(done.stdout)
    assert (source, name) == (None, "bcc")
    assert reason in said
    assert fix


@pytest.mark.usefixtures("without_the_distributions")
def test_a_configured_backend_gets_no_substitute() -> None:
    source, [(name, _, _)] = choose("bcc", "default", stop=True)
    assert (source, name) == (None, "bcc")


def test_auto_tries_it_last() -> None:
    """It takes seconds and a compiler, and reports no more than the process connector."""
    assert order("auto") == ("libbpf", "procs", "bcc")
