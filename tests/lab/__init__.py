"""The lab runs a command, or the kernel tests, on real kernels in a small virtual machine.

    python -m tests.lab list
    python -m tests.lab run --kernel 6.1 -- uname -a
    python -m tests.lab suite 6.1 7.2 -- -k oom

How it works
------------
A test of memory limits, freezing or BPF has to run on the kernel under test, with every controller
enabled, with root's rights, and on several kernels.

**Kernels** (kernels.py) are Debian's cloud kernels, which users run.  The lab downloads them from
the mirror of the machine's own apt and unpacks them into a cache; it installs nothing.  For the
kernels in ``kernels.WITH_HEADERS`` it also unpacks their headers, and the guest's environment
variable BCC_KERNEL_SOURCE names them.

**The root file system** is the host's ``/``, shared read-only over virtiofs.  The guest has the
same Python, the same virtualenv and the same checkout at the same paths.  Nothing is built or
copied, and a test runs with the latest edit.  Kernels from 6.12 on mount it by themselves; 6.1
needs a small initramfs (initramfs.py).  /tmp, /var/tmp, /run, /dev/shm and HOME are tmpfs.  The
option ``--out`` shares a writable folder, at the same path on both sides.

**PID 1** (init.sh) mounts the file systems that systemd would mount, among them cgroup2 with every
controller.  It runs the command and writes its exit status into a small share.  The second serial
port carries the command's output as it comes, and the first writes the kernel's log to a file.  The
guest has no network but lo, no swap, a scratch NVMe disk for tests that need a block device, and
two CPUs.

**The machine** (vm.py) is QEMU, with KVM if KVM works on the host, else emulated (TCG).  Emulation
is about ten times slower than the host; tests judge behaviour and ratios, so this does no harm.
Emulation sometimes panics the kernel while it patches its own code (an unexpected int3), mostly in
early boot.  Then the lab boots again and reports it.  It repeats nothing else: if a guest dies for
another reason while the command runs, the command has failed.  When the lab ends (result, timeout,
Ctrl-C, SIGKILL), QEMU and virtiofsd end, too.  Any number of machines can run at the same time.

**The suite** (suite.py) runs ``pytest tests/kernel`` on several kernels, two at a time.  It fails
if a test fails, or if a kernel ran no test.

With ``--user``, the command runs without root's rights in ``user.lab/shell``, below a cgroup that
is delegated to the user as systemd would delegate it.  The command keeps CAP_DAC_READ_SEARCH,
because Python may be in a home folder that the user cannot enter.

With the virtiofsd of Debian 12 (in qemu-system-common), only root can share ``/``; the newer
virtiofsd (package virtiofsd) also works for an ordinary user.  The guest loads kernel modules by
itself only if the host has a folder /lib/modules, on which it mounts its own.

Two costs: the kernel charges the guest's page cache of a file to the cgroup that reads the file
first, so a test that measures memory allocates memory instead of reading files.  The guest cannot
write compiled Python modules, so the suite compiles them on the host first.
"""
