"""The lab: run a command, or the kernel test suite, on real kernels in a small virtual machine.

    python -m tests.lab list
    python -m tests.lab run --kernel 6.1 -- uname -a
    python -m tests.lab suite 6.1 7.2 -- -k oom

How it works
------------
A test of memory limits, freezing or BPF is worth something only on the kernel that does the
work, with every controller on and root's rights, and on more than the one kernel at hand.

**Kernels** (kernels.py) are Debian's cloud kernels, the ones users run.  They are downloaded
through the machine's own apt mirror and unpacked into a cache; nothing is installed.  Those in
``kernels.WITH_HEADERS`` have their headers beside them, which the guest's environment names
(BCC_KERNEL_SOURCE).

**The root file system** is the host's ``/``, shared read-only over virtiofs: the guest sees the
same Python, the same virtualenv and the same checkout at the same paths, nothing is built or
copied, and an edit is tested at once.  Kernels from 6.12 on mount it by themselves; 6.1 gets a
small initramfs (initramfs.py).  /tmp, /var/tmp, /run, /dev/shm and HOME are tmpfs.  A folder
given by ``--out`` is shared writable, at the same path on both sides.

**PID 1** (init.sh) mounts what systemd would mount, cgroup2 with every controller included,
runs the command and writes its exit status into a small share.  The command's output comes live
over the second serial port, the kernel's log goes to a file over the first.  There is no network
but lo, no swap, a scratch NVMe disk for what needs a block device, and two CPUs.

**The machine** (vm.py) is QEMU, with KVM where that truly works, else emulated (TCG: about ten
times slower than the host, which is fine for tests that judge behaviour and ratios).  Emulation
now and then panics the kernel while it patches itself (an int3 it should not have met), mostly in
early boot; the lab then boots again and says so.  Nothing else is ever retried: a guest that dies
of something else while the command runs is a failure.  Whatever ends the lab (result, timeout,
Ctrl-C, SIGKILL) also ends QEMU and virtiofsd, and any number of machines may run side by side.

**The suite** (suite.py) runs ``pytest tests/kernel`` on several kernels, two at a time, and
fails when a test fails or when a kernel ran no test.

With ``--user`` the command runs without root's rights in ``user.lab/shell``, below a cgroup that
is delegated to that user as systemd would do it.  It keeps CAP_DAC_READ_SEARCH, as Python may
lie in a home that it could not enter.

Sharing ``/`` takes root with the virtiofsd of Debian 12 (qemu-system-common); the newer one
(package virtiofsd) also serves an ordinary user.  Kernel modules are not loaded by themselves
unless the host has /lib/modules to mount the kernel's own upon.

Costs to know: files come from the host's page cache, but the guest's own page cache of them is
charged to the cgroup that reads first, so a test that measures memory allocates, it does not
read.  Python finds its modules compiled only if they were compiled on the host (the suite does
that first): the guest cannot write there.
"""
