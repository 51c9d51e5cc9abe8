"""What a suite runs in: a virtualenv, and the unpacked tests of a source distribution."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import venv
from importlib import metadata
from pathlib import Path
from typing import Final

from tests.upstream.suites import EVERY, SUITES, Suite

PLUGIN: Final = Path(__file__).with_name("plugin")

# `pip download` builds the metadata of a source distribution, which compiles some packages; pip's
# own finder gives its link, with all of the user's configuration.
_DOWNLOAD: Final = """
import sys
from pip._internal.commands import create_command
from pip._vendor.packaging.specifiers import SpecifierSet
name, version, folder = sys.argv[1:]
command = create_command("download")
options, _ = command.parse_args(["--quiet", "--no-binary", ":all:", name])
with command.main_context():
    command.verbosity = -1
    session = command.get_default_session(options)
    finder = command._build_package_finder(options, session)
    best = finder.find_best_candidate(name, SpecifierSet("==" + version)).best_candidate
    if best is None:
        sys.exit(f"{name} {version} has no source distribution")
    answer = session.get(best.link.url_without_fragment)
    answer.raise_for_status()
    with open(f"{folder}/{best.link.filename}", "wb") as file:
        file.write(answer.content)
    print(f"{folder}/{best.link.filename}")
"""


def cache() -> Path:
    """Return ``$AGENTCGROUP_UPSTREAM_CACHE``, else ``~/.cache/agentcgroup-upstream``."""
    named = os.environ.get("AGENTCGROUP_UPSTREAM_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "agentcgroup-upstream"


def python(suite: Suite) -> Path:
    """Return the interpreter of the suite's virtualenv, which is made or completed first."""
    folder = cache() / f"{suite.environment}-py{sys.version_info[0]}.{sys.version_info[1]}"
    interpreter = folder / "bin" / "python"
    rows = [each for each in SUITES if each.environment == suite.environment]
    wanted = sorted({*EVERY, *(need for row in rows for need in (row.package, *row.needs))})
    wanted += [need for need in metadata.requires("agentcgroup") or () if "extra ==" not in need]
    installed = folder / "installed.json"
    if not interpreter.exists() or not _holds(installed, wanted):
        venv.create(folder, with_pip=True, clear=not interpreter.exists())
        subprocess.run([interpreter, "-m", "pip", "install", "-qq", *wanted], check=True)
        installed.write_text(json.dumps(wanted))
    # The editable install of this checkout, with the compiled extension.
    spec = importlib.util.find_spec("agentcgroup")
    assert spec is not None
    assert spec.submodule_search_locations
    ours = Path(spec.submodule_search_locations[0]).parent
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "agentcgroup-checkout.pth").write_text(f"{ours}\n")
    return interpreter


def _holds(installed: Path, wanted: list[str]) -> bool:
    return installed.exists() and json.loads(installed.read_text()) == wanted


def tests(suite: Suite, into: Path) -> Path:
    """Unpack the suite's tests into an empty folder, and return the folder where pytest runs."""
    archive = _archive(suite)
    with tarfile.open(archive) as opened:
        root = opened.getnames()[0].split("/")[0]
        wanted = [f"{root}/{member}" for member in suite.members]
        opened.extractall(
            into,
            [
                member
                for member in opened.getmembers()
                if any(member.name == each or member.name.startswith(each + "/") for each in wanted)
            ],
            filter="data",
        )
    return into / root


def _archive(suite: Suite) -> Path:
    name, _, version = suite.package.partition("==")
    folder = cache() / "sdists"
    folder.mkdir(parents=True, exist_ok=True)
    stem = name.replace("-", "_").lower()
    found = [*folder.glob(f"{stem}-{version}.*"), *folder.glob(f"{name}-{version}.*")]
    if found:
        return found[0]
    done = subprocess.run(
        [sys.executable, "-c", _DOWNLOAD, name, version, folder],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(done.stdout.splitlines()[-1])
