#!/bin/bash
# Becomes systemd, as process 1 of namespaces that it was started in: pid, mount, uts, ipc and cgroup.
#
#   systemd.sh DIRECTORY
#
# Its root is that of this machine, read through an overlay in memory, with what lies in
# DIRECTORY/files on top. Nothing of it reaches the machine: no device, no setting of the kernel and
# no unit but those that are needed, and none of the privileges to change the clock or load modules.
set -euo pipefail
dir=$1

mount --make-rprivate /
mkdir "$dir/root"
mount -t tmpfs -o mode=755,size=256m systemd "$dir/root"
cd "$dir/root"
mkdir upper work new
mount -t overlay -o "lowerdir=/,upperdir=$PWD/upper,workdir=$PWD/work" systemd new
cp -a "$dir/files/." new/
cd new

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf -o mode=700 bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom; do
	touch "dev/$device"
	mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx # PrivateDevices= wants it
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp

mkdir run/machine
pivot_root . run/machine
umount --lazy /run/machine
rmdir /run/machine

# From here on there is no way back to the machine's files.
: >/etc/fstab
rm -rf /etc/systemd/system/*.wants /usr/lib/systemd/system/*.wants /usr/lib/systemd/system-generators

exec env -i container=imds-bridge-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
	setpriv --bounding-set=-mac_admin,-mac_override,-mknod,-sys_boot,-sys_module,-sys_rawio,-sys_time,-syslog \
	/lib/systemd/systemd --unit=test.target --log-target=null --show-status=no
