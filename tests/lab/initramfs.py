"""The initramfs for kernels that have virtiofs only as a module (6.1).

A kernel with built-in virtiofs mounts the shared root file system by itself.  The other kernels
need a newc cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst): it has a
static busybox, the modules, and a script that loads them, mounts the root and switches to it.
"""

from __future__ import annotations

import lzma
import stat
from pathlib import Path

# In the order of loading; a built-in module has no file and is left out.
MODULES = (
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "fuse",
    "virtiofs",
)
SCRIPT = """\
#!/busybox sh
/busybox mount -t devtmpfs dev /dev
/busybox mount -t proc proc /proc
for module in {modules}; do /busybox insmod /$module.ko || echo "lab: insmod $module failed"; done
for word in $(/busybox cat /proc/cmdline); do
    case $word in init=*) init=${{word#init=}};; esac
done
/busybox umount /proc
/busybox mount -t virtiofs -o ro root /root
/busybox mount --move /dev /root/dev
exec /busybox switch_root /root "$init"
"""


def build(busybox: Path, modules: Path) -> bytes | None:
    """Return the archive for the kernel with these `modules`; None if it needs no initramfs."""
    files = {path.name.split(".")[0]: path for path in (modules / "kernel").glob("**/*.ko*")}
    needed = [name for name in MODULES if name in files]
    if "virtiofs" not in needed:
        return None
    folders = [_entry(name, stat.S_IFDIR | 0o755) for name in ("dev", "proc", "root")]
    script = SCRIPT.format(modules=" ".join(needed)).encode()
    return b"".join(
        [
            *folders,
            _entry("busybox", stat.S_IFREG | 0o755, busybox.read_bytes()),
            _entry("init", stat.S_IFREG | 0o755, script),
            *(_entry(f"{n}.ko", stat.S_IFREG | 0o644, _module(files[n])) for n in needed),
            _entry("TRAILER!!!", 0),
        ]
    )


def _module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _entry(name: str, mode: int, data: bytes = b"") -> bytes:
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
