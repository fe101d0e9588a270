#!/bin/busybox sh
# shellcheck shell=dash
# The first program of the testbed's guest: mounts what programs expect, hands the "edu" devices to vfio-pci, runs
# /run/command and powers off. What follows "viommu-exit" on the console is the command's exit status (boot.sh reads it).
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t debugfs debug /sys/kernel/debug
export HOME=/tmp TERM=dumb

date -s "@$(sed -n 's/.*viommu.time=\([0-9]*\).*/\1/p' /proc/cmdline)" >/dev/null
hostname guest
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
  # QEMU's user network, whose 10.0.2.2 is the host's loopback.
  ip addr add 10.0.2.15/24 dev eth0
  ip link set eth0 up
fi

for device in /sys/bus/pci/devices/*; do
  [ "$(cat "$device/vendor"):$(cat "$device/device")" = 0x1234:0x11e8 ] || continue
  echo vfio-pci >"$device/driver_override"
  basename "$device" >/sys/bus/pci/drivers_probe
done

cd /
printf '\nviommu-init\n'
setsid sh /run/command
echo "viommu-exit $?"
poweroff -f
