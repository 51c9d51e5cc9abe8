"""Download Debian's cloud kernels through apt and unpack them into the lab's cache.

This module installs nothing and does not change the machine's own apt: apt runs with a private
configuration, whose lists and archives are in the cache.  Only the *mirror* comes from the
machine's sources, so the lab works on every Debian where ``apt-get update`` works.  The mirror has
every Debian suite, and each kernel line is in another suite (stable, backports, sid).  So the
private configuration names all suites, and the newest package of a line is used.

The packages of a kernel depend on its age:

====================== ====================================================================
up to 6.18             linux-image-R (or -unsigned): image and modules
6.19 to 7.0            linux-image-R: modules, linux-binary-R: image
7.1 and newer          linux-modules-R, linux-binary[-unsigned]-R, linux-base-R: modules.builtin
====================== ====================================================================

For the lines in WITH_HEADERS, it also unpacks the headers that BCC needs: linux-headers-R-common,
and over it linux-headers-R, whose files depend on the kernel's configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab import initramfs

LINES = ("6.1", "6.12", "7.2", "7.3")
WITH_HEADERS = ("6.1",)
SUITES = (
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
    "forky",
    "sid",
    "experimental",
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
INDEX_AGE_S = 24 * 3600

_PACKAGE = re.compile(
    r"linux-(?P<kind>image|binary|modules|base)-(?:unsigned-)?"
    r"(?P<release>\d\S*-cloud-amd64)(?:-unsigned)?"
)


class LabError(Exception):
    """Raised when the lab itself fails; the text is what is missing, and what to do about it."""


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel; its paths are in the cache."""

    line: str
    release: str
    version: str
    suite: str
    image: str
    modules: str
    initrd: str | None


@dataclass(frozen=True)
class _Candidate:
    """All packages of one kernel."""

    release: str
    version: str
    suite: str
    packages: tuple[str, ...]

    @property
    def line(self) -> str:
        return ".".join(re.findall(r"\d+", self.version)[:2])


def cache_dir() -> Path:
    """Return ``$AGENTCGROUP_LAB_CACHE``, else ``~/.cache/agentcgroup-lab``."""
    given = os.environ.get("AGENTCGROUP_LAB_CACHE")
    return Path(given).absolute() if given else Path.home() / ".cache" / "agentcgroup-lab"


def busybox() -> Path:
    """Return the static busybox that the initramfs and the guest's init use."""
    return cache_dir() / "busybox"


def fetched(line: str) -> Kernel | None:
    """Return the kernel of this line from the cache, or None."""
    try:
        facts = json.loads((cache_dir() / "kernels" / line / "kernel.json").read_text())
    except FileNotFoundError:
        return None
    return Kernel(**facts)


def headers(kernel: Kernel) -> Path | None:
    """Return the folder of the kernel's headers for `BCC_KERNEL_SOURCE`, or None."""
    folder = cache_dir() / "headers" / kernel.line / kernel.version
    return folder if folder.is_dir() else None


def get(line: str) -> Kernel:
    """Return the kernel of this line; fetch it, or its headers, if they are not in the cache."""
    kernel = fetched(line)
    if kernel and (line not in WITH_HEADERS or headers(kernel)):
        return kernel
    return fetch([line])[0]


def fetch(lines: list[str], mirror: str | None = None) -> list[Kernel]:
    """Fetch the newest kernel of each line, unless the cache has it already.

    Raises:
        LabError: no Debian mirror, no such line in any suite, or apt failed.
    """
    with _locked(cache_dir()) as cache:
        apt = _Apt(cache / "apt", mirror)
        apt.update()
        if not busybox().exists():
            _fetch_busybox(apt, cache)
        candidates = _candidates(apt)
        kernels = [_fetch_line(apt, cache, line, candidates) for line in lines]
        for kernel in kernels:
            if kernel.line in WITH_HEADERS and not headers(kernel):
                _fetch_headers(apt, cache, kernel)
        return kernels


def _fetch_line(apt: _Apt, cache: Path, line: str, candidates: list[_Candidate]) -> Kernel:
    of_line = [c for c in candidates if c.line == line]
    if not of_line:
        there = sorted({c.line for c in candidates}, key=_by_number)
        raise LabError(
            f"no suite of the mirror has a {line} cloud kernel any more"
            f" (lines there: {', '.join(there)}); choose one of those"
        )
    newest = functools.reduce(_newer, of_line)
    kernel = fetched(line)
    if kernel and (kernel.release, kernel.version) == (newest.release, newest.version):
        return kernel
    folder = cache / "kernels" / line
    with _fresh(folder) as new:
        apt.unpack(newest.packages, new / "root")
        _describe(newest, new, folder)
    kernel = fetched(line)
    assert kernel
    return kernel


def _describe(candidate: _Candidate, new: Path, final: Path) -> None:
    """Find the image and the modules in `new`, build the initramfs, write kernel.json.

    The folder `new` will become `final`, so kernel.json has paths in `final`.
    """
    root = new / "root"
    images = [*root.glob("boot/vmlinuz-*"), *root.glob("usr/lib/modules/*/vmlinuz*")]
    modules = [*root.glob("lib/modules/*/kernel"), *root.glob("usr/lib/modules/*/kernel")]
    if not images or not modules:
        raise LabError(
            f"{', '.join(candidate.packages)} {candidate.version}: no kernel image or no modules"
            " inside; Debian has changed its packages, and tests/lab/kernels.py has to follow"
        )
    tree = modules[0].parent
    subprocess.run(
        [busybox(), "depmod", "-b", tree.parents[2], candidate.release],
        check=False,  # only modprobe in the guest needs its files
        capture_output=True,
    )
    initrd = initramfs.build(busybox(), tree)
    if initrd:
        (new / "initrd").write_bytes(initrd)
    kernel = Kernel(
        line=candidate.line,
        release=candidate.release,
        version=candidate.version,
        suite=candidate.suite,
        image=str(final / images[0].relative_to(new)),
        modules=str(final / tree.relative_to(new)),
        initrd=str(final / "initrd") if initrd else None,
    )
    (new / "kernel.json").write_text(json.dumps(asdict(kernel), indent=2))


def _fetch_headers(apt: _Apt, cache: Path, kernel: Kernel) -> None:
    """Unpack both packages into one tree; Debian's own links them by absolute paths."""
    common = kernel.release.replace("-cloud-amd64", "-common")
    packages = [f"linux-headers-{part}" for part in (common, kernel.release)]
    with _fresh(cache / "headers" / kernel.line) as new:
        apt.unpack(tuple(f"{package}={kernel.version}" for package in packages), new / "root")
        for package in packages:
            for part in ("arch", "include"):
                tree = new / "root" / "usr" / "src" / package / part
                shutil.copytree(tree, new / kernel.version / part, dirs_exist_ok=True)
        shutil.rmtree(new / "root")


def _fetch_busybox(apt: _Apt, cache: Path) -> None:
    with _fresh(cache / "busybox.d") as new:
        apt.unpack(("busybox-static",), new)
    (found,) = [p for p in (cache / "busybox.d").glob("**/bin/busybox") if p.is_file()]
    shutil.copy2(found, busybox())


def _candidates(apt: _Apt) -> list[_Candidate]:
    """Return every complete cloud kernel in the suites."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for package, version, suite in apt.versions("linux-"):
        if match := _PACKAGE.fullmatch(package):
            parts = found.setdefault((match["release"], version, suite), {})
            parts[match["kind"]] = package
    return [
        _Candidate(release, version, suite, tuple(parts.values()))
        for (release, version, suite), parts in found.items()
        if "image" in parts or {"binary", "modules"} <= parts.keys()
    ]


class _Apt:
    """Runs apt with a configuration, lists and archives of its own under `folder`."""

    def __init__(self, folder: Path, mirror: str | None) -> None:
        self._folder = folder
        self._mirror = mirror
        self._environment = {**os.environ, "APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}

    def update(self) -> None:
        """Fetch the package lists, at most once a day."""
        stamp = self._folder / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < INDEX_AGE_S:
            return
        self._configure()
        # An old suite may be gone from the mirror; the others are enough.
        update = self._run("apt-get", "update", check=False)
        if not any((self._folder / "state" / "lists").glob("*Packages*")):
            raise LabError(f"apt-get update brought no package list:\n{update.stderr}")
        stamp.touch()

    def versions(self, prefix: str) -> Iterator[tuple[str, str, str]]:
        """Yield (package, version, suite) of every package whose name starts with `prefix`."""
        names = self._run("apt-cache", "pkgnames", prefix).stdout.split()
        wanted = [name for name in names if _PACKAGE.fullmatch(name)]
        for row in self._run("apt-cache", "madison", *wanted).stdout.splitlines():
            package, version, source = (part.strip() for part in row.split("|"))
            yield package, version, source.split()[1].split("/")[0]

    def unpack(self, packages: tuple[str, ...], into: Path) -> None:
        """Download the packages and unpack them, without installing them."""
        archives = self._folder / "archives"
        shutil.rmtree(archives, ignore_errors=True)
        archives.mkdir()
        self._run("apt-get", "download", *packages, cwd=archives)
        into.mkdir(parents=True, exist_ok=True)
        for deb in archives.glob("*.deb"):
            self._run("dpkg-deb", "-x", str(deb), str(into))
        shutil.rmtree(archives)

    def _configure(self) -> None:
        if not KEYRING.exists():
            raise LabError(f"{KEYRING} is missing: apt-get install debian-archive-keyring")
        mirror = self._mirror or _debian_mirror()
        for part in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        (self._folder / "sources.list").write_text(
            "".join(
                f"deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n" for suite in SUITES
            )
        )
        (self._folder / "apt.conf").write_text(
            f'Dir::State "{self._folder}/state";\n'
            'Dir::State::status "/dev/null";\n'
            f'Dir::Cache "{self._folder}/cache";\n'
            # The rest of /etc/apt still applies (proxies, the age of a list).
            f'Dir::Etc::sourcelist "{self._folder}/sources.list";\n'
            'Dir::Etc::sourceparts "/dev/null";\n'
            'Dir::Etc::preferences "/dev/null";\n'
            'Dir::Etc::preferencesparts "/dev/null";\n'
            'Acquire::Languages "none";\n'
            # The _apt user cannot write into a home directory.
            'APT::Sandbox::User "root";\n'
        )

    def _run(
        self, *command: str, check: bool = True, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            env=self._environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise LabError(f"{' '.join(command[:4])} failed:\n{done.stderr.strip()}")
        return done


def _debian_mirror() -> str:
    """Return the address of the Debian archive that this machine's apt uses."""
    targets = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format=$(REPO_URI)",
            "Created-By: Packages",
            "Origin: Debian",
            "Label: Debian",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    mirrors = targets.stdout.split()
    if not mirrors:
        raise LabError(
            "this machine's apt has no Debian archive (is it Debian, and did `apt-get update`"
            " run?); name one with `fetch --mirror URI`"
        )
    return mirrors[0]


def _newer(one: _Candidate, other: _Candidate) -> _Candidate:
    """Return the newer of two in dpkg's order, in which 7.3~rc7 is older than 7.3."""
    command = ["dpkg", "--compare-versions", one.version, "lt", other.version]
    return other if subprocess.run(command, check=False).returncode == 0 else one


def _by_number(line: str) -> list[int]:
    return [int(part) for part in line.split(".")]


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """Hold the lock of the cache, so that one fetch runs at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@contextlib.contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """Give a new folder, which replaces `folder` only if the block succeeds."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
