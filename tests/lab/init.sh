#!/bin/sh
# PID 1 of the lab's guest. The root file system is the host's /, read-only; every writable folder
# is a tmpfs. The host writes the settings and the command into the share "lab", and this script
# writes the exit status there. Its own messages go to the kernel log (ttyS0), the command's output
# to ttyS1.

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
grep -q ' /dev devtmpfs ' /proc/mounts || mount -t devtmpfs dev /dev

# Before the settings are read, only /dev is writable.
mkdir -p /dev/lab /dev/keep /dev/pts /dev/shm
mount -t virtiofs lab /dev/lab
. /dev/lab/settings

# A tmpfs on one of these folders would hide a checkout below it: mount the checkout again.
mount --bind "$LAB_CHECKOUT" /dev/keep
for folder in /tmp /var/tmp /run; do
    mount -t tmpfs -o mode=1777 tmpfs "$folder"
done
chmod 755 /run
if [ -e "$LAB_CHECKOUT" ]; then umount /dev/keep; else
    mkdir -p "$LAB_CHECKOUT" && mount --move /dev/keep "$LAB_CHECKOUT"
fi
mkdir -p /run/lab /run/lock
mount --move /dev/lab /run/lab
rmdir /dev/lab /dev/keep
if [ -n "$LAB_OUT" ]; then
    mkdir -p "$LAB_OUT"
    mount -t virtiofs out "$LAB_OUT"
fi

mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
if [ -d /lib/modules ]; then mount --bind "$LAB_MODULES" /lib/modules; fi

# With the mount options of systemd; every controller is enabled for the first level.
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

# The first cpu.max on a machine, and the removal of the last one, patch the running scheduler. An
# emulated kernel may panic there. This cgroup keeps a cpu.max, so that it happens at boot only.
mkdir /sys/fs/cgroup/lab.quota
echo "100000 100000" >/sys/fs/cgroup/lab.quota/cpu.max

echo localhost >/proc/sys/kernel/hostname
"$LAB_BUSYBOX" ip link set lo up

mkdir -m 700 /run/home
stty -F /dev/ttyS1 raw -echo 115200
if [ -n "$LAB_USER" ]; then
    chown "$LAB_USER" /run/home /dev/ttyS1 ${LAB_OUT:+"$LAB_OUT"}
    # A subtree delegated as the kernel documents it (cgroup-v2.rst, "Delegation").
    home=/sys/fs/cgroup/user.lab
    mkdir "$home"
    for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
        echo "+$controller" >"$home/cgroup.subtree_control"
    done
    mkdir "$home/shell"
    chown "$LAB_USER" "$home" "$home/shell"
    for file in $(cat /sys/kernel/cgroup/delegate); do
        chown -f "$LAB_USER" "$home/$file" "$home/shell/$file"
    done
fi

touch /run/lab/started
# setsid after the redirection, so that ttyS1 does not become the controlling terminal.
(
    if [ -n "$LAB_USER" ]; then echo 0 >/sys/fs/cgroup/user.lab/shell/cgroup.procs; fi
    exec setsid /bin/sh /run/lab/command
) </dev/null >/dev/ttyS1 2>&1
status=$?

stty -F /dev/ttyS1 raw # waits until all output is sent
echo "$status" >/run/lab/status.new
mv /run/lab/status.new /run/lab/status
sync
echo b >/proc/sysrq-trigger
sleep 60
