#!/bin/sh
# PID 1 of the lab's guest. The host's / is the root file system, read-only; everything that
# must be writable is a tmpfs. Settings and the command come from the host in the share "lab",
# the exit status goes back there. Its own complaints go to the kernel log (ttyS0), the
# command's output to ttyS1.

PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
grep -q ' /dev devtmpfs ' /proc/mounts || mount -t devtmpfs dev /dev

# /dev is the one place that can be written before the settings are known.
mkdir -p /dev/lab /dev/keep /dev/pts /dev/shm
mount -t virtiofs lab /dev/lab
. /dev/lab/settings

# A checkout below one of the folders that become a tmpfs would vanish: it is put back.
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

# As systemd mounts it; every controller is handed on to the first level.
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done

# The first and the last cpu.max of a machine patch the running scheduler, which an emulated kernel
# may not survive: one that stays keeps that to the boot.
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
# setsid after the redirection: the terminal is the command's output, not its controlling one.
(
    if [ -n "$LAB_USER" ]; then echo 0 >/sys/fs/cgroup/user.lab/shell/cgroup.procs; fi
    exec setsid /bin/sh /run/lab/command
) </dev/null >/dev/ttyS1 2>&1
status=$?

stty -F /dev/ttyS1 raw # waits until what was written has been sent
echo "$status" >/run/lab/status.new
mv /run/lab/status.new /run/lab/status
sync
echo b >/proc/sysrq-trigger
sleep 60
