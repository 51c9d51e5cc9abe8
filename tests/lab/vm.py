"""Run one command in one virtual machine: QEMU and its virtiofsd processes, which always end."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import kernels
from tests.lab.kernels import Kernel, LabError

CHECKOUT = Path(__file__).resolve().parents[2]
# A boot takes 4 s; on a loaded machine it took up to 30 s.
BOOT_TIMEOUT_S = 180.0
BOOT_ATTEMPTS = 5
STATUS_TIMEOUT = 124
STATUS_LAB = 125

_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd")
# TCG lacks a few features of this CPU; check=off suppresses the warnings. TCG emulates cmpxchg16b
# wrongly for the slab allocator of 6.12, which then panics.
_TCG_CPU = "Haswell-v4,check=off"
_TCG_CPU_OF = {"6.12": f"{_TCG_CPU},-cx16"}
# Under emulation, mitigations double the time, and the guest has nothing to protect.
_KERNEL_ARGUMENTS = (
    "console=ttyS0 panic=-1 oops=panic mitigations=off nowatchdog no_timer_check tsc=reliable"
    " rootfstype=virtiofs root=root ro"
)


@dataclass(frozen=True)
class Machine:
    """The hardware of the guest, and the command that it runs."""

    kernel: Kernel
    command: Sequence[str]
    cwd: Path = CHECKOUT
    cpus: int = 2
    memory: str = "2G"
    disk: str = "64M"
    append: str = ""
    user: str = ""
    out: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 1200.0


class _Accident(Exception):
    """Raised when the guest died of its emulation, not of the command.

    It died before its init reached the command, or at an int3. The kernel patches its running code
    through that instruction (jump labels), and TCG with several CPUs sometimes executes it.
    """


def run(machine: Machine) -> int:
    """Run the machine's command in a new guest, and write its output to stdout.

    Returns:
        the command's exit status, or 124 if the command ran longer than `timeout_s`.

    Raises:
        LabError: the guest did not start, or it died while the command ran.
    """
    deadline = time.monotonic() + machine.timeout_s
    for attempt in range(1, BOOT_ATTEMPTS + 1):
        try:
            return _run_once(machine, deadline)
        except _Accident as failure:
            say(f"linux {machine.kernel.version}: attempt {attempt} failed, once more: {failure}")
    raise LabError(
        f"linux {machine.kernel.version} died of its emulation in {BOOT_ATTEMPTS} attempts;"
        f" {_where(machine.kernel)}"
    )


def say(text: str) -> None:
    """Print a message of the lab on stderr, apart from the command's output."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def missing_programs() -> list[str]:
    """Return the programs that the lab needs and that this machine lacks."""
    missing = [name for name in ("qemu-system-x86_64", "setpriv") if not shutil.which(name)]
    return missing if _find_virtiofsd() else [*missing, "virtiofsd"]


def _run_once(machine: Machine, deadline: float) -> int:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentcgroup-lab-")))
        share = folder / "share"
        share.mkdir()
        _write_settings(machine, share)
        shares = {"root": Path("/"), "lab": share, **({"out": machine.out} if machine.out else {})}
        for tag, source in shares.items():
            stack.enter_context(_virtiofsd(folder, tag, source))
        stack.callback(_keep_log, machine.kernel, folder)
        began = time.monotonic()
        qemu = stack.enter_context(_process(_qemu(machine, folder, shares), folder / "qemu.log"))
        try:
            _pump(qemu, share / "started", machine, began, deadline)
        except TimeoutError:
            say(f"timeout: killed after {machine.timeout_s:.0f} s; {_where(machine.kernel)}")
            return STATUS_TIMEOUT
        except _Accident as failure:
            if qemu.wait() == 1:  # an error of QEMU: it ends with 0 if the guest panics
                raise LabError(f"QEMU did not start:\n{_tail(folder)}") from None
            raise _Accident(f"{failure}{_panic(folder)}") from None
        try:
            return int((share / "status").read_text())
        except FileNotFoundError:
            if "Oops: int3" in _panic(folder) and not _kvm_works(machine.kernel):
                raise _Accident(f"it died while the command ran{_panic(folder)}") from None
            raise LabError(
                f"linux {machine.kernel.version} died while the command ran;"
                f" {_where(machine.kernel)}\n{_tail(folder)}"
            ) from None


def _write_settings(machine: Machine, share: Path) -> None:
    settings = {
        "LAB_CHECKOUT": str(CHECKOUT),
        "LAB_OUT": str(machine.out or ""),
        "LAB_USER": machine.user,
        "LAB_MODULES": str(Path(machine.kernel.modules).parent),
        "LAB_BUSYBOX": str(kernels.busybox()),
    }
    (share / "settings").write_text(
        "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    )
    environment = {**_environment(machine), **machine.environment}
    command = shlex.join(machine.command)
    if machine.user:
        # Python may be in a home folder that the user cannot enter: allow the user to read all.
        capability = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
        user = shlex.quote(machine.user)
        command = (
            f"setpriv --reuid={user} --regid=$(id -g {user}) --init-groups {capability} {command}"
        )
    lines = [
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        f"cd {shlex.quote(str(machine.cwd))} || exit {STATUS_LAB}",
        f"exec {command}",
    ]
    (share / "command").write_text("\n".join(lines) + "\n")


def _environment(machine: Machine) -> dict[str, str]:
    venv = CHECKOUT / ".venv" / "bin"
    headers = kernels.headers(machine.kernel)
    return {
        "PATH": f"{venv}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/run/home",
        "USER": machine.user or "root",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb") if sys.stdout.isatty() else "dumb",
        "COLUMNS": str(shutil.get_terminal_size().columns),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "AGENTCGROUP_LAB_KERNEL": machine.kernel.line,
        **({"BCC_KERNEL_SOURCE": str(headers)} if headers else {}),
    }


def _qemu(machine: Machine, folder: Path, shares: dict[str, Path]) -> list[str]:
    if _kvm_works(machine.kernel):
        accelerator = ["-accel", "kvm", "-cpu", "host"]
    else:
        cpu = _TCG_CPU_OF.get(machine.kernel.line, _TCG_CPU)
        accelerator = ["-accel", "tcg,thread=multi", "-cpu", cpu]
    with open(folder / "disk", "wb") as disk:
        disk.truncate(_bytes(machine.disk))
    arguments = [
        *("qemu-system-x86_64", "-M", "q35", *accelerator),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-smp", str(machine.cpus), "-m", machine.memory),
        # vhost-user requires that the guest shares its memory with virtiofsd.
        *("-object", f"memory-backend-memfd,id=memory,size={machine.memory},share=on"),
        *("-numa", "node,memdev=memory"),
        *("-chardev", f"file,id=kernel,path={folder}/kernel.log", "-serial", "chardev:kernel"),
        *("-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output"),
        *("-drive", f"if=none,id=disk,format=raw,cache=unsafe,file={folder}/disk"),
        *("-device", "nvme,drive=disk,serial=lab"),
    ]
    for tag in shares:
        arguments += ["-chardev", f"socket,id={tag},path={folder}/{tag}.sock"]
        arguments += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"]
    if machine.kernel.initrd:
        arguments += ["-initrd", machine.kernel.initrd]
    init = f"init={CHECKOUT}/tests/lab/init.sh"
    arguments += ["-kernel", machine.kernel.image]
    return [*arguments, "-append", f"{_KERNEL_ARGUMENTS} {init} {machine.append}"]


@contextlib.contextmanager
def _virtiofsd(folder: Path, tag: str, source: Path) -> Iterator[None]:
    """Serve `source` on a socket to which QEMU connects."""
    program = _find_virtiofsd()
    assert program
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/{tag}.sock")
        listener.listen(1)
        command = [program, f"--fd={listener.fileno()}"]
        # The root never changes for the guest, so it can cache it; both sides write to the others.
        cache = "always" if tag == "root" else "auto"
        if program.startswith("/usr/lib/qemu/"):  # the older one, in C
            command += ["-f", "-o", f"source={source},cache={cache},sandbox=chroot,log_level=err"]
        else:
            command += [f"--shared-dir={source}", f"--cache={cache}", "--sandbox=none"]
            command += ["--log-level=error", *(["--readonly"] if tag == "root" else [])]
        os.set_inheritable(listener.fileno(), True)
        server = _process(command, folder / f"{tag}.log", keep=listener.fileno())
        with server:
            listener.close()
            yield


@contextlib.contextmanager
def _process(command: list[str], log: Path, keep: int = -1) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that ends with the block, and with this process however this process ends.

    It has a session of its own, so that Ctrl-C interrupts this process only.
    """
    with open(log, "wb") as stderr:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            pass_fds=[keep] if keep >= 0 else [],
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _pump(
    qemu: subprocess.Popen[bytes], started: Path, machine: Machine, began: float, deadline: float
) -> None:
    """Copy the command's output to stdout until QEMU ends."""
    assert qemu.stdout
    output = qemu.stdout.fileno()
    boot_deadline = began + BOOT_TIMEOUT_S
    running = False
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            ready = selector.select(timeout=0.2)
            now = time.monotonic()
            if not running and started.exists():
                running = True
                say(f"linux {machine.kernel.version} took {now - began:.1f} s to boot")
            data = os.read(output, 65536) if ready else None
            if data == b"":
                break
            if data:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            if now > deadline:
                raise TimeoutError
            if not running and now > boot_deadline:
                qemu.kill()
                raise _Accident(f"no init after {BOOT_TIMEOUT_S:.0f} s")
    if not running and not started.exists():
        raise _Accident("the guest died before init")


def _kvm_works(kernel: Kernel) -> bool:
    """Return whether KVM runs this kernel on this host.

    In a nested machine, /dev/kvm may open and not work. So this boots the kernel once; without a
    root file system the kernel panics, and QEMU ends at once.
    """
    wanted = os.environ.get("AGENTCGROUP_LAB_ACCEL", "")
    if wanted or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return wanted == "kvm"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = kernels.cache_dir() / f"kvm-{boot_id}"
    if not known.exists():
        verdict = known.with_name(f"{known.name}.{os.getpid()}")  # another lab may read it
        verdict.write_text("works" if _kvm_trial(kernel) else "fails")
        verdict.replace(known)
    return known.read_text() == "works"


def _kvm_trial(kernel: Kernel) -> bool:
    command = ["qemu-system-x86_64", "-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "512M"]
    command += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-serial", "stdio", "-kernel", kernel.image, "-append", "console=ttyS0 panic=-1"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        trial = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=15, check=False
        )
        return trial.returncode == 0 and b"Linux version" in trial.stdout
    return False


def _find_virtiofsd() -> str | None:
    found = (path for path in _VIRTIOFSD if os.access(path, os.X_OK))
    return next(found, None) or shutil.which("virtiofsd")


def _bytes(size: str) -> int:
    return int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1].upper()]


def _kept_log(kernel: Kernel) -> Path:
    """Return the path of the log of the last guest with this kernel."""
    return kernels.cache_dir() / "logs" / f"{kernel.line}.log"


def _where(kernel: Kernel) -> str:
    return f"kernel log: {_kept_log(kernel)}"


def _keep_log(kernel: Kernel, folder: Path) -> None:
    _kept_log(kernel).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # QEMU did not start
        shutil.copyfile(folder / "kernel.log", _kept_log(kernel))


def _panic(folder: Path) -> str:
    """Return the first line of the kernel's log that says why it died, or ""."""
    log = (folder / "kernel.log").read_text(errors="replace")
    found = re.search(r"(Kernel panic|BUG:|Oops:|int3:).*", log)
    return f" ({found[0].strip()})" if found else ""


def _tail(folder: Path, lines: int = 15) -> str:
    """Return the last lines of the logs of the kernel and of the lab's processes."""
    parts = []
    for log in sorted(folder.glob("*.log")):
        text = log.read_text(errors="replace").strip().splitlines()
        parts += [f"  {log.stem}: {line}" for line in text[-lines:]]
    return "\n".join(parts)
