#!/bin/busybox sh
# The first process of a guest that a test has booted: loads what the guest has, then runs the
# commands that come in through the port `agent`, one line each. What it answers to each: a line with
# the exit code and the number of bytes that follow, then what the command printed. A line `0 0` says
# that it is ready.

/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp

# modprobe tries compressed modules as they are, of which the kernel complains.
echo 1 > /proc/sys/kernel/printk
for module in virtio_pci virtio_net virtio_console af_packet; do
    modprobe -q "$module"
done
ip link set lo up

for port in /sys/class/virtio-ports/*; do
    [ "$(cat "$port/name")" = agent ] && exec 3<> "/dev/${port##*/}"
done

cd /tmp
echo '0 0' >&3
while read -r line <&3; do
    sh -c "$line" > /answer 2>&1 < /dev/null 3>&-
    echo "$? $(stat -c %s /answer)" >&3
    cat /answer >&3
done
poweroff -f
